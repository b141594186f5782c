"""DECIDE: what the records up to a step say about it. A pure fold, which a resume takes up where it was left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from trainer.decide.best import Best
from trainer.decide.condition import Conditions
from trainer.decide.early_stop import EarlyStop
from trainer.decide.monitor import TRAIN, Monitor, check_metric, group_of
from trainer.ledger.record import Record
from trainer.ledger.train_records import TrainRecords
from trainer.timeline.cadence import Progress


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is decided at one step."""

    best: tuple[str, ...] = ()
    """The monitored metrics by which it is among the best, and is to be saved for that."""
    condition: bool = False
    """Whether the conditions of `save_if` hold."""
    stop: bool = False
    """Whether the run ends here, early."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the step is to be saved, in the words of the manifest."""
        return (*(["best"] if self.best else []), *(["condition"] if self.condition else []))

    def to_json(self) -> dict[str, Any]:
        """What the journal says of it."""
        return dataclasses.asdict(self)


class Decisions:
    """Folds the records into what is best, whether to save, and when to stop.

    Args:
      monitors: the metrics by which steps are compared; the first says which is the best.
      keep_best: how many of the best steps of each are saved and kept; 0 tells the best and saves none.
      conditions: of `save_if`, if there are any.
      early_stop: on the first monitor, if it is wanted.
    """

    def __init__(
        self,
        monitors: Sequence[Monitor],
        *,
        keep_best: int = 1,
        conditions: Conditions | None = None,
        early_stop: EarlyStop | None = None,
    ) -> None:
        self.rankings = tuple(Best(monitor, keep=keep_best) for monitor in monitors)
        self.conditions = conditions
        self.early_stop = early_stop
        self._keep_best = keep_best

    @property
    def best(self) -> Best:
        """The ranking that says which step is the best."""
        return self.rankings[0]

    @property
    def kept_steps(self) -> frozenset[int]:
        """The steps whose checkpoints stay for being among the best."""
        rankings = self.rankings if self._keep_best else ()
        return frozenset(candidate.step for best in rankings for candidate in best.ranking)

    @property
    def stopped(self) -> bool:
        """Whether the run has come to an early end."""
        return self.early_stop is not None and self.early_stop.stopped

    @property
    def needs_train_records(self) -> bool:
        """Whether a decision may depend on a train record, so that each log step is a boundary."""
        acted_on = [best.monitor.metric for best in self.rankings] if self._keep_best else []
        if self.early_stop:
            acted_on.append(self.early_stop.monitor.metric)
        return TRAIN in map(group_of, [*acted_on, *(self.conditions.metrics if self.conditions else ())])

    def check(self, names: Collection[str]) -> None:
        """Refuses a monitor or a condition on a metric that is not among those that there are.

        Raises:
          ConfigError: there is one; the message lists the metrics.
        """
        for best in self.rankings:
            check_metric(best.monitor.metric, names, "monitor=")
        for metric in self.conditions.metrics if self.conditions else ():
            check_metric(metric, names, "save_if: ")

    def fold(self, record: Record) -> None:
        """Takes one more record into account.

        Raises:
          ConfigError: the record does not have a metric that is needed, and is of its group.
        """
        for best in self.rankings:
            best.fold(record)
        for other in (self.conditions, self.early_stop):
            if other:
                other.fold(record)

    def fold_all(self, records: Sequence[Record]) -> None:
        """Takes records into account, one after the other; raises as `fold` does."""
        if isinstance(records, TrainRecords) and not self.needs_train_records:
            # No condition or early stop goes by them, and no step is saved for them: it is only told which are best.
            for best in self.rankings:
                best.fold_windows(records)
            return
        for record in records:
            self.fold(record)

    def at(self, step: int) -> Verdict:
        """What the records so far, up to those of `step`, decide about it."""
        best = [
            ranked.monitor.metric
            for ranked in (self.rankings if self._keep_best else ())
            if any(candidate.step == step for candidate in ranked.ranking)
        ]
        return Verdict(
            best=tuple(best),
            condition=self.conditions is not None and self.conditions.hold(step),
            stop=self.stopped,
        )

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps of it under `control`."""
        return {
            "best": {best.monitor.metric: best.to_json() for best in self.rankings},
            "modes": {best.monitor.metric: best.monitor.mode for best in self.rankings},
            "early_stop": self.early_stop.to_json() if self.early_stop else {},
            **({"save_if": self.conditions.to_json()} if self.conditions else {}),
        }

    def restore(
        self, control: Mapping[str, Any], now: Progress, comparable: Callable[[str], bool] = lambda metric: True
    ) -> None:
        """Goes on from what `to_json` gave, as far as it is of the same metrics; the rest begins anew.

        Args:
          control: the manifest's.
          now: where the run is.
          comparable: whether values of a metric are of the same data before and after.
        """
        modes = control.get("modes", {})

        def same(monitor: Monitor) -> bool:
            return modes.get(monitor.metric, monitor.mode) == monitor.mode and comparable(monitor.metric)

        for best in self.rankings:
            if same(best.monitor):
                best.restore(control.get("best", {}).get(best.monitor.metric, ()))
        if self.early_stop:
            known, monitor = control.get("early_stop", {}), self.early_stop.monitor
            if same(monitor) and known.get("monitor") == monitor.metric:
                self.early_stop.restore(known)
            else:
                self.early_stop.begin(now)
        if self.conditions:
            self.conditions.restore(control.get("save_if", {}), comparable)
