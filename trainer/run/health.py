"""Whether a step's values are finite, and which is the first that is not: found on the device, without a host read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_FEW, _SMALL = 8, 4096


class Health:
    """Looks for what is not finite in one step.

    One pass over each gradient, by what is fastest. For TensorFlow's kernels that is half the sum of its squares, which
    is finite where all its values are, and they are not so large that no update could come of them (a norm beyond 1e19
    in float32). XLA adds up floats one by one, but not in a product with a vector: one of zeros gives 0, or NaN where a
    value is not finite. Which value that was is looked for where there is one, by the largest exponent as an integer.

    Args:
      objective: a scalar.
      gradients: tensors, `tf.IndexedSlices` or None.
      names: what they are, in words.
      compiled: whether to go by the values alone: XLA compiles it, or large ones are to pass.

    Attributes:
      problems: what can be wrong, in words, the last first: of what is wrong, the first has the highest number.
      objective_finite: bool scalar.
    """

    def __init__(self, objective: tf.Tensor, gradients: Sequence[Any], names: Sequence[str], *, compiled: bool) -> None:
        present = [(name, gradient) for name, gradient in zip(names, gradients, strict=True) if gradient is not None]
        self.problems = (*(name for name, _ in reversed(present)), "the loss")
        self._objective = objective
        self._gradients = [_wide(_values(gradient)) for _, gradient in present]
        self._compiled = compiled
        self.objective_finite = tf.math.is_finite(objective)

    def problem(self) -> tf.Tensor:
        """The number of the first problem, from 1, int64 scalar; 0 for none."""
        looked = _zeros(self._gradients) if self._compiled else map(tf.nn.l2_loss, self._gradients)
        # Times 0, what is finite fits into any type.
        probes = [self._common(probe) for probe in (0.0 * self._objective, *looked)]
        if not self._compiled:
            return self._first(tf.math.is_finite(tf.stack(probes)))
        return tf.cond(
            tf.math.is_finite(tf.add_n(probes)),
            lambda: tf.zeros([], tf.int64),
            lambda: self._first(tf.stack([self.objective_finite, *map(_finite_bits, self._gradients)])),
        )

    def half_squares(self) -> tf.Tensor:
        """Half the square of the gradients' global norm, a scalar of the widest of their dtypes, from float32 on."""
        squares = [self._common(tf.nn.l2_loss(gradient)) for gradient in self._gradients]
        return tf.add_n(squares) if squares else tf.zeros([], tf.float32)

    def _first(self, finite: tf.Tensor) -> tf.Tensor:
        """The number of the first that is not finite, or 0, of bool [problems] in their order."""
        numbers = tf.range(len(self.problems), 0, -1, dtype=tf.int64)
        return tf.reduce_max(tf.where(finite, tf.zeros([], tf.int64), numbers))

    def _common(self, scalar: tf.Tensor) -> tf.Tensor:
        wide = any(gradient.dtype == tf.float64 for gradient in self._gradients)
        return tf.cast(scalar, tf.float64 if wide else tf.float32)


def _zeros(gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Scalars that are 0 where all values are finite; of what is not finite one is NaN."""
    zeros = []
    small: dict[tf.DType, list[tf.Tensor]] = {}
    for gradient in gradients:
        columns = gradient.shape[-1] if (gradient.shape.rank or 0) > 1 else 1
        size = gradient.shape.num_elements() or 0
        if min(size // (columns or 1), columns or 0) >= _FEW:
            zeros.append(_zero_product(tf.reshape(gradient, [size // columns, columns])))
        elif 0 < size <= _SMALL:
            small.setdefault(gradient.dtype, []).append(tf.reshape(gradient, [-1]))
        else:
            # Too slim for a product to be faster, or of a size that is not known.
            zeros.append(_zero_bits(gradient))
    # Each look has its price: biases have one together.
    return [*zeros, *(_zero_bits(tf.concat(values, axis=0)) for values in small.values())]


def _zero_product(matrix: tf.Tensor) -> tf.Tensor:
    rows, columns = matrix.shape
    if rows > columns:
        products = tf.linalg.matmul(tf.zeros([1, rows], matrix.dtype), matrix)
    else:
        products = tf.linalg.matmul(matrix, tf.zeros([columns, 1], matrix.dtype))
    return tf.reduce_sum(products)


def _zero_bits(gradient: tf.Tensor) -> tf.Tensor:
    return tf.where(_finite_bits(gradient), 0.0, math.nan)


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
