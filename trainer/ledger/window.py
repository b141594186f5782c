"""The open window of a loop that keeps its averages in Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.ledger.record import Number, ordered_metrics


@dataclasses.dataclass
class Window:
    """Sums in float64 since step `start`: Σ weight · value and Σ weight for each metric."""

    start: int = 0
    steps: int = 0
    weight: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    nonfinite: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, metrics: Mapping[str, Any], weight: float) -> None:
        """Adds one step: each metric's mean over its batch, which weighs `weight` (usually the batch size).

        Raises:
          ConfigError: the metrics are not those of the window's earlier steps.
        """
        if self.steps and metrics.keys() != self.sums.keys():
            raise ConfigError(
                f"this step has the metrics {sorted(metrics)}, the steps before it {sorted(self.sums)}; "
                "a window averages metrics that every step has"
            )
        self.steps += 1
        self.weight += weight
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * weight
            if not math.isfinite(value):
                self.nonfinite[name] = self.nonfinite.get(name, 0) + 1

    def means(self) -> dict[str, Number]:
        """The weighted means so far; empty before the first step."""
        return ordered_metrics({name: total / self.weight for name, total in self.sums.items()} if self.weight else {})

    def to_json(self) -> dict[str, Any]:
        """The window as the manifest's `open_window`, with the exact sums that a resume continues from."""
        return {
            "from": self.start,
            "steps": self.steps,
            "metrics": self.means(),
            "weight": self.weight,
            "sums": {name: repr(total) for name, total in self.sums.items()},
            "nonfinite": dict(self.nonfinite),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Window:
        """The window that `to_json` gave, or the empty one that starts where `value` does when it holds no sums."""
        sums = {name: float(total) for name, total in value.get("sums", {}).items()}
        return cls(
            start=value["from"],
            steps=value["steps"] if sums else 0,
            weight=value.get("weight", 0.0),
            sums=sums,
            nonfinite=dict(value.get("nonfinite", {})),
        )
