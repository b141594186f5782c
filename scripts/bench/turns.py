"""Processes that take turns: each has the machine for a moment, while the others are stopped.

A machine that others use too changes its speed from one second to the next. Whoever is measured a few moments at a
time, in turns with those that it is compared with, meets the same seconds as they.
"""

from __future__ import annotations

import random
import select
from collections import deque
from collections.abc import Callable, Sequence

from bench.child import Child


def take_turns(begin: Sequence[Callable[[], Child]], *, moment_s: float | None, at_once: int) -> list[Child]:
    """Begins processes, waits until all are where their clocks start, and runs them in turns until they have ended.

    Args:
      begin: begin one each.
      moment_s: how long each runs at a time; None for until it ends.
      at_once: how many may be on their way to where their clocks start.
    """
    children: list[Child] = []
    waiting, on_their_way = deque(begin), list[Child]()
    while waiting or on_their_way:
        while waiting and len(on_their_way) < at_once:
            child = waiting.popleft()()
            children.append(child)
            on_their_way.append(child)
        for child in select.select(on_their_way, [], [])[0]:
            child.await_start()
            on_their_way.remove(child)
    chance = random.Random(len(children))
    while running := [child for child in children if not child.ended]:
        # Whoever comes before is felt for a while, in the caches and the processor's clock: not always the same.
        chance.shuffle(running)
        for child in running:
            child.go_on(moment_s if len(running) > 1 else None)
    return children
