"""From what the programs measured to the records of the log."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.ledger.record import Number, Record, ordered_metrics, plain_number
from trainer.run.experiment import Experiment
from trainer.run.measure import Layout, recorded_metrics
from trainer.run.program import Advance, Row
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import Schedule


def train_record(
    row: Row, *, layout: Layout, experiment: Experiment, schedule: Schedule, start: int, closed_by: str | None
) -> Record:
    """The record of the window (`start`, `row.step`]."""
    metrics, nonfinite = metrics_and_counts(layout.means(row.totals), layout.nonfinite(row.totals), experiment)
    return Record(
        kind="train",
        step=row.step,
        examples=row.examples,
        epoch=schedule.epoch(row.examples),
        window=(start, row.step),
        metrics=metrics,
        learning_rate=_rates(row),
        closed_by=closed_by,
        skipped=row.skipped,
        nonfinite=nonfinite,
    )


def train_records(
    advance: Advance,
    *,
    layout: Layout,
    experiment: Experiment,
    schedule: Schedule,
    start: int,
    closed_by: Mapping[int, str | None],
) -> list[Record]:
    """The record of each window that closed in a chunk, as `train_record` makes them; the first began at `start`.

    A run that logs every step makes tens of thousands in a second: what they have in common is looked at once.
    """
    matrix = np.asarray(advance.closed)
    sizes = [size for _, size in layout.sizes]
    totals = matrix[:, 2 : 2 + layout.width]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = totals[:, 1 : layout.first_nonfinite] / totals[:, :1]
    plain = np.isfinite(means).all(axis=1) & ~totals[:, layout.first_nonfinite :].any(axis=1)
    if any(sizes) or type(experiment).summarize is not Experiment.summarize or not plain.all():
        one = functools.partial(train_record, layout=layout, experiment=experiment, schedule=schedule)
        starts = [start, *(row.step for row in advance.rows)]
        return [
            one(row, start=at, closed_by=closed_by[row.step]) for row, at in zip(advance.rows, starts, strict=False)
        ]
    names = [name for name, _ in layout.sizes]
    order = list(ordered_metrics(dict.fromkeys(names, 0.0)))
    values = means[:, [names.index(name) for name in order]].tolist()
    steps, examples, skipped = (matrix[:, column].astype(np.int64).tolist() for column in (0, 1, -2))
    rates = matrix[:, 2 + layout.width : -2]
    # Most runs of windows have one rate; by its bits, for 0 and -0 are equal and written otherwise.
    bits = rates.view(np.int64)
    rated = advance.closed[:1] if (bits == bits[0]).all() else advance.closed
    learning_rates = itertools.cycle([_rates(advance.row(vector)) for vector in rated])
    return [
        Record(
            "train",
            step,
            consumed,
            schedule.epoch(consumed),
            dict(zip(order, metrics, strict=True)),
            (begin, step),
            learning_rate=rate,
            closed_by=closed_by[step],
            skipped=left_out,
        )
        for step, consumed, begin, metrics, rate, left_out in zip(
            steps, examples, [start, *steps], values, learning_rates, skipped, strict=False
        )
    ]


def _rates(row: Row) -> Any:
    """The learning rates of a window as they are recorded."""
    rates = {name: plain_number(rate) for name, rate in row.learning_rates.items()}
    return rates[""] if rates.keys() == {""} else rates or None


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
