"""The schedule: where the boundaries of a run lie, and what is due at each."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from trainer.errors import ConfigError
from trainer.timeline.cadence import Grid, Progress, cadence_of, countable, position_on, resolve
from trainer.timeline.duration import RUN, SECOND, STEP, Duration
from trainer.timeline.stepping import Stepping

CARRY, FLUSH, ALIGN = RECONCILE_MODES = ("carry", "flush", "align")

EVALUATION, SAVE = "eval", "save"  # what `pending` can name


@dataclasses.dataclass(frozen=True)
class Due:
    """What is due at one step."""

    log: bool
    """The open window closes here."""
    closed_by: str | None
    """`save` or `end` when something other than the log cadence closes the window."""
    evaluate: bool
    save: tuple[str, ...]
    """The reasons to save that the schedule knows: `interval`, `time`, `final`."""
    stop: bool
    """The target is reached."""
    pending: frozenset[str]
    """What is due but has to wait: under `align`, a save that waits for the next log step."""

    @property
    def anything(self) -> bool:
        """Whether there is something to do here."""
        return self.log or self.evaluate or bool(self.save) or self.stop


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The steps up to `until`, and the steps among them at which windows close."""

    until: int
    closes: tuple[int, ...]
    cause: str | None
    """What closes the last of these windows, where the log cadence does not: `save` or `end`."""
    boundary: bool
    """Whether something is due at `until`; otherwise the chunk was only cut short."""

    def closed_by(self, step: int) -> str | None:
        """What closes the window at `step`, one of `closes`, where the log cadence does not."""
        return self.cause if step == self.closes[-1] else None


class Schedule:
    """Says when to log, to evaluate, to save and to stop; pure arithmetic on exact grids anchored at 0.

    Args:
      train_for: the target, a cadence whose first duration to be reached ends the run.
      log_every: the train windows' cadence.
      eval_every: the evaluations' cadence.
      save_every: the checkpoints' cadence; `auto` leaves it to the caller when to save.
      keep_every: the cadence of the checkpoints that stay for good.
      reconcile: what a save does to an open window: `carry`, `flush` or `align`.
      batch_size: training examples a step.
      data_examples: the data's length; None when it has none.
      last: `wrap` or `short`, what the last step of a pass does.
      epoch_examples: examples an epoch; by default the data's length.
      clock_in_log: allows seconds in `log_every` and `eval_every`.
      marks: further steps that must be boundaries, such as the ends of a profile.

    Raises:
      ConfigError: a cadence that does not parse or cannot be placed, or two that contradict each other.
    """

    def __init__(
        self,
        *,
        train_for: str | int,
        log_every: str | int = "100steps",
        eval_every: str | int = "never",
        save_every: str | int = "1epoch",
        keep_every: str | int = "never",
        reconcile: str = CARRY,
        batch_size: int = 1,
        data_examples: int | None = None,
        last: str = "wrap",
        epoch_examples: int | None = None,
        clock_in_log: bool = False,
        marks: Sequence[int] = (),
    ) -> None:
        if reconcile not in RECONCILE_MODES:
            raise ConfigError(f"reconcile={reconcile} is unknown; expected one of {', '.join(RECONCILE_MODES)}")
        if epoch_examples is not None and epoch_examples < 1:
            raise ConfigError(f"epoch_examples={epoch_examples} is not positive; expected a number of examples")
        self.stepping = Stepping(batch_size, data_examples, last)
        self.epoch_examples = epoch_examples or data_examples
        self.reconcile = reconcile
        self._log_is_boundary = False
        self._marks = tuple(sorted(marks))
        self.cadences = {
            flag: cadence_of(flag, text)
            for flag, text in {
                "train_for": train_for,
                "log_every": log_every,
                "eval_every": eval_every,
                "save_every": save_every,
                "keep_every": keep_every,
            }.items()
        }
        if not self.cadences["train_for"].durations:
            raise ConfigError(f"train_for={train_for} has no end; expected a duration such as 1000steps or 10epochs")
        if self.cadences["train_for"].has(RUN):
            raise ConfigError(f"train_for={train_for} counts in runs; expected steps, examples, epochs or a time")
        if self.cadences["keep_every"].has(SECOND):
            raise ConfigError(
                f"keep_every={self.cadences['keep_every']} counts seconds, so what is kept would depend on a clock; "
                "use steps, examples or epochs"
            )
        if not clock_in_log:
            for flag in ("log_every", "eval_every"):
                if self.cadences[flag].has(SECOND):
                    raise ConfigError(
                        f"{flag}={self.cadences[flag]} counts seconds, so the metric log would depend on a clock; "
                        "use steps, examples or epochs, or allow it with clock_in_log"
                    )
        if reconcile == ALIGN and not self.cadences["log_every"].durations:
            raise ConfigError("reconcile=align moves saves to log steps, but log_every=never has none; choose another")
        targets = countable(self.cadences["train_for"])
        self._run = targets[0] if len(targets) == 1 else None
        self._target = self.grids("train_for")
        self._log = self.grids("log_every")
        self._evaluate = self.grids("eval_every")
        self._save = self.grids("save_every")
        self._keep = self.grids("keep_every")

    def anchored(self, origin: int) -> Schedule:
        """This schedule where passes over the data begin at `origin` examples; grids and epochs stay as they are."""
        anchored = copy.copy(self)
        anchored.stepping = dataclasses.replace(self.stepping, origin=origin)
        return anchored

    def deciding_on_windows(self) -> Schedule:
        """This schedule where a decision needs the train records, so that each log step is a boundary."""
        deciding = copy.copy(self)
        deciding._log_is_boundary = True
        return deciding

    def marked(self, steps: Iterable[int]) -> Schedule:
        """This schedule where these steps are boundaries too."""
        marked = copy.copy(self)
        marked._marks = tuple(sorted({*self._marks, *steps}))
        return marked

    def epoch(self, examples: int) -> float | None:
        """The epoch after `examples` examples; None when the data has no length."""
        return examples / self.epoch_examples if self.epoch_examples else None

    def epochs(self, examples: Iterable[int]) -> list[float] | None:
        """As `epoch`, of each of them."""
        return [count / self.epoch_examples for count in examples] if self.epoch_examples else None

    def progress(self, before: Progress, step: int, seconds: float | None = None) -> Progress:
        """The progress at `step`, reached from `before`."""
        examples = self.stepping.advance(before.examples, step - before.step)
        return Progress(step, examples, before.seconds if seconds is None else seconds)

    def finished(self, progress: Progress) -> bool:
        """Whether a target is reached."""
        return any(grid.crossed(0, position_on(grid.axis, progress)) for grid in self._target)

    def keeps_for_good(self, before: Progress, now: Progress) -> bool:
        """Whether the checkpoint at `now` is the first at or after a point of `keep_every`, since that at `before`."""
        return _crossed(self._keep, before, now)

    def last_step(self, progress: Progress) -> int | None:
        """The step at which a target is reached, from `progress` on; None when only the clock knows."""
        steps = [self._step_at(grid, progress, first=True) for grid in self._target if grid.axis != SECOND]
        return min(steps, default=None)

    def next_chunk(
        self, progress: Progress, *, pending: frozenset[str] = frozenset(), max_steps: int, max_closes: int
    ) -> Chunk:
        """The steps from `progress` to the next boundary, cut after `max_steps` or `max_closes` closed windows."""
        boundary = self.next_boundary(progress, pending=pending)
        until = progress.step + max_steps if boundary is None else min(boundary, progress.step + max_steps)
        closes, cause = tuple(itertools.islice(self._log_steps(progress, until), max_closes)), None
        if len(closes) == max_closes:
            until = closes[-1]
        elif until == boundary and until not in closes[-1:]:
            # Whatever else closes a window is a boundary too.
            cause = self._closed_by(progress, until)
            closes += (until,) if cause else ()
        return Chunk(until, closes, cause, boundary == until)

    def next_boundary(self, progress: Progress, *, pending: frozenset[str] = frozenset()) -> int | None:
        """The next step at which an evaluation, a save, a decision or the end is due; None: only the clock knows."""
        steps = [self.next_evaluation(progress)]
        steps.append(next((mark for mark in self._marks if mark > progress.step), None))
        if self._log_is_boundary:
            steps.append(self._first(self._log, progress))
        steps.append(self.next_save(progress, pending=pending))
        return min((step for step in steps if step is not None), default=None)

    def next_evaluation(self, progress: Progress) -> int | None:
        """The next step at which the evaluations' cadence falls due; None: only the clock knows, or there are none."""
        return self._first(self._evaluate, progress)

    def next_save(self, progress: Progress, *, pending: frozenset[str] = frozenset()) -> int | None:
        """The next step at which the save cadence, or the end, asks for a checkpoint; None: only the clock knows."""
        save = self._first(self._save, progress)
        if self.reconcile == ALIGN:
            if SAVE in pending:
                save = self._first(self._log, progress)
            elif save is not None:
                # The log step at or after the save: the first one after the step before it.
                save = self._first(self._log, self.progress(progress, save - 1))
        return min((step for step in (save, self.last_step(progress)) if step is not None), default=None)

    def due(self, before: Progress, now: Progress, *, pending: Iterable[str] = (), ended: bool = False) -> Due:
        """What is due at `now`, where `before` is the last step that was looked at.

        Args:
          before: the progress of the previous boundary, or that of the resume.
          now: where the run is; nothing is due again at `before` itself but what is pending.
          pending: what the last answer, or the checkpoint resumed from, left to do.
          ended: whether there is no more data, so that the run ends here without reaching a target.
        """
        pending = frozenset(pending)
        stop = ended or self.finished(now)
        ending = stop and now.step > before.step
        logged = self._is_log_step(before, now)
        interval = _crossed([grid for grid in self._save if grid.axis != SECOND], before, now) or SAVE in pending
        waits = interval and self.reconcile == ALIGN and not logged and not stop
        reasons = []
        if interval and not waits:
            reasons.append("interval")
        if _crossed([grid for grid in self._save if grid.axis == SECOND], before, now):
            reasons.append("time")
        if ending:
            reasons.append("final")
        flushed = self.reconcile == FLUSH and interval
        closed = ending and bool(self._log or self.reconcile == FLUSH)
        return Due(
            log=logged or flushed or closed,
            closed_by=None if logged else "end" if closed else "save" if flushed else None,
            evaluate=(ending and bool(self._evaluate))
            or _crossed(self._evaluate, before, now)
            or EVALUATION in pending,
            save=tuple(reasons),
            stop=stop,
            pending=frozenset({SAVE}) if waits else frozenset(),
        )

    def at_end(self, due: Due) -> Due:
        """What is due where the run ends at this step after all: the rest of what an end brings, too."""
        closes = bool(self._log) or self.reconcile == FLUSH
        return Due(
            log=due.log or closes,
            closed_by=due.closed_by if due.log else "end" if closes else None,
            evaluate=due.evaluate or bool(self._evaluate),
            save=(*(["interval"] if SAVE in due.pending else []), *due.save, "final"),
            stop=True,
            pending=frozenset(),
        )

    def _log_steps(self, progress: Progress, until: int) -> Iterator[int]:
        """The steps after `progress`, up to `until`, at which the log cadence closes a window."""
        if len(self._log) == 1 and self._log[0].axis == STEP and self._log[0].denominator == 1:
            # As below, at once: a run that logs every step asks for thousands in a second.
            (grid,) = self._log
            yield from range(grid.following(progress.step), until + 1, grid.numerator)
            return
        while (found := self._first(self._log, progress)) is not None and found <= until:
            yield found
            progress = self.progress(progress, found)

    def _closed_by(self, progress: Progress, boundary: int) -> str | None:
        """What closes a window at the boundary after `progress`, where the log cadence does not; None for nothing."""
        flushes = self.reconcile == FLUSH
        if (self._log or flushes) and self.last_step(progress) == boundary:
            return "end"
        return "save" if flushes and self._first(self._save, progress) == boundary else None

    def grids(self, flag: str) -> tuple[Grid, ...]:
        """The grids on which the durations of a cadence lie, in their order."""
        return tuple(self.place(duration, flag) for duration in self.cadences[flag].durations)

    def place(self, duration: Duration, flag: str) -> Grid:
        """The grid on which a duration that `flag` gives lies.

        Raises:
          ConfigError: it counts what this run does not.
        """
        return resolve(duration, epoch_examples=self.epoch_examples, run=self._run, flag=flag)

    def _is_log_step(self, before: Progress, now: Progress) -> bool:
        """Whether the log cadence closes a window at `now` itself, and not only somewhere after `before`."""
        clock = [grid for grid in self._log if grid.axis == SECOND]
        steps = [grid for grid in self._log if grid.axis != SECOND]
        if now.step == before.step:
            return False
        return _crossed(steps, self.progress(before, now.step - 1), now) or _crossed(clock, before, now)

    def _first(self, grids: Sequence[Grid], progress: Progress) -> int | None:
        steps = [self._step_at(grid, progress) for grid in grids if grid.axis != SECOND]
        return min(steps, default=None)

    def _step_at(self, grid: Grid, progress: Progress, *, first: bool = False) -> int:
        """The step that reaches the next point of `grid`, or its first one."""
        position = position_on(grid.axis, progress)
        assert isinstance(position, int)
        point = grid.following(0 if first else position)
        if grid.axis == STEP:
            return max(point, progress.step) if first else point
        return progress.step + self.stepping.steps_to(progress.examples, point)


def _crossed(grids: Sequence[Grid], before: Progress, now: Progress) -> bool:
    return any(grid.crossed(position_on(grid.axis, before), position_on(grid.axis, now)) for grid in grids)
