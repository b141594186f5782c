"""How old the process is, the seconds before Python itself included."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from trainer.process.birth import process_age

TICK_S = 0.02
"""What the system's own note of a birth may be off, and a little more."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")


@linux_only
def test_it_grows_as_time_passes() -> None:
    first, began = process_age(), time.monotonic()
    time.sleep(0.05)
    between, second = time.monotonic() - began, process_age()
    assert between - TICK_S <= second - first
    assert 0 < first <= second


@linux_only
def test_it_counts_from_before_python_ran_whatever_the_program_is_called() -> None:
    told = "import trainer.process.birth as birth; print(birth.process_age(), open('/proc/self/comm').read().strip())"
    # The name of the program stands in the same line as its birth: with brackets and blanks, it looks like more fields.
    renamed = f"open('/proc/self/comm', 'w').write(') 1 2 (x) 3'); {told}"
    for code in (told, renamed):
        # The program that is started has been there since before its own first line.
        waiting = ["sh", "-c", 'sleep 0.2; exec "$0" -c "$1"', sys.executable, code]
        began = time.monotonic()
        said = subprocess.run(waiting, capture_output=True, text=True, timeout=60, check=True).stdout
        lived = time.monotonic() - began
        age = float(said.split()[0])
        assert 0.2 - TICK_S <= age <= lived + TICK_S
    assert ") 1 2 (x) 3" in said


def test_where_the_system_does_not_tell_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process_age() == 0.0
