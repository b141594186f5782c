"""The lives of a run's attempts, each as its own lines of the journal tell it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import STEP, read_journal
from trainer.views.times import read_times

# The events whose step the attempt had reached itself; `quarantine`, `prune` and `fault` name the steps of others.
_REACHED = frozenset({"save", "evaluate", "decide", "signal", "times", "stop"})
_OLDEST_S = 1e9
"""No process is older than thirty years."""
_GOES_ON = ("SIGUSR2", "None")
"""What a line of a signal can name that stopped nothing; an older version wrote the latter where none was known."""
_SPENT = {"save": "stall_s", "evaluate": "seconds"}


class Life:
    """One attempt's lines of the journal.

    Args:
      number: the attempt's.
      entries: its lines, the first of which began it.
      rewound: the folders, within the run directory, into which its records went when the run was rewound.
    """

    def __init__(self, number: int, entries: Iterable[dict[str, Any]], rewound: Iterable[str]) -> None:
        self.number = number
        self.events = list(entries)
        self.rewound = list(rewound)
        self.host: str | None = self._first("start").get("host")
        self.stop = self._first("stop")
        # The plan is noted when the checkpoint is restored: from here on it trains.
        self.began = self._first("plan")
        self.origin: int | None = self._first("resume").get("step", 0) if self.began else None
        reached = [entry for entry in self.events if entry["event"] in _REACHED and entry.get("step") is not None]
        self.steps: dict[int, dict[str, Any]] = {entry["step"]: entry for entry in reached}
        self._first_at: dict[int, dict[str, Any]] = {entry["step"]: entry for entry in reversed(reached)}
        told = [entry for entry in self.events if entry["event"] in ("times", "stop")]
        split = [(entry, times) for entry in told if (times := read_times(entry.get("seconds")))]
        self.times: Mapping[str, float] | None = split[-1][1] if split else None
        """Where its time went, by the last line that tells it."""
        self._split = [(entry, times) for entry, times in split if entry.get("step") is not None]
        self._trained: dict[int, float] = {}
        """Seconds of training, by the step that they led to."""
        self._trained_at = 0.0
        """When the last of them was told, in seconds since 1970."""
        if self.origin is not None:
            self._trained[self.origin], self._trained_at = 0.0, seconds_of(self.began)
            self._read_training(reached)

    @property
    def fault(self) -> dict[str, Any]:
        """The line of the error that ended it; empty without one."""
        faults = [entry for entry in self.events if entry["event"] == "fault" and entry.get("error")]
        return faults[0] if faults and self.stop.get("exit_code") else {}

    @property
    def signal(self) -> str | None:
        """The name of the signal that it obeyed and stopped, or `max_runtime`."""
        asked = [entry.get("signal") for entry in self.events if entry["event"] == "signal"]
        names = [name for name in asked if isinstance(name, str) and name not in _GOES_ON]
        return names[0] if names else None

    @property
    def started(self) -> float:
        """When its process began, or where it did not tell, when it wrote its first line; in seconds since 1970."""
        age = self._first("start").get("age_s", 0.0)
        return seconds_of(self.events[0]) - (age if isinstance(age, int | float) and 0 <= age < _OLDEST_S else 0.0)

    @property
    def first_step_s(self) -> float | None:
        """Seconds from the start of its process to the end of its first step; None where it did not tell of one."""
        told = [entry["first_step_s"] for entry in self.events if entry["event"] == "times" and "first_step_s" in entry]
        return told[0] if told and isinstance(told[0], int | float) else None

    def span(self, reached: int | None, now: datetime.datetime | None) -> tuple[float, float]:
        """From the start of its process to its last sign of life, in seconds since 1970.

        Args:
          reached: the last step that it is known to have reached.
          now: the wall clock, while it runs.
        """
        start, end = self.started, seconds_of(self.events[-1])
        if now is not None:
            end = max(end, now.timestamp())
        elif self.origin is not None and reached is not None and not self.stop:
            # Where it told of its first step, which is mostly compiling, its pace is that of the others.
            told = next((entry for entry, _ in self._split if entry["step"] > self.origin), None)
            first = self.origin if told is None else told["step"]
            known = max(self.steps, default=self.origin)
            if first < known < reached:
                # Killed after its last line: its records show how far it came, its pace how long that took.
                began = seconds_of(told or self.began)
                there = seconds_of(self.steps[known])
                end = max(end, there + (there - began) * (reached - known) / (known - first))
        return start, max(start, end)

    def useful(self, reached: int | None, counts_to: int | None, end: float, *, running: bool) -> float:
        """Seconds of training that made steps which count.

        Args:
          reached: the last step that it is known to have reached.
          counts_to: up to which step they count; None for all of them.
          end: its last sign of life, in seconds since 1970.
          running: whether that is now. Since its last line it has trained, as far as anyone knows.
        """
        if self.origin is None or reached is None:
            return 0.0
        points = dict(self._trained)
        last = max(points)
        to_end = points[last] + max(0.0, end - self._trained_at)
        if running:
            return to_end
        if reached > last:
            points[reached] = to_end
        until = reached if counts_to is None else min(reached, counts_to)
        return _at(min(until, max(points)), points) if until > self.origin else 0.0

    def passed(self, step: int, known: Mapping[int, float]) -> float | None:
        """When the first step beyond `step` was done, in seconds since 1970; None where that is not known.

        Between two lines of the journal that tell of a step each, it is taken in proportion.

        Args:
          step: where the run had been.
          known: further steps that it reached, with their times.
        """
        if self.origin is None:
            return None
        points = {**known, **{step: seconds_of(entry) for step, entry in self._first_at.items()}}
        if max(points, default=0) <= max(step, self.origin):
            return None
        return _at(max(step, self.origin) + 1, {**points, self.origin: seconds_of(self.began)})

    def _read_training(self, reached: Sequence[dict[str, Any]]) -> None:
        """How long it had trained at each step that a line tells."""
        for entry, times in self._split:
            self._trained[entry["step"]] = times[STEP]
        if self._split:
            self._trained_at = seconds_of(self._split[-1][0])
            return
        # It did not tell: the time from the plan on, less what is known to have been spent on other things.
        began, spent = self._trained_at, 0.0
        for entry in reached:
            other = entry.get(_SPENT.get(entry["event"], ""), 0.0)
            spent += other if isinstance(other, int | float) else 0.0
            self._trained_at = seconds_of(entry)
            self._trained[entry["step"]] = max(0.0, self._trained_at - began - spent)

    def _first(self, event: str) -> dict[str, Any]:
        return next((entry for entry in self.events if entry["event"] == event), {})


def read_lives(directory: RunDirectory) -> list[Life]:
    """The lives that the journal tells of, in order."""
    lives: dict[int, list[dict[str, Any]]] = {}
    rewound: dict[int, list[str]] = {}
    for entry in read_journal(directory):
        if entry["event"] == "rewind":
            # It bears the number of the attempt before it, and is no part of that one's life.
            rewound.setdefault(entry["attempt"], []).append(entry["orphans"])
        else:
            lives.setdefault(entry["attempt"], []).append(entry)
    return [Life(number, lives[number], rewound.get(number, ())) for number in sorted(lives)]


def seconds_of(entry: Mapping[str, Any]) -> float:
    """The time of a line of the journal, in seconds since 1970."""
    return datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp()


def _at(step: int, points: Mapping[int, float]) -> float:
    """The value at a step between points that have one, in proportion."""
    before = max(known for known in points if known <= step)
    after = min(known for known in points if known >= step)
    share = (step - before) / (after - before) if after > before else 0.0
    return points[before] + share * (points[after] - points[before])
