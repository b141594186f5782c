"""Training one window again, step by step, to see what each update did to its own batch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

from trainer.checkpoint.recovery import Damaged
from trainer.data import Batch
from trainer.errors import ConfigError, Unusable
from trainer.ledger.manifest import Manifest
from trainer.ledger.segments import data_origin
from trainer.proof.compare import TOLERANCE
from trainer.proof.legs import Leg
from trainer.proof.question import Question
from trainer.proof.reopen import NotReplayable, Reopened
from trainer.proof.terms import OWN_UPDATE, Measured
from trainer.proof.window import BatchMeasure, Drawn, Gathering, WindowBatches
from trainer.run.assembly import Assembly
from trainer.run.pace import Pace
from trainer.run.place import PlaceInData
from trainer.run.program import Row
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
    """The batches of the window, each after its own update; None where the experiment's own step measures, and where
    the window did not come out again."""
    logged: float | None
    """What the log would say of the window."""
    batches: WindowBatches
    """Those of the window, to be had again, but for those whose update was skipped: the record leaves them out too."""
    drawn: Mapping[int, Drawn]
    """By step where the generators of the model stood before it."""
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
    tell(f"training the steps {a + 1} to {b} again, one by one")
    steps = _Steps(parts, gathering, b)
    for step, batch in batches:
        if interrupted():
            raise Interrupted
        steps.train(step, batch)
    logged = steps.logged(question.metric, a)
    # On another kind of machine the last bits may differ. What is further off is another training.
    tolerance = TOLERANCE if reopened.machine else 0.0
    again = logged is not None and math.isclose(logged, question.logged, rel_tol=tolerance)
    return Retraced(
        steps.own_update() if again else None,
        logged,
        batches.without(steps.skipped),
        steps.drawn,
        reopened.machine,
        at[0],
    )


class _Steps:
    """The steps of a window, trained one by one.

    Args:
      parts: the run, whose state stands at the window's beginning.
      gathering: the metric; None where it cannot be measured but by the experiment's own step.
      end: the last step.
    """

    def __init__(self, parts: Assembly, gathering: Gathering | None, end: int) -> None:
        self._parts = parts
        self._gathering = gathering
        self._end = end
        self._measure = None
        if gathering:
            self._measure = BatchMeasure(parts, gathering.experiment, parts.state.model, training=True)
        self._row: Row | None = None
        self.skipped: list[int] = []
        """Those that made no update."""
        self.drawn: dict[int, Drawn] = {}
        """By step where the generators of the model stood before it."""

    def train(self, step: int, batch: Batch) -> None:
        """Trains one step, and measures its batch after that."""
        if self._measure:
            self.drawn[step] = self._measure.drawn()
        advance = self._parts.program.run(step, [self._end] if step == self._end else [])
        if advance.problem:
            raise NotReplayable(f"{advance.problem} is not finite at step {step}, which it was")
        row = advance.rows[0] if advance.rows else advance.open
        if row.skipped > len(self.skipped):
            self.skipped.append(step)
        elif self._measure:
            self._measure.add(step, batch, self.drawn[step])
        self._row = row if step == self._end else None

    def logged(self, metric: str, start: int) -> float | None:
        """What the log would say of the window."""
        if self._row is None:
            raise NotReplayable(f"the training data ends before step {self._end}")
        record = train_record(
            self._row,
            layout=self._parts.program.layout,
            experiment=self._parts.experiment,
            schedule=self._parts.schedule,
            start=start,
            closed_by=None,
        )
        return record.metrics[metric]

    def own_update(self) -> Measured | None:
        """The batches after their own updates."""
        if self._gathering is None or self._measure is None:
            return None
        return self._gathering.measured(OWN_UPDATE, *self._measure.means())


def _begun(question: Question, leg: Leg, reopened: Reopened) -> Manifest | None:
    """Gives the run the state to begin with; returns the manifest of its checkpoint, None for the run's beginning."""
    a, segments = question.window[0], question.segments(leg.start)
    reasons = []
    if not question.from_start:
        for start, prefix in question.starts:
            if start.step < leg.start:
                continue
            try:
                reopened.begin(start, prefix, segments)
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
