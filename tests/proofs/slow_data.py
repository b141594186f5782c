"""An experiment whose data is made by Python, slowly: something always reads ahead."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import tensorflow as tf

import trainer
from experiments.regression import Regression


def slowly(x: np.ndarray) -> np.ndarray:
    time.sleep(0.004)
    return x


@dataclasses.dataclass(frozen=True)
class Slow(Regression):
    def train_data(self) -> trainer.data.Source:
        def made(number: Any) -> Any:
            y = tf.cast(number, tf.float32) / 64
            return {"x": tf.ensure_shape(tf.numpy_function(slowly, [y], tf.float32), []), "y": y}

        return trainer.data.stream(lambda: tf.data.Dataset.range(64).map(made), batch_size=8, resume="replay")
