"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.optim.adam import Adam
from trainer.optim.decay import Decay, Exclude
from trainer.optim.optimizer import ROWS
from trainer.optim.rows import Rows
from trainer.optim.schedules import Schedule


class AdamW(Adam):
    """AdamW of I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    With learning rate η and decay λ each update first shrinks the weights, then takes Adam's step, which does not
    depend on them:

        θ ← θ − η·λ·θ

    λ is multiplied by the whole learning rate, schedule included. In the paper's Algorithm 2 the decay follows the
    schedule's multiplier only: its λ is η's peak times this one. An L2 penalty in the loss (`l2`) is something else
    under Adam: its gradient is divided by √v as any other.

    Of a sparse gradient, with `sparse="rows"`, the rows that are named decay, at the steps that name them.

    The checkpoint is Adam's: there are no further slots.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        weight_decay: float = 0.01,
        exclude: Exclude | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        sparse: str = ROWS,
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
          sparse: As in `Adam`.
          name: Name of the module.

        Raises:
          ConfigError: an argument is out of its range.
        """
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon, sparse=sparse, name=name)
        self._decay = Decay(weight_decay, exclude, optimizer="AdamW")

    def _update(self, position: int, variable: tf.Variable, gradient: tf.Tensor, scalars: dict[str, Any]) -> None:
        self._decay.apply(variable, scalars["lr"])
        super()._update(position, variable, gradient, scalars)

    def _updated_rows(
        self, position: int, variable: tf.Variable, weights: tf.Tensor, rows: Rows, scalars: dict[str, Any]
    ) -> tf.Tensor:
        weights = self._decay.shrunk(variable, weights, scalars["lr"])
        return super()._updated_rows(position, variable, weights, rows, scalars)
