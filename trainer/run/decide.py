"""Which checkpoint is best: a pure fold over the records."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.ledger.record import Record

_MAXIMIZED = re.compile(
    r"acc(uracy)?|auc|precision|recall|f_?\d|f_?score|map|ndcg|iou|dice|bleu|rouge|psnr|r2|top_?\d+"
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A step and the monitored value that was measured there."""

    value: float
    step: int


class Best:
    """The best steps by one monitored metric.

    Improvement is strict: of two equal values the earlier step is the better. A value that is not finite is never best.

    Args:
      monitor: the metric, such as `validation/loss`.
      mode: `min`, `max` or `auto`: accuracy and its like are maximized, everything else is minimized.
      keep: how many of the best steps are known; at least one is.
    """

    def __init__(self, monitor: str, *, mode: str = "auto", keep: int = 1) -> None:
        self.monitor = monitor
        self.mode = direction(monitor) if mode == "auto" else mode
        self._sign = -1 if self.mode == "max" else 1
        self._keep = max(1, keep)
        self.ranking: list[Candidate] = []

    @property
    def steps(self) -> list[int]:
        """The best steps, best first."""
        return [candidate.step for candidate in self.ranking]

    def check(self, names: Collection[str]) -> None:
        """Refuses a monitor that is not among the metrics that there are.

        Raises:
          ConfigError: it is not; the message lists them.
        """
        if self.monitor not in names:
            raise ConfigError(f"monitor={self.monitor} is in no record; expected one of {', '.join(sorted(names))}")

    def fold(self, record: Record) -> bool:
        """Takes one more record into account; returns whether its step is now among the best.

        Raises:
          ConfigError: the record is of the monitored kind and split, and does not have the metric.
        """
        metrics = record.named_metrics()
        if self.monitor.partition("/")[0] not in {name.partition("/")[0] for name in metrics}:
            return False
        self.check(metrics)
        value = metrics[self.monitor]
        if value is None or not math.isfinite(value):
            return False
        candidate = Candidate(value, record.step)
        ranking = sorted([*self.ranking, candidate], key=lambda other: (self._sign * other.value, other.step))
        self.ranking = ranking[: self._keep]
        return candidate in self.ranking

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps under `control.best`."""
        return {self.monitor: [dataclasses.asdict(candidate) for candidate in self.ranking]}

    def restore(self, value: Mapping[str, Any]) -> None:
        """Goes on from what `to_json` gave; a ranking by another metric says nothing about this one."""
        ranking = [Candidate(known["value"], known["step"]) for known in value.get(self.monitor, [])]
        self.ranking = ranking[: self._keep]


def direction(monitor: str) -> str:
    """Whether a metric of this name is better when it is larger (`max`) or smaller (`min`).

    >>> direction("validation/accuracy"), direction("validation/loss")
    ('max', 'min')
    """
    name = monitor.rpartition("/")[2].lower()
    return "max" if any(_MAXIMIZED.fullmatch(word) for word in (name, *re.split(r"[_\W]+", name))) else "min"


def choose_monitor(monitor: str | None, splits: Collection[str], *, evaluates: bool) -> str:
    """The monitored metric: the one asked for, else the loss of the validation split, the first split, or the windows.

    Raises:
      ConfigError: it names neither `train` nor a split, or one that is never evaluated.
    """
    if monitor is None:
        if not evaluates or not splits:
            return "train/loss"
        return f"{'validation' if 'validation' in splits else next(iter(splits))}/loss"
    group, slash, metric = monitor.partition("/")
    known = ["train", *(splits if evaluates else ())]
    if not slash or not metric or group not in known:
        names = ", ".join(f"{name}/METRIC" for name in known)
        hint = "" if evaluates or group not in splits else " (eval_every=never evaluates nothing)"
        raise ConfigError(f"monitor={monitor} is no metric of this run; expected one of {names}{hint}")
    return monitor
