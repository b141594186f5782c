"""What the fused kernels need of a gradient: one dense tensor of the variable's own dtype."""

from __future__ import annotations

import tensorflow as tf

from trainer.errors import ConfigError


def dense(gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> tf.Tensor:
    """The gradient as a tensor of the variable's shape and dtype.

    Args:
      gradient: A tensor, or slices along the first axis as `tf.gather` gives; slices of one index are summed.
      variable: What it is the gradient of.

    Raises:
      ConfigError: the gradient has another dtype than the variable.
    """
    if isinstance(gradient, tf.IndexedSlices):
        # Exact: rows that are not named have gradient 0, and the moments of those rows decay as in any dense update.
        # The sparse kernels would leave them as they are, apply duplicates one after another, and fail under XLA.
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    gradient = tf.convert_to_tensor(gradient)
    dtype = tf.as_dtype(variable.dtype)
    if gradient.dtype != dtype:
        raise ConfigError(
            f"the gradient of {variable.name!r} is {gradient.dtype.name} and the variable {dtype.name}; "
            f"cast the gradient to {dtype.name}"
        )
    return gradient
