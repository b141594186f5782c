"""What is asked of a run from outside, as it is found at a boundary."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from trainer.checkpoint.save_times import SaveTimes
from trainer.errors import EXIT_DONE
from trainer.process.signals import MAX_RUNTIME, SAVE_SIGNAL, StopRequest


@dataclasses.dataclass(frozen=True)
class Asked:
    """Whether to stop, or to save and go on; and for which of that there is time."""

    stop: bool = False
    save: bool = False
    cause: str | None = None
    """What asked to stop: the name of a signal, or `max_runtime`."""
    exit_code: int = EXIT_DONE
    """What the process exits with for it."""
    left_s: float | None = None
    """Seconds until the process has to have ended; None where nobody counts."""
    needed_s: float = 0.0
    """Seconds until a save that begins now is committed, as the last ones took."""
    verified_s: float = 0.0
    """Seconds until the last save is read back, as others were."""

    @property
    def reasons(self) -> list[str]:
        """For which reasons to save."""
        stop = [] if not self.stop else ["runtime"] if self.cause == MAX_RUNTIME else ["signal"]
        return [*stop, *(["request"] if self.save else [])]

    @property
    def fits(self) -> bool:
        """Whether there is time for a save."""
        return self.left_s is None or self.needed_s <= self.left_s

    @property
    def fits_verified(self) -> bool:
        """Whether there is time to read the last one back."""
        return self.left_s is None or self.verified_s <= self.left_s

    def notes(self, step: int, *, there: bool) -> list[dict[str, Any]]:
        """The lines of the journal that say it was obeyed at `step`; `there` tells that its checkpoint was there."""
        stop: dict[str, Any] = {"signal": self.cause, "step": step}
        if not (self.fits or there):
            assert self.left_s is not None
            stop |= {"saved": False, "needed_s": round(self.needed_s, 3), "left_s": round(max(0.0, self.left_s), 3)}
        request = {"signal": SAVE_SIGNAL.name, "step": step}
        return [*([stop] if self.stop else []), *([request] if self.save else [])]


def look(request: StopRequest, times: SaveTimes, *, grace_s: float, earliest: float = -math.inf) -> Asked:
    """What is asked by now.

    Args:
      request: what was noted.
      times: how long saves take, and how far the one under way is.
      grace_s: seconds that the process has from when it was asked to stop.
      earliest: when these begin at the earliest, on the monotonic clock.
    """
    stop = bool(request)
    return Asked(
        stop=stop,
        save=request.save,
        cause=request.cause if stop else None,
        exit_code=request.exit_code if stop else EXIT_DONE,
        left_s=None if request.since is None else max(request.since, earliest) + grace_s - time.monotonic(),
        needed_s=times.needed(),
        verified_s=times.to_read_back(),
    )
