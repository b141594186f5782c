"""Evaluation: exact weighted means over a whole split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import Batch, Source, fold_in, run_seed
from trainer.data.sources import HostSource
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment
from trainer.run.feed import EvaluationFeed, told_of
from trainer.run.jit import CHUNK, refusing, slow_operation
from trainer.run.measure import Layout, measure
from trainer.run.pace import Pace
from trainer.run.state import EVALUATION_STREAM
from trainer.run.timing import Times
from trainer.run.tracing import converted, trace_on_batch, uses_seeds


class Evaluator:
    """Evaluates a model on one split, in file order, every example once.

    Args:
      experiment: whose loss.
      model: the model.
      source: the split; it comes to an end.
      split: its name.
      seed: the run's seed; each batch has the same stream of randomness in every evaluation.
      jit: whether XLA compiles it.

    Attributes:
      weight: what the examples of the last evaluation weigh in all.
    """

    def __init__(self, experiment: Experiment, model: Any, source: Source, *, split: str, seed: int, jit: bool) -> None:
        if source.examples is None and not isinstance(source, HostSource):
            raise ConfigError(f"the split {split!r} has no known length; an evaluation covers a whole split")
        self._experiment = experiment
        self._model = model
        self._source = source
        # Once what is the same for all batches: each part that is folded in is some dozens of operations.
        self._stream = fold_in(run_seed(seed), EVALUATION_STREAM)
        self._split = split
        self._feed = EvaluationFeed(source)
        self._layout: Layout | None = None
        self._measure: Any = None
        # XLA compiles no reading from an iterator.
        self._jit = jit and not self._feed.signature
        self._compiled = not self._jit
        self._chunk: Any = None
        self.weight = 0.0

    def build(self) -> Layout:
        """Traces one batch, so that the metrics are known and wrong ones are refused before any time is spent."""
        self._measure = trace_on_batch(self._feed.specs, self._measure_batch)
        assert self._layout is not None
        scalar = tf.TensorSpec([], tf.int64)
        chunk = tf.function(self._run_chunk, autograph=False, jit_compile=self._jit or None)
        self._chunk = chunk.get_concrete_function(
            scalar,
            scalar,
            tf.TensorSpec([], tf.float64),
            tf.TensorSpec([self._layout.width], tf.float64),
            *self._feed.signature,
        )
        return self._layout

    def slow_operation(self) -> str | None:
        """An operation for which XLA is slow of what it compiles here; None for none."""
        return slow_operation(self._chunk) if self._jit else None

    def compile(self, times: Times) -> None:
        """Has XLA compile ahead what it is to compile; evaluates nothing, and is done once.

        Args:
          times: where it is noted how long that takes.

        Raises:
          DoesNotCompile: it cannot.
        """
        if self._compiled:
            return
        assert self._layout is not None
        # No batch: there is nothing to do from the first to the first.
        first, tick = tf.zeros([], tf.int64), tf.zeros([], tf.float64)
        with times.starting("compile"), refusing(CHUNK, ahead=True):
            self._chunk(first, first, tick, tf.zeros([self._layout.width], tf.float64))
        self._compiled = True

    def run(self, pace: Pace, interrupted: Callable[[], bool]) -> tuple[Mapping[str, Any], Mapping[str, int]] | None:
        """Evaluates the whole split.

        Args:
          pace: how many batches a call takes.
          interrupted: asked between calls; an evaluation that is cut short counts for nothing.

        Returns:
          The means, and in how many batches a metric was not finite; None when it was interrupted.
        """
        assert self._layout is not None
        totals: Any = tf.zeros([self._layout.width], tf.float64)
        arguments = self._feed.open()
        index, over = 0, False
        while not over:
            if interrupted():
                return None
            started = time.monotonic()
            until = tf.constant(index + pace.steps, tf.int64)
            tick = tf.constant(pace.tick, tf.float64)
            with told_of(f"the split {self._split!r}"):
                done, totals, last = self._chunk(tf.constant(index, tf.int64), until, tick, totals, *arguments)
                vector: np.ndarray = totals.numpy()
            pace.learn(int(done) - index, time.monotonic() - started)
            index, over = int(done), bool(last)
        self.weight = float(vector[0])
        return self._layout.means(vector), self._layout.nonfinite(vector)

    def _run_chunk(
        self, start: tf.Tensor, until: tf.Tensor, tick: tf.Tensor, totals: tf.Tensor, *arguments: Any
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The program: evaluates to batch number `until`, or to the last one, and says whether it was that.

        Where batches have to be waited for, it stops early after `tick` seconds.
        """
        began = tf.timestamp() if arguments else None
        draws = uses_seeds(self._measure)

        def unfinished(index: tf.Tensor, totals: tf.Tensor, over: tf.Tensor) -> tf.Tensor:
            goes_on = (index < until) & ~over
            if not arguments:
                return goes_on
            return goes_on & (tf.equal(index, start) | (tf.timestamp() - began < tick))

        def one_batch(index: tf.Tensor, totals: tf.Tensor, over: tf.Tensor) -> tuple[tf.Tensor, ...]:
            batch, over = self._feed.next(arguments, index)
            seed = fold_in(self._stream, index) if draws else tf.zeros([2], tf.int32)
            return index + 1, totals + self._measure(batch.values, batch.weights, seed), over

        done: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = tf.while_loop(
            unfinished,
            one_batch,
            (start, totals, tf.zeros([], tf.bool)),
            parallel_iterations=1,
        )
        return done

    def _measure_batch(self, values: dict[str, tf.Tensor], weights: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        loss = converted(self._experiment.loss)(self._model, values, training=False, seed=seed)
        measured = measure(loss, Batch(values, weights, examples=None), self._source.batch_size)
        self._layout = measured.layout
        return measured.totals
