"""Whether a step's values are finite, and which is the first that is not: found on the device, without a host read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Factors = tuple[tf.Tensor, tf.Tensor]

_FEW, _SMALL, _FAR_LESS = 8, 4096, 4


class Health:
    """Looks for what is not finite in one step.

    One pass over each gradient, by what is fastest. For TensorFlow's kernels that is half the sum of its squares, which
    is finite where all its values are, and they are not so large that no update could come of them (a norm beyond 1e19
    in float32). XLA adds up floats one by one, but not in a product with a vector: one of zeros gives 0, or NaN where a
    value is not finite. A large dense layer's gradient is spared the pass: it is the product of two smaller matrices,
    and finite where they are, and not huge. Only where such a look is not content is it asked of each gradient, that of
    a large dense layer made once more, whether it is finite, to find the first that is not.

    Args:
      objective: a scalar.
      gradients: tensors, `tf.IndexedSlices` or None.
      names: what they are, in words.
      compiled: whether to go by the values alone: XLA compiles it, or large ones are to pass.
      clipped: whether `half_squares` is asked for, so that the squares of all gradients are there to go by.

    Attributes:
      problems: what can be wrong, in words, the last first: of what is wrong, the first has the highest number.
      objective_finite: bool scalar.
    """

    def __init__(
        self,
        objective: tf.Tensor,
        gradients: Sequence[Any],
        names: Sequence[str],
        *,
        compiled: bool,
        clipped: bool = False,
    ) -> None:
        present = [(name, gradient) for name, gradient in zip(names, gradients, strict=True) if gradient is not None]
        self.problems = (*(name for name, _ in reversed(present)), "the loss")
        self._objective = objective
        self._gradients = [_wide(_values(gradient)) for _, gradient in present]
        # Squares that overflow leave nothing to scale down to: with a bound they are looked at under XLA too.
        self._by_values = compiled and not clipped
        self._clipped = clipped
        self.objective_finite = tf.math.is_finite(objective)

    def problem(self) -> tf.Tensor:
        """The number of the first problem, from 1, int64 scalar; 0 for none."""
        return self._problem_of_values() if self._by_values else self._problem_of_squares()

    def _problem_of_values(self) -> tf.Tensor:
        looks = _looks(self._gradients)
        zeros = self._probes(look.zero for look in looks)

        def once_more() -> tf.Tensor:
            finite = {place: flag for look in looks for place, flag in look.once_more().items()}
            return self._first(tf.stack([self.objective_finite, *(finite[place] for place in sorted(finite))]))

        return tf.cond(tf.math.is_finite(tf.add_n(zeros)), _no_problem, once_more)

    def _problem_of_squares(self) -> tf.Tensor:
        factors = [None if self._clipped else _far_smaller_factors(gradient) for gradient in self._gradients]
        finite = tf.math.is_finite(tf.stack(self._probes(map(_square, self._gradients, factors))))
        if not any(factors):
            return self._first(finite)

        def once_more() -> tf.Tensor:
            objective, *known = tf.unstack(finite)
            looked_at = zip(known, self._gradients, factors, strict=True)
            again = [tf.math.is_finite(_square(_made_again(g, made))) if made else was for was, g, made in looked_at]
            return self._first(tf.stack([objective, *again]))

        return tf.cond(tf.reduce_all(finite), _no_problem, once_more)

    def half_squares(self) -> tf.Tensor:
        """Half the square of the gradients' global norm, a float64 scalar: finite where each gradient's is."""
        squares = [tf.cast(tf.nn.l2_loss(gradient), tf.float64) for gradient in self._gradients]
        return tf.reduce_sum(tf.stack(squares)) if squares else tf.zeros([], tf.float64)

    def _first(self, finite: tf.Tensor) -> tf.Tensor:
        """The number of the first that is not finite, or 0, of bool [problems] in their order."""
        numbers = tf.range(len(self.problems), 0, -1, dtype=tf.int64)
        return tf.reduce_max(tf.where(finite, tf.zeros([], tf.int64), numbers))

    def _probes(self, of_gradients: Iterable[tf.Tensor]) -> list[tf.Tensor]:
        """Scalars of one type, of the objective and of each look at gradients."""
        wide = any(gradient.dtype == tf.float64 for gradient in self._gradients)
        # Times 0, what is finite fits into any type.
        return [tf.cast(probe, tf.float64 if wide else tf.float32) for probe in (0.0 * self._objective, *of_gradients)]


def _no_problem() -> tf.Tensor:
    return tf.zeros([], tf.int64)


def _square(gradient: tf.Tensor, factors: Factors | None = None) -> tf.Tensor:
    """Half the sum of the squares of its values; with the factors of a product, what that does not exceed."""
    if factors is None:
        return tf.nn.l2_loss(gradient)
    left, right = factors
    # By Cauchy and Schwarz, and four times that: also the square of a single value is finite where this is, and no
    # rounding matters.
    return 8.0 * tf.nn.l2_loss(left) * tf.nn.l2_loss(right)


class _Look(NamedTuple):
    """One look at gradients, from which it is known whether another one is needed."""

    zero: tf.Tensor
    """A scalar, 0 or NaN: NaN where a value is not finite, and perhaps where a product is huge."""
    once_more: Callable[[], dict[int, tf.Tensor]]
    """Makes of each of these gradients, by its place, whether it is finite: a bool scalar.

    It takes no large gradient. A branch that did would keep it in memory until it is known whether it is taken, and for
    all of them that costs a twentieth of the step of a perceptron of ten million weights, or of a small transformer.
    """


def _looks(gradients: Sequence[tf.Tensor]) -> list[_Look]:
    """Looks that cover all of the gradients."""
    looks = []
    small: dict[tf.DType, dict[int, tf.Tensor]] = {}
    for place, gradient in enumerate(gradients):
        factors = _far_smaller_factors(gradient)
        columns = gradient.shape[-1] if (gradient.shape.rank or 0) > 1 else 1
        size = gradient.shape.num_elements() or 0
        if factors:
            looks.append(_look_at_factors(place, gradient, factors))
        elif min(size // (columns or 1), columns or 0) >= _FEW:
            looks.append(_look_at_all(place, _summed(tf.reshape(gradient, [size // columns, columns]), 0.0)))
        elif 0 < size <= _SMALL:
            small.setdefault(gradient.dtype, {})[place] = tf.reshape(gradient, [-1])
        else:
            # Too slim for a product to be faster, or of a size that is not known.
            looks.append(_look_at_all(place, 0.0 * _largest(gradient)))
    # Each look has its price: biases have one together.
    return [*looks, *map(_look_at_small, small.values())]


def _look_at_all(place: int, zero: tf.Tensor) -> _Look:
    # 0 times what is finite is 0: there is nothing more to ask.
    return _Look(zero, lambda: {place: tf.math.is_finite(zero)})


def _look_at_factors(place: int, gradient: tf.Tensor, factors: Factors) -> _Look:
    def once_more() -> dict[int, tf.Tensor]:
        return {place: tf.math.is_finite(_largest(_made_again(gradient, factors)))}

    return _Look(0.0 * _bound(*factors), once_more)


def _look_at_small(vectors: Mapping[int, tf.Tensor]) -> _Look:
    together = tf.concat(list(vectors.values()), axis=0)

    def once_more() -> dict[int, tf.Tensor]:
        parts = tf.split(together, [vector.shape[0] for vector in vectors.values()])
        return {place: tf.math.is_finite(_largest(part)) for place, part in zip(vectors, parts, strict=True)}

    return _Look(0.0 * _largest(together), once_more)


def _summed(matrix: tf.Tensor, factor: float) -> tf.Tensor:
    """The sum of a matrix's values, each times a factor: by a product with a vector, the shorter one to be summed."""
    rows, columns = matrix.shape
    if rows > columns:
        products = tf.linalg.matmul(tf.fill([1, rows], tf.constant(factor, matrix.dtype)), matrix)
    else:
        products = tf.linalg.matmul(matrix, tf.fill([columns, 1], tf.constant(factor, matrix.dtype)))
    return tf.reduce_sum(products)


def _far_smaller_factors(gradient: tf.Tensor) -> Factors | None:
    """The matrices whose product it is, where they have far fewer values than it has."""
    if gradient.op.type != "MatMul":
        return None
    left, right = gradient.op.inputs
    sizes = [factor.shape.num_elements() for factor in (left, right)]
    size = gradient.shape.num_elements() or 0
    return (left, right) if None not in sizes and 0 < _FAR_LESS * sum(sizes) < size else None


def _made_again(gradient: tf.Tensor, factors: Factors) -> tf.Tensor:
    """The same, made of its far smaller factors once more."""
    transposed = {name: gradient.op.get_attr(name) for name in ("transpose_a", "transpose_b")}
    return tf.linalg.matmul(*factors, **transposed)


def _bound(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """What the square of no value of the product of two matrices exceeds, nor that of a sum on the way to it.

    By Cauchy and Schwarz; finite, it leaves so much room that no rounding matters. What is too small to have a square
    makes nothing that is not finite of what is small enough to have one.
    """
    return _summed(left * left, 1.0) * _summed(right * right, 1.0)


def _largest(values: tf.Tensor) -> tf.Tensor:
    """The largest absolute value; one that is not finite is larger than all that are."""
    kind = tf.int64 if values.dtype == tf.float64 else tf.int32
    # Without the sign, the bits of floats have the order of the floats. XLA's maximum of floats may lose a NaN.
    bits = tf.bitwise.bitwise_and(tf.bitcast(values, kind), kind.max)
    # The maximum of nothing is the least integer, as a float −0.
    return tf.bitcast(tf.reduce_max(bits), values.dtype)


def _values(gradient: Any) -> tf.Tensor:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _wide(values: tf.Tensor) -> tf.Tensor:
    """16-bit floats as 32-bit ones, whose squares do not overflow."""
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values
