"""The watchdog: it ends a process that cannot end itself, with the exit code that says so, and no other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from trainer.process import watchdog as module
from trainer.process.signals import StopRequest, stop_requests
from trainer.process.watchdog import Ending, Watchdog

pytestmark = pytest.mark.slow

SECONDS_AT_MOST = 60
A_WHILE = 0.4
"""Longer than a watchdog waits before it looks again."""

PREAMBLE = """
    import ctypes, dataclasses, json, os, signal, threading, time
    from trainer.process.signals import stop_requests
    from trainer.process.watchdog import Watchdog

    def stuck_in_native_code():
        # Locking a mutex twice lets go of the interpreter's lock, and no signal interrupts it: no handler runs.
        native, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
        native.pthread_mutex_init(mutex, None)
        native.pthread_mutex_lock(mutex)
        native.pthread_mutex_lock(mutex)

    def later(*numbers):
        def send():
            for number in numbers:
                time.sleep(0.1)
                os.kill(os.getpid(), number)
        threading.Thread(target=send, daemon=True).start()

    def tell(ending):
        print(json.dumps(dataclasses.asdict(ending)), flush=True)
"""


@pytest.fixture
def script() -> Any:
    """Runs a few lines to their end."""

    def run(lines: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PREAMBLE) + textwrap.dedent(lines)],
            capture_output=True,
            text=True,
            timeout=SECONDS_AT_MOST,
            check=False,
        )

    return run


GRACE = """
    with stop_requests() as request, Watchdog(request, owner=True) as watchdog, watchdog.saying(tell):
        watchdog.grace_s = 0.1
        later(signal.{name})
        stuck_in_native_code()
"""


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [("SIGTERM", 75, "preempted"), ("SIGINT", 130, "interrupted")],
)
def test_at_the_end_of_the_grace_the_process_ends_though_no_handler_can_run(
    name: str, code: int, reason: str, script: Any
) -> None:
    ended = script(GRACE.format(name=name))
    assert (ended.returncode, ended.stderr) == (code, "")
    # Said once.
    ending = json.loads(ended.stdout)
    assert (ending["reason"], ending["exit_code"], ending["cause"]) == (reason, code, name)
    assert "grace=0.1s" in ending["why"]


def test_the_end_of_the_time_that_a_process_may_run_begins_its_grace(script: Any) -> None:
    ended = script("""
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog, watchdog.saying(tell):
            watchdog.grace_s = 0.1
            request.end_at(time.monotonic() + 0.1)
            stuck_in_native_code()
    """)
    assert ended.returncode == 75
    ending = json.loads(ended.stdout)
    assert (ending["reason"], ending["cause"]) == ("preempted", "max_runtime")


@pytest.mark.parametrize(("first", "second", "code"), [("SIGINT", "SIGINT", 130), ("SIGUSR1", "SIGINT", 75)])
def test_a_second_signal_ends_the_process_at_once_though_no_handler_can_run(
    first: str, second: str, code: int, script: Any
) -> None:
    ended = script(f"""
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog, watchdog.saying(tell):
            watchdog.grace_s = 600
            later(signal.{first}, signal.{second})
            stuck_in_native_code()
    """)
    # Without another word: whoever signals twice does not want to wait for any.
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


def test_a_request_to_save_ends_nothing_and_is_no_first_signal(script: Any) -> None:
    ended = script("""
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog, watchdog.saying(tell):
            watchdog.grace_s = 0.1
            later(signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM)
            stuck_in_native_code()
    """)
    assert ended.returncode == 75
    assert json.loads(ended.stdout)["cause"] == "SIGTERM"


@pytest.mark.slow
@pytest.mark.parametrize("farewell", ["lambda ending: time.sleep(600)", "lambda ending: stuck_in_native_code()"])
def test_last_words_that_do_not_come_to_their_end_do_not_stop_the_end(farewell: str, script: Any) -> None:
    ended = script(f"""
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog, watchdog.saying({farewell}):
            watchdog.grace_s = 0.1
            later(signal.SIGTERM)
            stuck_in_native_code()
    """)
    assert ended.returncode == 75


def test_last_words_that_fail_do_not_change_the_exit_code(script: Any) -> None:
    ended = script("""
        def fail(ending):
            raise RuntimeError

        with stop_requests() as request, Watchdog(request, owner=True) as watchdog, watchdog.saying(fail):
            watchdog.grace_s = 0.1
            later(signal.SIGINT)
            stuck_in_native_code()
    """)
    assert ended.returncode == 130


def test_where_there_are_no_last_words_one_line_says_what_ended_and_what_to_do(script: Any) -> None:
    ended = script("""
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog:
            with watchdog.saying(tell):
                pass
            watchdog.grace_s = 0.1
            later(signal.SIGTERM)
            stuck_in_native_code()
    """)
    assert (ended.returncode, ended.stdout) == (75, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("preempted: ")
    assert "grace=0.1s" in line
    assert "run the same command again" in line


HUNG = """
    def the_culprit():
        stuck_in_native_code()

    def load_data():
        time.sleep(600)

    threading.Thread(target=load_data, name="loader", daemon=True).start()
    with stop_requests() as request, Watchdog(request, owner={owner}) as watchdog, watchdog.saying(tell):
        watchdog.hang_s = 0.2
        with watchdog.chunk():
            the_culprit()
"""


@pytest.mark.parametrize("owner", [True, False])
def test_a_chunk_that_does_not_return_ends_the_process_with_the_stacks_of_all_threads(owner: bool, script: Any) -> None:
    ended = script(HUNG.format(owner=owner))
    assert ended.returncode == 75
    ending = json.loads(ended.stdout)
    assert (ending["reason"], ending["exit_code"], ending["cause"]) == ("hung", 75, None)
    assert "hang_timeout=0.2s" in ending["why"]
    # Each ends with where it stands.
    main, loader = ending["stacks"]["MainThread"], ending["stacks"]["loader"]
    assert main.index("the_culprit") < main.index("stuck_in_native_code")
    assert "load_data" in loader
    assert "stuck" not in loader


@pytest.mark.slow
def test_workers_outlive_a_signal_to_their_group_also_while_no_handler_of_the_run_can_run(script: Any) -> None:
    ended = script("""
        from trainer.process import workers

        def signal_all():
            time.sleep(0.1)
            for process in (os.getpid(), worker):
                os.kill(process, signal.SIGTERM)
            # It has had more than enough time to obey.
            time.sleep(0.5)
            os.write(word, b".")
            print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
            os._exit(0)

        with stop_requests() as request, Watchdog(request, owner=True) as watchdog:
            watchdog.grace_s = 600
            wait, word = os.pipe()
            worker = os.fork()
            if worker == 0:
                os.read(wait, 1)
                os._exit(7)
            threading.Thread(target=signal_all, daemon=True).start()
            stuck_in_native_code()
    """)
    assert (ended.returncode, ended.stdout) == (0, "7\n")


# What it leaves alone, in a process that would end otherwise.


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which a watchdog would have ended this process."""
    codes: list[int] = []
    monkeypatch.setattr(module, "exit_at_once", codes.append)
    return codes


def eventually(codes: list[int]) -> list[int]:
    """What is there once anything is."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while not codes and time.monotonic() < deadline:
        time.sleep(0.01)
    return codes


def asked(number: signal.Signals = signal.SIGTERM) -> StopRequest:
    request = StopRequest()
    request.note(number, None)
    return request


def test_the_end_of_the_grace_does_not_end_a_process_that_is_not_the_runs_own(ends: list[int]) -> None:
    said: list[Ending] = []
    with Watchdog(asked(), owner=False) as watchdog, watchdog.saying(said.append):
        watchdog.grace_s = 0.0
        watchdog.hang_s = 600
        with watchdog.chunk():
            time.sleep(A_WHILE)
    assert (ends, said) == ([], [])


def test_it_would_have_ended_one_that_is(ends: list[int]) -> None:
    with Watchdog(asked(signal.SIGINT), owner=True) as watchdog, watchdog.saying(lambda ending: None):
        watchdog.grace_s = 0.0
        assert eventually(ends)[0] == 130


def test_within_the_grace_nothing_ends(ends: list[int]) -> None:
    with Watchdog(asked(), owner=True) as watchdog:
        watchdog.grace_s = 600
        time.sleep(A_WHILE)
    assert ends == []


def test_what_takes_its_time_between_chunks_does_not_hang(ends: list[int]) -> None:
    with Watchdog(StopRequest(), owner=True) as watchdog:
        watchdog.hang_s = 0.1
        with contextlib.suppress(ZeroDivisionError), watchdog.chunk():
            raise ZeroDivisionError
        time.sleep(A_WHILE)
    assert ends == []


def test_a_chunk_counts_from_the_last_one_that_returned(ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    watchdog = Watchdog(StopRequest(), owner=True)
    watchdog.hang_s = 10.0
    with watchdog.chunk():
        now += 9
        watchdog.beat()
        now += 9
        watchdog._look()
        assert ends == []
        now += 2
        with watchdog.saying(lambda ending: None):
            watchdog._look()
    assert ends == [75]


def test_without_a_limit_a_chunk_may_take_for_ever(ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    watchdog = Watchdog(StopRequest(), owner=True)
    with watchdog.chunk():
        now += 1e9
        watchdog._look()
    assert ends == []


@pytest.fixture
def listening() -> Iterator[int]:
    """Where somebody listens to signals already, as an event loop does."""
    heard, wakeup = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(wakeup, False)
    before = signal.set_wakeup_fd(wakeup)
    yield heard
    assert signal.set_wakeup_fd(before) == wakeup
    os.close(heard)
    os.close(wakeup)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_who_listened_to_signals_before_hears_them_meanwhile_and_afterwards(
    number: signal.Signals, listening: int
) -> None:
    with stop_requests() as request, Watchdog(request, owner=False):
        os.kill(os.getpid(), number)
        assert list(heard(listening)) == [number]
    with stop_requests():
        os.kill(os.getpid(), number)
        assert list(heard(listening)) == [number]


def heard(descriptor: int) -> bytes:
    """What has come by now, or comes next."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            return os.read(descriptor, 100)
        time.sleep(0.01)
    return b""


def test_in_another_thread_it_listens_to_no_signal_and_takes_nothing_away(listening: int) -> None:
    def work() -> None:
        with Watchdog(StopRequest(), owner=False):
            os.kill(os.getpid(), signal.SIGUSR2)

    with stop_requests() as request:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert request.save
        assert list(heard(listening)) == [signal.SIGUSR2]


def test_it_leaves_no_thread_and_no_open_file() -> None:
    def now() -> tuple[list[str], int]:
        return sorted(thread.name for thread in threading.enumerate()), len(os.listdir("/dev/fd"))

    before = now()
    for _ in range(3):
        with stop_requests() as request, Watchdog(request, owner=True):
            assert now() != before
    assert now() == before


def test_once_the_run_is_over_what_does_not_let_go_ends_with_the_code_that_was_told(script: Any) -> None:
    ended = script(
        """
        import trainer.process.watchdog as module
        module._LET_GO_S = 0.2
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog:
            watchdog.over(0)
            stuck_in_native_code()
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_time_in_which_the_process_was_stopped_is_no_part_of_a_chunk(script: Any) -> None:
    ended = script(
        """
        import subprocess, sys
        again = "import os, signal, time; time.sleep(2.5); os.kill(%d, signal.SIGCONT)" % os.getpid()
        with stop_requests() as request, Watchdog(request, owner=True) as watchdog:
            watchdog.hang_s = 1.5
            with watchdog.chunk():
                subprocess.Popen([sys.executable, "-c", again])
                os.kill(os.getpid(), signal.SIGSTOP)
        print("went on")
        """
    )
    assert (ended.returncode, ended.stdout) == (0, "went on\n")
