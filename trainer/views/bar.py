"""The progress bar: one line at the bottom of the terminal, records and messages scrolling above it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trainer.ledger.record import Record
from trainer.views import formatting
from trainer.views.record_line import RecordLines
from trainer.views.throughput import Throughput

_SECONDS_A_FRAME: Final = 1 / 8
_GAP: Final = "   "
_STYLES: Final = {"word": "dim", "value": "", "bad": "bold red", "space": ""}
_NARROWEST, _WIDEST, _NOTCH = 8, 24, 4  # the bar itself, in characters
_PERCENT: Final = " 100%"

_Field = tuple[int, Text]
"""A part of the line, and its rank: where the terminal is narrow, the highest rank is left out first."""


class _Console(Console):
    """A console whose reader may go away (`… | head`), which is no reason to stop training."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Bar:
    """`--progress=bar`.

    Nothing is drawn but by a call, and no more often than eight times a second: no thread of its own, and frames that
    a test can count. Where `stream` is no terminal, there are no control codes, and the line appears once, at the end.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._console = _Console(file=stream, highlight=False, markup=False, emoji=False)
        self._drawn = -math.inf
        self._lines = RecordLines()
        self._throughput = Throughput()
        self._total_steps: int | None = None
        self._step = 0
        self._epoch: float | None = None
        self._loss: Text | None = None
        self._next_save: str | None = None
        self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._line)  # last: it asks at once

    def start(self, *, step: int, total_steps: int | None, plan_lines: Sequence[str]) -> None:
        self._lines = RecordLines(total_steps)
        self._step, self._total_steps = step, total_steps
        self._print([Text(line) for line in plan_lines])
        self._live.start(refresh=True)

    def update(self, *, step: int, epoch: float | None, examples: int, next_save: str | None) -> None:
        now = self._clock()
        self._step, self._epoch, self._next_save = step, epoch, next_save
        self._throughput.update(now, step, examples)
        if now - self._drawn >= _SECONDS_A_FRAME:
            self._drawn = now
            self._live.refresh()

    def records(self, records: Sequence[Record]) -> None:
        lines = []
        for record in records:
            lines.append(_styled(self._lines.segments(record)))
            if record.kind == "train" and "loss" in record.metrics:
                loss = record.metrics["loss"]
                self._loss = _styled([("loss ", "word"), (formatting.number(loss), "bad" if loss is None else "value")])
        self._print(lines)

    def message(self, text: str) -> None:
        self._print([Text(text)])

    def stop(self) -> None:
        self._live.stop()

    def _print(self, lines: Sequence[Text]) -> None:
        """Prints `lines` above the bar, all at once: each print draws the bar again."""
        if lines:
            text = Text("\n").join(lines)
            text.plain = formatting.printable(text.plain, self._stream)
            self._console.print(text, soft_wrap=True)

    def _line(self) -> Text:
        """The bar as it is now, fitted to the width of the terminal."""
        room = self._console.width - 1  # a full last column makes some terminals wrap
        if self._total_steps:
            room -= len(_GAP) + len(_PERCENT)
        fields = self._fields()
        while len(fields) > 1 and _width(fields) > room - (_NARROWEST if self._total_steps else 0):
            fields.remove(max(fields, key=lambda field: field[0]))
        # In notches, so that the bar keeps its length while numbers beside it gain and lose a digit.
        width = min((room - _width(fields)) // _NOTCH * _NOTCH, _WIDEST)
        if self._total_steps and width >= _NARROWEST:
            fields.insert(1, (0, self._bar(self._step, self._total_steps, width)))
        return Text(_GAP, no_wrap=True, overflow="crop", end="").join(text for _, text in fields)

    def _fields(self) -> list[_Field]:
        total = self._total_steps
        step = str(self._step) if total is None else f"{str(self._step).rjust(len(str(total)))}/{total}"
        fields: list[_Field] = [(0, _styled([("step ", "word"), (step, "value")]))]
        if self._epoch is not None:
            fields.append((4, _styled([("epoch ", "word"), (f"{self._epoch:.2f}", "value")])))
        if self._loss is not None:
            fields.append((1, self._loss))
        if (speed := self._throughput.examples_per_second()) is not None:
            fields.append((3, _styled([(formatting.count(speed), "value"), (" examples/s", "word")])))
        if total and self._step < total and (left := self._throughput.seconds_left(total)) is not None:
            fields.append((2, _styled([(formatting.duration(left), "value"), (" left", "word")])))
        if self._next_save is not None:
            fields.append((5, _styled([("next save ", "word"), (self._next_save, "value")])))
        return fields

    def _bar(self, step: int, total: int, width: int) -> Text:
        done, rest = ("=", "-") if self._console.options.ascii_only else ("━", "─")
        filled = min(width, step * width // total)
        percent = f"{min(100, step * 100 // total)}%"  # rounded down: 100 % is the end, and nothing before it
        return Text.assemble((done * filled, "cyan"), (rest * (width - filled), "dim"), percent.rjust(len(_PERCENT)))


def _styled(segments: Iterable[tuple[str, str]]) -> Text:
    return Text.assemble(*((text, _STYLES[style]) for text, style in segments))


def _width(fields: Sequence[_Field]) -> int:
    return sum(text.cell_len for _, text in fields) + len(_GAP) * (len(fields) - 1)
