"""From what the programs measured to the records of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.ledger.record import Number, Record, ordered_metrics, plain_number
from trainer.run.experiment import Experiment
from trainer.run.measure import Layout, recorded_metrics
from trainer.run.program import Row
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import Schedule


def train_record(
    row: Row, *, layout: Layout, experiment: Experiment, schedule: Schedule, start: int, closed_by: str | None
) -> Record:
    """The record of the window (`start`, `row.step`]."""
    metrics, nonfinite = metrics_and_counts(layout.means(row.totals), layout.nonfinite(row.totals), experiment)
    rates = {name: plain_number(rate) for name, rate in row.learning_rates.items()}
    return Record(
        kind="train",
        step=row.step,
        examples=row.examples,
        epoch=schedule.epoch(row.examples),
        window=(start, row.step),
        metrics=metrics,
        learning_rate=rates[""] if rates.keys() == {""} else rates or None,
        closed_by=closed_by,
        skipped=row.skipped,
        nonfinite=nonfinite,
    )


def eval_record(
    means: Mapping[str, Any],
    nonfinite: Mapping[str, int],
    *,
    split: str,
    weights: str,
    experiment: Experiment,
    schedule: Schedule,
    now: Progress,
) -> Record:
    """The record of an evaluation of `split` with the weights of `now`."""
    metrics, counts = metrics_and_counts(means, nonfinite, experiment)
    return Record(
        kind="eval",
        step=now.step,
        examples=now.examples,
        epoch=schedule.epoch(now.examples),
        split=split,
        weights=weights,
        metrics=metrics,
        nonfinite=counts,
    )


def open_window(row: Row, start: int, *, layout: Layout, experiment: Experiment) -> dict[str, Any]:
    """What the manifest says of a window that is open since `start`; the totals themselves are in the checkpoint."""
    steps = row.step - start
    metrics = metrics_and_counts(layout.means(row.totals), {}, experiment)[0] if steps else {}
    # Of the steps, those that made no update are no part of the means.
    return {"from": start, "steps": steps, "metrics": metrics, **({"skipped": row.skipped} if row.skipped else {})}


def metrics_and_counts(
    means: Mapping[str, Any], nonfinite: Mapping[str, int], experiment: Experiment
) -> tuple[dict[str, Number], dict[str, int]]:
    """The metrics as they are recorded, and how often each was not finite: at least once where its value is not."""
    metrics = ordered_metrics(recorded_metrics(means, experiment.summarize(dict(means))))
    return metrics, {**dict.fromkeys((name for name, value in metrics.items() if value is None), 1), **nonfinite}
