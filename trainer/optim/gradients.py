"""What the update needs of a gradient: the variable's own dtype, and for the fused kernels one dense tensor."""

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
    gradient = of_its_dtype(gradient, variable)
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    return gradient


def of_its_dtype(gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> tf.Tensor | tf.IndexedSlices:
    """The gradient as it is, slices or a tensor.

    Raises:
      ConfigError: the gradient has another dtype than the variable.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        gradient = tf.convert_to_tensor(gradient)
    dtype = tf.as_dtype(variable.dtype)
    if gradient.dtype != dtype:
        raise ConfigError(
            f"the gradient of {variable.name!r} is {gradient.dtype.name} and the variable {dtype.name}; "
            f"cast the gradient to {dtype.name}"
        )
    return gradient
