"""What the program computes: the loop over the steps, and the windows that close in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.data import fold_in, run_seed
from trainer.data.seeds import absorb, split
from trainer.run.feed import Feed, next_timed
from trainer.run.jit import CHUNK, NONE, STEP
from trainer.run.state import TRAIN_STREAM, TrainState

NEVER = 2**62
"""Of closing steps, the one that is not reached."""
_ROWS_BYTES = 1 << 15
ENDED = -1
"""The status of a chunk that came to the end of the data; a problem's number is positive, and 0 is none."""


class Carried(NamedTuple):
    """What one step hands to the next."""

    step: tf.Tensor
    """int64: how many there were."""
    examples: tf.Tensor
    """int64: how many were consumed."""
    totals: tf.Tensor
    """float64 [layout.width], of the open window."""
    rates: tf.Tensor
    """float64 [rates]: the learning rates of the last update."""
    skipped: tf.Tensor
    """int64: the steps of the open window that made no update."""
    status: tf.Tensor
    """int64: why the chunk has to stop; 0 where it need not."""
    waited: tf.Tensor
    """float64: seconds waited for batches."""
    age: tf.Tensor
    """float64: how long ago the chunk began when the last batch came, in seconds."""


class Chunk:
    """The program: from the state, up to a step, with windows that close on the way.

    The steps between two closing windows are a loop of their own, so that nothing of a window's end is asked in each of
    them.

    Args:
      state: what it changes; its window is there.
      feed: where the batches come from.
      step: a `TrainStep`, traced: (values, weights, seeds) to (totals, rates, problem).
      width: the length of the totals.
      seed: the run's seed.
      accumulate: micro-batches that a batch is taken in.
      skipped: int64 scalar variable, the steps of the open window that made no update.
      may_skip: whether there are such steps.
      draws: whether anything comes of a step's seeds.
      jit: `none`; `step`, where XLA compiles what follows a batch's arrival; or `chunk`, where it compiles all of it.
      tick: seconds after which it stops early where batches have to be waited for.
    """

    def __init__(
        self,
        state: TrainState,
        feed: Feed,
        step: Any,
        *,
        width: int,
        seed: int,
        accumulate: int,
        skipped: tf.Variable,
        may_skip: bool,
        draws: bool,
        jit: str,
        tick: float = math.inf,
    ) -> None:
        self._state = state
        self._feed = feed
        self._step = step
        self._width = width
        self._seed = seed
        self._accumulate = accumulate
        self._skipped = skipped
        self._may_skip = may_skip
        self._draws = draws
        self._tick = tick
        # XLA has no clock; nor is there anything to wait for where it compiles the chunk.
        self.times_data = feed.waits and jit != CHUNK
        self._advance: Any = self._advanced
        if jit == STEP:
            self._advance = tf.function(lambda *tensors: self._advanced(*tensors), autograph=False, jit_compile=True)
        # Some dozens of small integer operations: in a graph 35 µs for a step, and hardly more for all of them.
        self._seeds_ahead = draws and jit == NONE

    def run(self, until: tf.Tensor, closes: tf.Tensor, *arguments: Any) -> tf.Tensor:
        """Trains to step `until`, closing a window after each step in `closes`.

        Args:
          until: int64 scalar.
          closes: int64 [most + 1], ascending, at most `most_closes` of them; `NEVER` after the last.
          *arguments: the feed's.

        Returns:
          float64 [rows, 2 + window + 2]: first the open window, with `times_data` a row that begins with the seconds
          waited for batches, then one for each of `closes`. A window's row has step, examples, the window's totals, the
          learning rates, the steps skipped, and why the chunk had to stop; its step is that of `closes` where the
          window closed.
        """
        state = self._state
        assert state.window is not None
        window = state.window.read_value()
        began = tf.timestamp() if self.times_data else None
        zero, none = tf.zeros([], tf.int64), tf.zeros([], tf.float64)
        first, advance = state.step.read_value(), self._advance
        if self._seeds_ahead:
            seeds = seeds_of_steps(self._seed, tf.range(first, tf.maximum(first, until)), self._accumulate)
            advance = lambda step, *rest: self._advanced(step, *rest, seeds=seeds[step - first])  # noqa: E731
        start = Carried(
            first,
            state.examples.read_value(),
            window[: self._width],
            window[self._width :],
            self._skipped.read_value(),
            zero,
            none,
            none,
        )

        def unfinished(carried: Carried, until: tf.Tensor) -> tf.Tensor:
            goes_on = (carried.step < until) & tf.equal(carried.status, 0)
            return goes_on & (carried.age < self._tick) if self.times_data else goes_on

        def one_window(carried: Carried, rows: tf.Tensor, closed: tf.Tensor) -> tuple[Carried, tf.Tensor, tf.Tensor]:
            end = tf.minimum(until, closes[closed])
            (carried,) = tf.while_loop(
                lambda carried: unfinished(carried, end),
                lambda carried: (self._one_step(carried, arguments, began, advance),),
                (carried,),
                # One at a time: an update must see the one before it.
                parallel_iterations=1,
            )
            closes_here = tf.equal(carried.step, closes[closed])
            # Where the chunk ends before the window does, that is a row which says so by its step.
            rows = tf.tensor_scatter_nd_update(rows, closed[None, None], _row(carried)[None])
            emptied = carried._replace(
                totals=tf.where(closes_here, tf.zeros_like(carried.totals), carried.totals),
                skipped=tf.where(closes_here, zero, carried.skipped),
            )
            return emptied, rows, closed + tf.cast(closes_here, tf.int64)

        rows = tf.zeros([closes.shape[0], 2 + window.shape[0] + 2], tf.float64)
        end, rows, _ = tf.while_loop(
            lambda carried, rows, closed: unfinished(carried, until),
            one_window,
            (start, rows, zero),
            parallel_iterations=1,
        )
        state.examples.assign(end.examples)
        state.window.assign(tf.concat([end.totals, end.rates], axis=0))
        self._skipped.assign(end.skipped)
        last = _row(end)
        waited = [tf.pad(end.waited[None], [[0, last.shape[0] - 1]])] if self.times_data else []
        return tf.concat([tf.stack([last, *waited]), rows], axis=0)

    def lower(self) -> None:
        """Asks XLA whether it can compile a step, which fails as the step would."""
        assert self._state.window is not None
        values, weights = self._feed.specs
        whole, flag = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.bool)
        totals = tf.TensorSpec([self._width], tf.float64)
        batch = [*values.values(), *([] if weights is None else [weights])]
        lowered = self._advance.experimental_get_compiler_ir(whole, whole, totals, whole, whole, flag, *batch)
        lowered(stage="hlo")

    def _one_step(
        self,
        carried: Carried,
        arguments: tuple[Any, ...],
        began: tf.Tensor | None,
        advance: Callable[..., tuple[tf.Tensor, ...]],
    ) -> Carried:
        """One step: takes its batch and does `advance`."""
        if began is not None:
            (batch, is_last), seconds, came = next_timed(self._feed, arguments, carried.examples)
            carried = carried._replace(waited=carried.waited + seconds, age=came - began)
        else:
            batch, is_last = self._feed.next(arguments, carried.examples)
        values = [batch.values[name] for name in self._feed.specs[0]]
        weights = [] if batch.weights is None else [batch.weights]
        step, examples, totals, rates, skipped, status = advance(
            carried.step, carried.examples, carried.totals, carried.skipped, batch.examples, is_last, *values, *weights
        )
        return Carried(step, examples, totals, rates, skipped, status, carried.waited, carried.age)

    def _advanced(
        self,
        step: tf.Tensor,
        examples: tf.Tensor,
        totals: tf.Tensor,
        skipped: tf.Tensor,
        count: tf.Tensor,
        is_last: tf.Tensor,
        *batch: tf.Tensor,
        seeds: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """What is carried, but for the clocks, after the step on a batch of `count` examples, which may be the last.

        All arguments are tensors, as `experimental_get_compiler_ir` wants them: the batch is its values, in the order
        of the feed's specs, and its weights if it has any. `seeds` are those of the step, where they are known.
        """
        names = list(self._feed.specs[0])
        values = dict(zip(names, batch[: len(names)], strict=True))
        weights = batch[len(names)] if len(batch) > len(names) else None
        if not self._draws:
            seeds = tf.zeros([self._accumulate, 2], tf.int32)
        elif seeds is None:
            seeds = seeds_of_step(self._seed, step, self._accumulate)
        added, rates, problem = self._step(values, weights, seeds)
        step = step + 1
        self._state.step.assign(step)
        if self._may_skip:
            skipped += tf.cast(problem < 0, tf.int64)
            problem = tf.maximum(problem, 0)
        known = tf.get_static_value(is_last)
        if known is None or known:
            problem = tf.where(is_last & tf.equal(problem, 0), tf.constant(ENDED, tf.int64), problem)
        return step, examples + count, totals + added, rates, skipped, problem


def most_closes(width: int) -> int:
    """How many windows of `width` numbers may close in one chunk, which has to know the shape of its result.

    As many as fit into 32 KiB: measured on a CPU, every step of a compiled chunk costs a tenth more from there on.
    """
    return max(16, _ROWS_BYTES // (8 * (width + 4)) - 4)


def seeds_of_step(seed: int, step: tf.Tensor, accumulate: int) -> tf.Tensor:
    """The stateless seeds of a step's micro-batches, int32 [accumulate, 2].

    They are a stream of randomness of their own for (step, micro-batch, replica): `fold_in` of these.

    Args:
      seed: the run's.
      step: int64 scalar, the steps before this one.
      accumulate: how many micro-batches there are.
    """
    return seeds_of_steps(seed, step[None], accumulate)[0]


def seeds_of_steps(seed: int, steps: tf.Tensor, accumulate: int) -> tf.Tensor:
    """As `seeds_of_step` of each of `steps`, int64 [n]: int32 [n, accumulate, 2]."""
    words = split(fold_in(run_seed(seed), TRAIN_STREAM))
    replica = tf.zeros([], tf.int64)
    for part in (steps[:, None], tf.range(accumulate, dtype=tf.int64), replica):
        words = absorb(words, part)
    return tf.cast(tf.stack(words, axis=-1), tf.int32)


def _row(carried: Carried) -> tf.Tensor:
    head = tf.cast(tf.stack([carried.step, carried.examples]), tf.float64)
    tail = tf.cast(tf.stack([carried.skipped, carried.status]), tf.float64)
    return tf.concat([head, carried.totals, carried.rates, tail], axis=0)
