"""What everyone who takes part has in common: it trains a number of steps and says how long they took."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Callable
from typing import IO, Any

EVERY = 100
"""The steps between two lines of the log."""
WARM_STEPS = 1
"""The steps that nobody times. The trainer tells its first one apart and no others: who had more to get warm in would
be ahead of it."""
_LEAST = 0.7
"""The share of the time asked for that a run has to take, or it is made again with more steps."""
_MOST_AT_ONCE = 50
"""How many times more steps than in the run before."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Some steps that were trained."""

    steps: int
    """Those within the clock."""
    seconds: float
    loss: float | None
    """The mean over all of them, those that were not timed included; None where no line was written."""
    last_loss: float | None
    """The mean over those that the last line tells of; None where there is no such line."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """How to train."""

    workload: Any
    """A `Workload`: this module knows no TensorFlow."""
    every: int
    """The steps between two lines of the log."""
    shuffle: bool
    log: IO[str]
    """Where the lines go."""
    ready: Callable[[], None] = lambda: None
    """What to call just before the clock starts: the machine may be others' for a while."""

    def line(self, step: int, loss: float, metric: float) -> None:
        """Writes one line of the log, and through to the file."""
        self.log.write(json.dumps({"step": step, "loss": loss, self.workload.metric: metric}) + "\n")
        self.log.flush()


class Contender(abc.ABC):
    """Trains a workload in its own way, from the first weights on.

    Args:
      setting: what and how.
      **options: which of its ways.
    """

    details: dict[str, Any]
    """What else it tells of itself."""

    @abc.abstractmethod
    def __init__(self, setting: Setting, **options: Any) -> None: ...

    @abc.abstractmethod
    def warm_up(self) -> None:
        """Traces, compiles and trains some steps that no clock sees."""

    @abc.abstractmethod
    def run(self, steps: int) -> Run:
        """Trains so many steps more."""


def timed(run: Callable[[int], Run], seconds: float) -> Run:
    """A run that takes about so many seconds, in whole hundreds of steps.

    Args:
      run: trains a number of steps.
      seconds: how long it is to take.
    """
    steps = EVERY
    while True:
        done = run(steps)
        wanted = hundreds(min(seconds * done.steps / done.seconds, _MOST_AT_ONCE * steps))
        if done.seconds >= _LEAST * seconds or wanted <= steps:
            return done
        steps = wanted


def hundreds(steps: float) -> int:
    """The nearest number of whole windows of the log, at least one."""
    return max(1, round(steps / EVERY)) * EVERY
