"""Experiments whose runs are trained again: small, with all that training and evaluation do differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import trainer

FEATURES = 3


class Plane(tf.Module):
    """y = (x − mean) · kernel + bias, where the mean is one that training keeps."""

    def __init__(self, seed: Any) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([FEATURES], seed, alg="philox"), name="kernel")
        self.bias = tf.Variable(0.0, name="bias")
        self.mean = tf.Variable(tf.zeros([FEATURES]), trainable=False, name="mean")


@dataclasses.dataclass(frozen=True)
class Noisy(trainer.Experiment):
    """Fits a plane with dropout on its inputs and a moving mean of them."""

    examples: int = 22
    batch_size: int = 4
    data: str = "arrays"
    """`arrays`, `stream` (whose state is saved) or `replay` (a stream that is counted through)."""
    noise: float = 0.5
    """The standard deviation of the targets, so that the data can be changed."""
    shuffle: bool = True
    """Whether arrays are shuffled, which takes the longest of all to trace."""
    dropout: float = 0.25
    moments: bool = True
    weighted: bool = False
    last: str = "wrap"
    learning_rate: float = trainer.field(0.05, on_resume="warn")

    def model(self, seed: Any) -> Plane:
        return Plane(seed)

    def optimizer(self) -> Any:
        return trainer.optim.Adam(trainer.optim.schedules.cosine(self.learning_rate, steps=60))

    def arrays(self, seed: int = 3, examples: int | None = None) -> dict[str, np.ndarray]:
        generator, count = np.random.default_rng(seed), examples or self.examples
        x = generator.uniform(-1, 1, [count, FEATURES])
        y = x @ np.arange(1, FEATURES + 1) - 1 + generator.normal(0, self.noise, count)
        weight = generator.uniform(0.5, 2, count)
        return {name: value.astype(np.float32) for name, value in (("x", x), ("y", y), ("weight", weight))}

    def train_data(self) -> trainer.data.Source:
        if self.data == "arrays":
            return trainer.data.arrays(self.arrays(), batch_size=self.batch_size, shuffle=self.shuffle, last=self.last)
        arrays = self.arrays()

        def make() -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices(arrays).shuffle(8, seed=5)

        resume = "replay" if self.data == "replay" else "iterator"
        return trainer.data.stream(make, batch_size=self.batch_size, resume=resume)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        held_out = trainer.data.arrays(self.arrays(seed=4, examples=9), batch_size=4)
        return {"other": held_out, "validation": held_out}

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        x = batch["x"]
        if training and self.moments:
            model.mean.assign(0.9 * model.mean + 0.1 * tf.reduce_mean(x, axis=0))
        x = x - (tf.reduce_mean(x, axis=0) if training else model.mean) if self.moments else x
        if training and self.dropout:
            kept = tf.random.stateless_uniform(tf.shape(x), seed, alg="philox") >= self.dropout
            x = tf.where(kept, x / (1 - self.dropout), 0.0)
        error = tf.linalg.matvec(x, model.kernel) + model.bias - batch["y"]
        return trainer.Loss(
            per_example=tf.square(error),
            metrics={"absolute": tf.abs(error), "pair": tf.stack([error, error], axis=1)},
            weights=batch["weight"] if self.weighted else None,
        )

    def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
        return {"root": float(np.sqrt(means["loss"]))}


@dataclasses.dataclass(frozen=True)
class OwnStep(Noisy):
    """The same with a train step of its own."""

    def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
        with tf.GradientTape() as tape:
            loss = self.loss(state.model, batch, training=True, seed=seed)
            objective = tf.reduce_mean(loss.per_example)
        variables = state.model.trainable_variables
        state.optimizer.apply(tape.gradient(objective, variables), variables)
        return loss


@dataclasses.dataclass(frozen=True)
class NoSplits(Noisy):
    """Nothing to evaluate on."""

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {}


@dataclasses.dataclass(frozen=True)
class KerasDropout(NoSplits):
    """A dropout whose masks come from a generator that the model carries, and weights that stay as they are."""

    learning_rate: float = 1e-30

    def model(self, seed: Any) -> Any:
        import keras

        inputs = keras.Input([FEATURES])
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        error = model(batch["x"], training=training)[:, 0] - batch["y"]
        return trainer.Loss(per_example=tf.square(error))


@dataclasses.dataclass(frozen=True)
class Steep(NoSplits):
    """A gradient that is not finite on some batches, of a loss that is; and weights that stay as they are."""

    learning_rate: float = 1e-30
    dropout: float = 0.0
    moments: bool = False

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        loss = super().loss(model, batch, training=training, seed=seed)
        if not training:
            return loss
        steep = tf.reduce_mean(batch["x"][:, 0]) > 0
        # The root of 0 is 0, and its slope has no end.
        root = tf.sqrt(tf.where(steep, model.bias - tf.stop_gradient(model.bias), 1.0)) - tf.where(steep, 0.0, 1.0)
        return dataclasses.replace(loss, per_example=loss.per_example + root)
