"""Processes that are forked during a run: they go on while it is asked to stop, and end when it ends them."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from trainer.process.signals import stop_requests

pytestmark = pytest.mark.slow

CAME_TO_ITS_END = 7
ENDED = (-signal.SIGTERM, -signal.SIGKILL)
SECONDS_AT_MOST = 60
FORK = multiprocessing.get_context("fork")


class Worker:
    """A forked process that waits for a word, and has come to its end when it got it."""

    def __init__(self, *, ready: bool = True) -> None:
        there, self._there = os.pipe()
        self._wait, self._word = os.pipe()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.write(self._there, b".")
            os.read(self._wait, 1)
            os._exit(CAME_TO_ITS_END)
        if ready:
            os.read(there, 1)
        os.close(there)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(self.pid, number)

    def finish(self) -> int:
        """Gives the word; returns the exit code, −N after signal N."""
        os.write(self._word, b".")
        return self.end()

    def end(self) -> int:
        """The exit code, once there is one."""
        deadline, ended, status = time.monotonic() + SECONDS_AT_MOST, 0, 0
        while not ended:
            assert time.monotonic() < deadline, "it goes on and on"
            time.sleep(0.001)
            ended, status = os.waitpid(self.pid, os.WNOHANG)
        self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def close(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.end()
        for descriptor in (self._there, self._wait, self._word):
            os.close(descriptor)


@contextlib.contextmanager
def working(*, ready: bool = True) -> Iterator[Worker]:
    """A worker for a while; `ready` waits until it is at its work."""
    worker = Worker(ready=ready)
    try:
        yield worker
    finally:
        worker.close()


@contextlib.contextmanager
def listening() -> Iterator[Callable[[], bytes]]:
    """Listens to the signals of this process; gives what was heard."""
    told, telling = os.pipe()
    os.set_blocking(told, False)
    os.set_blocking(telling, False)
    before = signal.set_wakeup_fd(telling)

    def heard() -> bytes:
        try:
            return os.read(told, 100)
        except BlockingIOError:
            return b""

    try:
        yield heard
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        os.close(telling)


@pytest.mark.parametrize("asked", [False, True])
def test_a_worker_ignores_what_only_its_run_is_to_obey(asked: bool) -> None:
    with stop_requests() as request, working() as worker:
        if asked:
            request.note(signal.SIGTERM, None)
        worker.send(signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
        assert worker.finish() == CAME_TO_ITS_END


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_worker_outlives_a_sigterm_while_its_run_is_asked_to_stop(number: signal.Signals) -> None:
    with stop_requests() as request, working() as worker:
        request.note(number, None)
        worker.send(signal.SIGTERM)
        worker.send(signal.SIGTERM)
        assert worker.finish() == CAME_TO_ITS_END


def test_the_signal_may_reach_the_worker_before_its_run() -> None:
    with stop_requests() as request, working() as worker:
        worker.send(signal.SIGTERM)
        request.note(signal.SIGTERM, None)
        assert worker.finish() == CAME_TO_ITS_END


def test_a_worker_that_is_forked_after_the_stop_outlives_it_as_well() -> None:
    with stop_requests() as request:
        request.note(signal.SIGTERM, None)
        with working() as worker:
            worker.send(signal.SIGTERM)
            assert worker.finish() == CAME_TO_ITS_END


def test_a_worker_of_a_worker_outlives_it_as_well() -> None:
    with stop_requests() as request:
        request.note(signal.SIGTERM, None)
        outer = os.fork()
        if outer == 0:
            code = 1
            try:
                with working() as worker:
                    worker.send(signal.SIGTERM, signal.SIGUSR1)
                    code = worker.finish()
            finally:
                os._exit(code)
        _, status = os.waitpid(outer, 0)
    assert os.waitstatus_to_exitcode(status) == CAME_TO_ITS_END


def test_a_sigterm_from_a_run_that_is_not_asked_to_stop_ends_the_worker() -> None:
    with stop_requests(), working() as worker:
        worker.send(signal.SIGTERM)
        # Neither the end of its work, nor the alarm of one that has lost its run.
        assert worker.end() in ENDED


def test_a_sigterm_that_comes_at_once_after_the_fork_is_not_lost() -> None:
    # Who is forked has handlers that are not its own, and Python forgets what has come to them.
    for _ in range(3):
        with stop_requests(), working(ready=False) as worker:
            worker.send(signal.SIGTERM)
            assert worker.end() in ENDED


def test_a_run_that_has_ended_can_still_end_its_workers_though_it_was_asked_to_stop() -> None:
    # As `multiprocessing` does when the interpreter ends, and then waits for each of them.
    with contextlib.ExitStack() as stack:
        with stop_requests() as request:
            workers = [stack.enter_context(working()) for _ in range(2)]
            request.note(signal.SIGTERM, None)
            workers[0].send(signal.SIGTERM)
        for worker in workers:
            worker.send(signal.SIGTERM)
        # Neither outlives its run by the alarm of one that has lost it.
        assert [worker.end() for worker in workers] == [-signal.SIGKILL] * 2


def test_a_signal_that_comes_to_a_worker_at_once_after_the_fork_is_not_taken_for_one_to_its_run() -> None:
    # Until then it would tell whoever listens to its parent's signals.
    with listening() as heard, stop_requests() as request:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            with working(ready=False) as worker:
                worker.send(number)
        assert heard() == b""
        assert not request
        assert not request.save


def sleep(there: multiprocessing.connection.Connection) -> None:
    there.send(".")
    time.sleep(600)


def test_multiprocessing_can_terminate_what_it_has_started() -> None:
    with stop_requests():
        heard, there = FORK.Pipe()
        process = FORK.Process(target=sleep, args=[there], daemon=True)
        process.start()
        heard.recv()
        process.terminate()
        process.join(SECONDS_AT_MOST)
    assert process.exitcode in ENDED


def wait_for(there: multiprocessing.connection.Connection, lock: multiprocessing.synchronize.Lock) -> None:
    there.send(".")
    lock.acquire()


def test_multiprocessing_can_terminate_what_waits_for_a_lock() -> None:
    # A signal that comes when the lock was let go of and is another's again interrupts no call: it goes on to wait.
    with stop_requests():
        (heard, there), lock = FORK.Pipe(), FORK.Lock()
        lock.acquire()
        process = FORK.Process(target=wait_for, args=[there, lock], daemon=True)
        process.start()
        heard.recv()
        time.sleep(0.1)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        lock.release()
        lock.acquire()
        process.terminate()
        os.kill(process.pid, signal.SIGCONT)
        process.join(SECONDS_AT_MOST)
        alive = process.is_alive()
        process.kill()
    assert not alive


def test_a_process_that_is_forked_when_no_run_is_under_way_obeys_as_any() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with stop_requests():
        pass
    try:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
            with working() as worker:
                worker.send(number)
                assert worker.end() == -number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_worker_tells_its_parent_nothing_of_its_own_signals() -> None:
    with listening() as heard, stop_requests() as request, working() as worker:
        worker.send(signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
        assert worker.finish() == CAME_TO_ITS_END
        assert heard() == b""
        assert not request
        assert not request.save


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_program_that_a_worker_starts_obeys_every_signal(number: signal.Signals) -> None:
    told, telling = os.pipe()
    unsaid, saying = os.pipe()
    with stop_requests() as request:
        request.note(signal.SIGTERM, None)
        program = os.fork()
        if program == 0:
            os.dup2(unsaid, 0)
            os.dup2(telling, 1)
            # What ignores or blocks a signal hands that on, where a handler ends with the program that has it.
            os.execvp("sh", ["sh", "-c", "echo there; read line"])
        os.read(told, 1)
        os.kill(program, number)
        _, status = os.waitpid(program, 0)
    assert os.waitstatus_to_exitcode(status) == -number
    for descriptor in (told, telling, unsaid, saying):
        os.close(descriptor)


GROUP = """
    import multiprocessing, os, signal
    from trainer.process.signals import stop_requests

    def load(number):
        if number == 3:
            os.kill(0, signal.SIGTERM)
        return number

    with stop_requests() as request:
        pool = multiprocessing.get_context("fork").Pool(2)
        workers = [process.pid for process in pool._pool]
        loaded = pool.map(load, range(8), chunksize=1)
        # A pool that loses a worker starts another one, and waits for ever for what the first was to do.
        assert workers == [process.pid for process in pool._pool]
        print(request.cause, loaded, flush=True)
        os._exit(0)
"""


def test_a_pool_goes_on_when_the_whole_group_is_signalled() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GROUP)],
        capture_output=True,
        text=True,
        timeout=SECONDS_AT_MOST,
        check=False,
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout) == (0, f"SIGTERM {list(range(8))}\n"), ended.stderr


ORPHAN = """
    import os, time
    from trainer.process.signals import stop_requests
    with stop_requests():
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
"""


def test_a_worker_whose_parent_is_gone_ends() -> None:
    # Its end closes the pipe, which nobody else has.
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ORPHAN)], capture_output=True, timeout=SECONDS_AT_MOST, check=False
    )
    assert told.returncode == 0
