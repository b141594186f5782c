"""Which steps are the best by a metric."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.decide.monitor import MAX, TRAIN, Monitor, check_metric, value_in
from trainer.ledger.record import Record
from trainer.ledger.train_records import TrainRecords


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A step and the monitored value that was measured there."""

    value: float
    step: int


class Best:
    """The best steps by one monitored metric.

    Improvement is strict: of two equal values the earlier step is the better. A value that is not finite is never best.

    Args:
      monitor: the metric, and what is better.
      keep: how many of the best steps are known; at least one is.
    """

    def __init__(self, monitor: Monitor, *, keep: int = 1) -> None:
        self.monitor = monitor
        self._sign = -1 if monitor.mode == MAX else 1
        self._keep = max(1, keep)
        self.ranking: list[Candidate] = []
        """The best steps, best first."""

    def fold(self, record: Record) -> None:
        """Takes one more record into account.

        Raises:
          ConfigError: the record is of the monitored kind and split, and does not have the metric.
        """
        _, value = value_in(record, self.monitor.metric)
        if value is None or not math.isfinite(value):
            return
        last = self.ranking[-1] if len(self.ranking) == self._keep else None
        if last is not None and (self._sign * value, record.step) >= (self._sign * last.value, last.step):
            return
        ranking = sorted(
            [*self.ranking, Candidate(value, record.step)], key=lambda other: (self._sign * other.value, other.step)
        )
        self.ranking = ranking[: self._keep]

    def fold_windows(self, records: TrainRecords) -> None:
        """Takes many train records into account, which ends as `fold` of one after the other does; raises as that."""
        group, _, name = self.monitor.metric.partition("/")
        if group != TRAIN:
            return
        check_metric(self.monitor.metric, [f"{TRAIN}/{known}" for known in records.metrics])
        values = records.metrics[name]
        # What is not among the best of these is not among the best of all. Of equal ones the earlier comes first.
        for place in heapq.nsmallest(self._keep, range(len(values)), key=lambda place: self._sign * values[place]):
            self.fold(records[place])

    def to_json(self) -> list[dict[str, Any]]:
        """What the manifest keeps under `control.best`: values and steps, each with its relation to its checkpoint."""
        return [{**dataclasses.asdict(candidate), "relation": self.monitor.relation} for candidate in self.ranking]

    def restore(self, known: Iterable[Mapping[str, Any]]) -> None:
        """Goes on from what `to_json` gave."""
        self.ranking = [Candidate(entry["value"], entry["step"]) for entry in known][: self._keep]
