"""The plan in words: what a run is about to do."""

from __future__ import annotations

from trainer.ledger.run_info import RunInfo
from trainer.timeline.cadence import Progress
from trainer.timeline.duration import SECOND, STEP
from trainer.timeline.plan import make_plan
from trainer.timeline.schedule import RECONCILE_MODES, Schedule
from trainer.views.formatting import size

_RECONCILED = dict(
    zip(
        RECONCILE_MODES,
        (
            "a save inside a window carries it along",
            "a save closes the window with a record of its own",
            "a save waits for the end of the window",
        ),
        strict=True,
    )
)


def plan_lines(
    schedule: Schedule, info: RunInfo, *, monitor: str, mode: str, state_bytes: int, keep_last: int, keep_best: int
) -> list[str]:
    """The plan, a line each.

    Args:
      schedule: the run's schedule.
      info: what identifies the run.
      monitor: the metric that says which checkpoint is best.
      mode: whether it is to be small (`min`) or large (`max`).
      state_bytes: bytes of all variables that a checkpoint holds.
      keep_last: how many checkpoints are kept for being the newest.
      keep_best: how many for being the best.
    """
    plan = make_plan(schedule)
    about = "" if plan.exact else "about "
    rows = [("run", f"{info.run_id[:8]}  {info.experiment}  seed {info.seed}  jit {info.jit}")]
    for split, facts in info.data.items():
        length = "endless" if facts["examples"] is None else f"{facts['examples']:,} examples"
        rows.append(("data", f"{split}: {length}, {facts['mode']}, fingerprint {facts['fingerprint']}"))
    target = str(schedule.cadences["train_for"])
    if plan.steps is None:
        rows.append(("train", f"{target}: the clock ends it, so nothing can be counted"))
    else:
        epochs = schedule.epoch(plan.examples)
        shown = "" if epochs is None else f", {epochs:.4g} epochs"
        rows.append(("train", f"{_both(schedule, 'train_for')}: {plan.examples:,} examples{shown}"))
    known = plan.steps is not None
    rows.append(
        ("log", _both(schedule, "log_every") + (f": {about}{plan.train_records:,} train records" if known else ""))
    )
    rows.append(
        ("eval", _both(schedule, "eval_every") + (f": {about}{plan.evaluations:,} evaluations" if known else ""))
    )
    rows.append(
        ("save", _both(schedule, "save_every") + (f": {about}{plan.checkpoints:,} checkpoints" if known else ""))
    )
    reconciled = f"{schedule.reconcile}: {_RECONCILED[schedule.reconcile]}"
    if plan.checkpoints:
        share = plan.checkpoints_on_window_ends / plan.checkpoints
        reconciled += f"; {share:.0%} of the checkpoints end a window, the largest lag is {plan.largest_lag} steps"
    rows.append(("", reconciled))
    rows.append(("best", f"{monitor}, {mode}imized"))
    kept = keep_last + keep_best + 1
    rows.append(("disk", f"{size(state_bytes)} a checkpoint, at most {kept} kept: {size(state_bytes * kept)}"))
    return [f"{label:<6} {text}" for label, text in rows]


def _both(schedule: Schedule, flag: str) -> str:
    """A cadence in its own unit, and in steps where that is another."""
    cadence = schedule.cadences[flag]
    start = Progress()
    texts = []
    for duration, grid in zip(cadence.durations, schedule.grids(flag), strict=True):
        text = str(duration)
        if duration.unit != STEP and grid.axis != SECOND:
            steps = schedule.step_at(grid, start)
            text += (
                f" = {steps:,} steps"
                if grid.axis == STEP
                else f" = {_steps(schedule, grid.numerator / grid.denominator)}"
            )
        texts.append(text)
    if not texts:
        return "never"
    return ("" if flag == "train_for" else "every ") + " or ".join(texts)


def _steps(schedule: Schedule, examples: float) -> str:
    return f"{examples / schedule.stepping.batch_size:,.6g} steps"
