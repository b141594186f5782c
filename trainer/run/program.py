"""The chunk: many train steps as one compiled program."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import Source, fold_in, run_seed
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment
from trainer.run.feed import Counting, make_feed, next_timed, told_of
from trainer.run.measure import Layout
from trainer.run.state import TRAIN_STREAM, TrainState
from trainer.run.step import TrainStep, Update
from trainer.run.tracing import trace_on_batch

MAX_CLOSES = 128
"""Windows that can close in one chunk: the shape of its result, which a compiled program has to know."""
_ENDED = -1
"""The status of a chunk that came to the end of the data; a problem's number is positive, and 0 is none."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A window's totals as the program hands them over."""

    step: int
    examples: int
    totals: np.ndarray
    """float64 [layout.width]."""
    learning_rates: dict[str, np.float32]
    skipped: int = 0
    """Steps of the window that made no update."""


@dataclasses.dataclass(frozen=True)
class Advance:
    """What a chunk did: the windows that closed, and where it stopped."""

    rows: tuple[Row, ...]
    open: Row
    """The window that is still open, and with it where the program stands."""
    problem: str | None = None
    """What was not finite at the last step, so that the program stopped there; None where all was well."""
    ended: bool = False
    """Whether the last step took the last batch of the data."""
    data_wait: float = 0.0
    """Seconds that its steps waited for batches; 0 where the program computes them itself."""


class Program:
    """Runs train steps from where the state is up to a given step.

    The loop over the steps is inside: one trace and, with `jit`, one compilation serve all lengths, because lengths and
    closing steps are tensors. Where a chunk is cut changes no bit of the result.

    Building it traces the experiment's step once, which also makes every variable that training uses: restore after.

    Args:
      experiment: whose step it is.
      state: what it changes; the window and the position in a stream are added to it.
      source: where the examples come from.
      seed: the run's seed.
      jit: whether XLA compiles the whole of it.
      update: how a step updates the weights; by default plainly.
      tick: seconds after which a call stops early where its batches have to be waited for; it takes one in any case.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        source: Source,
        *,
        seed: int,
        jit: bool,
        update: Update | None = None,
        tick: float = math.inf,
    ) -> None:
        update = update or Update()
        self._state = state
        self._jit = jit
        self._ran = False
        self._feed = make_feed(source)
        state.data_state = self._feed.state
        self._times_data = self._feed.waits and not jit
        self._tick = tick
        step = TrainStep(experiment, state, source.batch_size, update, compiled=jit)
        with _no_late_variables(state):
            self._step = trace_on_batch(self._feed.specs, step, seeds=(update.accumulate, 2))
        assert step.layout is not None
        self.layout: Layout = step.layout
        self.rate_names = step.rate_names
        self.unconnected = step.unconnected
        self._problems = step.problems
        self._width = self.layout.width + len(self.rate_names)
        state.add_window(self._width)
        # Of the open window; a small whole number, which the manifest keeps.
        self._skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        # A stream of randomness of its own for (step, micro-batch, replica). Some dozens of small integer operations:
        # compiled by themselves they cost 8 µs in a graph, one by one 35.
        self._seeds_of = tf.function(
            lambda step: seeds_of_step(seed, step, update.accumulate), autograph=False, jit_compile=True
        )
        # Traced here and called as a concrete function: tf.function's look-up of the trace costs 150 µs a call.
        self._function = tf.function(self._run_chunk, autograph=False, jit_compile=jit or None)
        self._chunk = self._function.get_concrete_function(
            tf.TensorSpec([], tf.int64), tf.TensorSpec([MAX_CLOSES + 1], tf.int64), *self._feed.signature
        )
        self._seed = seed
        self._arguments: tuple[Any, ...] | None = None

    def begin(
        self, seed: np.ndarray, *, origin: int = 0, skipped: int = 0, counting: Counting = lambda done, of: True
    ) -> None:
        """Takes up the data where the state stands; without it, the first `run` begins. Again after each restore.

        Args:
          seed: int32 [2], of the order of the examples and of what is random in them.
          origin: the examples that had been consumed when this data began to be trained on.
          skipped: the steps of the open window that made no update.
          counting: see `Counting`.

        Raises:
          Unusable: the data ends before that.
        """
        self._skipped.assign(skipped)
        self._arguments = self._feed.open(seed, origin, int(self._state.examples.numpy()), counting)

    def end(self) -> None:
        """Lets go of the data."""
        self._arguments = None
        self._feed.close()

    def capture(self) -> int:
        """Notes where in the data the state stands, for a save; returns how many bytes that takes."""
        return self._feed.capture()

    def run(self, until: int, closes: list[int]) -> Advance:
        """Trains up to step `until`, closing a window after each step in `closes` (at most `MAX_CLOSES` of them).

        It stops before where the data ends, where something is not finite, and where the data is slow.
        """
        if self._arguments is None:
            self.begin(run_seed(self._seed))
        assert self._arguments is not None
        padded = np.full([MAX_CLOSES + 1], -1, np.int64)
        padded[: len(closes)] = closes
        try:
            with told_of("the training data"):
                # The one place where values leave the device.
                matrix = self._chunk(tf.constant(until, tf.int64), tf.constant(padded), *self._arguments).numpy()
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            # XLA says "compile", "Compilation", "uncompilable"; anything else is an error of the step itself.
            if self._jit and not self._ran and "ompil" in error.message:
                raise ConfigError(
                    f"jit=chunk does not compile here: {error.message.splitlines()[0]}; use --jit=none"
                ) from error
            raise
        self._ran = True
        rows = tuple(self._row(vector) for vector in matrix[: np.count_nonzero(matrix[:MAX_CLOSES, 0])])
        last, status = self._row(matrix[MAX_CLOSES]), int(matrix[MAX_CLOSES, -1])
        return Advance(
            rows,
            last,
            self._problems[status - 1] if status > 0 else None,
            ended=status == _ENDED,
            # By a clock that may be set back.
            data_wait=max(0.0, float(matrix[-1, 0])) if self._times_data else 0.0,
        )

    def peek(self) -> Row:
        """The open window, read from the state."""
        assert self._state.window is not None
        step, examples = int(self._state.step.numpy()), int(self._state.examples.numpy())
        return self._row(np.concatenate([[step, examples], self._state.window.numpy(), [self._skipped.numpy()]]))

    def close(self) -> Row:
        """Closes the open window here and now, for a save or an end that was not known before the chunk."""
        row = self.peek()
        self.clear_window()
        return row

    def clear_window(self) -> None:
        """Empties the open window."""
        assert self._state.window is not None
        self._state.window.assign(tf.zeros_like(self._state.window))
        self._skipped.assign(0)

    def traces(self) -> int:
        """How often the chunk was traced."""
        return int(self._function.experimental_get_tracing_count())

    def _run_chunk(self, until: tf.Tensor, closes: tf.Tensor, *arguments: Any) -> tf.Tensor:
        """The program: float64 [MAX_CLOSES + 1, 2 + width + 2], a row a closed window and last the open one.

        A row holds step, examples, the window's totals, the learning rates, the steps skipped, and why the program had
        to stop, if it had. Where batches may have to be waited for, one more row begins with the seconds of that.
        """
        state = self._state
        assert state.window is not None
        zero = tf.zeros([], tf.int64)
        start = (
            state.step.read_value(),
            state.examples.read_value(),
            state.window.read_value(),
            self._skipped.read_value(),
            tf.zeros([MAX_CLOSES, 2 + self._width + 2], tf.float64),
            zero,
            # Seconds waited for batches, and how long ago the chunk began when the last one came.
            *([tf.zeros([], tf.float64)] * 2 if self._times_data else []),
            zero,
        )
        # XLA has no clock; nor is there anything to wait for where it compiles the chunk.
        began = tf.timestamp() if self._times_data else None

        def unfinished(step: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
            goes_on = (step < until) & tf.equal(others[-1], 0)
            return goes_on & (others[-2] < self._tick) if self._times_data else goes_on

        def one_step(
            step: tf.Tensor,
            examples: tf.Tensor,
            window: tf.Tensor,
            skipped: tf.Tensor,
            rows: tf.Tensor,
            closed: tf.Tensor,
            *others: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            *clocks, _ = others
            if self._times_data:
                (batch, is_last), seconds, came = next_timed(self._feed, arguments, examples)
                clocks = [clocks[0] + seconds, came - began]
            else:
                batch, is_last = self._feed.next(arguments, examples)
            told = self._step(batch.values, batch.weights, self._seeds_of(step))
            step, examples = step + 1, examples + batch.examples
            state.step.assign(step)
            measured, problem = told[:-1], tf.cast(told[-1], tf.int64)
            skipped += tf.cast(problem < 0, tf.int64)
            status = tf.where(problem > 0, problem, tf.where(is_last, tf.constant(_ENDED, tf.int64), zero))
            split = self.layout.width
            window = tf.concat([window[:split] + measured[:split], measured[split:]], axis=0)
            closes_here = closes[closed] == step
            rows = tf.cond(
                closes_here,
                lambda: tf.tensor_scatter_nd_update(
                    rows, closed[None, None], _vector(step, examples, window, skipped, status)[None]
                ),
                lambda: rows,
            )
            window = tf.where(closes_here, tf.zeros_like(window), window)
            skipped = tf.where(closes_here, zero, skipped)
            return step, examples, window, skipped, rows, closed + tf.cast(closes_here, tf.int64), *clocks, status

        # One iteration at a time: an update must see the one before it.
        end = tf.while_loop(unfinished, one_step, start, parallel_iterations=1)
        step, examples, window, skipped, rows, _, *clocks, status = end
        state.examples.assign(examples)
        state.window.assign(window)
        self._skipped.assign(skipped)
        last = _vector(step, examples, window, skipped, status)[None]
        return tf.concat(
            [rows, last, *(tf.pad(seconds[None, None], [[0, 0], [0, self._width + 3]]) for seconds in clocks[:1])], 0
        )

    def _row(self, vector: np.ndarray) -> Row:
        totals = vector[2 : 2 + self.layout.width]
        rates = vector[2 + self.layout.width : 2 + self._width]
        return Row(
            step=int(vector[0]),
            examples=int(vector[1]),
            totals=totals,
            learning_rates={name: np.float32(rate) for name, rate in zip(self.rate_names, rates, strict=True)},
            skipped=int(vector[2 + self._width]),
        )


def seeds_of_step(seed: int, step: tf.Tensor, accumulate: int) -> tf.Tensor:
    """The stateless seeds of a step's micro-batches, int32 [accumulate, 2].

    Args:
      seed: the run's.
      step: int64 scalar, the steps before this one.
      accumulate: how many micro-batches there are.
    """
    return tf.stack([fold_in(run_seed(seed), TRAIN_STREAM, step, micro, 0) for micro in range(accumulate)])


@contextlib.contextmanager
def _no_late_variables(state: TrainState) -> Iterator[None]:
    """Refuses a step that creates variables of the model, whatever else it breaks by that."""
    variables = state.trainable_variables()
    try:
        yield
    finally:
        late = [v.name for v in state.trainable_variables() if all(v is not known for known in variables)]
        if late:
            raise ConfigError(
                f"the step created variables of the model ({len(late)}: {', '.join(late[:3])}); create all of them in "
                "model(), such as by building its layers there"
            ) from None


def _vector(step: tf.Tensor, examples: tf.Tensor, window: tf.Tensor, *counts: tf.Tensor) -> tf.Tensor:
    head, tail = tf.cast(tf.stack([step, examples]), tf.float64), tf.cast(tf.stack(counts), tf.float64)
    return tf.concat([head, window, tail], axis=0)
