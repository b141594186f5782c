"""The workloads by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bench.transformer import Transformer
from bench.workload import Arrays, Workload, dense

_DIGITS = Path(__file__).parents[2] / "experiments" / "data" / "digits.npz"


@dataclasses.dataclass(frozen=True)
class Regression(Workload):
    """A linear model of 16 features under the squared error."""

    name: str = "regression"
    batch_size: int = 32
    learning_rate: float = 0.1
    adam: bool = False

    metric = "absolute"

    def arrays(self) -> Arrays:
        random = np.random.default_rng(1)
        x = random.uniform(-1, 1, [10_000, 16]).astype(np.float32)
        y = x @ random.normal(size=[16, 1]) + 0.1 * random.normal(size=[10_000, 1])
        return {"x": x, "y": y.astype(np.float32)}

    def weights(self) -> list[np.ndarray]:
        return dense(np.random.default_rng(2), 16, 1)

    def forward(self, weights: Sequence[tf.Variable], x: tf.Tensor) -> tf.Tensor:
        return x @ weights[0] + weights[1]

    def measure(self, answer: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        error = answer[:, 0] - y[:, 0]
        return error**2, tf.abs(error)

    def keras_model(self) -> Any:
        import keras

        return keras.Sequential([keras.Input([16]), keras.layers.Dense(1)])

    def keras_loss(self) -> tuple[Any, Any]:
        import keras

        return keras.losses.MeanSquaredError(), keras.metrics.MeanAbsoluteError(name=self.metric)


@dataclasses.dataclass(frozen=True)
class Perceptron(Workload):
    """Dense layers with rectifiers between them, and a class of ten as the answer."""

    units: tuple[int, ...] = (64, 128, 10)

    def weights(self) -> list[np.ndarray]:
        random = np.random.default_rng(2)
        return [value for sizes in zip(self.units, self.units[1:], strict=False) for value in dense(random, *sizes)]

    def forward(self, weights: Sequence[tf.Variable], x: tf.Tensor) -> tf.Tensor:
        for layer in range(0, len(weights) - 2, 2):
            x = tf.nn.relu(x @ weights[layer] + weights[layer + 1])
        return x @ weights[-2] + weights[-1]

    def keras_model(self) -> Any:
        import keras

        hidden = [keras.layers.Dense(units, activation="relu") for units in self.units[1:-1]]
        return keras.Sequential([keras.Input(self.units[:1]), *hidden, keras.layers.Dense(self.units[-1])])

    def arrays(self) -> Arrays:
        # Classes that a random linear map tells.
        random = np.random.default_rng(1)
        x = random.normal(size=[2048, self.units[0]]).astype(np.float32)
        classes = np.argmax(x @ random.normal(size=[self.units[0], self.units[-1]]), axis=1)
        return {"x": x, "y": classes.astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class Digits(Perceptron):
    """The handwritten digits that are shipped."""

    name: str = "digits"

    def arrays(self) -> Arrays:
        with np.load(_DIGITS) as file:
            images, labels = file["images"].reshape(-1, 64).astype(np.float32) / 16, file["labels"].astype(np.int32)
        order = np.random.default_rng(0).permutation(len(images))[:1500]
        return {"x": images[order], "y": labels[order]}


@dataclasses.dataclass(frozen=True)
class Embedding(Workload):
    """A class of ten from the mean of the vectors of 32 words."""

    name: str = "embedding"
    words: int = 50_000
    width: int = 64
    length: int = 32

    def arrays(self) -> Arrays:
        # Words are as frequent as Zipf says; each leans to a class.
        random = np.random.default_rng(1)
        frequency = 1 / np.arange(1, self.words + 1)
        x = random.choice(self.words, size=[20_000, self.length], p=frequency / frequency.sum()).astype(np.int32)
        leaning = random.normal(size=[self.words, 10])
        return {"x": x, "y": np.argmax(leaning[x].sum(axis=1), axis=1).astype(np.int32)}

    def weights(self) -> list[np.ndarray]:
        random = np.random.default_rng(2)
        vectors = random.uniform(-0.05, 0.05, [self.words, self.width]).astype(np.float32)
        return [vectors, *dense(random, self.width, 10)]

    def forward(self, weights: Sequence[tf.Variable], x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.gather(weights[0], x), axis=1) @ weights[1] + weights[2]

    def keras_model(self) -> Any:
        import keras

        layers = keras.layers
        vectors = layers.Embedding(self.words, self.width)
        return keras.Sequential(
            [keras.Input([self.length], dtype="int32"), vectors, layers.GlobalAveragePooling1D(), layers.Dense(10)]
        )


def mlp10m() -> Workload:
    """A perceptron of 10 million weights."""
    return Perceptron("mlp10m", learning_rate=1e-4, units=(1024, 2048, 2048, 1800, 10))


_MAKERS: dict[str, Callable[[], Workload]] = {
    "regression": Regression,
    "digits": Digits,
    "mlp10m": mlp10m,
    "embedding": Embedding,
    "bytes": Transformer,
}


@functools.cache
def workload(name: str) -> Workload:
    """The workload of that name.

    Raises:
      KeyError: there is none.
    """
    return _MAKERS[name]()
