"""A small transformer that predicts the next byte of a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bench.workload import Arrays, Workload

_EPSILON = 1e-3
"""Of the layer normalisation, as Keras has it."""
_WORDS = (
    "the a step loss batch window record save run log weight rate model data epoch chunk slowly falls rises keeps "
    "writes reads of and in before after until two three every last first again"
)


@dataclasses.dataclass(frozen=True)
class Transformer(Workload):
    """Blocks of causal attention and a dense layer, each behind a normalisation and beside a residual connection."""

    name: str = "bytes"
    batch_size: int = 16
    layers: int = 2
    width: int = 64
    heads: int = 4
    context: int = 64
    values: int = 256

    def arrays(self) -> Arrays:
        text = np.frombuffer(_text(40_000).encode(), np.uint8).astype(np.int32)
        starts = np.arange(0, len(text) - self.context - 1, self.context)
        windows = np.stack([text[start : start + self.context + 1] for start in starts])
        return {"x": windows[:, :-1], "y": windows[:, 1:]}

    def weights(self) -> list[np.ndarray]:
        random = np.random.default_rng(2)
        width, heads, part = self.width, self.heads, self.width // self.heads

        def normal(*shape: int) -> np.ndarray:
            return random.normal(scale=0.05, size=shape).astype(np.float32)

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.float32)

        norm = [np.ones([width], np.float32), zeros(width)]
        made = [normal(self.values, width), normal(self.context, width)]
        for _ in range(self.layers):
            made += norm
            for _ in range(3):
                made += [normal(width, heads, part), zeros(heads, part)]
            made += [normal(heads, part, width), zeros(width), *norm]
            made += [normal(width, 4 * width), zeros(4 * width), normal(4 * width, width), zeros(width)]
        return [*made, *norm, normal(width, self.values), zeros(self.values)]

    def forward(self, weights: Sequence[tf.Variable], x: tf.Tensor) -> tf.Tensor:
        left = iter(weights)
        values = tf.gather(next(left), x) + next(left)
        # What comes later weighs nothing.
        hidden = (1.0 - tf.linalg.band_part(tf.ones([self.context, self.context]), -1, 0)) * -1e9
        for _ in range(self.layers):
            values += _attention(_normalized(values, left), left, hidden)
            inner = tf.nn.relu(_normalized(values, left) @ next(left) + next(left))
            values += inner @ next(left) + next(left)
        return _normalized(values, left) @ next(left) + next(left)

    def keras_model(self) -> Any:
        import keras

        layers = keras.layers

        class Positions(keras.layers.Layer):
            """Adds a vector of its own to each position."""

            def build(self, shape: tuple[int, ...]) -> None:
                self.vectors = self.add_weight(shape=shape[1:], initializer="zeros")

            def call(self, inputs: Any) -> Any:
                return inputs + self.vectors

        given = keras.Input([self.context], dtype="int32")
        values = Positions()(layers.Embedding(self.values, self.width)(given))
        for _ in range(self.layers):
            normalized = layers.LayerNormalization(epsilon=_EPSILON)(values)
            attention = layers.MultiHeadAttention(self.heads, self.width // self.heads)
            values += attention(normalized, normalized, use_causal_mask=True)
            inner = layers.Dense(4 * self.width, activation="relu")(layers.LayerNormalization(epsilon=_EPSILON)(values))
            values += layers.Dense(self.width)(inner)
        return keras.Model(given, layers.Dense(self.values)(layers.LayerNormalization(epsilon=_EPSILON)(values)))


def _normalized(values: tf.Tensor, left: Any) -> tf.Tensor:
    mean, variance = tf.nn.moments(values, axes=[-1], keepdims=True)
    scale, offset = next(left), next(left)
    return (values - mean) * tf.math.rsqrt(variance + _EPSILON) * scale + offset


def _attention(values: tf.Tensor, left: Any, hidden: tf.Tensor) -> tf.Tensor:
    query, key, value = (tf.einsum("btw,whp->bthp", values, next(left)) + next(left) for _ in range(3))
    scores = tf.einsum("bqhp,bkhp->bhqk", query * query.shape[-1] ** -0.5, key) + hidden
    mixed = tf.einsum("bhqk,bkhp->bqhp", tf.nn.softmax(scores), value)
    return tf.einsum("bthp,hpw->btw", mixed, next(left)) + next(left)


def _text(length: int) -> str:
    """Sentences of words that chance puts one after another, the same ones each time."""
    words = _WORDS.split()
    random = np.random.default_rng(3)
    text = ""
    while len(text) < length:
        count = int(random.integers(4, 12))
        text += " ".join(words[number] for number in random.integers(0, len(words), count)) + ". "
    return text[:length]
