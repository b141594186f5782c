"""`save_every=auto`: measures what saves cost training, and says when the next one pays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trainer.checkpoint.save_times import SaveTimes
from trainer.errors import EXIT_BUG, EXIT_PREEMPTED, EXIT_UNWRITABLE
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, NoJournal, last_entries
from trainer.process.signals import MAX_RUNTIME
from trainer.run.config import Config
from trainer.run.timing import Times
from trainer.timeline.cadence import Cadence
from trainer.timeline.interval import OVERHEAD, AutoInterval, SaveCost, Uptime, daly
from trainer.views.attempts import KILLED, Attempt, read_attempts
from trainer.views.formatting import duration

_FAR = 3.0
"""How many times longer than the best one an interval is that is worth a warning."""
_NEW = 0.2
"""What the newest chunk weighs in the usual pace."""


class Drag:
    """How much slower training is while a save is written beside it: part of what that save costs."""

    def __init__(self) -> None:
        self._usual: float | None = None
        self._compiled = False
        self._extra_s = 0.0

    def chunk(self, steps: int, seconds: float, *, saving: bool) -> None:
        """Notes that a chunk of `steps` steps took `seconds`, with a save under way or without."""
        if not self._compiled:
            # The first one is mostly compiling.
            self._compiled = True
        elif saving and self._usual is not None:
            self._extra_s += seconds - steps * self._usual
        elif not saving and steps:
            pace = seconds / steps
            self._usual = pace if self._usual is None else (1 - _NEW) * self._usual + _NEW * pace

    def taken(self) -> float:
        """Seconds lost since this was asked last."""
        extra, self._extra_s = max(0.0, self._extra_s), 0.0
        return extra


class AutoSave:
    """Says when to save.

    Args:
      interval: chooses the interval by what is measured.
      saves: what saves took.
      journal: where each decision is noted.
      step: where the run stands.
      uptime: how long this process has lived, in seconds.
      warn: receives what the user has to know, a line each.
      clock: seconds, of any clock that does not go back.
    """

    def __init__(
        self,
        interval: AutoInterval,
        saves: SaveTimes,
        journal: Journal | NoJournal,
        step: int,
        uptime: Callable[[], float],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._saves = saves
        self._journal = journal
        self._uptime = uptime
        self._warn = warn
        self._warned = False
        self._clock = clock
        self._drag = Drag()
        self._counted = saves.count
        self._since = clock()
        self._compiling = True
        self._note(step=step)

    def chunk(self, steps: int, seconds: float, *, saving: bool) -> None:
        """Notes that a chunk of `steps` steps took `seconds`, with a save under way or without."""
        if self._compiling:
            # What went before, and the compiling in this one, no save would spare the next attempt.
            self._compiling, self._since = False, self._clock()
        self._drag.chunk(steps, seconds, saving=saving)

    def saved(self) -> None:
        """Training goes on after a save, of whatever kind, or after the wait for one."""
        self._since = self._clock()

    def due(self, step: int) -> bool:
        """Whether to save at `step`; learns from the saves that are done by now."""
        if self._saves.count != self._counted and self._saves.last is not None:
            self._counted = self._saves.count
            last = self._saves.last
            cost = SaveCost(last.stall_s + self._drag.taken(), last.seconds + (last.verify_s or 0.0))
            self._interval.saved(cost, uptime_s=self._uptime())
            self._note(step, cost_s=round(cost.stall_s, 6), save_s=round(cost.save_s, 6))
            self._look_at_budget()
        return not self._saves.under_way and self._interval.due(self._clock() - self._since)

    def _note(self, step: int, **seen: float) -> None:
        self._journal.write("decide", step=step, **self._interval.choice.to_json(), **seen)

    def _look_at_budget(self) -> None:
        """Warns once where the budget for saves costs much more than it spares."""
        choice = self._interval.choice
        best = daly(choice.stall_s, choice.mtbf_s)
        if not self._warned and choice.rule == OVERHEAD and choice.interval_s > _FAR * best:
            self._warned = True
            self._warn(
                f"save_overhead lets a save come every {duration(choice.interval_s)} only, as one costs "
                f"{duration(choice.stall_s)}; with an interruption every {duration(choice.mtbf_s)}, every "
                f"{duration(best)} would lose less: raise save_overhead"
            )


def make_auto_save(
    config: Config,
    directory: RunDirectory,
    journal: Journal,
    saves: SaveTimes,
    times: Times,
    *,
    step: int,
    warn: Callable[[str], None],
) -> AutoSave | None:
    """What says when to save, with what the journal tells of the attempts before; None where a cadence does.

    Args:
      config: the run's.
      directory: where it is.
      journal: of this attempt.
      saves: what saves take.
      times: the clock of this attempt.
      step: where the run stands.
      warn: receives what the user has to know, a line each.
    """
    if not Cadence.parse(config.save_every).auto:
        return None
    attempts = [one for one in read_attempts(directory, latest=None) if one.attempt < journal.attempt]
    interval = AutoInterval(
        mtbf_s=config.seconds("mtbf"),
        overhead=config.save_overhead,
        attempts=[Uptime(attempt.seconds, _interrupted(attempt)) for attempt in attempts],
        saves=_costs(last_entries(directory, "decide")),
    )
    return AutoSave(interval, saves, journal, step, lambda: times.age, warn)


def _interrupted(attempt: Attempt) -> bool:
    """Whether something from outside ended it: a kill, a signal but the user's own, a machine that failed."""
    if attempt.reason == KILLED:
        return True
    if attempt.exit_code == EXIT_PREEMPTED:
        return attempt.signal != MAX_RUNTIME
    return attempt.exit_code in (EXIT_BUG, EXIT_UNWRITABLE)


def _costs(entries: Iterable[Mapping[str, Any]]) -> list[SaveCost]:
    """What saves cost, as the decisions after them saw it; what a damaged line garbles is left out."""
    costs = []
    for entry in entries:
        if "cost_s" in entry:
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                costs.append(SaveCost(float(entry["cost_s"]), float(entry["save_s"])))
    return costs
