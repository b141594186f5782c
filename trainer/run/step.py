"""One train step: the loss, its gradient, the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trainer.data import Batch
from trainer.run.experiment import Experiment
from trainer.run.measure import Layout, measure
from trainer.run.state import TrainState


def alone(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over the replicas, where there is one replica."""
    return value


class TrainStep:
    """Updates the model once, and says what it measured before the update.

    It makes no assumption about where it runs: what has to be summed over the replicas of a distribution strategy goes
    through `reduce`, explicitly, and every replica then makes the same update.

    Args:
      experiment: whose loss, or whose own `train_step`.
      state: what is updated.
      batch_size: rows of a batch, on this replica.
      reduce: sums a tensor over the replicas.
      replicas: how many there are.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        batch_size: int,
        *,
        reduce: Callable[[tf.Tensor], tf.Tensor] = alone,
        replicas: int = 1,
    ) -> None:
        self._experiment = experiment
        self._state = state
        self._batch_size = batch_size
        self._reduce = reduce
        self._replicas = replicas
        self.layout: Layout | None = None
        self.rate_names: tuple[str, ...] = ()
        self.unconnected: tuple[str, ...] = ()

    def __call__(self, values: dict[str, tf.Tensor], weights: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """Makes one update.

        Returns:
          float64 [layout.width + len(rate_names)]: the totals of this step, then the learning rates of the update.
        """
        batch = Batch(values, weights, examples=None)
        rates = self._learning_rates()
        custom = getattr(self._experiment, "train_step", None)
        totals = self._update(batch, seed) if custom is None else self._own_update(custom, batch, seed)
        # The learning rates are the same on every replica; only what was measured is summed.
        return tf.concat([self._reduce(totals), *rates], axis=0)

    def _update(self, batch: Batch, seed: tf.Tensor) -> tf.Tensor:
        state = self._state
        variables = state.trainable_variables()
        with tf.GradientTape() as tape:
            loss = self._experiment.loss(state.model, batch.values, training=True, seed=seed)
            measured = measure(loss, batch, self._batch_size)
            # The mean is over the global batch: each replica's share is its weighted sum over everybody's weight.
            objective = tf.math.divide_no_nan(measured.weighted_loss, self._reduce(measured.weight))
            if measured.regularization is not None:
                objective += tf.cast(measured.regularization, objective.dtype) / self._replicas
        gradients = tape.gradient(objective, [tensor_variable(variable) for variable in variables])
        self._note(measured.layout, variables, gradients)
        state.optimizer.apply([None if g is None else self._reduce(g) for g in gradients], variables)
        return measured.totals

    def _own_update(self, train_step: Callable[..., Any], batch: Batch, seed: tf.Tensor) -> tf.Tensor:
        """The update of an experiment that applies its own gradients."""
        loss = train_step(self._state, batch.values, seed)
        measured = measure(loss, batch, self._batch_size, returned_by="train_step")
        self._note(measured.layout, (), ())
        return measured.totals

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _learning_rates(self) -> list[tf.Tensor]:
        rates = {
            name: getattr(optimizer, "learning_rate", None) for name, optimizer in self._state.optimizers().items()
        }
        known = {name: rate for name, rate in rates.items() if rate is not None and not callable(rate)}
        self.rate_names = tuple(known)
        return [tf.cast(tf.convert_to_tensor(rate), tf.float64)[None] for rate in known.values()]

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _note(self, layout: Layout, variables: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Keeps what only tracing tells."""
        self.layout = layout
        self.unconnected = tuple(v.name for v, g in zip(variables, gradients, strict=True) if g is None)


def tensor_variable(variable: Any) -> tf.Variable:
    """The `tf.Variable` of a variable that may be Keras' wrapper of one."""
    return variable if isinstance(variable, tf.Variable) else variable.value
