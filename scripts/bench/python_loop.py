"""A loop in Python over a compiled train step."""

from __future__ import annotations

import itertools
import time

import tensorflow as tf

from bench.by_hand import Step
from bench.contender import WARM_STEPS, Contender, Run, Setting
from bench.pipeline import batches


class PythonLoop(Contender):
    """`for batch in dataset: train_step(batch)`, with the sums of the loss and the metric in variables.

    Args:
      setting: what and how.
    """

    def __init__(self, setting: Setting) -> None:
        self.details = {}
        self._setting = setting
        self._iterator = iter(batches(setting.workload, shuffle=setting.shuffle))
        self._done = 0
        self._loss_sum, self._metric_sum = tf.Variable(0.0), tf.Variable(0.0)
        step = Step(setting.workload)

        @tf.function
        def train_step(x: tf.Tensor, y: tf.Tensor) -> None:
            loss, metric = step(x, y)
            self._loss_sum.assign_add(loss)
            self._metric_sum.assign_add(metric)

        self._train_step = train_step

    def warm_up(self) -> None:
        for x, y in itertools.islice(self._iterator, WARM_STEPS):
            self._train_step(x, y)
        self._reset()

    def run(self, steps: int) -> Run:
        every = self._setting.every
        losses = []
        self._setting.ready()
        started = time.perf_counter()
        for x, y in itertools.islice(self._iterator, steps):
            self._train_step(x, y)
            self._done += 1
            if self._done % every == 0:
                losses.append(float(self._loss_sum) / every)
                self._setting.line(self._done, losses[-1], float(self._metric_sum) / every)
                self._reset()
        return Run(steps, time.perf_counter() - started, sum(losses) / len(losses), losses[-1])

    def _reset(self) -> None:
        self._loss_sum.assign(0.0)
        self._metric_sum.assign(0.0)
