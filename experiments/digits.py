"""Handwritten digits: 1,797 real images of 8×8 pixels, 1,500 to train on and 297 to validate."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

import trainer

TRAIN_EXAMPLES = 1500
DATA = pathlib.Path(__file__).parent / "data" / "digits.npz"


class Perceptron(tf.Module):
    """Two dense layers with dropout on the hidden one.

    Args:
      hidden: units of the hidden layer.
      dropout: the share of hidden units that a train step leaves out.
      seed: initialises the weights; without one they are only there to be restored.
    """

    def __init__(self, hidden: int = 128, dropout: float = 0.2, seed: Any = (0, 0)) -> None:
        super().__init__()
        self._dropout = dropout
        self.hidden_weights = tf.Variable(_glorot([64, hidden], trainer.fold_in(np.array(seed, np.int32), 1)))
        self.hidden_bias = tf.Variable(tf.zeros([hidden]))
        self.output_weights = tf.Variable(_glorot([hidden, 10], trainer.fold_in(np.array(seed, np.int32), 2)))
        self.output_bias = tf.Variable(tf.zeros([10]))

    def __call__(self, images: tf.Tensor, *, training: bool, seed: Any) -> tf.Tensor:
        """The logits, float32 [batch, 10], of images float32 [batch, 64]."""
        hidden = tf.nn.relu(images @ self.hidden_weights + self.hidden_bias)
        if training and self._dropout:
            kept = trainer.random_bits(seed, hidden.shape) >= int(self._dropout * 2**32)
            hidden = tf.where(kept, hidden / (1 - self._dropout), 0.0)
        return hidden @ self.output_weights + self.output_bias


@dataclasses.dataclass(frozen=True)
class Digits(trainer.Experiment):
    """Classify 8×8 handwritten digits with a two-layer perceptron."""

    hidden: int = 128
    dropout: float = 0.2
    batch_size: int = 64
    learning_rate: float = trainer.field(1e-3, on_resume="warn")

    suggested_flags: ClassVar[Mapping[str, Any]] = {"train_for": "60epochs", "monitor": "validation/accuracy"}

    def model(self, seed: Any) -> Perceptron:
        return Perceptron(self.hidden, self.dropout, seed)

    def optimizer(self) -> trainer.optim.Adam:
        return trainer.optim.Adam(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        images, labels = load()
        return trainer.data.arrays(
            {"image": images[:TRAIN_EXAMPLES], "label": labels[:TRAIN_EXAMPLES]}, batch_size=self.batch_size
        )

    def eval_data(self) -> dict[str, trainer.data.Source]:
        images, labels = load()
        rest = {"image": images[TRAIN_EXAMPLES:], "label": labels[TRAIN_EXAMPLES:]}
        return {"validation": trainer.data.arrays(rest, batch_size=99)}

    def loss(self, model: Perceptron, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        logits = model(batch["image"], training=training, seed=seed)
        correct = tf.argmax(logits, axis=-1, output_type=tf.int32) == batch["label"]
        return trainer.Loss(
            per_example=tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits),
            metrics={"accuracy": correct},
        )

    def predict(self, model: Perceptron, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        logits = model(batch["image"], training=False, seed=None)
        return {"class": tf.argmax(logits, axis=-1, output_type=tf.int32), "probabilities": tf.nn.softmax(logits)}


@functools.cache
def load() -> tuple[np.ndarray, np.ndarray]:
    """The images, float32 [1797, 64] in [0, 1], and their classes, int32 [1797], in a fixed random order.

    The file has its writers one after another; split in its order, the validation digits would be those of writers
    that training never saw.
    """
    with np.load(DATA) as file:
        images = file["images"].reshape(-1, 64).astype(np.float32) / 16
        labels = file["labels"].astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


def _glorot(shape: list[int], seed: Any) -> tf.Tensor:
    """Glorot-uniform initial weights (X. Glorot and Y. Bengio, 2010)."""
    limit = np.sqrt(6 / sum(shape))
    return tf.random.stateless_uniform(shape, seed, -limit, limit, alg="philox")
