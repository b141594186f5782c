"""Where the time of an attempt goes, as its thread that trains spends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from trainer.ledger.journal import DATA_WAIT, PARTS, START, STEP, TOTAL

_TELL_SECONDS = 60.0


class Times:
    """A clock that charges each moment to one part of `PARTS`, from its making on.

    Parts nest: what is within another is charged to the inner one alone, so that no second counts twice. What belongs
    to none is `start` until the first steps are trained, and afterwards in the total only.

    Args:
      clock: seconds, of any clock that does not go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._since = self._told = clock()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part: str | None = START
        self._starting = True

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Charges to `part` what happens meanwhile."""
        around = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(around)

    def trained(self, *, waited: float) -> bool:
        """Notes that a chunk is trained, of which `waited` seconds went into waiting for data.

        The first one, in which the program is compiled and the data begins to flow, is part of the start.

        Returns:
          Whether to tell the times so far, so that a kill leaves them: after the first chunk, then once a minute.
        """
        if self._starting:
            self._seconds[START] += self._seconds[STEP]
            self._seconds[STEP] = 0.0
            self._starting, self._part = False, None
            return True
        self._seconds[STEP] -= waited
        self._seconds[DATA_WAIT] += waited
        return self._clock() - self._told >= _TELL_SECONDS

    def to_json(self) -> dict[str, float]:
        """The seconds so far of each part, and in `total` of all, the parts and what belongs to none."""
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
