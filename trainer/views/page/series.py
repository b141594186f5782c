"""The metric log as curves: a column of numbers for each metric, however long the log is."""

from __future__ import annotations

import array
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import log_lines
from trainer.views.drawing import Floats

_LARGEST = 2**53
"""Up to here every whole number is a float of its own."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric over the steps of a run. All arrays are of one length, and float64."""

    steps: Floats
    """Ascending: the ends of train windows, or the steps whose weights were evaluated."""
    values: Floats
    """NaN where the value was not finite."""
    starts: Floats | None = None
    """Where the train windows (start, step] begin."""

    def __len__(self) -> int:
        return len(self.steps)

    def of(self, chosen: Any) -> Curve:
        """The part of it that an index of NumPy's chooses."""
        starts = None if self.starts is None else self.starts[chosen]
        return Curve(self.steps[chosen], self.values[chosen], starts)


@dataclasses.dataclass(frozen=True)
class Series:
    """What a metric log holds."""

    records: int
    last_step: int
    """0 where there is no record."""
    train: Mapping[str, Curve]
    """By metric, the loss first."""
    evaluations: Mapping[str, Mapping[str, Curve]]
    """By split, with the weights where these are not the raw ones, and by metric."""
    learning_rates: Mapping[str, Curve]
    """By optimizer; the only one has no name."""
    examples: Curve
    """The examples consumed by each record."""
    skipped: int
    """How many updates were skipped."""
    damaged: int
    """How many lines are no records; they are left out."""
    first_damaged: int
    """The number of the first one, from 1; 0 when there is none."""


def read_series(directory: RunDirectory) -> Series:
    """Reads the metric log, which a trainer may be writing; an unterminated last line is ignored.

    It goes line by line: of a million records only the numbers stay in memory.

    Raises:
      OSError: the log cannot be read.
    """
    columns = _Columns()
    for number, line in enumerate(log_lines(directory), start=1):
        columns.add(number, line)
    return columns.series()


class _Column:
    """A curve that grows."""

    def __init__(self) -> None:
        self.steps = array.array("d")
        self.values = array.array("d")
        self.starts = array.array("d")

    def add(self, step: float, value: float | None, start: float | None = None) -> None:
        self.steps.append(step)
        self.values.append(math.nan if value is None else value)
        if start is not None:
            self.starts.append(start)

    def curve(self) -> Curve:
        steps, values, starts = (np.asarray(column) for column in (self.steps, self.values, self.starts))
        curve = Curve(steps, np.where(np.isfinite(values), values, np.nan), starts if len(starts) else None)
        # The trainer writes them in order; somebody's own loop need not.
        return curve.of(np.argsort(steps, kind="stable")) if (np.diff(steps) < 0).any() else curve


class _Columns:
    """The curves of a log that is being read."""

    def __init__(self) -> None:
        self._train: dict[str, _Column] = {}
        self._evaluations: dict[str, dict[str, _Column]] = {}
        self._rates: dict[str, _Column] = {}
        self._examples = _Column()
        self._records = self._skipped = self._damaged = self._first_damaged = 0

    def add(self, number: int, line: bytes) -> None:
        try:
            self._add(json.loads(line))
            self._records += 1
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            self._damaged += 1
            self._first_damaged = self._first_damaged or number

    def series(self) -> Series:
        examples = self._examples.curve()
        return Series(
            records=self._records,
            last_step=int(examples.steps[-1]) if len(examples) else 0,
            train=_curves(self._train),
            evaluations={split: _curves(columns) for split, columns in self._evaluations.items()},
            learning_rates=_curves(self._rates),
            examples=examples,
            skipped=self._skipped,
            damaged=self._damaged,
            first_damaged=self._first_damaged,
        )

    def _add(self, record: dict[str, Any]) -> None:
        kind, step, examples = record["kind"], _count(record["step"]), _count(record["examples"])
        metrics = {name: _number(value) for name, value in record["metrics"].items()}
        if kind == "train":
            start, end = record["window"]
            if _count(start) > _count(end):
                raise ValueError("the window ends before it begins")
            rate = record.get("learning_rate")
            rates = rate if isinstance(rate, dict) else {"": rate}
            rates = {name: _number(value) for name, value in rates.items()}
            for name, value in metrics.items():
                _at(self._train, name).add(end, value, start)
            for name, value in rates.items():
                if value is not None:
                    _at(self._rates, name).add(step, value)
            self._skipped += _count(record.get("skipped", 0))
        elif kind == "eval":
            split, weights = str(record["split"]), record.get("weights")
            name = split if weights in (None, "raw") else f"{split} {weights}"
            columns = self._evaluations.setdefault(name, {})
            for metric, value in metrics.items():
                _at(columns, metric).add(step, value)
        else:
            raise ValueError(f"kind is {kind!r}")
        self._examples.add(step, examples)


def _at(columns: dict[str, _Column], name: str) -> _Column:
    return columns.get(name) or columns.setdefault(name, _Column())


def _curves(columns: Mapping[str, _Column]) -> dict[str, Curve]:
    return {name: column.curve() for name, column in columns.items()}


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(f"{value!r} for a count")
    return value


def _number(value: Any) -> float | None:
    if value is None or type(value) is float:
        return value
    if type(value) is not int:
        raise ValueError(f"{value!r} for a number")
    return float(value) if abs(value) <= _LARGEST else math.inf
