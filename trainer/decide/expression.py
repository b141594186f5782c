"""Expressions over the metrics, such as `mean5(train/loss)`: values that records fold into."""

from __future__ import annotations

import abc
import collections
import math
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.decide.monitor import MAX, value_in
from trainer.ledger.record import Record


class Expression(abc.ABC):
    """Something that has a value once the records measured it."""

    text: str
    """What it is, in one spelling: two of the same text are the same."""
    value: float | None = None
    """What the last record made it; None where it is undefined."""

    @abc.abstractmethod
    def fold(self, record: Record) -> bool:
        """Takes one more record into account; returns whether it measures this."""

    @abc.abstractmethod
    def measured_at(self, step: int) -> bool:
        """Whether everything in it was measured at `step`."""

    def parts(self) -> Iterator[Expression]:
        """Itself and all that it is made of."""
        yield self

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What a resume needs, as JSON values."""

    @abc.abstractmethod
    def restore(self, known: Mapping[str, Any]) -> None:
        """Goes on from what `to_json` gave."""


class Number(Expression):
    """A constant."""

    def __init__(self, value: float) -> None:
        self.text = repr(value)
        self.value = value

    def fold(self, record: Record) -> bool:
        """A constant is measured by nothing."""
        return False

    def measured_at(self, step: int) -> bool:
        """A constant is known always."""
        return True

    def to_json(self) -> dict[str, Any]:
        """Nothing: its text says it."""
        return {}

    def restore(self, known: Mapping[str, Any]) -> None:
        """It never changes."""


class Metric(Expression):
    """The value of a metric in the last record that has it.

    Args:
      name: its name with its group, such as `train/loss`.
    """

    def __init__(self, name: str) -> None:
        self.text = name
        self._step: int | None = None

    def fold(self, record: Record) -> bool:
        """Takes the record's value, where it is of the metric's group."""
        measured, value = value_in(record, self.text)
        if measured:
            self.value, self._step = value, record.step
        return measured

    def measured_at(self, step: int) -> bool:
        """Whether the last record was that of `step`."""
        return self._step == step

    def to_json(self) -> dict[str, Any]:
        """The value and where it was measured."""
        return {"value": self.value, "step": self._step}

    def restore(self, known: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.value, self._step = known["value"], known["step"]


class _Of(Expression):
    """What follows the values of another expression."""

    def __init__(self, name: str, inner: Expression) -> None:
        self.text = f"{name}({inner.text})"
        self._inner = inner

    def fold(self, record: Record) -> bool:
        """Takes the value in, where the record measures it."""
        measured, value = self._inner.fold(record), self._inner.value
        if measured:
            # What `best` begins with is no value that could be averaged, or kept.
            self._take(value if value is not None and math.isfinite(value) else None)
        return measured

    def measured_at(self, step: int) -> bool:
        """Whether the other one was."""
        return self._inner.measured_at(step)

    def parts(self) -> Iterator[Expression]:
        """Itself, and what it follows."""
        yield self
        yield from self._inner.parts()

    @abc.abstractmethod
    def _take(self, value: float | None) -> None:
        """Takes a value in; None is one that is undefined."""


class Mean(_Of):
    """The mean of the last `count` values; undefined before there are so many, and with an undefined one among them."""

    def __init__(self, count: int, inner: Expression) -> None:
        super().__init__(f"mean{count}", inner)
        self._values: collections.deque[float | None] = collections.deque(maxlen=count)

    def _take(self, value: float | None) -> None:
        self._values.append(value)
        self._update()

    def _update(self) -> None:
        known = [value for value in self._values if value is not None]
        full = len(known) == self._values.maxlen
        self.value = math.fsum(known) / len(known) if full else None

    def to_json(self) -> dict[str, Any]:
        """The last values."""
        return {"values": list(self._values)}

    def restore(self, known: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._values.extend(known["values"])
        self._update()


class MovingAverage(_Of):
    """y ← d·y + (1 − d)·x, which begins at the first value; an undefined value leaves it, and is undefined itself."""

    def __init__(self, decay: float, inner: Expression) -> None:
        super().__init__(f"ema{decay!r}", inner)
        self._decay = decay
        self._average: float | None = None

    def _take(self, value: float | None) -> None:
        if value is not None:
            before = self._average
            self._average = value if before is None else self._decay * before + (1 - self._decay) * value
        self.value = None if value is None else self._average

    def to_json(self) -> dict[str, Any]:
        """The average, and whether the last value was defined."""
        return {"average": self._average, "value": self.value}

    def restore(self, known: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._average, self.value = known["average"], known["value"]


class BestBefore(_Of):
    """The best of all values before the last one; the worst that there is, where there was none.

    Args:
      mode: `min` or `max`: what is better.
      inner: whose values.
    """

    def __init__(self, mode: str, inner: Expression) -> None:
        super().__init__(f"best_{mode}", inner)
        self._better = max if mode == MAX else min
        self._worst = -math.inf if mode == MAX else math.inf
        self._best: float | None = None

    def _take(self, value: float | None) -> None:
        self.value = self._worst if self._best is None else self._best
        if value is not None:
            self._best = value if self._best is None else self._better(self._best, value)

    def to_json(self) -> dict[str, Any]:
        """The best with the last value, and before it."""
        before = self.value if self.value is not None and math.isfinite(self.value) else None
        return {"best": self._best, "before": before}

    def restore(self, known: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._best = known["best"]
        self.value = self._worst if known["before"] is None else known["before"]
