"""What every source of examples promises: a batch is a function of where we are, and of nothing else."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tensorflow as tf


class Batch(NamedTuple):
    """The examples of one step."""

    values: dict[str, tf.Tensor]
    """By name, each of shape [batch, …]."""

    weights: tf.Tensor | None
    """float32 [batch]: 1 for an example, 0 for padding. None when no batch of this kind is ever padded."""

    examples: tf.Tensor
    """int64 scalar: how many real examples the batch holds."""


class Source(abc.ABC):
    """Where examples come from. It is stateless: resuming at a position costs no more than going on."""

    batch_size: int
    """Rows of every batch, padding included."""

    examples: int | None
    """Examples in a pass; None when that is not known."""

    shuffle: bool
    """Whether each pass of training has an order of its own, or that of the file."""

    last: str
    """The last batch of a training pass: "wrap", filled up from the next pass, or "short", padded with weight 0."""

    mode: str
    """How a position is resumed, as the manifest records it: "indexed" computes it."""

    fingerprint: str
    """Hexadecimal digits that change with the data, and with nothing else."""

    @abc.abstractmethod
    def train_batch(self, seed: int, start: tf.Tensor) -> Batch:
        """Returns the batch that follows the first `start` examples of a run. Can be called in a graph and under XLA.

        Args:
          seed: the seed of the run.
          start: int64 scalar: examples consumed so far, over all passes; a batch may start anywhere in a pass.
        """

    @abc.abstractmethod
    def eval_batch(self, start: tf.Tensor) -> Batch:
        """Returns the batch that starts at an example, in file order; the last one is padded with weight 0.

        Args:
          start: int64 scalar in [0, examples).
        """
