"""The plan in words: what a run is about to do."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.ledger.run_info import RunInfo
from trainer.timeline.cadence import Progress, position_on
from trainer.timeline.duration import EXAMPLE, RUN, SECOND, STEP, Duration
from trainer.timeline.plan import Plan, make_plan
from trainer.timeline.schedule import CARRY, RECONCILE_MODES, Schedule
from trainer.views.formatting import duration as spell_duration
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
    schedule: Schedule,
    info: RunInfo,
    *,
    monitors: Sequence[str],
    save_if: str | None = None,
    early_stop: str | None = None,
    state_bytes: int,
    keep_last: int,
    keep_best: int,
    async_save: bool,
    update: Sequence[str] = (),
) -> list[str]:
    """The plan, a line each.

    Args:
      schedule: the run's schedule.
      info: what identifies the run.
      monitors: the metrics that say which checkpoints are best, each with what is better of it.
      save_if: the conditions of conditional saves, if there are any.
      early_stop: when the run ends early, if it may.
      state_bytes: bytes of all variables that a checkpoint holds.
      keep_last: how many checkpoints are kept for being the newest.
      keep_best: how many for being the best.
      async_save: whether a copy of the state is written while training goes on.
      update: how the weights are updated, where it is not as usual, a few words each.
    """
    plan = make_plan(schedule)
    rows = [("run", f"{info.run_id[:8]}  {info.experiment}  seed {info.seed}  jit {info.jit}"), ("on", _machine(info))]
    for split, facts in info.data.items():
        length = "endless" if facts["examples"] is None else f"{facts['examples']:,} examples"
        rows.append(("data", f"{split}: {length}, {facts['mode']}, fingerprint {facts['fingerprint']}"))
    rows.append(("train", _target(schedule, plan)))
    if update:
        rows.append(("", ", ".join(update)))
    rows.append(("log", _cadence(schedule, "log_every", plan, plan.train_records, "train record")))
    rows.append(("eval", _cadence(schedule, "eval_every", plan, plan.evaluations, "evaluation")))
    rows.append(("save", _cadence(schedule, "save_every", plan, plan.checkpoints, "checkpoint")))
    if save_if:
        rows.append(("", f"and wherever {save_if}"))
    save_every = schedule.cadences["save_every"]
    clocked = save_every.auto or save_every.has(SECOND)
    carried = "; one that a clock asks for carries it along" if clocked and schedule.reconcile != CARRY else ""
    rows.append(("", f"{schedule.reconcile}: {_RECONCILED[schedule.reconcile]}{carried}"))
    if plan.checkpoints and not clocked:
        share = plan.checkpoints_on_window_ends / plan.checkpoints
        lag = _count(plan.largest_lag, "step")
        rows.append(("", f"{share:.0%} of the checkpoints end a window; the largest lag is {lag}"))
    copied = f"training goes on while a copy in memory is written: {size(state_bytes)}"
    rows.append(("", copied if async_save else "training waits while the state is written"))
    rows += [("" if position else "best", monitor) for position, monitor in enumerate(monitors)]
    if early_stop:
        rows.append(("stop", f"early, {early_stop}"))
    for_good = _kept_for_good(schedule, plan)
    if schedule.cadences["keep_every"].durations:
        rows.append(("keep", _cadence(schedule, "keep_every", plan, for_good, "checkpoint") + " for good"))
    kept = keep_last + keep_best * len(monitors) + 1 + for_good
    rows.append(("disk", f"{size(state_bytes)} a checkpoint, at most {kept} kept: {size(state_bytes * kept)}"))
    return [f"{label:<6} {text}" for label, text in rows]


def _kept_for_good(schedule: Schedule, plan: Plan) -> int:
    """How many points of `keep_every` the run reaches, and so how many checkpoints it keeps for good at most."""
    end = Progress(plan.steps or 0, plan.examples)
    points = sum(int(grid.index(position_on(grid.axis, end))) for grid in schedule.grids("keep_every"))
    return min(points, plan.checkpoints)


def _machine(info: RunInfo) -> str:
    devices = ", ".join(info.machine["devices"]) or "no accelerator"
    exact = ", deterministic operations" if info.deterministic else ""
    return f"{info.machine['cpu']}, {info.threads['intra_op']} threads, {devices}{exact}"


def _target(schedule: Schedule, plan: Plan) -> str:
    target = " or ".join(map(in_words, schedule.cadences["train_for"].durations))
    if plan.steps is None:
        return f"{target}: the clock ends it, so nothing can be counted"
    steps = "" if target == _count(plan.steps, "step") else f" = {_count(plan.steps, 'step')}"
    epochs = schedule.epoch(plan.examples)
    return f"{target}{steps}: {plan.examples:,} examples" + ("" if epochs is None else f", {epochs:.4g} epochs")


def _cadence(schedule: Schedule, flag: str, plan: Plan, number: int, noun: str) -> str:
    """A cadence in its own unit and in steps, and how often it will fire."""
    texts = []
    for duration, grid in zip(schedule.cadences[flag].durations, schedule.grids(flag), strict=True):
        period = grid.numerator / grid.denominator
        if grid.axis == EXAMPLE:
            period /= schedule.stepping.batch_size
        steps = "" if duration.unit == STEP or grid.axis == SECOND else f" = {period:,.6g} steps"
        texts.append(in_words(duration) + steps)
    if schedule.cadences[flag].auto:
        return "automatically, by what a save costs and how often the run is interrupted; and at the end"
    never = "at the end" if flag == "save_every" else "never"
    text = "every " + " or ".join(texts) if texts else never
    if plan.steps is None or not number:
        return text
    return f"{text}: {'' if plan.exact else 'about '}{_count(number, noun)}"


def in_words(duration: Duration) -> str:
    """A duration as it is said: `100 steps`, `1 epoch`, `1/15 of the run`, `1h 30m`."""
    if duration.unit == SECOND:
        return spell_duration(float(duration.number))
    number = (
        f"{int(duration.number):,}"
        if duration.number.denominator == 1
        else str(duration).rstrip("abcdefghijklmnopqrstuvwxyz")
    )
    if duration.unit == RUN:
        return f"{number} of the run"
    return f"{number} {duration.unit}{'' if duration.number == 1 else 's'}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
