"""A record as one line for people, its columns aligned with those of the lines before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainer.ledger.record import Record
from trainer.views import formatting

Segment = tuple[str, str]
"""A piece of a line and its style: `word`, `value`, `bad` (a value that is not finite) or `space`."""

_GAP = "  "


class RecordLines:
    """Turns records into lines.

        step    300  epoch  12.80  train (200, 300]   loss 0.4120  accuracy 0.8700  lr 0.001
        step    300  epoch  12.80  validation         loss 0.3980  accuracy 0.8800

    Args:
      total_steps: The length of the run, which sets the width of its columns; None if it is not known. Columns that
        turn out too narrow grow, and stay grown.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        digits = len(str(total_steps or 0))
        self._step_width = max(6, digits)
        self._epoch_width = 6
        self._label_width = max(17, len("train (, ]") + 2 * digits)

    def line(self, record: Record) -> str:
        """`record` as plain text, no newline."""
        return "".join(text for text, _ in self.segments(record))

    def segments(self, record: Record) -> Iterator[Segment]:
        """`record` as pieces with styles, which joined are `line(record)`."""
        step = str(record.step)
        self._step_width = max(self._step_width, len(step))
        yield "step ", "word"
        yield step.rjust(self._step_width), "value"
        if record.epoch is not None:
            epoch = f"{record.epoch:.2f}"
            self._epoch_width = max(self._epoch_width, len(epoch))
            yield f"{_GAP}epoch ", "word"
            yield epoch.rjust(self._epoch_width), "value"
        label = _label(record)
        self._label_width = max(self._label_width, len(label))
        yield f"{_GAP}{label}", "value"
        yield " " * (self._label_width - len(label)), "space"
        for name, value in record.metrics.items():
            yield f"{_GAP}{name} ", "word"
            yield formatting.number(value).rjust(6), "bad" if value is None else "value"
        yield from _rest(record)


def _label(record: Record) -> str:
    """What was measured: a window, or a split."""
    if record.window is not None:
        return f"train ({record.window[0]}, {record.window[1]}]"
    return f"{record.split} ({record.weights})" if record.weights not in (None, "raw") else str(record.split)


def _rest(record: Record) -> Iterator[Segment]:
    """What follows the metrics: the learning rate, and what was unusual."""
    rate = record.learning_rate
    rates = {f"lr/{name}": value for name, value in rate.items()} if isinstance(rate, Mapping) else {"lr": rate}
    for name, value in rates.items():
        if value is not None:
            yield f"{_GAP}{name} ", "word"
            yield f"{value:g}", "value"
    if record.closed_by:
        yield f"{_GAP}closed by ", "word"
        yield record.closed_by, "value"
    if record.skipped:
        yield f"{_GAP}skipped ", "word"
        yield str(record.skipped), "bad"
    for name, batches in record.nonfinite.items():
        yield f"{_GAP}nonfinite {name} ", "word"
        yield str(batches), "bad"
