"""Sums whose last bits are no matter of chance.

TensorFlow's kernel for the sum of several tensors takes over the memory of the first of them that nobody else holds any
more, and begins the sum with that one. Whether another operation is through with a tensor is a question of threads: of
three tensors and more the same step may give other last bits each time. The gradient of what a model uses several times
is such a sum, and the optimizer of graphs makes one of additions. Two tensors have one sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# No public name leads to what the gradients are summed with.
from tensorflow.python.ops import gen_math_ops

_add_n = gen_math_ops.add_n


def sum_in_order() -> None:
    """Has what is traced from now on, gradients too, sum two tensors at a time, one after the other.

    In the whole process, and for good: models and data trace functions of their own, at any time and in any thread.
    """
    gen_math_ops.add_n = _in_order
    # The optimizer of graphs leaves additions as they are; not for another thread that has called a function before.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def _in_order(inputs: Sequence[Any], name: str | None = None) -> Any:
    first, *others = inputs
    if not others:
        return _add_n([first], name)
    return functools.reduce(lambda total, value: _add_n([total, value], name), others, first)
