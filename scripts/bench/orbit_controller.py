"""Orbit's `Controller` over a `StandardTrainer`."""

from __future__ import annotations

import time

import orbit
import tensorflow as tf

from bench.by_hand import Step
from bench.contender import WARM_STEPS, Contender, Run, Setting
from bench.pipeline import batches


class Trained(orbit.StandardTrainer):
    """The workload's step by hand, with the sums of the loss and the metric in variables.

    Args:
      setting: what and how.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(batches(setting.workload, shuffle=setting.shuffle))
        self._step = Step(setting.workload)
        self._metric = setting.workload.metric
        self._sums = {name: tf.Variable(0.0) for name in ("loss", self._metric)}
        self._count = tf.Variable(0.0)
        self.global_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.losses: list[float] = []

    def train_loop_begin(self) -> None:
        for variable in (*self._sums.values(), self._count):
            variable.assign(0.0)

    def train_step(self, iterator: tf.data.Iterator) -> None:
        loss, metric = self._step(*next(iterator))
        self._sums["loss"].assign_add(loss)
        self._sums[self._metric].assign_add(metric)
        self._count.assign_add(1.0)
        self.global_step.assign_add(1)

    def train_loop_end(self) -> dict[str, float]:
        means = {name: float(variable / self._count) for name, variable in self._sums.items()}
        self.losses.append(means["loss"])
        return means


class OrbitController(Contender):
    """`controller.train`, in loops as long as a window of the log; of each it prints a line itself.

    Args:
      setting: what and how.
    """

    def __init__(self, setting: Setting) -> None:
        self.details = {}
        self._trained = Trained(setting)
        self._controller = orbit.Controller(
            trainer=self._trained, global_step=self._trained.global_step, steps_per_loop=setting.every
        )
        self._ready = setting.ready
        self._done = 0

    def warm_up(self) -> None:
        self._train(WARM_STEPS)

    def run(self, steps: int) -> Run:
        first = len(self._trained.losses)
        self._ready()
        started = time.perf_counter()
        self._train(steps)
        seconds = time.perf_counter() - started
        losses = self._trained.losses[first:]
        return Run(steps, seconds, sum(losses) / len(losses), losses[-1])

    def _train(self, steps: int) -> None:
        self._done += steps
        self._controller.train(self._done)
