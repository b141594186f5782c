"""A good hand-written loop: one function that trains n steps on an iterator."""

from __future__ import annotations

import time

import tensorflow as tf

from bench.by_hand import Step
from bench.contender import WARM_STEPS, Contender, Run, Setting
from bench.pipeline import batches


class RunN(Contender):
    """`run(n)` with `for _ in tf.range(n)`, called once a line of the log.

    Args:
      setting: what and how.
      jit: whether XLA compiles the step.
    """

    def __init__(self, setting: Setting, *, jit: bool = False) -> None:
        self.details = {}
        self._setting = setting
        self._iterator = iter(batches(setting.workload, shuffle=setting.shuffle))
        self._done = 0
        step = Step(setting.workload)
        train_step = tf.function(step, jit_compile=True) if jit else step

        @tf.function
        def run(iterator: tf.data.Iterator, n: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            loss_sum, metric_sum = tf.zeros([]), tf.zeros([])
            for _ in tf.range(n):
                x, y = next(iterator)
                loss, metric = train_step(x, y)
                loss_sum += loss
                metric_sum += metric
            count = tf.cast(n, tf.float32)
            return loss_sum / count, metric_sum / count

        self._run_n = run

    def warm_up(self) -> None:
        self._run_n(self._iterator, tf.constant(WARM_STEPS))

    def run(self, steps: int) -> Run:
        every = tf.constant(self._setting.every)
        losses = []
        self._setting.ready()
        started = time.perf_counter()
        for _ in range(steps // self._setting.every):
            loss, metric = self._run_n(self._iterator, every)
            self._done += self._setting.every
            losses.append(float(loss))
            self._setting.line(self._done, losses[-1], float(metric))
        return Run(steps, time.perf_counter() - started, sum(losses) / len(losses), losses[-1])
