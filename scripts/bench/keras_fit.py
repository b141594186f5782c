"""Keras `fit`, as its users call it."""

from __future__ import annotations

import time
from typing import Any

import keras

from bench.contender import WARM_STEPS, Contender, Run, Setting
from bench.pipeline import batches


class Lines(keras.callbacks.Callback):
    """Writes a line every so many steps, and notes when the first steps and the last ones were done.

    Args:
      setting: how often, and where to.
      untimed: the steps before the clock starts.
    """

    def __init__(self, setting: Setting, untimed: int) -> None:
        super().__init__()
        self._setting = setting
        self._untimed = untimed
        self.began = 0.0
        self.ended = 0.0
        self.loss = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = batch + 1
        if step % self._setting.every == 0:
            # Since the epoch began, as Keras tells it.
            self.loss = float(logs["loss"])
            self._setting.line(step, self.loss, float(logs[self._setting.workload.metric]))
        self.ended = time.perf_counter()
        if step == self._untimed:
            self._setting.ready()
            self.began = time.perf_counter()


class KerasFit(Contender):
    """`model.fit` on a pipeline, in one epoch.

    Args:
      setting: what and how.
      steps_per_execution: as `compile` takes it.
      jit: as `compile` takes it: "auto", or whether XLA compiles the step.
    """

    def __init__(self, setting: Setting, *, steps_per_execution: int = 1, jit: str | bool = "auto") -> None:
        self.details = {}
        self._setting = setting
        self._at_once = min(steps_per_execution, setting.every)
        what = setting.workload
        self._model = what.keras_model()
        self._model.set_weights(what.weights())
        loss, metric = what.keras_loss()
        self._model.compile(
            optimizer=what.keras_optimizer(),
            loss=loss,
            metrics=[metric],
            steps_per_execution=self._at_once,
            jit_compile=jit,
        )
        self._dataset = batches(what, shuffle=setting.shuffle)
        self._warm = 0

    def warm_up(self) -> None:
        # What `fit` does before its first steps is no part of the time of its steps: some of each call are untimed.
        self._warm = max(WARM_STEPS, self._at_once)

    def run(self, steps: int) -> Run:
        lines = Lines(self._setting, self._warm)
        self._model.fit(self._dataset, steps_per_epoch=self._warm + steps, callbacks=[lines], verbose=0)
        return Run(steps, lines.ended - lines.began, lines.loss, lines.loss)
