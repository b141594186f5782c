"""How fast an attempt goes, and how long it still takes."""

from __future__ import annotations

import collections
from typing import NamedTuple


class _Sample(NamedTuple):
    time: float
    step: int
    examples: int


class Throughput:
    """Examples per second over the last half minute, and the time left at the mean pace of the attempt.

    Two memories on purpose: a speed should follow what happens now, while the time left has to count the evaluations
    and saves that lie between. Both start at the first update, after the chunk that compiled.

    Args:
      window: Seconds that the speed looks back.
    """

    def __init__(self, window: float = 30.0) -> None:
        self._window = window
        self._first: _Sample | None = None
        self._last: _Sample | None = None
        self._recent: collections.deque[_Sample] = collections.deque()

    def update(self, now: float, step: int, examples: int) -> None:
        """Where the run is at `now`, in seconds of any clock that does not go back."""
        self._last = _Sample(now, step, examples)
        if self._first is None:
            self._first = self._last
        recent = self._recent
        if not recent or now - recent[-1].time >= self._window / 100:  # so that memory is bounded at any pace
            recent.append(self._last)
        while len(recent) > 1 and now - recent[1].time >= self._window:
            recent.popleft()

    def examples_per_second(self) -> float | None:
        """The smoothed speed; None before there are two updates."""
        if self._last is None or self._last.time <= self._recent[0].time:
            return None
        return (self._last.examples - self._recent[0].examples) / (self._last.time - self._recent[0].time)

    def seconds_left(self, total_steps: int) -> float | None:
        """Seconds to `total_steps`; None before there is a pace."""
        if self._first is None or self._last is None or self._last.step <= self._first.step:
            return None
        pace = (self._last.time - self._first.time) / (self._last.step - self._first.step)
        return max(0, total_steps - self._last.step) * pace
