"""How many steps fit into a tick."""

from __future__ import annotations

_MOST_STEPS = 1 << 20


class Pace:
    """Learns from the calls so far how many steps the next may take.

    It grows tenfold at most from one call to the next: the first includes a compilation, and says little.

    Args:
      tick: seconds that a call may take.
    """

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self.steps = 1

    def learn(self, steps: int, seconds: float) -> None:
        """Notes that `steps` steps took `seconds`."""
        fitting = int(self.tick * steps / seconds) if seconds > 0 else _MOST_STEPS
        self.steps = max(1, min(fitting, 10 * self.steps, _MOST_STEPS))
