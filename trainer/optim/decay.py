"""Decoupled weight decay, and the L2 penalty that it is not."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError

Exclude = Callable[[tf.Variable], bool]
"""Says of a variable that it does not decay."""


class Decay:
    """Weight decay that is decoupled from the gradient: θ ← θ − η·λ·θ, beside the optimizer's own step.

    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019. λ is multiplied by the whole
    learning rate, schedule included. In the paper's algorithms the decay follows the schedule's multiplier only: their
    λ is η's peak times this one.

    Args:
      rate: λ, 0 or larger.
      exclude: says of a variable that it does not decay; without it all decay.
      optimizer: whose, for the message.

    Raises:
      ConfigError: λ is out of its range.
    """

    def __init__(self, rate: float, exclude: Exclude | None, *, optimizer: str) -> None:
        if not 0.0 <= rate < math.inf:
            raise ConfigError(f"{optimizer}: weight_decay is {rate!r}; give a finite number, 0 or larger")
        self._rate = float(rate)
        self._exclude = exclude

    def apply(self, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Shrinks one variable; `learning_rate` is η in its dtype. With λ = 0 it does nothing."""
        if self._decays(variable):
            weights = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=learning_rate.dtype)
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=learning_rate * self._rate, delta=weights
            )

    def shrunk(self, variable: tf.Variable, weights: tf.Tensor, learning_rate: tf.Tensor) -> tf.Tensor:
        """What becomes of `weights`, some rows of the variable; it is left as it is."""
        return weights - weights * (learning_rate * self._rate) if self._decays(variable) else weights

    def _decays(self, variable: tf.Variable) -> bool:
        return bool(self._rate) and not (self._exclude and self._exclude(variable))


def l2(variables: Iterable[Any], scale: float) -> tf.Tensor:
    """The L2 penalty scale·½·Σ‖w‖² of some variables, a scalar for `trainer.Loss.regularization`.

    With the half, as in `tf.nn.l2_loss` and in A. Krogh and J. A. Hertz, "A Simple Weight Decay Can Improve
    Generalization", NIPS 1991, the gradient is scale·w. It passes through the optimizer as the loss's own does: under
    Adam it is scaled by the moments, where decoupled decay (`AdamW`) is not.

    Args:
      variables: floats of any shapes: `[model.hidden, model.out]`, biases and scales seldom among them.
      scale: 0 or larger.

    Returns:
      A scalar of the widest of their dtypes, float32 at least: squares of 16-bit variables are taken in float32.

    Raises:
      ConfigError: there are no variables, one is no float, or the scale is out of its range.
    """
    if not isinstance(scale, numbers.Real) or not 0.0 <= scale < math.inf:
        raise ConfigError(f"l2: scale is {scale!r}; give a finite number, 0 or larger")
    tensors = [tf.convert_to_tensor(variable) for variable in variables]
    others = [tensor.dtype.name for tensor in tensors if not tensor.dtype.is_floating]
    if others or not tensors:
        given = f"a variable of {others[0]}" if others else "no variable"
        raise ConfigError(f"l2: {given} is given; give the float variables whose squares are to stay small")
    dtype = tf.float64 if any(tensor.dtype == tf.float64 for tensor in tensors) else tf.float32
    squares = [tf.cast(tf.nn.l2_loss(_at_least_float32(tensor)), dtype) for tensor in tensors]
    return tf.constant(scale, dtype) * tf.add_n(squares)


def _at_least_float32(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < 4 else tensor
