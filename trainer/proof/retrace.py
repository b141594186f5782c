"""Training one window again, step by step, to see what each update did to its own batch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from trainer.checkpoint.recovery import Damaged
from trainer.errors import ConfigError, Unusable
from trainer.ledger.manifest import Manifest, load_manifests
from trainer.ledger.segments import data_origin
from trainer.proof.legs import Leg
from trainer.proof.question import Question
from trainer.proof.reopen import NotReplayable, Reopened
from trainer.proof.terms import OWN_UPDATE, Measured
from trainer.proof.window import BatchMeasure, Gathering, WindowBatches
from trainer.run.pace import Pace
from trainer.run.place import PlaceInData
from trainer.run.program import Advance
from trainer.run.records import train_record
from trainer.run.segments import order_seed

_TICK = 0.5
"""Seconds between two looks whether to stop."""


class Interrupted(Exception):
    """A signal came before the explanation was complete."""


@dataclasses.dataclass(frozen=True)
class Retraced:
    """What training a window again has shown."""

    own_update: Measured | None
    """The batches of the window, each after its own update; None where the experiment's own step measures."""
    logged: float | None
    """What the log would say of the window."""
    batches: WindowBatches
    """Those of the window, to be had again."""
    machine: str | None
    """How this machine differs from the run's."""
    start: int
    """The step that was begun at."""


def retrace(
    question: Question,
    leg: Leg,
    reopened: Reopened,
    gathering: Gathering | None,
    *,
    interrupted: Callable[[], bool],
    tell: Callable[[str], None],
) -> Retraced:
    """Trains a window again, from the newest checkpoint at or before its beginning, or from that of the run.

    Args:
      question: whose window.
      leg: in which it lies.
      reopened: the run in that leg.
      gathering: the metric; None where it cannot be measured but by the experiment's own step.
      interrupted: whether to stop.
      tell: receives what is being done.

    Raises:
      NotReplayable: it cannot be, and why.
      Interrupted: it is to stop.
    """
    a, b = question.window
    if leg.start > a:
        raise NotReplayable(f"the flags were changed at step {leg.start}, inside the window")
    start = _begun(question, leg, reopened)
    parts = reopened.parts
    origin = data_origin(question.segments(leg.start))
    order = order_seed(parts.config.seed, origin)
    at = (start.step, start.examples) if start else (0, 0)
    batches = WindowBatches(parts, order, origin.examples, start=at, window=(a, b))
    if start and not start.open_window["steps"]:
        parts.program.clear_window()
    PlaceInData(parts.program, parts.info.data["train"], warn=lambda line: None).take_up(
        parts.config.seed,
        origin,
        at[1],
        skipped=start.open_window.get("skipped", 0) if start else 0,
        tell=tell,
        interrupted=interrupted,
    )
    _run_to(reopened, at[0], a, interrupted, tell)
    measure = None
    if gathering:
        measure = BatchMeasure(parts, gathering.experiment, parts.state.model, training=True)
    advance: Advance | None = None
    tell(f"training the steps {a + 1} to {b} again, one by one")
    for step, batch in batches:
        if interrupted():
            raise Interrupted
        before = measure.keep() if measure else None
        advance = parts.program.run(step, [b] if step == b else [])
        if advance.problem:
            raise NotReplayable(f"{advance.problem} is not finite at step {step}, which it was")
        if measure:
            measure.add(step, batch, before)
    if advance is None or not advance.rows:
        raise NotReplayable(f"the training data ends before step {b}")
    record = train_record(
        advance.rows[0],
        layout=parts.program.layout,
        experiment=parts.experiment,
        schedule=parts.schedule,
        start=a,
        closed_by=None,
    )
    own = gathering.measured(OWN_UPDATE, *measure.means()) if gathering and measure else None
    return Retraced(own, record.metrics[question.metric], batches, reopened.machine, at[0])


def _begun(question: Question, leg: Leg, reopened: Reopened) -> Manifest | None:
    """Gives the run the state to begin with; returns the manifest of its checkpoint, None for the run's beginning."""
    a, segments = question.window[0], question.segments(leg.start)
    reasons = []
    if not question.from_start:
        manifests, _ = load_manifests(question.directory)
        kept = [manifest for step, manifest in manifests.items() if leg.start <= step <= a]
        for start in reversed(kept):
            try:
                reopened.begin(start, question.directory.state_prefix(start.step), segments)
            except (Damaged, Unusable) as error:
                reasons.append(f"checkpoint {start.step}: {error}")
            else:
                return start
    if leg.start > 0:
        raise NotReplayable(f"no checkpoint is kept between step {leg.start}, where the flags changed, and {a}")
    if a > 0 and not question.from_start:
        tried = f" ({'; '.join(reasons)})" if reasons else ""
        raise NotReplayable(f"no checkpoint at or before step {a} is kept{tried}; --from_start trains from step 0")
    try:
        reopened.begin(None, None, segments)
    except (ConfigError, Unusable) as error:
        raise NotReplayable(str(error)) from error
    return None


def _run_to(
    reopened: Reopened, step: int, end: int, interrupted: Callable[[], bool], tell: Callable[[str], None]
) -> None:
    """Trains to the beginning of the window, where the window before closes."""
    pace, program = Pace(_TICK), reopened.parts.program
    while step < end:
        if interrupted():
            raise Interrupted
        tell(f"training again: step {step:,} of {end:,}")
        until = min(end, step + pace.steps)
        began = time.monotonic()
        advance = program.run(until, [end] if until == end else [])
        pace.learn(until - step, time.monotonic() - began)
        if advance.problem or advance.open.step < until:
            raise NotReplayable(f"it ends at step {advance.open.step}, and not at {end}")
        step = until
