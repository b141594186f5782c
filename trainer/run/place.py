"""Where in the training data a run stands: taken up at a start, noted in each save."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from trainer.data.sources import RESTART
from trainer.ledger.segments import DataOrigin
from trainer.run.program import Program
from trainer.run.segments import order_seed

LARGE_STATE = 10 * 2**20
"""Bytes of a saved position above which the user is told what they cost."""
_SECONDS = 1.0


class PlaceInData:
    """The place in the training data.

    Args:
      program: what takes the examples.
      facts: of the training data, as `run.json` keeps them.
      warn: receives what the user has to know.
    """

    def __init__(self, program: Program, facts: Mapping[str, Any], *, warn: Callable[[str], None]) -> None:
        self._program = program
        self._facts = facts
        self._warn = warn
        self._told_of_size = False

    def take_up(
        self,
        seed: int,
        origin: DataOrigin,
        examples: int,
        *,
        skipped: int,
        tell: Callable[[str], None],
        interrupted: Callable[[], bool],
    ) -> None:
        """Has the program go on where the run stands; where that is by counting, says how far it is.

        Args:
          seed: the run's seed.
          origin: where this data began to be trained on.
          examples: the examples consumed by now.
          skipped: the steps of the open window that made no update.
          tell: receives a line now and then while batches are counted.
          interrupted: whether to give up counting.

        Raises:
          Unusable: the data ends before that.
        """
        told = time.monotonic()

        def counting(done: int, batches: int) -> bool:
            nonlocal told
            if time.monotonic() - told > _SECONDS:
                told = time.monotonic()
                tell(f"counting through the data: batch {done:,} of {batches:,}")
            return not interrupted()

        if self._facts["mode"] == RESTART and examples > origin.examples:
            self._warn("the training data begins again: from here on the examples are not those of one long run")
        order = order_seed(seed, origin)
        self._program.begin(order, origin=origin.examples, skipped=skipped, counting=counting)

    def note(self) -> dict[str, Any]:
        """What a manifest says of it; the state of an iterator is put where the save finds it."""
        size = self._program.capture()
        if size > LARGE_STATE and not self._told_of_size:
            self._told_of_size = True
            self._warn(
                f"the state of the data's iterator takes {size / 2**20:.1f} MiB of each checkpoint; a smaller shuffle "
                "buffer, or shuffling before elements are read or decoded, makes it less"
            )
        state = {"state_bytes": size} if size else {}
        return {"mode": self._facts["mode"], "fingerprint": self._facts["fingerprint"], **state}
