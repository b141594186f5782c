"""The evaluations of `trainer.evaluate` as curves, beside those of the run itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, read_evaluations
from trainer.views.marks import Mark
from trainer.views.page.series import Curve
from trainer.views.status import Status

Points = dict[int, float | None]


def later_curves(
    directory: RunDirectory, status: Status, marks: Sequence[Mark], own: Mapping[str, Mapping[str, Curve]]
) -> dict[str, dict[str, Curve]]:
    """What was evaluated later of the checkpoints of the run's history, by split and metric.

    Of a checkpoint that is there it is what `trainer.status` shows; of one that was pruned the newest line on the same
    data. What the run has recorded itself is left out.

    Args:
      directory: the run directory.
      status: what is in it.
      marks: the checkpoints of its history; what was evaluated of others belongs to no run any more.
      own: the run's own evaluations, by split and metric.
    """
    found: dict[str, dict[str, Points]] = {}
    for one in _that_count(read_evaluations(directory), status, {mark.step for mark in marks}):
        record = one.record
        split = str(record.split) if record.weights == "raw" else f"{record.split} {record.weights}"
        for metric, value in record.metrics.items():
            if not _is_known(own.get(split, {}).get(metric), record.step, value):
                found.setdefault(f"{split}, later", {}).setdefault(metric, {})[record.step] = value
    return {split: {metric: _curve(points) for metric, points in metrics.items()} for split, metrics in found.items()}


def _that_count(made: Sequence[Evaluation], status: Status, steps: set[int]) -> list[Evaluation]:
    """The evaluations of checkpoints at `steps`, of each split on one data."""
    shown = {row.step: row.evaluations for row in status.checkpoints}
    counts = {one.subject.split: one.fingerprint for one in made}
    counts |= {split: known["fingerprint"] for known_by in shown.values() for split, known in known_by.items()}
    return [
        one
        for one in made
        if one.record.step in steps
        and one.fingerprint == counts[one.subject.split]
        and (one.record.step not in shown or _is_shown(one, shown[one.record.step]))
    ]


def _is_shown(one: Evaluation, shown: Mapping[str, Mapping[str, object]]) -> bool:
    known = shown.get(one.subject.split)
    return known is not None and known["metrics"] == dict(one.record.metrics)


def _is_known(curve: Curve | None, step: int, value: float | None) -> bool:
    """Whether a curve has this value at this step."""
    if curve is None:
        return False
    at = curve.values[curve.steps == step]
    return bool(np.isnan(at).any() if value is None else (at == value).any())


def _curve(points: Points) -> Curve:
    steps = sorted(points)
    return Curve(np.array(steps, float), np.array([points[step] for step in steps], float))
