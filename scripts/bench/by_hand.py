"""The train step of a careful engineer who writes the loop by hand: a plain module and Keras' optimizer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bench.workload import Model


class Step:
    """A train step of a workload.

    Args:
      workload: whose.
    """

    def __init__(self, workload: Any) -> None:
        self._workload = workload
        self._model = Model(workload)
        self._variables = list(self._model.trainable_variables)
        self._optimizer = workload.keras_optimizer()
        self._optimizer.build(self._variables)

    def __call__(self, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the weights by a batch; the means of its loss and its metric, scalars."""
        with tf.GradientTape() as tape:
            losses, metrics = self._workload.measure(self._model(x), y)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self._variables)
        self._optimizer.apply(gradients, self._variables)
        return loss, tf.reduce_mean(metrics)
