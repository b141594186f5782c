"""From what the programs measured to the records of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.ledger.record import Record, ordered_metrics, plain_number
from trainer.run.experiment import Experiment
from trainer.run.measure import Layout, recorded_metrics
from trainer.run.program import Row
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import Schedule


def train_record(
    row: Row, *, layout: Layout, experiment: Experiment, schedule: Schedule, start: int, closed_by: str | None
) -> Record:
    """The record of the window (`start`, `row.step`]."""
    rates = {name: plain_number(rate) for name, rate in row.learning_rates.items()}
    return Record(
        kind="train",
        step=row.step,
        examples=row.examples,
        epoch=schedule.epoch(row.examples),
        window=(start, row.step),
        metrics=_metrics(layout.means(row.totals), experiment),
        learning_rate=rates[""] if rates.keys() == {""} else rates or None,
        closed_by=closed_by,
        nonfinite=layout.nonfinite(row.totals),
    )


def eval_record(
    means: Mapping[str, Any],
    nonfinite: Mapping[str, int],
    *,
    split: str,
    experiment: Experiment,
    schedule: Schedule,
    now: Progress,
) -> Record:
    """The record of an evaluation of `split` with the weights of `now`."""
    return Record(
        kind="eval",
        step=now.step,
        examples=now.examples,
        epoch=schedule.epoch(now.examples),
        split=split,
        weights="raw",
        metrics=_metrics(means, experiment),
        nonfinite=nonfinite,
    )


def open_window(row: Row, start: int, *, layout: Layout, experiment: Experiment) -> dict[str, Any]:
    """What the manifest says of a window that is open since `start`; the totals themselves are in the checkpoint."""
    steps = row.step - start
    metrics = _metrics(layout.means(row.totals), experiment) if steps else {}
    return {"from": start, "steps": steps, "metrics": metrics}


def _metrics(means: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    return ordered_metrics(recorded_metrics(means, experiment.summarize(dict(means))))
