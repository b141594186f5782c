"""The chunk: many train steps as one compiled program."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data import Source, run_seed
from trainer.errors import ConfigError
from trainer.process import memory
from trainer.run import executor
from trainer.run.chunk import ENDED, NEVER, Chunk, most_closes
from trainer.run.executor import ONE_THREAD, USUAL, possible_in_one_thread
from trainer.run.experiment import Experiment
from trainer.run.feed import Counting, make_feed, told_of
from trainer.run.jit import CHUNK, NONE, STEP, refusing, slow_operation
from trainer.run.measure import Layout
from trainer.run.state import TrainState
from trainer.run.step import TrainStep, Update
from trainer.run.timing import Times
from trainer.run.tracing import in_place, trace_on_batch, uses_seeds


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

    closed: np.ndarray
    """float64 [windows, …]: the vectors of the windows that closed."""
    row: Callable[[np.ndarray], Row]
    """Reads one of them."""
    open: Row
    """The window that is still open, and with it where the program stands."""
    problem: str | None = None
    """What was not finite at the last step, so that the program stopped there; None where all was well."""
    ended: bool = False
    """Whether the last step took the last batch of the data."""
    data_wait: float = 0.0
    """Seconds that its steps waited for batches; 0 where the program computes them itself."""

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """The windows that closed: for whoever has the time to read them."""
        return tuple(self.row(vector) for vector in self.closed)


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
      jit: how much of it XLA compiles: one of `jit.MODES`.
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
        jit: str = NONE,
        update: Update | None = None,
        tick: float = math.inf,
    ) -> None:
        update = update or Update()
        self._state = state
        self._jit = jit
        self._seed = seed
        self._feed = make_feed(source)
        state.data_state = self._feed.state
        step = TrainStep(experiment, state, source.batch_size, update, compiled=jit != NONE)
        with _no_late_variables(state):
            traced = trace_on_batch(self._feed.specs, step, seeds=(update.accumulate, 2))
        assert step.layout is not None
        self.layout: Layout = step.layout
        self.rate_names = step.rate_names
        self.unconnected = step.unconnected
        self._problems = step.problems
        self._width = self.layout.width + len(self.rate_names)
        self.max_closes = most_closes(self._width)
        """How many windows can close in one call."""
        if state.window is None:
            state.add_window(self._width)
        # Of the open window; a small whole number, which the manifest keeps.
        self._skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        make = functools.partial(
            Chunk,
            state,
            self._feed,
            width=self.layout.width,
            seed=seed,
            accumulate=update.accumulate,
            skipped=self._skipped,
            may_skip=step.may_skip,
            draws=uses_seeds(traced),
            jit=jit,
            tick=tick,
        )
        self._executor = executor.choose(traced, jit, state.parameters())
        self._trace(make(in_place(traced) if self._executor == ONE_THREAD and jit == NONE else traced))
        if self._executor == ONE_THREAD and not possible_in_one_thread(self._chunk):
            self._executor = USUAL
            self._trace(make(traced))
        self._arguments: tuple[Any, ...] | None = None
        self._compiled = jit == NONE
        self._called = False

    def _trace(self, chunk: Chunk) -> None:
        self._times_data, self._lower = chunk.times_data, chunk.lower
        self._function = tf.function(chunk.run, autograph=False, jit_compile=(self._jit == CHUNK) or None)
        # Traced here and called as a concrete function: tf.function's look-up of the trace costs 150 µs a call.
        with tf.experimental.function_executor_type(self._executor):
            self._chunk = self._function.get_concrete_function(
                tf.TensorSpec([], tf.int64), tf.TensorSpec([self.max_closes + 1], tf.int64), *self._feed.signature
            )

    def slow_operation(self) -> str | None:
        """An operation of it for which XLA is slow; None for none."""
        return slow_operation(self._chunk)

    def compile(self, times: Times) -> None:
        """Has XLA compile ahead of the first step what it is to compile; changes nothing, and is done once.

        Of `step` it is only asked whether it can: what is compiled for that is not kept for the first step.

        Args:
          times: where it is noted how long that takes.

        Raises:
          DoesNotCompile: it cannot.
        """
        if self._compiled:
            return
        with times.starting("compile"), refusing(self._jit, ahead=True):
            if self._jit == CHUNK:
                # No step: there is nothing to do up to step 0.
                arguments = self._feed.open(np.zeros(2, np.int32), 0, 0, lambda done, of: True)
                self._chunk(tf.constant(0, tf.int64), tf.constant(self._closing([])), *arguments)
            else:
                self._lower()
        self._compiled = True

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

    def run(self, until: int, closes: Sequence[int]) -> Advance:
        """Trains up to step `until`, closing a window after each step in `closes` (at most `max_closes` of them).

        It stops before where the data ends, where something is not finite, and where the data is slow.
        """
        if self._arguments is None:
            self.begin(run_seed(self._seed))
        assert self._arguments is not None
        steps = self._closing(closes)
        # Machine code of a step is made in the first call, and of what was not compiled ahead too.
        compiles = not self._called and (self._jit == STEP or not self._compiled)
        with (
            refusing(self._jit) if compiles else contextlib.nullcontext(),
            # The usual executor says which operation failed.
            told_of("the training data", self._feed if self._executor == ONE_THREAD else None),
            tf.experimental.function_executor_type(self._executor),
        ):
            # The one place where values leave the device.
            matrix = self._chunk(tf.constant(until, tf.int64), tf.constant(steps), *self._arguments).numpy()
        if not self._called:
            # The order of the examples is compiled in any mode.
            memory.give_back()
            self._called = self._compiled = True
        closed = matrix[-len(steps) :]
        last, status = self._row(matrix[0]), int(matrix[0, -1])
        return Advance(
            closed[closed[:, 0] == steps],
            self._row,
            last,
            self._problems[status - 1] if status > 0 else None,
            ended=status == ENDED,
            # By a clock that may be set back.
            data_wait=max(0.0, float(matrix[1, 0])) if self._times_data else 0.0,
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

    def _closing(self, steps: Sequence[int]) -> np.ndarray:
        """Closing steps as the program takes them."""
        closes = np.full([self.max_closes + 1], NEVER, np.int64)
        closes[: len(steps)] = steps
        return closes

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
