"""Exact integer arithmetic, written once for NumPy arrays and for TensorFlow tensors.

Most of it needs no help: ``+ - * // % & ^ |`` and the comparisons mean the same on both, and unsigned integers wrap
around. What remains is spelled differently and lives here. TensorFlow is imported only by what touches a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

#: A NumPy array or a TensorFlow tensor; which of the two, the operations next to it know.
Array = Any
State = tuple[Array, ...]


class Integers(Protocol):
    """The few operations that NumPy and TensorFlow spell differently."""

    def array(self, value: Array, dtype: str) -> Array:
        """Returns the value, a Python integer included, as an array or tensor of this dtype."""

    def cast(self, x: Array, dtype: str) -> Array:
        """Returns x in this dtype; integers that do not fit keep their low bits."""

    def positions(self, shape: Sequence[int]) -> Array:
        """Returns uint32 of this shape: 0, 1, 2 … in row-major order."""

    def shift_right(self, x: Array, bits: int) -> Array:
        """Returns x shifted right; the sign of a signed integer is carried along."""

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        """Returns, element by element, x where the condition holds and y elsewhere."""

    def concat(self, parts: Sequence[Array]) -> Array:
        """Returns the parts one after another along the first axis."""

    def any(self, condition: Array) -> Array:
        """Returns a bool scalar: whether the condition holds anywhere."""

    def while_loop(self, condition: Callable[..., Array], body: Callable[..., State], state: State) -> State:
        """Returns the state after body(*state) has been applied for as long as condition(*state) holds."""


class NumpyIntegers:
    """The operations on NumPy arrays."""

    def array(self, value: Array, dtype: str) -> Array:
        return np.asarray(value).astype(dtype)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(dtype)

    def positions(self, shape: Sequence[int]) -> Array:
        return np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)

    def shift_right(self, x: Array, bits: int) -> Array:
        return x >> bits

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        return np.where(condition, x, y)

    def concat(self, parts: Sequence[Array]) -> Array:
        return np.concatenate(parts)

    def any(self, condition: Array) -> Array:
        return condition.any()

    def while_loop(self, condition: Callable[..., Array], body: Callable[..., State], state: State) -> State:
        while condition(*state):
            state = body(*state)
        return state


class TensorIntegers:
    """The operations on TensorFlow tensors: eager, in a graph and under XLA."""

    def __init__(self) -> None:
        import tensorflow as tf

        self.tf = tf

    def array(self, value: Array, dtype: str) -> Array:
        return self.cast(self.tf.convert_to_tensor(value), dtype)

    def cast(self, x: Array, dtype: str) -> Array:
        return self.tf.cast(x, dtype)

    def positions(self, shape: Sequence[int]) -> Array:
        return self.tf.reshape(self.cast(self.tf.range(math.prod(shape), dtype="int64"), "uint32"), shape)

    def shift_right(self, x: Array, bits: int) -> Array:
        return self.tf.bitwise.right_shift(x, self.tf.constant(bits, x.dtype))

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        return self.tf.where(condition, x, y)

    def concat(self, parts: Sequence[Array]) -> Array:
        return self.tf.concat(parts, axis=0)

    def any(self, condition: Array) -> Array:
        return self.tf.reduce_any(condition)

    def while_loop(self, condition: Callable[..., Array], body: Callable[..., State], state: State) -> State:
        return self.tf.while_loop(condition, body, state)  # type: ignore[no-any-return]


def operations_for(*values: Array) -> Integers:
    """Returns NumPy's operations when every value is a Python or NumPy number or array, TensorFlow's otherwise."""
    if all(isinstance(value, (int, np.ndarray, np.generic)) for value in values):
        return NumpyIntegers()
    return TensorIntegers()
