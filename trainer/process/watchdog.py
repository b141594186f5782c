"""The watchdog: a thread that ends the process when the thread that trains cannot, because a call does not return."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from trainer.errors import EXIT_PREEMPTED
from trainer.process import workers
from trainer.process.signals import STOP_SIGNALS, StopRequest, exit_at_once, exit_code_of, reason_of

HUNG = "hung"

_LOOK_S = 0.25
"""How often it looks for what nothing wakes it for."""
_LET_GO_S = 5.0
"""How long a process may take to end once its run is over: what loads its data may not return."""
_FAREWELL_S = 1.0
"""How long the last words may take: the disk may be what does not return."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """Why the watchdog ends the process."""

    reason: str
    """`preempted`, `interrupted` or `hung`."""
    exit_code: int
    why: str
    """What did not come to its end, in words."""
    cause: str | None = None
    """What had asked to stop: the signal's name, or `max_runtime`; None where nothing had."""
    stacks: dict[str, str] | None = None
    """Where each thread stands, by its name, as Python sees it: of a process that hangs."""


class Watchdog:
    """Watches from a thread of its own, while it is open.

    It sees a signal at once, also where the main thread is in a call, in which no handler runs. A second one ends the
    process. So does, where the process is the run's own, the end of the grace, and of the time that a chunk may take.

    Args:
      request: whether the run is asked to stop.
      owner: whether the process is the run's own, as a command's is; else only a chunk that hangs ends it.

    Attributes:
      grace_s: seconds from the first signal to the end of the process, whatever it does.
      hang_s: seconds after which a chunk that has not returned is taken to hang; None for never.
    """

    def __init__(self, request: StopRequest, *, owner: bool) -> None:
        self.grace_s = math.inf
        self.hang_s: float | None = None
        self._farewell: Callable[[Ending], None] | None = None
        self._request = request
        self._owner = owner
        self._chunk_began: float | None = None
        self._compiled = False
        self._outcome: int | None = None
        self._signals: list[int] = []
        self._since: float | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before: int | None = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._thread is not None
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    @contextlib.contextmanager
    def saying(self, farewell: Callable[[Ending], None]) -> Iterator[None]:
        """Has `farewell` called before the process is ended, in another thread; it may take a second."""
        self._farewell = farewell
        try:
            yield
        finally:
            self._farewell = None

    @contextlib.contextmanager
    def chunk(self) -> Iterator[None]:
        """A chunk is run, and is not to take longer than `hang_s`."""
        self.beat()
        try:
            yield
        finally:
            self._chunk_began = None
        self._compiled = True

    def beat(self) -> None:
        """One chunk has returned, and another begins."""
        self._chunk_began = time.monotonic()

    def over(self, exit_code: int) -> None:
        """The run is over and all is said: what is let go of from here on has some seconds, and not for ever."""
        self._outcome = exit_code
        self._chunk_began = time.monotonic()

    def _watch(self) -> None:
        while True:
            patience, began = self._patience(), time.monotonic()
            heard = select.select([self._read], [], [], patience)[0]
            late = time.monotonic() - began - patience
            if late > _LOOK_S and self._chunk_began is not None:
                # Nobody was awake meanwhile: the process was stopped, or the machine.
                self._chunk_began += late
            if heard:
                for number in os.read(self._read, 4096):
                    if not number:
                        return
                    self._receive(number)
            self._look()

    def _receive(self, number: int) -> None:
        """Takes in that a signal has come; Python's own handler notes it for the run, when it comes to run."""
        if self._before is not None and self._before >= 0:
            # Whoever listened before goes on hearing.
            with contextlib.suppress(OSError):
                os.write(self._before, bytes([number]))
        if number not in STOP_SIGNALS:
            return
        self._signals.append(number)
        if len(self._signals) > 1:
            exit_at_once(exit_code_of(self._signals[0]) if self._outcome is None else self._outcome)
        self._since = time.monotonic()
        workers.stopping()

    def _patience(self) -> float:
        """Seconds until something may be due."""
        now = time.monotonic()
        deadlines = [deadline for deadline in (self._end_of_grace(), self._end_of_chunk()) if deadline is not None]
        return max(0.0, min([_LOOK_S, *(deadline - now for deadline in deadlines)]))

    def _end_of_grace(self) -> float | None:
        asked = [self._since, self._request.since]
        known = [since for since in asked if since is not None]
        return min(known) + self.grace_s if known and self._owner else None

    def _end_of_chunk(self) -> float | None:
        began, limit = self._chunk_began, self.hang_s
        if self._outcome is not None:
            limit = _LET_GO_S if self._owner else None
        return began + limit if began is not None and limit is not None else None

    def _look(self) -> None:
        now = time.monotonic()
        end_of_grace, end_of_chunk = self._end_of_grace(), self._end_of_chunk()
        over = [end for end in (end_of_grace, end_of_chunk) if end is not None and now >= end]
        if over and self._outcome is not None:
            exit_at_once(self._outcome)
        if end_of_grace is not None and now >= end_of_grace:
            number = self._signals[0] if self._signals else None
            code = exit_code_of(number) if number else self._request.exit_code
            self._end(
                Ending(
                    reason_of(code),
                    code,
                    f"what was under way did not end within grace={self.grace_s:g}s",
                    cause=signal.Signals(number).name if number else self._request.cause,
                )
            )
        if end_of_chunk is not None and now >= end_of_chunk:
            self._end(
                Ending(
                    HUNG,
                    EXIT_PREEMPTED,
                    f"a chunk of steps did not return within hang_timeout={self.hang_s:g}s"
                    + ("" if self._compiled else ", which has to be longer than compiling it takes"),
                    stacks=stacks(),
                )
            )

    def _end(self, ending: Ending) -> None:
        farewell = self._farewell
        if farewell is None:
            _tell(f"{ending.reason}: {ending.why}; run the same command again to go on")
        else:
            words = threading.Thread(target=farewell, args=[ending], name="farewell", daemon=True)
            words.start()
            words.join(_FAREWELL_S)
        exit_at_once(ending.exit_code)


def stacks() -> dict[str, str]:
    """Where each thread stands in Python's eyes, by its name; the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(identity) or f"thread {identity}": "".join(traceback.format_stack(frame))
        for identity, frame in sys._current_frames().items()
        if identity != threading.get_ident()
    }


def _tell(line: str) -> None:
    """Writes a line to stderr, past a buffer whose lock another thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
