"""What is asked of a run from outside, by signals or by the clock: noted at once, acted on at the end of the chunk.

Imported before TensorFlow, whose import takes seconds in which a signal would otherwise kill the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from trainer.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED
from trainer.process import workers

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAVE_SIGNAL = signal.SIGUSR2

PREEMPTED, INTERRUPTED = "preempted", "interrupted"
"""The reasons of a stop that was asked for from outside."""
MAX_RUNTIME = "max_runtime"
"""What asks to stop when the time is over that the process may run."""


class StopRequest:
    """The first signal that asked to stop, if any, or the end of the time; and whether a save is asked for.

    A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._signalled: float | None = None
        self._until: float | None = None
        self._save = False
        self._install: Callable[[], None] = lambda: None

    def __bool__(self) -> bool:
        return self.since is not None

    @property
    def since(self) -> float | None:
        """When it was asked to stop, on the monotonic clock; None while it is not."""
        over = self._until is not None and time.monotonic() >= self._until
        asked = [moment for moment in (self._signalled, self._until if over else None) if moment is not None]
        return min(asked, default=None)

    @property
    def signal(self) -> signal.Signals | None:
        """The first signal that asked to stop."""
        return self._signal

    @signal.setter
    def signal(self, number: signal.Signals) -> None:
        self._signal, self._signalled = number, time.monotonic()

    @property
    def cause(self) -> str:
        """What asks to stop: the signal's name, or `max_runtime`."""
        return self._signal.name if self._signal is not None else MAX_RUNTIME

    @property
    def exit_code(self) -> int:
        """What the process exits with after the state is saved: 130 for the user's own interrupt, 75 for the rest."""
        return exit_code_of(self._signal)

    @property
    def save(self) -> bool:
        """Whether a save is asked for, after which the run goes on."""
        return self._save

    def taken(self) -> None:
        """The save that was asked for is about to be made; one that is asked for from now on is another."""
        self._save = False

    def end_at(self, moment: float | None) -> None:
        """Asks to stop at a moment of the monotonic clock; None takes that back."""
        self._until = moment

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if number == SAVE_SIGNAL:
            self._save = True
            return
        if self._signal is not None:
            exit_at_once(self.exit_code)
        self.signal = signal.Signals(number)
        workers.stopping()

    def rearm(self) -> None:
        """Takes the signals again: who makes a `tf.distribute` strategy has native code take SIGTERM away."""
        if threading.current_thread() is threading.main_thread():
            self._install()


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns signals into a `StopRequest` while it is open; handlers that were there before are called as well.

    Only the main thread can handle signals; anywhere else the request stays empty and the handlers as they are.
    Processes that are forked meanwhile, such as those that load data, do not obey: see `workers`.

    Raises:
      What a handler that was there before has raised, once the work is done.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (*STOP_SIGNALS, SAVE_SIGNAL)
    before = {number: signal.getsignal(number) for number in numbers}
    raised: list[BaseException] = []

    def handle(number: int, frame: FrameType | None) -> None:
        request.note(number, frame)
        chained = before[signal.Signals(number)]
        # Python's own handler of an interrupt would end what is to go on to its save.
        if callable(chained) and chained is not signal.default_int_handler:
            try:
                chained(number, frame)
            except BaseException as error:
                raised.append(error)

    def install() -> None:
        for number in numbers:
            signal.signal(number, handle)

    request._install = install
    install()
    try:
        with workers.shielded():
            yield request
    finally:
        request._install = lambda: None
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    if raised:
        raise raised[0]


def exit_code_of(number: int | None) -> int:
    """The exit code of a process that was asked to stop by a signal; None stands for a clock."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_PREEMPTED


def reason_of(exit_code: int) -> str:
    """The reason of a stop that was asked for, and ends with `exit_code`."""
    return INTERRUPTED if exit_code == EXIT_INTERRUPTED else PREEMPTED


def exit_at_once(code: int) -> None:
    """Ends the process without another word, whatever its threads do; a terminal gets back its cursor."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                os.write(descriptor, b"\x1b[?25h\n")
                break
    os._exit(code)
