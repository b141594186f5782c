"""Where the time of an attempt goes, as its thread that trains spends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.ledger.journal import DATA_WAIT, PARTS, START, STEP, TOTAL
from trainer.views.formatting import duration

_TELL_SECONDS = 60.0


class Times:
    """A clock that charges each moment to one part of `PARTS`, from its making on.

    Parts nest: what is within another is charged to the inner one alone, so that no second counts twice. What belongs
    to none is `start` until the first steps are trained, and afterwards in the total only.

    Args:
      clock: seconds, of any clock that does not go back.
      since: seconds that the process has been there before; they are part of the start.

    Attributes:
      start: seconds of what the start consists of, by name, as far as it is known.
      first_step_s: seconds until the first chunk, which is one step, was trained; None before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, since: float = 0.0) -> None:
        self._clock = clock
        self._since = self._told = clock()
        self._began = self._since - since
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._seconds[START] = since
        self._part: str | None = START
        self._starting = True
        self.start: dict[str, float] = {}
        self.first_step_s: float | None = None
        self._start_told = False

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Charges to `part` what happens meanwhile."""
        around = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(around)

    @contextlib.contextmanager
    def starting(self, what: str, *, since_birth: bool = False) -> Iterator[None]:
        """Notes how long a part of the start takes, with `since_birth` from the beginning of the process on."""
        began = self._began if since_birth else self._clock()
        try:
            yield
        finally:
            self.start[what] = self.start.get(what, 0.0) + self._clock() - began

    @property
    def age(self) -> float:
        """Seconds since the process began, or where that is not known, since this clock was made."""
        return self._clock() - self._began

    def trained(self, *, waited: float) -> bool:
        """Notes that a chunk is trained, of which `waited` seconds went into waiting for data.

        The first one, in which the program is compiled and the data begins to flow, is part of the start.

        Returns:
          Whether to tell the times so far, so that a kill leaves them: after the first chunk, then once a minute.
        """
        if self._starting:
            self.start["first_chunk"] = self._seconds[STEP]
            self.first_step_s = self.age
            self._seconds[START] += self._seconds[STEP]
            self._seconds[STEP] = 0.0
            self._starting, self._part = False, None
            return True
        self._seconds[STEP] -= waited
        self._seconds[DATA_WAIT] += waited
        return self._clock() - self._told >= _TELL_SECONDS

    def told(self) -> dict[str, Any]:
        """What a line of the journal tells: `seconds`, and the first time also what the start consisted of."""
        start = {}
        if self.first_step_s is not None and not self._start_told:
            self._start_told = True
            seconds = {name: round(taken, 6) for name, taken in self.start.items()}
            start = {"first_step_s": round(self.first_step_s, 6), "start": seconds}
        return {**start, "seconds": self.to_json()}

    def to_json(self, *, unfinished: bool = False) -> dict[str, float]:
        """The seconds so far of each part, and in `total` of all, the parts and what belongs to none.

        Args:
          unfinished: whether what is under way came to nothing; then its time belongs to none.
        """
        if unfinished:
            self._part = None
            self._since = self._clock()
        self._turn_to(self._part)
        self._told = self._since
        parts = {part: round(seconds, 6) for part, seconds in self._seconds.items()}
        return {**parts, TOTAL: round(self._since - self._began, 6)}

    def _turn_to(self, part: str | None) -> str | None:
        """Charges what has passed to the part under way; returns that one."""
        now, around = self._clock(), self._part
        if around is not None:
            self._seconds[around] += now - self._since
        self._since, self._part = now, part
        return around


def start_line(told: Mapping[str, Any]) -> str | None:
    """What a person is told of the start by what `Times.told` returned: only where that tells of it."""
    if "first_step_s" not in told:
        return None
    parts = ", ".join(f"{name.replace('_', ' ')} {_length(seconds, 2)}" for name, seconds in told["start"].items())
    return f"first step after {_length(told['first_step_s'], 3)}: {parts}"


def _length(seconds: float, digits: int) -> str:
    return f"{seconds:.{digits}g} s" if seconds < 99 else duration(seconds)
