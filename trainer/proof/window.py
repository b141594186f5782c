"""The examples of one window, and the metric on them, measured in other ways than training did."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from trainer.data import Batch, fold_in, run_seed
from trainer.proof.terms import Measured, standard_error
from trainer.run.assembly import Assembly
from trainer.run.chunk import seeds_of_step
from trainer.run.experiment import Experiment, Loss
from trainer.run.feed import GraphFeed, StreamFeed, make_feed, told_of
from trainer.run.gradients import micro_batch
from trainer.run.measure import Layout, measure
from trainer.run.records import metrics_and_counts
from trainer.run.state import EVALUATION_STREAM
from trainer.run.tracing import trace_on_batch

Drawn: TypeAlias = list[tf.Tensor]
"""Where generators stand: the integers that they hold."""

_SQUARE, _WEIGHT = "explain: square", "explain: weight"
"""Metrics that are added to the user's, from which a standard error follows."""


class Gathering:
    """What a metric is, and how to tell its mean and its standard error from totals.

    Args:
      experiment: whose metric.
      metric: its name in the records.
    """

    def __init__(self, experiment: Experiment, metric: str) -> None:
        self._own = experiment
        self._metric = metric
        self.experiment = copy.copy(experiment)
        """The experiment, whose loss has two metrics more."""
        self.experiment.__dict__["loss"] = self._loss

    def measured(self, name: str, means: Any, total: float) -> Measured:
        """The value of the metric for a term, from the means over examples that weigh `total` in all."""
        own = {key: mean for key, mean in means.items() if key not in (_SQUARE, _WEIGHT)}
        value = metrics_and_counts(own, {}, self._own)[0].get(self._metric)
        stderr = None
        if value is not None and _SQUARE in means and self._metric in own:
            stderr = standard_error(own[self._metric], means[_SQUARE], means[_WEIGHT], total)
        return Measured(name, float("nan") if value is None else value, stderr)

    def _loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> Loss:
        loss = self._own.loss(model, batch, training=training, seed=seed)
        value = loss.per_example if self._metric == "loss" else loss.metrics.get(self._metric)
        if value is None or len(value.shape) != 1:
            return loss
        weights = tf.ones_like(loss.per_example) if loss.weights is None else loss.weights
        more = {_SQUARE: tf.square(tf.cast(value, tf.float64)), _WEIGHT: tf.cast(weights, tf.float64)}
        return dataclasses.replace(loss, metrics={**loss.metrics, **more})


class WindowBatches:
    """The batches of the steps a+1 … b again, in their order, as often as they are asked for.

    Args:
      parts: the run, whose state stands at `start`.
      order: int32 [2], the seed of the order of the examples.
      origin: the examples that had been consumed when the data began to be trained on.
      start: the step that the state stands at, with the examples consumed by then: at or before a.
      window: (a, b].
    """

    def __init__(
        self, parts: Assembly, order: np.ndarray, origin: int, *, start: tuple[int, int], window: tuple[int, int]
    ) -> None:
        self._parts = parts
        self._order = order
        self._origin = origin
        self._start = start
        self._window = window
        state = parts.state.data_state
        self._position = None if state is None else state.read_value()
        self._left_out: frozenset[int] = frozenset()

    def without(self, steps: Collection[int]) -> WindowBatches:
        """The same but for the batches of some steps."""
        other = copy.copy(self)
        other._left_out = frozenset(steps)
        return other

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Each step of the window with its batch."""
        feed = make_feed(self._parts.source)
        if feed.state is not None and self._position is not None:
            feed.state.assign(self._position)
        step, examples = self._start
        first, last = self._window
        if not isinstance(feed, StreamFeed):
            # What can begin anywhere begins there.
            stepping = self._parts.schedule.anchored(self._origin).stepping
            step, examples = first, stepping.advance(examples, first - step)
        arguments = feed.open(self._order, self._origin, examples, lambda done, of: True)
        following = feed.next
        if isinstance(feed, GraphFeed):
            following = tf.function(feed.next, autograph=False)
        try:
            with told_of("the training data"):
                while step < last:
                    batch, _ = following(arguments, tf.constant(examples, tf.int64))
                    step, examples = step + 1, examples + int(batch.examples)
                    if step > first and step not in self._left_out:
                        yield step, batch
        finally:
            feed.close()


class BatchMeasure:
    """Measures the metric on batches with the weights that a model has, and changes nothing.

    Args:
      parts: the run.
      experiment: whose loss.
      model: the model.
      training: whether as a train step does it, with its seeds; otherwise as an evaluation does.
    """

    def __init__(self, parts: Assembly, experiment: Experiment, model: Any, *, training: bool) -> None:
        self._parts = parts
        self._experiment = experiment
        self._model = model
        self._training = training
        self._accumulate = parts.config.accumulate if training else 1
        self._layout: Layout | None = None
        self._totals: Any = None
        self._size = parts.source.batch_size // self._accumulate
        specs = make_feed(parts.source).specs
        self._function = trace_on_batch(specs, self._measure, seeds=(self._accumulate, 2))
        self._changed = [variable for variable in self._function.graph.variables if not variable.trainable]
        self._drawn = [variable for variable in self._changed if variable.dtype.is_integer]
        assert self._layout is not None
        self._totals = np.zeros([self._layout.width])

    def drawn(self) -> Drawn:
        """Where the generators stand that the model carries, such as those of the masks of a Keras dropout."""
        return [variable.read_value() for variable in self._drawn]

    def add(self, step: int, batch: Batch, drawn: Drawn | None = None) -> None:
        """Adds the batch of a train step.

        Args:
          step: that train step.
          batch: its batch.
          drawn: what `drawn` gave before the step, so that the same masks are drawn again; None draws others each time.
        """
        kept = [variable.read_value() for variable in self._changed]
        for variable, value in zip(self._drawn, drawn or (), strict=drawn is not None):
            variable.assign(value)
        done = step - 1
        if self._training:
            seeds = seeds_of_step(self._parts.config.seed, tf.constant(done, tf.int64), self._accumulate)
        else:
            seeds = fold_in(run_seed(self._parts.config.seed), EVALUATION_STREAM, done)[None]
        self._totals += self._function(batch.values, batch.weights, tf.constant(seeds)).numpy()
        drawn_on = {id(variable) for variable in self._drawn} if drawn is None else set()
        for variable, value in zip(self._changed, kept, strict=True):
            if id(variable) not in drawn_on:
                variable.assign(value)

    def means(self) -> tuple[Any, float]:
        """The means over the batches so far, and what their examples weigh in all."""
        assert self._layout is not None
        return self._layout.means(self._totals), float(self._totals[0])

    def _measure(self, values: dict[str, tf.Tensor], weights: tf.Tensor | None, seeds: tf.Tensor) -> tf.Tensor:
        totals: list[tf.Tensor] = []
        for part in range(self._accumulate):
            micro = micro_batch(Batch(values, weights, examples=None), part, self._size)
            with tf.control_dependencies(totals[-1:]):
                loss = self._experiment.loss(self._model, micro.values, training=self._training, seed=seeds[part])
                measured = measure(loss, micro, self._size)
            self._layout = measured.layout
            totals.append(measured.totals)
        return tf.add_n(totals)
