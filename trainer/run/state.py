"""What training changes, and what a checkpoint therefore holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import fold_in, run_seed
from trainer.errors import ConfigError
from trainer.optim import Optimizer
from trainer.run.experiment import Experiment

WEIGHTS_STREAM, TRAIN_STREAM, EVALUATION_STREAM = 1, 2, 3
"""What the run's seed is folded with first, so that no two uses of it share a stream."""


class TrainState:
    """The model, the optimizer or optimizers, and the run's own variables.

    Attributes:
      model: what `Experiment.model` returned.
      optimizer: what `Experiment.optimizer` returned.
      step: int64 scalar, updates attempted.
      examples: int64 scalar, training examples consumed.
      window: float64 [width], the open window's totals and the last learning rates; made by `add_window`.
    """

    def __init__(self, experiment: Experiment, seed: int) -> None:
        name = type(experiment).__name__
        self.model = experiment.model(fold_in(run_seed(seed), WEIGHTS_STREAM))
        self.optimizer = experiment.optimizer()
        if not isinstance(self.model, tf.Module):
            raise ConfigError(f"{name}.model() returned {type(self.model).__name__}; expected a tf.Module")
        if isinstance(self.optimizer, Mapping) and not hasattr(experiment, "train_step"):
            raise ConfigError(
                f"{name}.optimizer() returned {len(self.optimizer)} optimizers, and there is no train_step that says "
                "which updates what; return one, or write train_step"
            )
        for optimizer in self.optimizers().values():
            if not callable(getattr(optimizer, "apply", None)):
                raise ConfigError(
                    f"{name}.optimizer() returned {type(optimizer).__name__}; "
                    "expected something with apply(gradients, variables)"
                )
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.examples = tf.Variable(0, dtype=tf.int64, trainable=False, name="examples")
        self.window: tf.Variable | None = None
        self._all_finite = tf.function(self._check_finite, autograph=False)
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.build(self.trainable_variables(), step=self.step)

    def optimizers(self) -> Mapping[str, Any]:
        """The optimizers by name; a single one has the empty name."""
        return self.optimizer if isinstance(self.optimizer, Mapping) else {"": self.optimizer}

    def trainable_variables(self) -> Sequence[tf.Variable]:
        """The variables that training updates.

        Raises:
          ConfigError: there are none.
        """
        variables = tuple(self.model.trainable_variables)
        if not variables:
            raise ConfigError(
                f"the model {type(self.model).__name__} has no trainable variables; create them in model(), "
                "not at the first call"
            )
        return variables

    def parameters(self) -> int:
        """How many numbers the trainable variables hold."""
        return int(sum(np.prod(variable.shape) for variable in self.trainable_variables()))

    def size(self) -> int:
        """Bytes of everything that a checkpoint holds."""
        variables = [*self.model.variables, self.step, self.examples, self.window]
        for optimizer in self.optimizers().values():
            variables += getattr(optimizer, "variables", ())
        return int(sum(np.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables))

    def add_window(self, width: int) -> None:
        """Makes the open window's variable, once the metrics are known."""
        self.window = tf.Variable(tf.zeros([width], tf.float64), trainable=False, name="window")

    def checkpoint(self) -> tf.train.Checkpoint:
        """The checkpoint of everything here. Called when every variable exists, so that a restore is strict."""
        return tf.train.Checkpoint(
            model=self.model,
            optimizer=self.optimizer,
            step=self.step,
            examples=self.examples,
            window=self.window,
        )

    def all_finite(self) -> bool:
        """Whether every trainable variable is finite."""
        return bool(self._all_finite())

    def _check_finite(self) -> tf.Tensor:
        checks = [tf.reduce_all(tf.math.is_finite(variable)) for variable in self.trainable_variables()]
        return tf.reduce_all(tf.stack(checks))
