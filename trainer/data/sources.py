"""What every source of examples promises: a batch is a function of where we are, and of nothing else."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


INDEXED, ITERATOR, REPLAY, RESTART = RESUME_MODES = ("indexed", "iterator", "replay", "restart")
"""How a position is resumed: computed, from saved state, by counting from the beginning, or not at all."""
REPEAT, STOP, FAIL = END_MODES = ("repeat", "stop", "fail")
"""What the end of a finite stream means: it begins again, the run is done, or it is an error."""


class Batch(NamedTuple):
    """The examples of one step."""

    values: dict[str, tf.Tensor]
    """By name, each of shape [batch, …]."""

    weights: tf.Tensor | None
    """float32 [batch]: 1 for an example, 0 for padding. None when no batch of this kind is ever padded."""

    examples: tf.Tensor
    """int64 scalar: how many real examples the batch holds."""


class Source(abc.ABC):
    """Where examples come from: a `GraphSource`, a `PipelineSource` or a stream."""

    mode: str
    """How a position is resumed, one of `RESUME_MODES`, as the manifest records it."""

    batch_size: int
    """Rows of every batch, padding included."""

    examples: int | None
    """Examples in a pass; None when that is not known."""

    shuffle: bool
    """Whether each pass of training has an order of its own, or that of the file."""

    last: str
    """The last batch of a training pass: "wrap", filled up from the next pass, or "short", padded with weight 0."""

    fingerprint: str
    """Hexadecimal digits that change with the data, and with nothing else."""


class GraphSource(Source):
    """A source whose batches are operations of the program that trains on them: in a graph, and under XLA."""

    @abc.abstractmethod
    def train_batch(self, seed: np.ndarray | tf.Tensor, start: tf.Tensor) -> Batch:
        """Returns the batch that follows the first `start` examples.

        Args:
          seed: int32 [2], from which the order of every pass and the randomness of every example follow.
          start: int64 scalar: examples consumed so far, over all passes; a batch may start anywhere in a pass.
        """

    @abc.abstractmethod
    def eval_batch(self, start: tf.Tensor) -> Batch:
        """Returns the batch that starts at an example, in file order; the last one is padded with weight 0.

        Args:
          start: int64 scalar in [0, examples).
        """


class HostSource(Source):
    """A source whose batches a `tf.data` pipeline prepares on the host, while the program computes."""

    @abc.abstractmethod
    def eval_batches(self) -> tf.data.Dataset:
        """Returns a dataset of `Batch`: every example once, in file order; the last batch is padded with weight 0."""


class PipelineSource(HostSource):
    """A source on the host that can begin anywhere."""

    @abc.abstractmethod
    def train_batches(self, seed: np.ndarray, start: int) -> tf.data.Dataset:
        """Returns the batches that follow the first `start` examples, as a dataset of `Batch` without end.

        The element's structure and static shapes do not depend on the arguments. Starting anywhere takes no time.

        Args:
          seed: int32 [2], from which the order of every pass and the randomness of every example follow.
          start: examples consumed so far, over all passes; a batch may start anywhere in a pass.
        """
