"""What one update by Adam takes, over few and over many variables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bench.parts import SHAPES
from trainer.optim.kernels import without_xla

_UPDATES = 100
"""Updates in one call, as in a chunk of steps: to call with thousands of variables takes as long as dozens of them."""


def measure(*, whose: str, shape: str, seconds: float, ready: Callable[[], None]) -> dict[str, Any]:
    """Milliseconds an update, as `ms_per_apply`.

    Args:
      whose: "ours" or "Keras", and with " compiled" the same under XLA.
      shape: a key of `SHAPES`.
      seconds: how long to go on.
      ready: is called just before the clock starts.
    """
    count, numbers = SHAPES[shape]
    owner, _, compiled = whose.partition(" ")
    random = np.random.default_rng(1)
    variables = [tf.Variable(tf.zeros([numbers])) for _ in range(count)]
    gradients = [tf.constant(random.normal(size=[numbers]).astype(np.float32)) for _ in range(count)]
    optimizer = _optimizer(owner)
    optimizer.build(variables)

    def update(number: tf.Tensor) -> tf.Tensor:
        with contextlib.nullcontext() if compiled else without_xla():
            optimizer.apply(gradients, variables)
        return number + 1

    @tf.function(jit_compile=bool(compiled) or None, autograph=False)
    def updates() -> None:
        tf.while_loop(lambda number: number < _UPDATES, update, [tf.constant(0)], parallel_iterations=1)

    for _ in range(2):
        updates()
    ready()
    done = 0
    started = time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds:
        updates()
        done += _UPDATES
    return {"ms_per_apply": taken / done * 1000, "updates": done, "seconds": taken}


def _optimizer(owner: str) -> Any:
    if owner == "Keras":
        import keras

        return keras.optimizers.Adam(1e-3)
    import trainer

    return trainer.optim.Adam(1e-3)
