"""TensorFlow's start-up chatter: held back, and let out when something goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trainer.process.quiet import quiet_start

QUIET_START = """
from trainer.process.quiet import quiet_start
with quiet_start():
    pass
print("done")
"""


@pytest.fixture(autouse=True)
def _no_log_level(monkeypatch):
    # Set first, so that what quiet_start leaves in the environment is taken back too.
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")


def say(text: str) -> None:
    """Writes to stderr as native code does, past Python."""
    os.write(2, text.encode())


def test_what_native_code_writes_is_held_back(capfd):
    say("before\n")
    with quiet_start():
        say("chatter\n")
    say("after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_what_is_written_to_stdout_is_not_touched(capfd):
    with quiet_start():
        os.write(1, b"result\n")
    assert capfd.readouterr().out == "result\n"


@pytest.mark.parametrize("error", [ImportError, SystemExit, KeyboardInterrupt])
def test_exception_lets_everything_out_and_goes_on(capfd, error):
    def start():
        with quiet_start():
            say("why it failed\n")
            raise error

    with pytest.raises(error):
        start()
    say("after\n")
    assert capfd.readouterr().err == "why it failed\nafter\n"


def test_long_chatter_is_let_out_whole(capfd):
    lines = "".join(f"line {number} of many\n" for number in range(20_000))

    def start():
        with quiet_start():
            for place in range(0, len(lines), 4096):
                say(lines[place : place + 4096])
            raise ImportError

    with pytest.raises(ImportError):
        start()
    assert capfd.readouterr().err == lines


def test_who_sets_a_log_level_sees_everything(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with quiet_start():
        say("chatter\n")
    assert capfd.readouterr().err == "chatter\n"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_information_stays_off_after_the_start_but_errors_do_not(capfd):
    with quiet_start():
        pass
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"
    say("a real error\n")
    assert capfd.readouterr().err == "a real error\n"


def test_process_without_a_stderr_starts_too():
    closed = ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", QUIET_START]
    assert subprocess.run(closed, stdout=subprocess.PIPE, text=True, timeout=60, check=False).stdout == "done\n"
