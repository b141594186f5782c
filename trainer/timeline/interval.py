"""The automatic interval: how long to train between two saves, from what a save costs and how often machines vanish."""

from __future__ import annotations

import collections
import dataclasses
import math
import sys
from collections.abc import Iterable
from typing import Any, Final

from trainer.errors import ConfigError

DALY, OVERHEAD, SAVE, LEAST, GUESS = RULES = ("daly", "overhead", "save", "least", "guess")
"""What an interval was chosen by: the formula; the share of time that saves may cost, how long a save takes, or
`LEAST_S`, where the formula's is shorter; or, while no stall is known, `FIRST_STALL_S`."""

FIRST_STALL_S: Final = 1.0
"""The stall that is reckoned with until the first save shows one. With an interruption every 4 h: 169 s."""
LEAST_S: Final = 1.0
"""The shortest interval. What is lost in a second is less than what a restart takes."""
RECENT_SAVES: Final = 8
"""How many of the newest saves say what a save costs."""
MEMORY: Final = 5
"""How many interruptions, about, say how often there is one: few, so that the interval follows the weather. The mean of
five may be 45 % off; the interval is then 22 % off, and saves and interruptions cost a fiftieth more than at best."""

_LONGEST_S: Final = 1e12  # No process lives for 30,000 years.


def daly(stall_s: float, mtbf_s: float) -> float:
    """The time between two saves, in seconds, with which the most steps are done in the end.

    With δ the stall and M the mean time between interruptions: √(2δM)·[1 + ⅓√(δ/2M) + ⅑(δ/2M)] − δ where δ < 2M,
    otherwise M. It is the time from the end of one stall to the beginning of the next. J. T. Daly, "A higher order
    estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer Systems 22 (2006).

    >>> [round(daly(5, mtbf_min), 1) for mtbf_min in (24 * 60, 6 * 60, 15)]
    [116.7, 56.7, 9.1]

    Args:
      stall_s: how long training stands still for a save.
      mtbf_s: the mean time between interruptions.
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    # Each under a root of its own: their product may be out of range, and so may their quotient.
    root = math.sqrt(0.5) * math.sqrt(stall_s) / math.sqrt(mtbf_s)
    # δ is √(2δM)·√(δ/2M): taken into the bracket, it cancels no digits.
    return math.sqrt(stall_s) * math.sqrt(mtbf_s) * (1 - root * 2 / 3 + root * root / 9) * math.sqrt(2)


@dataclasses.dataclass(frozen=True)
class Uptime:
    """How long an attempt lived.

    Raises:
      ValueError: a time that no process can have measured.
    """

    seconds: float
    """From its start to its last sign of life."""
    interrupted: bool
    """Whether something from outside ended it; otherwise it came to its own end, or its user ended it."""

    def __post_init__(self) -> None:
        _check_measured("seconds", self.seconds)


@dataclasses.dataclass(frozen=True)
class SaveCost:
    """What a save took.

    Raises:
      ValueError: a time that no process can have measured.
    """

    stall_s: float
    """How long training stood still for it."""
    save_s: float
    """From its beginning to its commit, also where training went on meanwhile."""

    def __post_init__(self) -> None:
        _check_measured("stall_s", self.stall_s)
        _check_measured("save_s", self.save_s)


@dataclasses.dataclass(frozen=True)
class Choice:
    """An interval, and what it was chosen by."""

    interval_s: float
    """From when training goes on after a save, or begins, to the next save."""
    stall_s: float
    """The stall that the next save is expected to cause."""
    mtbf_s: float
    """The mean time between interruptions."""
    rule: str
    """One of `RULES`."""

    def to_json(self) -> dict[str, Any]:
        """What the journal is told of it."""
        times = {name: round(getattr(self, name), 6) for name in ("interval_s", "stall_s", "mtbf_s")}
        return {**times, "rule": self.rule}


class AutoInterval:
    """Chooses when to save: by `daly`, within a share of the time, and never sooner than a save takes.

    The mean time between interruptions is (`mtbf_s` + the time up) ÷ (1 + the interruptions), of this attempt and those
    before it. At each interruption, what was there before it, `mtbf_s` too, loses a fifth of its weight (`MEMORY`).

    The stall is the mean of the newest `RECENT_SAVES` without the longest, since the first of a process is slow and
    disks hang. The share of time is reckoned by the mean of them all, so that the longest is paid for as well.

    It is made again from the journal at each start, and changes at a save only.

    >>> auto = AutoInterval(mtbf_s=4 * 3600, overhead=0.03)
    >>> round(auto.choice.interval_s), auto.choice.rule
    (169, 'guess')
    >>> auto.due(100), auto.due(170)
    (False, True)
    >>> choice = auto.saved(SaveCost(stall_s=0.2, save_s=3), uptime_s=300)
    >>> round(choice.interval_s), choice.rule
    (77, 'daly')

    Args:
      mtbf_s: the mean time between interruptions that is expected, in seconds; it counts as one interruption.
      overhead: the share of the time that stalls may take, between 0 and 1.
      attempts: the run's earlier attempts, oldest first.
      saves: the run's earlier saves, oldest first; of another attempt's too, for a first guess.

    Raises:
      ConfigError: `mtbf_s` is not positive, or `overhead` not between 0 and 1.
    """

    def __init__(
        self,
        *,
        mtbf_s: float,
        overhead: float,
        attempts: Iterable[Uptime] = (),
        saves: Iterable[SaveCost] = (),
    ) -> None:
        if not 0 < mtbf_s < math.inf:
            raise ConfigError(f"mtbf={mtbf_s}s is not positive; expected how long a machine lives, such as 4h")
        if not 0 < overhead < 1:
            raise ConfigError(
                f"save_overhead={overhead} is no share of the time; expected more than 0 and less than 1, such as 0.03"
            )
        self._overhead = overhead
        self._time_up, self._interruptions = mtbf_s, 1.0
        for attempt in attempts:
            if attempt.interrupted:
                self._time_up *= 1 - 1 / MEMORY
                self._interruptions = self._interruptions * (1 - 1 / MEMORY) + 1
            self._time_up += attempt.seconds
        self._saves = collections.deque(saves, maxlen=RECENT_SAVES)
        self._choice = self._choose(0.0)

    @property
    def choice(self) -> Choice:
        """The interval that holds now."""
        return self._choice

    def due(self, since_save_s: float) -> bool:
        """Whether it is time to save. Nothing is due while a save is under way, whatever this says.

        Args:
          since_save_s: seconds since training went on after the last save of any kind, or since it began.
        """
        return since_save_s >= self._choice.interval_s

    def saved(self, cost: SaveCost, *, uptime_s: float) -> Choice:
        """Learns from a save that is done, of whatever kind, and chooses anew.

        Args:
          cost: what it took.
          uptime_s: how long this attempt has lived.
        """
        _check_measured("uptime_s", uptime_s)
        self._saves.append(cost)
        self._choice = self._choose(uptime_s)
        return self._choice

    def _choose(self, uptime_s: float) -> Choice:
        mtbf = (self._time_up + uptime_s) / self._interruptions
        stalls = [save.stall_s for save in self._saves] or [FIRST_STALL_S]
        mean = sum(stalls) / len(stalls)
        stall = math.fsum(sorted(stalls)[:-1]) / (len(stalls) - 1) if len(stalls) > 1 else mean
        intervals = {
            DALY: daly(stall, mtbf),
            OVERHEAD: mean * (1 - self._overhead) / self._overhead,
            SAVE: self._saves[-1].save_s if self._saves else 0.0,
            LEAST: LEAST_S,
        }
        rule = max(intervals, key=lambda rule: intervals[rule])
        interval = min(intervals[rule], sys.float_info.max)  # A share next to nothing makes it infinite.
        return Choice(interval, stall, mtbf, rule if self._saves else GUESS)


def _check_measured(name: str, seconds: float) -> None:
    if not 0 <= seconds <= _LONGEST_S:
        raise ValueError(f"{name}={seconds} is no time that a process can have measured")
