"""From what the programs measured to the records of the log."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.ledger.record import Number, Record, in_order, ordered_metrics, plain_number, recorded_rate
from trainer.ledger.train_records import TrainRecords
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
        learning_rate=recorded_rate({name: plain_number(rate) for name, rate in row.learning_rates.items()}),
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
    closed_by: str | None,
) -> Sequence[Record]:
    """The records of the windows that closed in a chunk, as `train_record` makes them.

    A run that logs every step makes tens of thousands in a second: where they are plain, they are left in columns.

    Args:
      advance: the chunk; at least one window closed in it.
      start: where the first window began.
      closed_by: what closed the last one.
    """
    matrix = advance.closed
    totals = matrix[:, 2 : 2 + layout.width]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means = totals[:, 1 : layout.first_nonfinite] / totals[:, :1]
        rates = matrix[:, 2 + layout.width : -2].astype(np.float32)
    finite = np.isfinite(means).all() and np.isfinite(rates).all() and not totals[:, layout.first_nonfinite :].any()
    if not finite or any(size for _, size in layout.sizes) or type(experiment).summarize is not Experiment.summarize:
        one = functools.partial(train_record, layout=layout, experiment=experiment, schedule=schedule)
        starts, last = [start, *(row.step for row in advance.rows)], advance.rows[-1]
        return [
            one(row, start=begin, closed_by=closed_by if row is last else None)
            for row, begin in zip(advance.rows, starts, strict=False)
        ]
    columns = dict(zip((name for name, _ in layout.sizes), means.T.tolist(), strict=True))
    steps, examples, skipped = (matrix[:, column].astype(np.int64) for column in (0, 1, -2))
    return TrainRecords(
        start=start,
        steps=steps.tolist(),
        examples=examples.tolist(),
        epochs=schedule.epochs(examples.tolist()),
        metrics={name: columns[name] for name in in_order(columns)},
        learning_rates=dict(zip(advance.open.learning_rates, map(_rate_column, rates.T), strict=True)),
        skipped=skipped.tolist(),
        closed_by=closed_by,
    )


def _rate_column(rates: np.ndarray) -> list[Number]:
    """One optimizer's learning rates in windows, float32 [windows], as they are recorded."""
    # By their bits: 0 and -0 are equal, and written otherwise.
    bits = rates.view(np.int32)
    if (bits == bits[0]).all():
        return [plain_number(rates[0])] * len(rates)
    return list(map(plain_number, rates))


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
