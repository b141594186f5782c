"""Whether a step's values are finite, and which is the first that is not: found on the device, without a host read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class Health:
    """Looks for what is not finite in one step.

    One pass over each gradient, by what is fastest: for TensorFlow's kernels half the sum of its squares, which is
    finite where all its values are, and they are not so large that no update could come of them (a norm beyond 1e19 in
    float32); under XLA, which adds floats one by one, the largest of their exponents as integers.

    Args:
      objective: a scalar.
      gradients: tensors, `tf.IndexedSlices` or None.
      names: what they are, in words.
      compiled: whether to look at exponents: XLA compiles it, or large values are to pass.

    Attributes:
      problems: what can be wrong, in words; the problem of number 1 is the first.
      objective_finite: bool scalar.
    """

    def __init__(self, objective: tf.Tensor, gradients: Sequence[Any], names: Sequence[str], *, compiled: bool) -> None:
        present = [(name, gradient) for name, gradient in zip(names, gradients, strict=True) if gradient is not None]
        self.problems = ("the loss", *(name for name, _ in present))
        self._gradients = [_wide(_values(gradient)) for _, gradient in present]
        finite = _finite_bits if compiled else _finite_squares
        self.objective_finite = tf.math.is_finite(objective)
        self._finite = tf.stack([self.objective_finite, *map(finite, self._gradients)])

    def problem(self) -> tf.Tensor:
        """The number of the first problem, int64 scalar; 0 for none."""
        count = len(self.problems)
        numbers = tf.where(self._finite, count + 1, tf.range(1, count + 1))
        return tf.cast(tf.reduce_min(numbers) % (count + 1), tf.int64)

    def half_squares(self) -> tf.Tensor:
        """Half the square of the gradients' global norm, a scalar of the widest of their dtypes, from float32 on."""
        wide = any(gradient.dtype == tf.float64 for gradient in self._gradients)
        total = tf.zeros([], tf.float64 if wide else tf.float32)
        return tf.add_n([total, *(tf.cast(tf.nn.l2_loss(gradient), total.dtype) for gradient in self._gradients)])


def _finite_squares(gradient: tf.Tensor) -> tf.Tensor:
    return tf.math.is_finite(tf.nn.l2_loss(gradient))


def _finite_bits(gradient: tf.Tensor) -> tf.Tensor:
    kind, infinity = (tf.int64, 0x7FF << 52) if gradient.dtype == tf.float64 else (tf.int32, 0xFF << 23)
    bits = tf.bitcast(gradient, kind)
    # Without the sign, the bits of finite numbers are those below infinity's.
    return tf.reduce_max(tf.bitwise.bitwise_and(bits, kind.max)) < infinity


def _values(gradient: Any) -> tf.Tensor:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _wide(values: tf.Tensor) -> tf.Tensor:
    """16-bit floats as 32-bit ones, whose squares do not overflow."""
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values
