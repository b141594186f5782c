"""A process of its own for a job, forked from this one; it can be stopped for a while and does not notice."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from bench import clock

_LAST_WORDS = 4000
"""How many characters of what a process said are told where it came to nothing."""
_INSTANT_BYTES = 24
"""In how many it tells when it stopped itself."""


class Child:
    """Begins at once, and stops itself where its clock is to start.

    Args:
      perform: does the job; returns its answer, some kilobytes of JSON at most. It is given what it has to call where
        its clock starts; all calls but the first do nothing.
      longest_s: after how many seconds on its way to where its clock starts, and from there on, it is ended.

    Attributes:
      started: whether it came to where its clock starts.
      ended: whether there is an answer.
    """

    def __init__(self, perform: Callable[[Callable[[], None]], dict[str, Any]], *, longest_s: int) -> None:
        self._stopped_s = clock.shared()
        self._stopped_at = self._ran_s = 0.0
        self._longest_s = longest_s
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until it has answered
        self._answer, answer = os.pipe()
        self.started = self.ended = False
        self._status = 0
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                self._work(perform, answer)
                code = 0
            except BaseException:
                # Whatever this process takes for its standard error.
                os.write(2, traceback.format_exc().encode())
            finally:
                # Not as Python ends: threads may still run, and who called this is the other process.
                os._exit(code)
        os.close(answer)

    def fileno(self) -> int:
        """A file with something to read once it is where its clock starts, and once it answers or ends."""
        return self._answer

    def await_start(self) -> None:
        """Waits until it has stopped itself where its clock is to start, or ended; there is something to read."""
        self._wait()
        if not self.ended:
            self.started = True
            self._stopped_at = float(os.read(self._answer, _INSTANT_BYTES))

    def go_on(self, seconds: float | None) -> None:
        """Lets it run for so many seconds, or to its end; it is stopped when this is called.

        Args:
          seconds: None for until it ends.
        """
        left = self._longest_s - self._ran_s
        began = time.monotonic()
        self._stopped_s.value += began - self._stopped_at
        os.kill(self._pid, signal.SIGCONT)
        answers = select.select([self], [], [], left if seconds is None else min(left, seconds))[0]
        self._ran_s += time.monotonic() - began
        if not answers:
            os.kill(self._pid, signal.SIGSTOP if self._ran_s < self._longest_s else signal.SIGALRM)
        # It stops its work at once, while a thread that waits for a disk delays the news of it. Not before it is told
        # to, or its clock would go back by what it worked meanwhile.
        self._stopped_at = time.monotonic()
        self._wait()

    def answer(self) -> dict[str, Any]:
        """What it answered; `{"error": …, "details": …}` where it did not. It has ended."""
        with os.fdopen(self._answer) as told, self._said as said:
            with contextlib.suppress(ValueError, TypeError):
                # It was ended in the middle of it, where that is no JSON, or before, where it is an instant.
                return dict(json.loads(told.read()))
            said.seek(0)
            code = os.waitstatus_to_exitcode(self._status)
            how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
            return {"error": how, "details": said.read()[-_LAST_WORDS:]}

    def _wait(self) -> None:
        """Waits until it is stopped or has ended, as it is about to."""
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.ended, self._status = True, status

    def _work(self, perform: Callable[[Callable[[], None]], dict[str, Any]], answer: int) -> None:
        """What the process is there for."""
        # What is printed by whoever takes part is no answer, and what fails is told with it.
        os.dup2(self._said.fileno(), 1)
        os.dup2(self._said.fileno(), 2)
        signal.alarm(self._longest_s)
        clock.follow(self._stopped_s)

        def stop_here() -> None:
            # From here on, the other process counts.
            signal.alarm(0)
            os.write(answer, f"{time.monotonic():{_INSTANT_BYTES}.6f}".encode())
            os.kill(os.getpid(), signal.SIGSTOP)

        told = json.dumps(perform(_once(stop_here)))
        with os.fdopen(answer, "w") as file:
            file.write(told)


def _once(act: Callable[[], None]) -> Callable[[], None]:
    """Does something at the first call only."""
    done: list[bool] = []

    def call() -> None:
        if not done:
            done.append(True)
            act()

    return call
