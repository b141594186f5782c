"""A perceptron of any size that reproduces its input: what benchmarks train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

import trainer


class Wide(tf.Module):
    """Two square layers of `width` units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = [
            tf.Variable(tf.random.stateless_normal([width, width], [layer, 1], stddev=width**-0.5, alg="philox"))
            for layer in range(2)
        ]


@dataclasses.dataclass(frozen=True)
class Regress(trainer.Experiment):
    """Has a wide perceptron reproduce its input."""

    width: int

    def inputs(self) -> Any:
        return tf.random.stateless_uniform([512, self.width], [3, 3], -1, 1, alg="philox").numpy()

    def model(self, seed: Any) -> Wide:
        return Wide(self.width)

    def optimizer(self) -> Any:
        return trainer.optim.Adam(1e-4)

    def train_data(self) -> Any:
        return trainer.data.arrays({"x": self.inputs()}, batch_size=64)

    def eval_data(self) -> Mapping[str, Any]:
        return {"validation": trainer.data.arrays({"x": self.inputs()[:64]}, batch_size=64)}

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        values = batch["x"]
        for layer in model.layers:
            values = tf.tanh(values @ layer)
        error = values - batch["x"]
        return trainer.Loss(tf.reduce_mean(error**2, axis=1), {"absolute": tf.reduce_mean(tf.abs(error), axis=1)})
