"""The train records of many windows at once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import overload

from trainer.ledger.record import Number, Record, line_template, rate_text, recorded_rate


@dataclasses.dataclass(frozen=True, eq=False)
class TrainRecords(Sequence[Record]):
    """The records of windows that closed one after the other, all of whose numbers are finite, in columns.

    A run that logs every step makes tens of thousands in a second: the log and the views take them column by column,
    and a `Record` is made only of one that somebody looks at.
    """

    start: int
    """Where the first window began."""
    steps: Sequence[int]
    """Where each window ends, ascending; at least one."""
    examples: Sequence[int]
    epochs: Sequence[float] | None
    """None when the data has no length."""
    metrics: Mapping[str, Sequence[float]]
    """The means of each metric, the loss first."""
    learning_rates: Mapping[str, Sequence[Number]]
    """By optimizer's name; that of an only one is empty."""
    skipped: Sequence[int]
    closed_by: str | None = None
    """What closed the last window, where the log cadence did not."""

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        place = range(len(self))[index]
        return self._record(place) if isinstance(place, int) else [self._record(one) for one in place]

    def lines(self) -> bytes:
        """Their lines of the log, as each of them writes its own."""
        template = line_template("train", None, None, tuple(self.metrics))
        epochs = itertools.repeat("null") if self.epochs is None else self.epochs
        begins = itertools.chain([self.start], self.steps)
        columns = (self.steps, self.examples, epochs, begins, self.steps, *self.metrics.values(), self._rate_texts())
        lines = [template % row for row in zip(*columns, strict=False)]
        odd = {place for place, steps in enumerate(self.skipped) if steps}
        for place in odd | ({len(self) - 1} if self.closed_by else set()):
            lines[place] = self._record(place).line().decode()
        return "".join(lines).encode()

    def _rate(self, place: int) -> Number | Mapping[str, Number]:
        return recorded_rate({name: rates[place] for name, rates in self.learning_rates.items()})

    def _rate_texts(self) -> list[str]:
        # By what they are: 0 and -0 are equal, and written otherwise.
        if all(rate is rates[0] for rates in self.learning_rates.values() for rate in rates):
            return [rate_text(self._rate(0))] * len(self)
        return [rate_text(self._rate(place)) for place in range(len(self))]

    def _record(self, place: int) -> Record:
        last = place == len(self) - 1
        return Record(
            kind="train",
            step=self.steps[place],
            examples=self.examples[place],
            epoch=None if self.epochs is None else self.epochs[place],
            window=(self.steps[place - 1] if place else self.start, self.steps[place]),
            metrics={name: means[place] for name, means in self.metrics.items()},
            learning_rate=self._rate(place),
            closed_by=self.closed_by if last else None,
            skipped=self.skipped[place],
        )
