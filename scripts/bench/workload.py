"""What is trained: the same data, first weights, operations, optimizer and batches for everyone who takes part.

A workload is its data, a plain `tf.Module`, the loss of each example with one more metric, and the same model as a user
of Keras writes it. The weights begin as NumPy says, so that nobody's random numbers matter.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]
"""The examples: `x` [examples, …] is what is given, `y` [examples, …] what is wanted."""


@dataclasses.dataclass(frozen=True)
class Workload(abc.ABC):
    """What is trained."""

    name: str
    batch_size: int = 64
    learning_rate: float = 1e-3
    adam: bool = True
    """Whether the optimizer is Adam with ε = 1e-8, or plain gradient descent."""

    @abc.abstractmethod
    def arrays(self) -> Arrays:
        """The examples."""

    @abc.abstractmethod
    def weights(self) -> list[np.ndarray]:
        """The first weights, float32, in the order of the variables."""

    @abc.abstractmethod
    def forward(self, weights: Sequence[tf.Variable], x: tf.Tensor) -> tf.Tensor:
        """The model's answer, float32 [batch, …]."""

    @abc.abstractmethod
    def keras_model(self) -> Any:
        """The same model of Keras' layers, its variables in the order of `weights` but not yet of these values."""

    metric = "accuracy"
    """What is measured beside the loss."""

    def measure(self, answer: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss and the metric of each example, float32 [batch]."""
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, answer)
        correct = tf.cast(tf.argmax(answer, axis=-1, output_type=tf.int32) == y, tf.float32)
        axes = list(range(1, loss.shape.rank))
        return (tf.reduce_mean(loss, axes), tf.reduce_mean(correct, axes)) if axes else (loss, correct)

    def keras_loss(self) -> tuple[Any, Any]:
        """The same loss and metric, of Keras."""
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.metrics.SparseCategoricalAccuracy(
            name=self.metric
        )

    def megabytes(self) -> float:
        """What the weights take."""
        return sum(value.nbytes for value in self.weights()) / 1e6

    def optimizer(self, *, sparse: str = "rows") -> Any:
        """The trainer's optimizer."""
        import trainer

        if not self.adam:
            return trainer.optim.SGD(self.learning_rate)
        if sparse == "rows":
            return trainer.optim.Adam(self.learning_rate)
        return trainer.optim.Adam(self.learning_rate, sparse=sparse)

    def keras_optimizer(self) -> Any:
        """Keras' optimizer of the same formula."""
        import keras

        if not self.adam:
            return keras.optimizers.SGD(self.learning_rate)
        return keras.optimizers.Adam(self.learning_rate, epsilon=1e-8)


class Model(tf.Module):
    """The weights of a workload as variables, in a plain module.

    Args:
      workload: whose.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self._workload = workload
        self.weights = [tf.Variable(value, name=f"weights_{number}") for number, value in enumerate(workload.weights())]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The answer to `x`, [batch, …]."""
        return self._workload.forward(self.weights, x)


def dense(random: np.random.Generator, inputs: int, outputs: int) -> list[np.ndarray]:
    """The matrix and the offset of a dense layer, Glorot-uniform (X. Glorot and Y. Bengio, 2010)."""
    limit = np.sqrt(6 / (inputs + outputs))
    return [random.uniform(-limit, limit, [inputs, outputs]).astype(np.float32), np.zeros([outputs], np.float32)]
