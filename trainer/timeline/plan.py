"""The plan: what a schedule will make of a run, counted before the first step."""

from __future__ import annotations

import dataclasses

from trainer.timeline.cadence import Progress
from trainer.timeline.duration import SECOND
from trainer.timeline.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will make, as far as the clock has no say in it."""

    steps: int | None
    """The step at which it ends; None when only the clock knows, and then nothing below is known either."""
    examples: int = 0
    train_records: int = 0
    evaluations: int = 0
    checkpoints: int = 0
    """Those that the cadence and the end ask for; best and transient ones come on top."""
    checkpoints_on_window_ends: int = 0
    largest_lag: int = 0
    """The most steps that a checkpoint is ahead of the last train record before it."""
    exact: bool = True
    """False when the counts are an estimate, from the first part of a run of very many events."""


def make_plan(schedule: Schedule, *, limit: int = 5_000) -> Plan:
    """Counts the records, evaluations and checkpoints of a run of `schedule`.

    Args:
      schedule: the run's schedule.
      limit: how many events are counted one by one; beyond them the counts are scaled to the whole run.
    """
    start = Progress()
    last = schedule.last_step(start)
    if last is None:
        return Plan(steps=None)
    at = before = start
    pending: frozenset[str] = frozenset()
    window_start = records = evaluations = checkpoints = on_ends = lag = events = 0
    while at.step < last and events < limit:
        chunk = schedule.next_chunk(at, pending=pending, max_steps=last, max_closes=1)
        at = schedule.progress(at, chunk.until)
        events += 1
        if chunk.closes:
            records, window_start = records + 1, at.step
        if chunk.boundary:
            due = schedule.due(before, at, pending=pending)
            before, pending = at, due.pending
            evaluations += due.evaluate
            if due.save:
                checkpoints += 1
                on_ends += at.step == window_start
                lag = max(lag, at.step - window_start)
    scale = 1.0 if at.step >= last else last / at.step
    return Plan(
        steps=last,
        examples=schedule.progress(start, last).examples,
        train_records=round(records * scale),
        evaluations=round(evaluations * scale),
        checkpoints=round(checkpoints * scale),
        checkpoints_on_window_ends=round(on_ends * scale),
        largest_lag=lag,
        exact=scale == 1.0,
    )


def windows_meet_evaluations(schedule: Schedule, *, limit: int = 10_000) -> bool:
    """Whether a train window ends where an evaluation is due, before the end of the run.

    Where only a clock knows, they may: then the answer is yes.

    Args:
      schedule: the run's schedule.
      limit: how many evaluations are looked at.
    """
    if any(schedule.cadences[flag].has(SECOND) for flag in ("log_every", "eval_every")):
        return True
    at, last = Progress(), schedule.last_step(Progress())
    for _ in range(limit):
        step = schedule.next_evaluation(at)
        if step is None or (last is not None and step >= last):
            return False
        before = schedule.progress(at, step - 1)
        at = schedule.progress(before, step)
        if schedule.due(before, at).log:
            return True
    return False
