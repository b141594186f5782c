"""Signals that ask to stop: the first is noted, the second ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from trainer.process.signals import STOP_SIGNALS, stop_requests

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}

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
    return {number: signal.getsignal(number) for number in EXIT_CODES}


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


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_handlers_are_restored_however_the_block_ends(error):
    def mine(number, frame):
        raise AssertionError

    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = handlers()
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), stop_requests():
        assert all(handlers()[number] != before[number] for number in EXIT_CODES)
        if error:
            raise error
    assert handlers() == before


def test_handlers_are_restored_after_a_signal():
    before = handlers()
    with stop_requests():
        os.kill(os.getpid(), signal.SIGTERM)
    assert handlers() == before


def test_another_thread_than_the_main_one_gets_a_request_and_touches_no_handler():
    before, seen = handlers(), {}

    def work():
        with stop_requests() as request:
            seen["inside"] = handlers()
            seen["asked"] = bool(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == {"inside": before, "asked": False}
    assert handlers() == before


def test_signals_are_handled_before_tensorflow_is_imported():
    imported = "import sys, trainer.process.signals; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imported], timeout=60, check=False).returncode == 0
