"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim.adam import Adam
from trainer.optim.schedules import Schedule


class AdamW(Adam):
    """AdamW of I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    With learning rate η and decay λ each update first shrinks the weights, then takes Adam's step, which does not
    depend on them:

        θ ← θ − η·λ·θ

    λ is multiplied by the whole learning rate, schedule included. In the paper's Algorithm 2 the decay follows the
    schedule's multiplier only: its λ is η's peak times this one.

    The checkpoint is Adam's: there are no further slots.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        weight_decay: float = 0.01,
        exclude: Callable[[tf.Variable], bool] | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        name: str | None = None,
    ):
        """Constructs the optimizer.

        Args:
          learning_rate: η, a number or a schedule.
          weight_decay: λ, 0 or larger.
          exclude: Says of a variable that it does not decay: `lambda variable: len(variable.shape) < 2` for biases
            and scales, or one that looks at `variable.name`. Without it all decay.
          beta1: As in `Adam`.
          beta2: As in `Adam`.
          epsilon: As in `Adam`.
          name: Name of the module.

        Raises:
          ConfigError: an argument is out of its range.
        """
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, name=name)
        if not weight_decay >= 0.0:
            raise ConfigError(f"AdamW: weight_decay is {weight_decay!r}; give a number, 0 or larger")
        self._weight_decay = float(weight_decay)
        self._exclude = exclude

    def _update(self, position: int, variable: tf.Variable, gradient: tf.Tensor, scalars: dict[str, Any]) -> None:
        if self._exclude is None or not self._exclude(variable):
            weights = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=gradient.dtype)
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=scalars["lr"] * self._weight_decay, delta=weights
            )
        super()._update(position, variable, gradient, scalars)
