"""Where a run's train loss stopped improving, found from its log."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from trainer.errors import Unusable
from trainer.ledger.record import Record

_SMOOTHED = 5
"""Records whose median is the smoothed loss: one that stands out, by luck or by a spike, says nothing."""
_LEAST = 10
"""Records without which nothing can be said."""
_SHARE = 0.02
"""Of all that was gained: where less is still to come, the loss has stopped improving."""
_NOISE = 3.0
"""Standard deviations of the smoothed loss by which its lowest value may be luck."""
_OF_MEDIAN = 0.5356
"""The standard deviation of the median of five normal values, over that of one."""
_TAIL = 0.05
"""The share of the records, of which there are two at least, that has to come after it."""


@dataclasses.dataclass(frozen=True)
class Point:
    """The smoothed loss at the step at which the last of its records ends."""

    step: int
    loss: float


@dataclasses.dataclass(frozen=True)
class Plateau:
    """How the smoothed train loss of a run fell, and where it stopped."""

    first: Point
    lowest: Point
    stopped: int | None
    """The step at which it had stopped improving; None where it was still improving at the end of the log."""
    noise: float
    """What of the gain may be noise, where that is more than the last 2 % of it; otherwise 0."""

    def __str__(self) -> str:
        """The numbers, in words."""
        fell = (
            f"the smoothed train loss fell from {self.first.loss:.4g} at step {self.first.step} to "
            f"{self.lowest.loss:.4g} at step {self.lowest.step}"
        )
        if self.stopped is None:
            return f"{fell}, and was still improving at the end of the log"
        reached = f"{1 - _SHARE:.0%} of that" if not self.noise else f"all but its noise of {self.noise:.3g}"
        return f"{fell}; {reached} was reached at step {self.stopped}"


def find_plateau(records: Iterable[Record]) -> Plateau:
    """Finds the first record after which less than 2 % of what the smoothed train loss gained is still gained.

    The smoothed loss at a record is the median of it and the four before it; what was gained is its first value less
    its lowest. A lowest value is partly luck: where three standard deviations of the smoothed loss are more than the
    2 %, they take their place, and a gain of no more than twice as much is none. The deviation is that of the second
    differences of the loss, by their median, so that neither a trend nor a jump is taken for noise. Fewer than two
    records after that one, or than 5 % of all, do not show that the loss has stopped: then it was still improving.

    Args:
      records: those of the log, in their order. Evaluations, and windows whose loss is not finite, are passed over.

    Raises:
      Unusable: there are too few records, or the loss never improved.
    """
    known = [
        Point(record.step, loss)
        for record in records
        if record.kind == "train" and (loss := record.metrics.get("loss")) is not None and math.isfinite(loss)
    ]
    if len(known) < _LEAST:
        raise Unusable(
            f"{len(known)} train records with a loss are too few to see where it stopped improving, which takes "
            f"{_LEAST}; log more often, or name a step"
        )
    smoothed = _smooth(known)
    lowest = min(smoothed, key=lambda point: point.loss)
    gained = smoothed[0].loss - lowest.loss
    noise = _NOISE * _OF_MEDIAN * _deviation([point.loss for point in known])
    if gained <= 2 * noise or gained <= 0:
        beyond = " by more than its noise" if noise else ""
        raise Unusable(
            f"the train loss never improved{beyond} after its first {_SMOOTHED} records: smoothed it was "
            f"{smoothed[0].loss:.4g} at step {smoothed[0].step}, and {lowest.loss:.4g} at its lowest, at step "
            f"{lowest.step}; name a step"
        )
    share = _SHARE * gained
    stopped = next(i for i, point in enumerate(smoothed) if point.loss - lowest.loss < max(share, noise))
    after = len(smoothed) - 1 - stopped
    improving = after < max(2, _TAIL * len(known))
    return Plateau(
        smoothed[0], lowest, None if improving else smoothed[stopped].step, noise=noise if noise > share else 0.0
    )


def _smooth(points: Sequence[Point]) -> list[Point]:
    """The median of each point's loss and those of the four before it."""
    return [
        Point(points[end - 1].step, statistics.median(point.loss for point in points[end - _SMOOTHED : end]))
        for end in range(_SMOOTHED, len(points) + 1)
    ]


def _deviation(losses: Sequence[float]) -> float:
    """The standard deviation of the losses about their trend."""
    curvature = [abs(losses[i - 1] - 2 * losses[i] + losses[i + 1]) for i in range(1, len(losses) - 1)]
    # The median of |x| of a normal x is 0.6745 of its deviation, and a second difference has the variance of six.
    return statistics.median(curvature) / 0.6745 / math.sqrt(6)
