"""Signals that ask to stop or to save: the first stop is noted, the second ends the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from trainer.process.signals import STOP_SIGNALS, StopRequest, stop_requests

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
TAKEN = (*EXIT_CODES, signal.SIGUSR2)

TWICE = """
import os, signal, sys
from trainer.process.signals import stop_requests
with stop_requests() as request:
    os.kill(os.getpid(), int(sys.argv[1]))
    assert request
    print("noted", flush=True)
    try:
        os.kill(os.getpid(), int(sys.argv[2]))
        print("still here", flush=True)
    finally:
        print("cleaned up", flush=True)
"""


def handlers():
    return {number: signal.getsignal(number) for number in TAKEN}


@pytest.fixture(autouse=True)
def _handlers_stay():
    """Puts the handlers back that a failing test may leave."""
    before = handlers()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_signals_of_schedulers_and_of_a_user_ask_to_stop():
    assert set(STOP_SIGNALS) == set(EXIT_CODES)


def test_no_signal_is_no_request():
    with stop_requests() as request:
        assert not request
        assert request.signal is None


@pytest.mark.parametrize("number", EXIT_CODES)
def test_first_signal_is_noted_and_the_work_goes_on(number):
    with stop_requests() as request:
        os.kill(os.getpid(), number)
        assert request
        assert request.signal is number
        assert request.exit_code == EXIT_CODES[number]


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)],
)
def test_second_signal_ends_the_process_at_once(first, second):
    ended = subprocess.run(
        [sys.executable, "-c", TWICE, str(int(first)), str(int(second))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "noted\n"
    assert ended.stderr == ""
    assert ended.returncode == EXIT_CODES[first]


@pytest.mark.parametrize(("terminal", "before"), [("stdout", b"noted\n"), ("stderr", b"")], ids=["stdout", "stderr"])
def test_the_end_at_once_gives_a_terminal_its_cursor_back(terminal, before):
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", TWICE, str(int(signal.SIGINT)), str(int(signal.SIGINT))],
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, terminal: theirs},
            timeout=60,
            check=False,
        )
        os.write(theirs, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    # A terminal makes two characters of the end of a line.
    assert shown.replace(b"\r\n", b"\n") == before + b"\x1b[?25h\nend"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_handlers_are_restored_however_the_block_ends(error):
    def mine(number, frame):
        raise AssertionError

    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = handlers()
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), stop_requests():
        assert all(handlers()[number] != before[number] for number in TAKEN)
        if error:
            raise error
    assert handlers() == before


@pytest.mark.parametrize("number", TAKEN)
def test_handlers_are_restored_after_a_signal(number):
    before = handlers()
    with stop_requests():
        os.kill(os.getpid(), number)
    assert handlers() == before


@pytest.mark.parametrize("number", TAKEN)
def test_a_handler_that_was_there_before_is_called_as_well(number):
    heard = []
    signal.signal(number, lambda number, frame: heard.append((number, frame is not None)))
    with stop_requests() as request:
        os.kill(os.getpid(), number)
        assert (bool(request), request.save) == (number != signal.SIGUSR2, number == signal.SIGUSR2)
    assert heard == [(number, True)]


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_was_there_before_and_is_no_function_is_not_called(before):
    signal.signal(signal.SIGTERM, before)
    with stop_requests() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_by_the_user_raises_nothing_in_the_middle_of_the_work():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_requests() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal is signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_requests_within_each_other_all_hear_of_it():
    with stop_requests() as outer, stop_requests() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (outer.signal, inner.signal) == (signal.SIGTERM, signal.SIGTERM)


def test_the_save_signal_asks_for_a_save_and_stops_nothing():
    with stop_requests() as request:
        assert not request.save
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert request.save
        assert not request
        assert (request.signal, request.since) == (None, None)


def test_a_save_that_was_asked_for_is_asked_for_once():
    with stop_requests() as request:
        os.kill(os.getpid(), signal.SIGUSR2)
        request.taken()
        assert not request.save
        os.kill(os.getpid(), signal.SIGUSR2)
        assert request.save


@pytest.mark.parametrize("order", [(signal.SIGUSR2, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR2)])
def test_the_save_signal_is_neither_the_first_nor_the_second_that_asks_to_stop(order):
    with stop_requests() as request:
        for number in order:
            os.kill(os.getpid(), number)
        assert request.save
        assert (request.signal, request.exit_code) == (signal.SIGTERM, 75)


def test_a_request_knows_since_when_it_stands():
    before = time.monotonic()
    with stop_requests() as request:
        assert request.since is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert before <= request.since <= time.monotonic()
        assert request.cause == "SIGUSR1"


def test_the_end_of_the_time_asks_as_a_preemption_does():
    request, now = StopRequest(), time.monotonic()
    request.end_at(now + 1000)
    assert not request
    request.end_at(now - 5)
    assert request
    assert (request.signal, request.cause, request.exit_code) == (None, "max_runtime", 75)
    # The grace counts from then, not from when somebody looked.
    assert request.since == now - 5


def test_a_signal_after_the_end_of_the_time_is_the_first_one_and_moves_no_deadline():
    request, now = StopRequest(), time.monotonic()
    request.end_at(now - 5)
    assert request
    request.note(signal.SIGINT, None)
    assert (request.signal, request.exit_code, request.since) == (signal.SIGINT, 130, now - 5)


def test_the_end_of_the_time_after_a_signal_changes_nothing():
    request = StopRequest()
    request.note(signal.SIGTERM, None)
    since = request.since
    request.end_at(time.monotonic())
    assert request
    assert (request.cause, request.since) == ("SIGTERM", since)


def test_what_a_handler_of_the_caller_raises_comes_when_the_work_is_done():
    def leave(number, frame):
        raise SystemExit(3)

    def work():
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGTERM)
            assert request
            done.append("saved")

    before, done = signal.signal(signal.SIGTERM, leave), []
    try:
        with pytest.raises(SystemExit):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["saved"]


def test_who_keeps_the_request_can_take_back_the_end_of_the_time_and_no_signal():
    request = StopRequest()
    request.end_at(time.monotonic() - 5)
    assert request
    request.end_at(None)
    assert not request
    request.note(signal.SIGTERM, None)
    request.end_at(None)
    assert request


def take_away(number):
    """Has native code take the signal, past Python."""
    native = ctypes.CDLL(None)
    native.signal.restype, native.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    native.signal(number, int(signal.SIG_IGN))


def test_signals_that_native_code_took_away_can_be_taken_again():
    before = handlers()
    with stop_requests() as request:
        take_away(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not request
        request.rearm()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
    assert handlers() == before


def test_signals_are_taken_again_only_while_the_request_is_open_and_only_by_it():
    before = handlers()
    with stop_requests() as request:
        pass
    for one in (request, StopRequest()):
        one.rearm()
        assert handlers() == before


def test_another_thread_than_the_main_one_gets_a_request_and_touches_no_handler():
    before, seen = handlers(), {}

    def work():
        with stop_requests() as request:
            seen["inside"] = handlers()
            request.rearm()
            seen["rearmed"] = handlers()
            seen["asked"] = bool(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == {"inside": before, "rearmed": before, "asked": False}
    assert handlers() == before


def test_signals_are_handled_before_tensorflow_is_imported():
    imported = "import sys, trainer.process.signals; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imported], timeout=60, check=False).returncode == 0
