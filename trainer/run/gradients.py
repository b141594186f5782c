"""The gradients of a batch's objective, taken at once or in micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.data import Batch
from trainer.optim.gradients import dense
from trainer.optim.rows import over_replicas, summed
from trainer.run.guests import tensor_variable
from trainer.run.measure import Layout, Measured

MeasureBatch = Callable[[Batch, tf.Tensor], Measured]


class Gradients(NamedTuple):
    """What one batch says about the weights."""

    totals: tf.Tensor
    """float64 [layout.width]."""
    layout: Layout
    gradients: list[Any]
    """Of the objective, one for each variable: a tensor, `tf.IndexedSlices`, or None where it does not depend on it."""


def whole(
    measured_on: MeasureBatch,
    batch: Batch,
    seed: tf.Tensor,
    variables: Sequence[Any],
    *,
    scale: tf.Tensor | None,
    reduce: Callable[[tf.Tensor], tf.Tensor],
    replicas: int,
) -> Gradients:
    """The gradients of a batch in one piece.

    Args:
      measured_on: the loss of a batch with a seed.
      batch: the batch.
      seed: int32 [2].
      variables: what to differentiate by.
      scale: by what the objective is multiplied meanwhile, a float32 scalar; None for nothing.
      reduce: sums a tensor over the replicas.
      replicas: how many there are.
    """
    with tf.GradientTape() as tape:
        measured = measured_on(batch, seed)
        # The mean is over the global batch: each replica's share is its weighted sum over everybody's weight.
        objective = tf.math.divide_no_nan(measured.weighted_loss, reduce(measured.weight))
        if measured.regularization is not None:
            objective += tf.cast(measured.regularization, objective.dtype) / replicas
        if scale is not None:
            objective *= tf.cast(scale, objective.dtype)
    sources = [tensor_variable(variable) for variable in variables]
    gradients = tape.gradient(objective, sources)
    if scale is not None:
        gradients = [None if g is None else times(g, 1 / scale) for g in gradients]
    if replicas > 1:
        gradients = _of_all_replicas(gradients, sources, reduce)
    return Gradients(measured.totals, measured.layout, gradients)


def accumulated(
    measured_on: MeasureBatch,
    batch: Batch,
    seeds: Sequence[tf.Tensor],
    variables: Sequence[Any],
    *,
    rows: int,
    scale: tf.Tensor | None,
    reduce: Callable[[tf.Tensor], tf.Tensor],
    replicas: int,
) -> Gradients:
    """The same gradients from micro-batches, one after the other, so that only one is in memory at a time.

    What each example weighs is known only when all have been seen: the sums are divided at the end. Slices stay slices,
    never more of them than the table has rows.

    Args:
      seeds: int32 [2] for each micro-batch; as many as there are.
      rows: of the whole batch.
    """
    parts, size = len(seeds), rows // len(seeds)
    sources = [tensor_variable(variable) for variable in variables]
    gradients: list[Any] = [None] * len(sources)
    penalties: list[Any] = [None] * len(sources)
    totals, weight = None, None
    done: list[tf.Tensor] = []
    layout = None
    for part in range(parts):
        # Nothing of a micro-batch may begin before the one before it is through.
        with tf.control_dependencies(done):
            micro = micro_batch(batch, part, size)
            with tf.GradientTape(persistent=True) as tape:
                measured = measured_on(micro, seeds[part])
                share = measured.weighted_loss / rows
                if scale is not None:
                    share = share * tf.cast(scale, share.dtype)
                if measured.regularization is not None:
                    charge = tf.cast(measured.regularization, share.dtype) / (parts * replicas)
                    if scale is not None:
                        charge = charge * tf.cast(scale, charge.dtype)
            gradients = _added(gradients, tape.gradient(share, sources), sources)
            if measured.regularization is not None:
                penalties = _added(penalties, tape.gradient(charge, sources), sources)
            del tape
            layout = measured.layout
            totals = _plus(totals, measured.totals)
            weight = _plus(weight, measured.weight)
            done = [totals, *(g.values if _sparse(g) else g for g in gradients if g is not None)]
    assert layout is not None
    assert totals is not None
    everybody = reduce(weight)
    factor = tf.math.divide_no_nan(tf.cast(rows, everybody.dtype), everybody)
    unscale = 1.0 if scale is None else 1 / scale
    found = [None if gradient is None else times(gradient, factor) for gradient in gradients]
    found = [None if gradient is None else times(gradient, unscale) for gradient in _added(found, penalties, sources)]
    if replicas > 1:
        found = _of_all_replicas(found, sources, reduce)
    # Each row's sum in one slice, as an optimizer may expect that knows nothing of micro-batches.
    found = each_once(found, sources)
    # A batch in which a value is not finite counts once, however many of its parts have it.
    first = layout.first_nonfinite
    totals = tf.concat([totals[:first], tf.minimum(totals[first:], 1.0)], axis=0)
    return Gradients(totals, layout, found)


def micro_batch(batch: Batch, part: int, size: int) -> Batch:
    """Part number `part` of a batch, from 0, of `size` rows."""
    rows = slice(part * size, (part + 1) * size)
    values = {name: value[rows] for name, value in batch.values.items()}
    return Batch(values, None if batch.weights is None else batch.weights[rows], examples=None)


def clipped(gradients: Sequence[Any], squares: tf.Tensor, most: float) -> list[Any]:
    """The gradients scaled so that their global norm is at most `most`.

    R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

    Args:
      gradients: tensors, `tf.IndexedSlices` or None.
      squares: half the square of their global norm, a float64 scalar.
      most: the bound.
    """
    norm = tf.sqrt(2.0 * squares)
    factor = tf.where(norm > most, most / norm, tf.ones_like(norm))
    return [None if gradient is None else times(gradient, factor) for gradient in gradients]


def each_once(gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """The gradients with each row's sum in one of its slices: the norm of those is the gradient's."""
    sources = map(tensor_variable, variables)
    return [summed(g, v.shape[0]) if _sparse(g) else g for g, v in zip(gradients, sources, strict=True)]


def _of_all_replicas(
    gradients: Sequence[Any], variables: Sequence[Any], reduce: Callable[[tf.Tensor], tf.Tensor]
) -> list[Any]:
    found = []
    for gradient, variable in zip(gradients, variables, strict=True):
        if _sparse(gradient):
            # Each replica names rows of its own, and all have to update the rows of all.
            found.append(over_replicas(gradient, variable.shape[0], reduce))
        else:
            found.append(None if gradient is None else reduce(gradient))
    return found


def _added(sums: Sequence[Any], gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    added = []
    for total, gradient, variable in zip(sums, gradients, variables, strict=True):
        if total is None or gradient is None:
            added.append(gradient if total is None else total)
        elif _sparse(total) and _sparse(gradient):
            added.append(_together(total, gradient, variable.shape[0]))
        else:
            added.append(dense(total, variable) + dense(gradient, variable))
    return added


def _together(one: tf.IndexedSlices, other: tf.IndexedSlices, length: int) -> tf.IndexedSlices:
    """The slices of both, or, where a table of `length` rows is the smaller, of its rows."""
    values = tf.concat([one.values, other.values], axis=0)
    indices = tf.concat([one.indices, tf.cast(other.indices, one.indices.dtype)], axis=0)
    both = tf.IndexedSlices(values, indices, one.dense_shape)
    count = indices.shape[0]
    return summed(both, length) if count is not None and count > length else both


def _sparse(gradient: Any) -> bool:
    return isinstance(gradient, tf.IndexedSlices)


def _plus(total: Any, value: tf.Tensor) -> tf.Tensor:
    return value if total is None else total + value


def times(gradient: Any, factor: Any) -> Any:
    """A gradient, sparse or not, times a scalar."""
    if _sparse(gradient):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)
