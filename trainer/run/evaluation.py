"""The evaluation of a step: every split, and their records."""

from __future__ import annotations

from collections.abc import Callable

from trainer.ledger.record import Record
from trainer.run.assembly import Assembly
from trainer.run.pace import Pace
from trainer.run.records import eval_record
from trainer.timeline.cadence import Progress


def evaluate_splits(parts: Assembly, now: Progress, pace: Pace, interrupted: Callable[[], bool]) -> list[Record] | None:
    """Evaluates the weights as they are on every split.

    Args:
      parts: those of the run.
      now: where it stands.
      pace: how many batches a call takes.
      interrupted: asked between calls.

    Returns:
      A record of each split, in their order; None when it was interrupted, and all of it counts for nothing.
    """
    records = []
    for split, evaluator in parts.evaluators.items():
        measured = evaluator.run(pace, interrupted)
        if measured is None:
            return None
        means, nonfinite = measured
        records.append(
            eval_record(
                means,
                nonfinite,
                split=split,
                weights="ema" if parts.state.ema_model else "raw",
                experiment=parts.experiment,
                schedule=parts.schedule,
                now=now,
            )
        )
    return records
