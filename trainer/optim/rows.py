"""Sparse gradients: the rows of a table that slices name, and no others.

Every shape here is static where the slices' are, so that the same code runs op by op, in a graph and under XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

INDEX_ENTRIES = 256
"""How long the index of first slices may be for each slice, before sorting the slices is the cheaper way."""

Reduce = Callable[[tf.Tensor], tf.Tensor]
"""Sums a tensor over the replicas."""


class Rows(NamedTuple):
    """Rows of a variable and their gradients. A row may come several times, each time with the same gradient."""

    indices: tf.Tensor
    """int32 or int64 [k]."""
    gradient: tf.Tensor
    """[k, …]: the sum of all slices of that row."""


class _Slots(NamedTuple):
    """Slices of which each row has one that holds its sum; the others name a row that has one, and are zeros."""

    values: tf.Tensor
    """[k, …]."""
    indices: tf.Tensor
    """[k]."""
    holders: tf.Tensor
    """int32 or int64 [k]: for each slot the one that holds the sum of its row."""


def summed(slices: tf.IndexedSlices, length: int) -> tf.IndexedSlices:
    """The same gradient with each row's sum in one slice, and zeros in the others: its norm is the gradient's.

    Args:
      slices: n of them along the first axis; several may have one index.
      length: rows of the variable.

    Returns:
      min(n, length) slices, of the rows that `slices` names.
    """
    slots = _slots(slices, length)
    return tf.IndexedSlices(slots.values, slots.indices, slices.dense_shape)


def rows_of(slices: tf.IndexedSlices, length: int) -> Rows:
    """The rows that slices name, each with its whole gradient; arguments as of `summed`."""
    slots = _slots(slices, length)
    return Rows(slots.indices, tf.gather(slots.values, slots.holders))


def over_replicas(slices: tf.IndexedSlices, length: int, reduce: Reduce) -> tf.IndexedSlices:
    """The sum over the replicas, each with slices of its own: `length` slices of the rows that any of them names."""
    slots = _over_the_table(slices, length, reduce)
    return tf.IndexedSlices(slots.values, slots.indices, slices.dense_shape)


def read_rows(variable: tf.Variable, indices: tf.Tensor) -> tf.Tensor:
    """The rows of a variable, [k, …]. By its handle, which in a replica is the local copy."""
    dtype = tf.as_dtype(variable.dtype)
    return tf.raw_ops.ResourceGather(resource=variable.handle, indices=indices, dtype=dtype)


def write_rows(variable: tf.Variable, indices: tf.Tensor, values: tf.Tensor) -> None:
    """Overwrites rows of a variable. Those of one index have to be equal: which of them is the last is left open."""
    tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=indices, updates=values)


def _slots(slices: tf.IndexedSlices, length: int) -> _Slots:
    count = slices.indices.shape[0]
    if count is not None and count >= length:
        return _over_the_table(slices, length, lambda value: value)
    holders = first_positions(slices.indices, length)
    # As many slots as slices, whatever their number.
    values = tf.math.unsorted_segment_sum(slices.values, holders, tf.shape(slices.indices)[0])
    return _Slots(values, slices.indices, holders)


def _over_the_table(slices: tf.IndexedSlices, length: int, reduce: Reduce) -> _Slots:
    """A slot for each row of the table; that of a row which nobody names stands for one that somebody does."""
    ones = tf.ones_like(slices.indices, tf.float32)
    values = reduce(tf.math.unsorted_segment_sum(slices.values, slices.indices, length))
    named = reduce(tf.math.unsorted_segment_sum(ones, slices.indices, length)) > 0
    indices = tf.where(named, tf.range(length), tf.argmax(named, output_type=tf.int32))
    return _Slots(values, indices, holders=indices)


def first_positions(indices: tf.Tensor, length: int) -> tf.Tensor:
    """For each position the first one with the same index, int32 [n].

    Args:
      indices: int32 or int64 [n], from 0 to `length` − 1.
      length: how many indices there are.
    """
    count = tf.shape(indices)[0]
    if indices.shape[0] is None or length <= INDEX_ENTRIES * indices.shape[0]:
        firsts = tf.math.unsorted_segment_min(tf.range(count), indices, length)
        return tf.gather(firsts, indices)
    # An index over a long table would cost more than the rows themselves.
    order = tf.argsort(indices)
    ordered = tf.gather(indices, order)
    begins = tf.concat([tf.ones_like(ordered[:1], tf.bool), ordered[1:] != ordered[:-1]], axis=0)
    run = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    firsts = tf.gather(tf.math.unsorted_segment_min(order, run, count), run)
    return tf.scatter_nd(order[:, None], firsts, count[None])
