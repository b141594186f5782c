"""The chunk: many train steps as one compiled program."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from trainer.data import Source, fold_in, run_seed
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment
from trainer.run.measure import Layout
from trainer.run.state import TRAIN_STREAM, TrainState
from trainer.run.step import TrainStep
from trainer.run.tracing import trace_on_batch

MAX_CLOSES = 128
"""Windows that can close in one chunk: the shape of its result, which a compiled program has to know."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A window's totals as the program hands them over."""

    step: int
    examples: int
    totals: np.ndarray
    """float64 [layout.width]."""
    learning_rates: dict[str, np.float32]


@dataclasses.dataclass(frozen=True)
class Advance:
    """What a chunk did: the windows that closed, and where it stopped."""

    rows: tuple[Row, ...]
    open: Row
    """The window that is still open, and with it where the program stands."""
    finite: bool
    """Whether every loss was; otherwise the program stopped at the first that was not."""


class Program:
    """Runs train steps from where the state is up to a given step.

    The loop over the steps is inside: one trace and, with `jit`, one compilation serve all lengths, because lengths and
    closing steps are tensors. Where a chunk is cut changes no bit of the result.

    Building it traces the experiment's step once, which also makes every variable that training uses: restore after.

    Args:
      experiment: whose step it is.
      state: what it changes; the window is added to it.
      source: where the examples come from.
      seed: the run's seed.
      jit: whether XLA compiles the whole of it.
    """

    def __init__(self, experiment: Experiment, state: TrainState, source: Source, *, seed: int, jit: bool) -> None:
        self._state = state
        self._source = source
        self._seed = seed
        self._jit = jit
        self._ran = False
        step = TrainStep(experiment, state, source.batch_size)
        self._step = trace_on_batch(lambda start: source.train_batch(seed, start), step)
        assert step.layout is not None
        self.layout: Layout = step.layout
        self.rate_names = step.rate_names
        self.unconnected = step.unconnected
        self._width = self.layout.width + len(self.rate_names)
        state.add_window(self._width)
        # A stream of randomness of its own for (step, micro-batch, replica). Some dozens of small integer operations:
        # compiled by themselves they cost 8 µs in a graph, one by one 35.
        self._seed_of = tf.function(
            lambda step: fold_in(run_seed(seed), TRAIN_STREAM, step, 0, 0), autograph=False, jit_compile=True
        )
        # Traced here and called as a concrete function: tf.function's look-up of the trace costs 150 µs a call.
        self._function = tf.function(self._run_chunk, autograph=False, jit_compile=jit or None)
        self._chunk = self._function.get_concrete_function(
            tf.TensorSpec([], tf.int64), tf.TensorSpec([MAX_CLOSES + 1], tf.int64)
        )

    def run(self, until: int, closes: list[int]) -> Advance:
        """Trains up to step `until`, closing a window after each step in `closes` (at most `MAX_CLOSES` of them)."""
        padded = np.full([MAX_CLOSES + 1], -1, np.int64)
        padded[: len(closes)] = closes
        try:
            # The one place where values leave the device.
            matrix = self._chunk(tf.constant(until, tf.int64), tf.constant(padded)).numpy()
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            # XLA says "compile", "Compilation", "uncompilable"; anything else is an error of the step itself.
            if self._jit and not self._ran and "ompil" in error.message:
                raise ConfigError(
                    f"jit=chunk does not compile here: {error.message.splitlines()[0]}; use --jit=none"
                ) from error
            raise
        self._ran = True
        rows = tuple(self._row(vector) for vector in matrix[: np.count_nonzero(matrix[:MAX_CLOSES, 0])])
        last = self._row(matrix[-1])
        return Advance(rows, last, finite=not matrix[-1, -1])

    def peek(self) -> Row:
        """The open window, read from the state."""
        assert self._state.window is not None
        step, examples = int(self._state.step.numpy()), int(self._state.examples.numpy())
        return self._row(np.concatenate([[step, examples], self._state.window.numpy()]))

    def close(self) -> Row:
        """Closes the open window here and now, for a save or an end that was not known before the chunk."""
        row = self.peek()
        self.clear_window()
        return row

    def clear_window(self) -> None:
        """Empties the open window."""
        assert self._state.window is not None
        self._state.window.assign(tf.zeros_like(self._state.window))

    def traces(self) -> int:
        """How often the chunk was traced."""
        return int(self._function.experimental_get_tracing_count())

    def _run_chunk(self, until: tf.Tensor, closes: tf.Tensor) -> tf.Tensor:
        """The program: float64 [MAX_CLOSES + 1, 2 + width + 1], a row a closed window and last the open one.

        A row holds step, examples, the window's totals, the learning rates, and whether the program had to stop.
        """
        assert self._state.window is not None
        zero = tf.zeros([], tf.int64)
        rows = tf.zeros([MAX_CLOSES, 2 + self._width + 1], tf.float64)
        start = (
            self._state.step.read_value(),
            self._state.examples.read_value(),
            self._state.window.read_value(),
            rows,
            zero,
            tf.zeros([], tf.bool),
        )

        def unfinished(step: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
            return (step < until) & ~others[-1]

        def one_step(
            step: tf.Tensor,
            examples: tf.Tensor,
            window: tf.Tensor,
            rows: tf.Tensor,
            closed: tf.Tensor,
            bad: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            batch = self._source.train_batch(self._seed, examples)
            totals = self._step(batch.values, batch.weights, self._seed_of(step))
            step, examples = step + 1, examples + batch.examples
            self._state.step.assign(step)
            bad = totals[self.layout.first_nonfinite] > 0
            split = self.layout.width
            window = tf.concat([window[:split] + totals[:split], totals[split:]], axis=0)
            closes_here = closes[closed] == step
            rows = tf.cond(
                closes_here,
                lambda: tf.tensor_scatter_nd_update(
                    rows, closed[None, None], _vector(step, examples, window, bad)[None]
                ),
                lambda: rows,
            )
            window = tf.where(closes_here, tf.zeros_like(window), window)
            return step, examples, window, rows, closed + tf.cast(closes_here, tf.int64), bad

        # One iteration at a time: an update must see the one before it.
        end = tf.while_loop(unfinished, one_step, start, parallel_iterations=1)
        step, examples, window, rows, _, bad = end
        self._state.examples.assign(examples)
        self._state.window.assign(window)
        return tf.concat([rows, _vector(step, examples, window, bad)[None]], axis=0)

    def _row(self, vector: np.ndarray) -> Row:
        totals = vector[2 : 2 + self.layout.width]
        rates = vector[2 + self.layout.width : 2 + self._width]
        return Row(
            step=int(vector[0]),
            examples=int(vector[1]),
            totals=totals,
            learning_rates={name: np.float32(rate) for name, rate in zip(self.rate_names, rates, strict=True)},
        )


def _vector(step: tf.Tensor, examples: tf.Tensor, window: tf.Tensor, bad: tf.Tensor) -> tf.Tensor:
    head = tf.cast(tf.stack([step, examples]), tf.float64)
    return tf.concat([head, window, tf.cast(bad, tf.float64)[None]], axis=0)
