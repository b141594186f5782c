"""What a person sees while it trains: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TextIO

from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.views.formatting import printable
from trainer.views.record_line import RecordLines

MODES: Final = ("auto", "bar", "plain", "never")


class Progress(Protocol):
    """What the training loop tells of itself, in the order `start`, anything but `stop`, `stop`.

    Another thread calls `records`, beside `update` and `message`.
    """

    def start(self, *, step: int, total_steps: int | None, plan_lines: Sequence[str]) -> None:
        """The run begins at `step`, after a resume not 0; `total_steps` is None if the target is not known in steps."""

    def update(self, *, step: int, epoch: float | None, examples: int, next_save: str | None) -> None:
        """A chunk ended. Cheap enough to be called after each.

        Args:
          step: Where the run is.
          epoch: Epochs so far; None if the data has no length.
          examples: Examples consumed so far, earlier attempts included.
          next_save: When the next save is due, such as `step 500` or `in 40s`; None if none is known.
        """

    def records(self, records: Sequence[Record]) -> None:
        """Records were appended to the log."""

    def message(self, text: str) -> None:
        """One line for the person, such as `saved step 500 (interval, best)`."""

    def stop(self) -> None:
        """The run ended. May be called twice, and without `start`."""


class Silent:
    """`--progress=never`."""

    def start(self, *, step: int, total_steps: int | None, plan_lines: Sequence[str]) -> None: ...

    def update(self, *, step: int, epoch: float | None, examples: int, next_save: str | None) -> None: ...

    def records(self, records: Sequence[Record]) -> None: ...

    def message(self, text: str) -> None: ...

    def stop(self) -> None: ...


class Plain:
    """`--progress=plain`: one line a record, one line a message; for files, pipes and schedulers' logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = RecordLines()
        self._unread = False

    def start(self, *, step: int, total_steps: int | None, plan_lines: Sequence[str]) -> None:
        self._lines = RecordLines(total_steps)
        self._print(plan_lines)

    def update(self, *, step: int, epoch: float | None, examples: int, next_save: str | None) -> None: ...

    def records(self, records: Sequence[Record]) -> None:
        self._print([self._lines.line(record) for record in records])

    def message(self, text: str) -> None:
        self._print([text])

    def stop(self) -> None: ...

    def _print(self, lines: Sequence[str]) -> None:
        if lines and not self._unread:
            try:
                self._stream.write(printable("".join(f"{line}\n" for line in lines), self._stream))
                self._stream.flush()  # a file is buffered by blocks: without this, `tail -f` lags by minutes
            except OSError:
                self._unread = True  # `… | head` has seen enough, or the disk is full: no reason to stop training


def make_progress(mode: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> Progress:
    """The progress of `--progress=MODE`.

    Args:
      mode: `auto` (a bar if `stream` is a terminal, otherwise plain lines), `bar`, `plain` or `never`.
      stream: Where to; standard output by default.
      clock: Seconds that never go back.

    Raises:
      ConfigError: There is no such mode.
    """
    if mode not in MODES:
        raise ConfigError(f"--progress={mode!r} is not known; expected one of {', '.join(MODES)}")
    if mode == "never":
        return Silent()
    stream = stream or sys.stdout
    if stream is None:
        return Silent()  # a daemon has no standard output
    if mode == "plain" or (mode == "auto" and not stream.isatty()):
        return Plain(stream)
    from trainer.views.bar import Bar  # rich takes a while to import, and plain lines do without it

    return Bar(stream, clock)
