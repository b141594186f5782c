"""What the storm trains beside the digits: a Keras guest, two networks against each other, a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

import trainer
from experiments.digits import TRAIN_EXAMPLES, Digits, load
from trainer.data.streams import stream

LATENT = 8


@dataclasses.dataclass(frozen=True)
class Guest(Digits):
    """The digits with a model and an optimizer of Keras, whose layers draw and count for themselves."""

    hidden: int = 16

    def model(self, seed: Any) -> keras.Model:
        return keras.Sequential(
            [
                keras.layers.Input([64]),
                keras.layers.Dense(self.hidden, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(self.dropout),
                keras.layers.Dense(10),
            ]
        )

    def optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.learning_rate)

    def loss(self, model: keras.Model, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        logits = model(batch["image"], training=training)
        correct = tf.argmax(logits, axis=-1, output_type=tf.int32) == batch["label"]
        return trainer.Loss(
            per_example=tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits),
            metrics={"accuracy": correct},
        )


class Adversaries(tf.Module):
    """A generator of images, and a discriminator of Keras that tells them from real ones."""

    def __init__(self, seed: Any) -> None:
        super().__init__()
        weights = 0.1 * tf.random.stateless_normal([LATENT, 64], seed, alg="philox")
        self.weights = tf.Variable(weights, name="weights")
        self.bias = tf.Variable(tf.zeros([64]), name="bias")
        self.discriminator = keras.Sequential(
            [
                keras.layers.Input([64]),
                keras.layers.Dense(16, activation="relu"),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(1),
            ]
        )

    def generate(self, latent: tf.Tensor) -> tf.Tensor:
        """Images, [batch, 64], from numbers [batch, LATENT]."""
        return tf.sigmoid(latent @ self.weights + self.bias)

    def scores(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """How real the images look, [batch]: logits."""
        return self.discriminator(images, training=training)[:, 0]


@dataclasses.dataclass(frozen=True)
class Gan(Digits):
    """Two networks with an optimizer each, one ours and one Keras', in a step of their own."""

    suggested_flags: ClassVar[Mapping[str, Any]] = {"monitor": "validation/loss"}

    def model(self, seed: Any) -> Adversaries:
        return Adversaries(seed)

    def optimizer(self) -> Mapping[str, Any]:
        return {
            "generator": trainer.optim.Adam(self.learning_rate),
            "discriminator": keras.optimizers.Adam(self.learning_rate),
        }

    def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
        model, real = state.model, batch["image"]
        latent = tf.random.stateless_normal([real.shape[0], LATENT], seed, alg="philox")
        with tf.GradientTape(persistent=True) as tape:
            generated = model.generate(latent)
            told = _misjudged(model.scores(real, training=True), real=True)
            told += _misjudged(model.scores(generated, training=True), real=False)
            deceived = _misjudged(model.scores(generated, training=True), real=True)
            objectives = {"discriminator": tf.reduce_mean(told), "generator": tf.reduce_mean(deceived)}
        owners = {"discriminator": model.discriminator, "generator": model}
        for name, objective in objectives.items():
            own = owners[name].trainable_variables
            variables = [variable if isinstance(variable, tf.Variable) else variable.value for variable in own]
            state.optimizer[name].apply(tape.gradient(objective, variables), own)
        return trainer.Loss(per_example=told, metrics={"deceived": deceived})

    def loss(self, model: Adversaries, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(per_example=_misjudged(model.scores(batch["image"], training=training), real=True))


@dataclasses.dataclass(frozen=True)
class Stream(Digits):
    """The digits from a pipeline that shuffles and brings noise, its state saved."""

    hidden: int = 16
    batch_size: int = 32

    def train_data(self) -> trainer.data.Source:
        images, labels = load()

        def make() -> tf.data.Dataset:
            arrays = {"image": images[:TRAIN_EXAMPLES], "label": labels[:TRAIN_EXAMPLES]}
            return tf.data.Dataset.from_tensor_slices(arrays).shuffle(200)

        def noisy(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Mapping[str, tf.Tensor]:
            noise = tf.random.stateless_normal([64], seed, alg="philox")
            return {**example, "image": example["image"] + 0.1 * noise}

        return stream(make, batch_size=self.batch_size, examples=TRAIN_EXAMPLES).map(noisy)


def _misjudged(scores: tf.Tensor, *, real: bool) -> tf.Tensor:
    """The loss of each score, [batch]."""
    return tf.nn.softplus(-scores if real else scores)
