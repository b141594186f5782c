"""A line through noisy points: the smallest experiment there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

import trainer


class Line(tf.Module):
    """y = slope · x + intercept."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = tf.Variable(0.0, name="slope")
        self.intercept = tf.Variable(0.0, name="intercept")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The line at each of `x`, float32 [batch]."""
        return self.slope * x + self.intercept


@dataclasses.dataclass(frozen=True)
class Regression(trainer.Experiment):
    """Fit y = 2x + 1 + noise by mean squared error."""

    examples: int = 100
    noise: float = 0.1
    batch_size: int = 32
    learning_rate: float = trainer.field(0.1, on_resume="warn")

    suggested_flags: ClassVar[Mapping[str, Any]] = {
        "train_for": "20epochs",
        "log_every": "10steps",
        "save_every": "5epochs",
        "keep_best": 0,
    }

    def model(self, seed: Any) -> Line:
        return Line()

    def optimizer(self) -> trainer.optim.SGD:
        return trainer.optim.SGD(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        # The data is the same for every seed of a run: it is part of the experiment.
        generator = np.random.default_rng(0)
        x = generator.uniform(-1, 1, self.examples).astype(np.float32)
        y = (2 * x + 1 + self.noise * generator.standard_normal(self.examples)).astype(np.float32)
        return trainer.data.arrays({"x": x, "y": y}, batch_size=self.batch_size)

    def loss(self, model: Line, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(per_example=tf.square(model(batch["x"]) - batch["y"]))
