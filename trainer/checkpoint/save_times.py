"""How long saves take, as those so far did."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import last_entries, save_seconds

_REMEMBERED = 3


@dataclasses.dataclass(frozen=True)
class SaveTime:
    """What one save took."""

    seconds: float
    """From its beginning, the copy of the variables included, to its commit; without its reading back."""
    stall_s: float
    """How long training has stood still for it."""
    verify_s: float | None = None
    """How long it took to read it back; None where that was not done."""


def known_times(directory: RunDirectory) -> list[SaveTime]:
    """What the newest saves took, as the journal tells; what it garbles is left out."""
    known = []
    for entry in last_entries(directory, "save"):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            known.append(SaveTime(save_seconds(entry), float(entry.get("stall_s", 0.0))))
    return known


class SaveTimes:
    """Remembers the last few saves.

    Args:
      known: saves of before, oldest first.
      clock: seconds, of any clock that does not go back.
    """

    def __init__(self, known: Iterable[SaveTime] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: collections.deque[SaveTime] = collections.deque(known, maxlen=_REMEMBERED)
        self._began: float | None = None
        self.count = 0
        """How many saves were done here."""

    @property
    def last(self) -> SaveTime | None:
        """The last one."""
        return self._last[-1] if self._last else None

    @property
    def under_way(self) -> bool:
        """Whether a save has begun, and is not known to be committed."""
        return self._began is not None

    def begin(self) -> None:
        """A save begins."""
        self._began = self._clock()

    def lost(self) -> None:
        """It was not to be."""
        self._began = None

    def done(self, took: SaveTime) -> None:
        """It is committed."""
        self._began = None
        self._last.append(took)
        self.count += 1

    def left(self) -> float:
        """Seconds until the save under way is committed, if it takes as long as the last ones."""
        if self._began is None:
            return 0.0
        return max(0.0, self._usual() - (self._clock() - self._began))

    def needed(self) -> float:
        """Seconds until a save is committed that is begun now, that under way first; 0 before anything is known."""
        return self.left() + self._usual()

    def to_read_back(self) -> float:
        """Seconds until what is saved, or under way, is read back; until that was done once, it takes a save's time."""
        known = [took.verify_s for took in self._last if took.verify_s is not None]
        return self.left() + _middle(known, self._usual())

    def _usual(self) -> float:
        return _middle([took.seconds for took in self._last], 0.0)


def _middle(seconds: Sequence[float], default: float) -> float:
    """The median, of two the lesser: one that the machine was paused in says nothing of the others."""
    return statistics.median_low(seconds) if seconds else default
