"""A process of its own for a job, forked from this one; it can be stopped for a while and does not notice."""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable
from typing import Any

from bench import clock

_LAST_WORDS = 4000
"""How many characters of what a process said are told where it came to nothing."""
_HERE = b"\n"
"""What it says where its clock is to start: an answer may begin with it."""


class Child:
    """Begins at once, and stops itself where its clock is to start.

    Args:
      perform: does the job; returns its answer, some kilobytes of JSON at most. It is given what it has to call where
        its clock starts; all calls but the first do nothing.
      longest_s: after how many seconds it is ended.

    Attributes:
      ended: whether there is an answer.
    """

    def __init__(self, perform: Callable[[Callable[[], None]], dict[str, Any]], *, longest_s: int) -> None:
        self._stopped_s = clock.shared()
        self._stopped_at = 0.0
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - until it has answered
        self._answer, answer = os.pipe()
        self.ended = False
        self._status = 0
        self._pid = os.fork()
        if not self._pid:
            # What is printed by whoever takes part is no answer, and what fails is told with it.
            os.dup2(self._said.fileno(), 1)
            os.dup2(self._said.fileno(), 2)
            signal.alarm(longest_s)
            clock.follow(self._stopped_s)
            with os.fdopen(answer, "w") as told:
                json.dump(perform(_once(lambda: _stop_here(answer))), told)
            # Not as Python ends: threads may still run.
            os._exit(0)
        os.close(answer)

    def fileno(self) -> int:
        """A file with something to read once it is where its clock starts, and once it answers or ends."""
        return self._answer

    def await_start(self) -> None:
        """Waits until it has stopped itself where its clock is to start, or ended; there is something to read."""
        self._wait()
        if not self.ended:
            os.read(self._answer, len(_HERE))

    def go_on(self, seconds: float | None) -> None:
        """Lets it run for so many seconds, or to its end; it is stopped when this is called.

        Args:
          seconds: None for until it ends.
        """
        self._stopped_s.value += time.monotonic() - self._stopped_at
        os.kill(self._pid, signal.SIGCONT)
        if not select.select([self], [], [], seconds)[0]:
            os.kill(self._pid, signal.SIGSTOP)
        self._wait()

    def answer(self) -> dict[str, Any]:
        """What it answered; `{"error": …, "details": …}` where it did not. It has ended."""
        with os.fdopen(self._answer) as told, self._said as said:
            if text := told.read().strip():
                return dict(json.loads(text))
            said.seek(0)
            code = os.waitstatus_to_exitcode(self._status)
            how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
            return {"error": how, "details": said.read()[-_LAST_WORDS:]}

    def _wait(self) -> None:
        """Waits until it is stopped or has ended, as it is about to."""
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self._stopped_at = time.monotonic()
        else:
            self.ended, self._status = True, status


def _stop_here(told: int) -> None:
    """Says so, and stops this process."""
    os.write(told, _HERE)
    os.kill(os.getpid(), signal.SIGSTOP)


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """Does something at the first call only."""
    done: list[bool] = []

    def call() -> None:
        if not done:
            done.append(True)
            act()

    return call
