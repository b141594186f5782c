"""The experiment of the golden run directories: small, and with everything that a run directory can show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import trainer


class Line(tf.Module):
    """y = slope · x + intercept."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = tf.Variable(0.0)
        self.intercept = tf.Variable(0.0)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.slope * x + self.intercept


@dataclasses.dataclass(frozen=True)
class LineExperiment(trainer.Experiment):
    """Fit y = 2x + 1."""

    learning_rate: float = trainer.field(0.01, on_resume="warn")

    def model(self, seed: Any) -> Line:
        return Line()

    def optimizer(self) -> trainer.optim.Adam:
        return trainer.optim.Adam(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        return _points(np.linspace(-1, 1, 41), batch_size=8)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {"validation": _points(np.linspace(-0.9, 0.9, 10), batch_size=10)}

    def loss(self, model: Line, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        error = model(batch["x"]) - batch["y"]
        return trainer.Loss(per_example=error**2, metrics={"absolute_error": tf.abs(error)})


def _points(x: np.ndarray, *, batch_size: int) -> trainer.data.Source:
    points = {"x": x.astype(np.float32), "y": (2 * x + 1).astype(np.float32)}
    return trainer.data.arrays(points, batch_size=batch_size)
