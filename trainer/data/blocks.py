"""Which rows many batches hold, computed at once in NumPy: for each alone, operations would cost more than rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from trainer.data.arguments import WRAP
from trainer.data.permutation import permutation


@dataclasses.dataclass(frozen=True)
class Block:
    """The rows of consecutive batches."""

    index: npt.NDArray[np.int64]
    """[batches, batch_size], each in [0, length)."""

    passes: npt.NDArray[np.int64]
    """[batches, batch_size]: the pass that a row belongs to."""

    weights: npt.NDArray[np.float32]
    """[batches, batch_size]: 0 for padding."""


@dataclasses.dataclass(frozen=True)
class Course:
    """The rows of all batches from a position on: what `rows` computes for one batch, for any number of them.

    Args:
      seed: int32 [2], which orders each pass; None for file order.
      start: examples consumed so far, over all passes.
      length: examples in a pass.
      batch_size: rows of a batch.
      last: "wrap" or "short".
    """

    seed: npt.NDArray[np.int32] | None
    start: int
    length: int
    batch_size: int
    last: str

    def batches(self, first: int, count: int) -> Block:
        """Returns batches first … first + count − 1, counted from `start`."""
        numbers = np.arange(first, first + count, dtype=np.int64)[:, None]
        within = np.arange(self.batch_size, dtype=np.int64)
        if self.last == WRAP:
            sequence = self.start + numbers * self.batch_size + within
            passes, positions = sequence // self.length, sequence % self.length
            weights = np.ones(sequence.shape, np.float32)
        else:
            begun, offset = divmod(self.start, self.length)
            left, whole = -(-(self.length - offset) // self.batch_size), -(-self.length // self.batch_size)
            later = numbers - left
            passes = np.where(later < 0, begun, begun + 1 + later // whole) + np.zeros_like(within)
            begins = np.where(later < 0, offset + numbers * self.batch_size, later % whole * self.batch_size)
            positions = begins + within
            weights = (positions < self.length).astype(np.float32)
            positions = np.minimum(positions, self.length - 1)
        if self.seed is None:
            return Block(positions, passes, weights)
        index = permutation(self.seed, passes.ravel(), positions.ravel(), length=self.length)
        return Block(index.reshape(positions.shape), passes, weights)
