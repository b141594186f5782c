"""Which rows of the data a batch holds: integers in, integers out."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from trainer.data.permutation import permutation

ORDER_STREAM = 0x64617461
"""`data` in ASCII, folded into the seed: the order of pass p shares nothing with what is random in step p."""


class Rows(NamedTuple):
    """The rows of one batch."""

    index: tf.Tensor
    """int64 [batch], each in [0, length)."""

    weights: tf.Tensor | None
    """float32 [batch], 0 for padding; None when every row is an example."""

    examples: tf.Tensor
    """int64 scalar: the rows that are examples."""

    passes: tf.Tensor
    """int64 [batch]: the pass that each row belongs to."""


def wrapped(start: tf.Tensor, seed: tf.Tensor | None, *, length: int, batch_size: int) -> Rows:
    """Returns rows start … start + batch_size − 1 of all passes, one after another without a gap.

    Args:
      start: int64 scalar, not negative.
      seed: int32 [2], which orders each pass; None for file order.
      length: examples in a pass.
      batch_size: rows in the batch; more than the length is welcome.
    """
    sequence = start + tf.range(batch_size, dtype=tf.int64)
    passes, positions = sequence // length, sequence % length
    index = positions if seed is None else permutation(seed, passes, positions, length=length)
    return Rows(index, None, tf.constant(batch_size, tf.int64), passes)


def short(start: tf.Tensor, seed: tf.Tensor | None, *, length: int, batch_size: int) -> Rows:
    """Returns the next rows of the pass that start is in; what it has no more of is its last row, with weight 0.

    Args are those of `wrapped`.
    """
    positions = start % length + tf.range(batch_size, dtype=tf.int64)
    real = positions < length
    positions = tf.minimum(positions, length - 1)
    passes = tf.fill([batch_size], start // length)
    index = positions if seed is None else permutation(seed, passes, positions, length=length)
    return Rows(index, tf.cast(real, tf.float32), tf.reduce_sum(tf.cast(real, tf.int64)), passes)
