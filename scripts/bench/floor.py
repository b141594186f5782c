"""The floor: the trainer's compiled step in a bare loop, with nothing else.

The same data in the same order, the same loss, gradient and optimizer, and a step that is counted; the loss and the
metric are added up, or a compiler would drop them. No windows, no record, no look at what is finite.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bench.contender import WARM_STEPS, Contender, Run, Setting
from bench.ours import make_source
from bench.workload import Model
from trainer.data import run_seed
from trainer.optim.kernels import without_xla
from trainer.run import executor, machine

_SEED = 17
CHUNK, STEP = "chunk", "step"


class Floor(Contender):
    """A `while` loop in one function.

    Args:
      setting: what and how.
      source: `arrays` or `tf.data`.
      jit: what is compiled: the `chunk` of all steps, each `step`, or `none`.
    """

    def __init__(self, setting: Setting, *, source: str = "arrays", jit: str = CHUNK) -> None:
        self.details = {}
        # With the sums in the same order, which is a part of the step.
        machine.configure(threads=0, deterministic="auto")
        what, self._ready = setting.workload, setting.ready
        self._what, self._model, self._optimizer = what, Model(what), what.optimizer()
        self._variables = list(self._model.trainable_variables)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._optimizer.build(self._variables, self._step)
        data = make_source(what.name, source, shuffle=setting.shuffle)
        seed = run_seed(_SEED)
        self._update: Callable[..., Any] = self._plain_update
        self._compiled = jit != "none"
        if jit == STEP:
            self._update = tf.function(self._plain_update, autograph=False, jit_compile=True)
        if source == "arrays":
            self._next: Callable[[tf.Tensor], Any] = lambda step: data.train_batch(seed, step * what.batch_size)
        else:
            iterator = iter(data.full_batches(np.asarray(seed)))
            self._next = lambda step: data.full_batch(iterator.get_next())
        self._loop = tf.function(self._while, autograph=False, jit_compile=jit == CHUNK)
        self._executor = self._chosen_executor(jit)

    def warm_up(self) -> None:
        self._train(WARM_STEPS)

    def run(self, steps: int) -> Run:
        self._ready()
        started = time.perf_counter()
        loss = self._train(steps)
        return Run(steps, time.perf_counter() - started, loss, None)

    def _train(self, steps: int) -> float:
        until = tf.constant(int(self._step.numpy()) + steps, tf.int64)
        with tf.experimental.function_executor_type(self._executor):
            return float(self._loop(until).numpy()[0]) / steps

    def _chosen_executor(self, jit: str) -> str:
        """What the trainer would choose."""
        batch = [array[: self._what.batch_size] for array in self._what.arrays().values()]
        specs = [tf.TensorSpec(array.shape, array.dtype) for array in batch]
        step = tf.function(self._plain_update, autograph=False).get_concrete_function(*specs)
        return executor.choose(step, jit, sum(variable.shape.num_elements() for variable in self._variables))

    def _while(self, until: tf.Tensor) -> tf.Tensor:
        def body(step: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = self._next(step)
            told = self._update(batch.values["x"], batch.values["y"])
            self._step.assign(step + 1)
            return step + 1, sums + told

        start = (self._step.read_value(), tf.zeros([2]))
        # One iteration at a time: an update must see the one before it.
        return tf.while_loop(lambda step, sums: step < until, body, start, parallel_iterations=1)[1]

    def _plain_update(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses, metrics = self._what.measure(self._model(x), y)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self._variables)
        with contextlib.nullcontext() if self._compiled else without_xla():
            self._optimizer.apply(gradients, self._variables)
        return tf.stack([loss, tf.reduce_mean(metrics)])
