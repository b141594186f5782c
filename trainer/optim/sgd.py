"""SGD: stochastic gradient descent, with momentum and with decoupled weight decay if asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim.decay import Decay, Exclude
from trainer.optim.optimizer import ROWS, Optimizer, zeros_like
from trainer.optim.rows import Rows, read_rows, write_rows
from trainer.optim.schedules import Schedule


class SGD(Optimizer):
    """Stochastic gradient descent.

    With gradient g and learning rate η, without momentum:

        θ ← θ − η·g

    and with momentum μ, whose slot a starts at 0:

        a ← μ·a + g
        θ ← θ − η·a             or, by Nesterov,    θ ← θ − η·(g + μ·a)

    The learning rate is not part of the slot: when it changes, it changes for the whole velocity at once. Nesterov's
    form is that of I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and momentum
    in deep learning", ICML 2013, written for the weights at the point where the gradient is taken.

    With a decay λ each update first shrinks the weights, which the slots do not see: θ ← θ − η·λ·θ, the SGDW of
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, with λ times the whole η. Without
    momentum it is what an L2 penalty of that scale does.

    Of a sparse gradient, with `sparse="rows"`, the rule is that of the rows that its slices name; the others keep θ and
    a. Without momentum and decay that is the same as `sparse="all"`, by which every row's velocity goes on, and every
    row decays, at every update.

    Attributes:
      momentum: With momentum only: the slots a, one for each variable.
    """

    momentum: list[tf.Variable]

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        exclude: Exclude | None = None,
        sparse: str = ROWS,
        name: str | None = None,
    ):
        """Constructs the optimizer.

        Args:
          learning_rate: η, a number or a schedule.
          momentum: μ, in [0, 1). With 0 there are no slots.
          nesterov: Whether to look ahead; needs momentum.
          weight_decay: λ, 0 or larger.
          exclude: Says of a variable that it does not decay, as in `AdamW`. Without it all decay.
          sparse: As in `Adam`.
          name: Name of the module.

        Raises:
          ConfigError: an argument is out of its range.
        """
        super().__init__(learning_rate, sparse=sparse, name=name)
        if not 0.0 <= momentum < 1.0:
            raise ConfigError(f"SGD: momentum is {momentum!r}; give a number in [0, 1)")
        if nesterov and not momentum:
            raise ConfigError("SGD: nesterov without momentum is plain SGD; give a momentum, such as 0.9")
        self._momentum = float(momentum)
        self._nesterov = nesterov
        self._decay = Decay(weight_decay, exclude, optimizer="SGD")

    def _create_slots(self, variables: Sequence[tf.Variable]) -> None:
        if self._momentum:
            self.momentum = zeros_like(variables, "momentum")

    def _scalars(self, rate: tf.Tensor, dtype: tf.DType) -> dict[str, Any]:
        if not self._momentum:
            return {"alpha": tf.cast(rate, dtype)}
        return {"lr": tf.cast(rate, dtype), "momentum": tf.constant(self._momentum, dtype)}

    def _update(self, position: int, variable: tf.Variable, gradient: tf.Tensor, scalars: dict[str, Any]) -> None:
        self._decay.apply(variable, scalars["lr" if self._momentum else "alpha"])
        if not self._momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, delta=gradient, **scalars)
            return
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.momentum[position].handle,
            grad=gradient,
            use_nesterov=self._nesterov,
            **scalars,
        )

    def _updated_rows(
        self, position: int, variable: tf.Variable, weights: tf.Tensor, rows: Rows, scalars: dict[str, Any]
    ) -> tf.Tensor:
        rate = scalars["lr" if self._momentum else "alpha"]
        weights = self._decay.shrunk(variable, weights, rate)
        if not self._momentum:
            return weights - rows.gradient * rate
        slot = self.momentum[position]
        velocity = read_rows(slot, rows.indices) * scalars["momentum"] + rows.gradient
        write_rows(slot, rows.indices, velocity)
        if self._nesterov:
            velocity = rows.gradient + velocity * scalars["momentum"]
        return weights - velocity * rate
