"""Evaluation: exact weighted means over a whole split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import Batch, Source, fold_in, run_seed
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment
from trainer.run.measure import Layout, measure
from trainer.run.pace import Pace
from trainer.run.state import EVALUATION_STREAM
from trainer.run.tracing import trace_on_batch


class Evaluator:
    """Evaluates a model on one split, in file order, every example once.

    Args:
      experiment: whose loss.
      model: the model.
      source: the split; its length is known.
      split: its name.
      seed: the run's seed; each batch has the same stream of randomness in every evaluation.
      jit: whether XLA compiles it.
    """

    def __init__(self, experiment: Experiment, model: Any, source: Source, *, split: str, seed: int, jit: bool) -> None:
        if source.examples is None:
            raise ConfigError(f"the split {split!r} has no known length; an evaluation covers a whole split")
        self._experiment = experiment
        self._model = model
        self._source = source
        self._seed = seed
        self._examples = source.examples
        self._layout: Layout | None = None
        self._measure: Any = None
        self._chunk = tf.function(self._run_chunk, autograph=False, jit_compile=jit or None)
        self._width = 0

    def build(self) -> Layout:
        """Traces one batch, so that the metrics are known and wrong ones are refused before any time is spent."""
        self._measure = trace_on_batch(self._source.eval_batch, self._measure_batch)
        assert self._layout is not None
        self._width = self._layout.width
        return self._layout

    def run(self, pace: Pace, interrupted: Callable[[], bool]) -> tuple[Mapping[str, Any], Mapping[str, int]] | None:
        """Evaluates the whole split.

        Args:
          pace: how many batches a call takes.
          interrupted: asked between calls; an evaluation that is cut short counts for nothing.

        Returns:
          The means, and in how many batches a metric was not finite; None when it was interrupted.
        """
        assert self._layout is not None
        totals: Any = tf.zeros([self._width], tf.float64)
        batches = -(-self._examples // self._source.batch_size)
        done = 0
        while done < batches:
            if interrupted():
                return None
            until = min(batches, done + pace.steps)
            started = time.monotonic()
            totals = self._chunk(tf.constant(done, tf.int64), tf.constant(until, tf.int64), totals)
            vector: np.ndarray = totals.numpy()
            pace.learn(until - done, time.monotonic() - started)
            done = until
        return self._layout.means(vector), self._layout.nonfinite(vector)

    def _run_chunk(self, start: tf.Tensor, until: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
        def one_batch(index: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = self._source.eval_batch(index * self._source.batch_size)
            seed = fold_in(run_seed(self._seed), EVALUATION_STREAM, index)
            return index + 1, totals + self._measure(batch.values, batch.weights, seed)

        _, totals = tf.while_loop(lambda index, _: index < until, one_batch, (start, totals), parallel_iterations=1)
        return totals

    def _measure_batch(self, values: dict[str, tf.Tensor], weights: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        loss = self._experiment.loss(self._model, values, training=False, seed=seed)
        measured = measure(loss, Batch(values, weights, examples=None), self._source.batch_size)
        self._layout = measured.layout
        return measured.totals
