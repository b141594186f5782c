"""What a checkpoint's manifest says of a metric."""

from __future__ import annotations

import dataclasses

from trainer.decide.monitor import TRAIN
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Number


@dataclasses.dataclass(frozen=True)
class MeasuredMetric:
    """A metric, and how it relates to a checkpoint."""

    name: str
    """With its group, such as `validation/loss`."""
    value: Number
    """None where it was not finite."""
    relation: str
    """`exact`: measured on its weights; `window`: a mean over earlier ones; `earlier`: measured on earlier ones."""
    step: int
    """Of the weights that it was measured on; of a window, where it ends."""


def measured(manifest: Manifest, metric: str) -> MeasuredMetric | None:
    """The metric as the newest record before the checkpoint has it; None where it was not measured yet."""
    group, _, name = metric.partition("/")
    known = manifest.train if group == TRAIN else manifest.eval.get(group)
    if known is None or name not in known["metrics"]:
        return None
    step = known["window"][1] if group == TRAIN else known["step"]
    return MeasuredMetric(metric, known["metrics"][name], known["relation"], step)
