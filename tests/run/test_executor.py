"""Which executor runs a chunk, and that a single thread never waits for another one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import Unusable
from trainer.run import executor, machine
from trainer.run.executor import ONE_THREAD, USUAL, choose, possible_in_one_thread
from trainer.run.feed import GraphFeed
from trainer.run.program import Program
from trainer.run.state import TrainState
from trainer.run.tracing import in_place

pytestmark = pytest.mark.slow  # Each traces.

COUNT = tf.Variable(0.0)
SCALAR = tf.TensorSpec([], tf.float32)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of two processors, also where there is one."""
    monkeypatch.setattr(machine, "thread_counts", lambda: {"inter_op": 2, "intra_op": 2})


def traced(function: Callable[..., Any], *specs: tf.TensorSpec) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*specs)


# --- What is chosen ---------------------------------------------------------------------------------------------------


def step_on(shape: list[int | None]) -> Any:
    return traced(lambda x: 2.0 * x, tf.TensorSpec(shape, tf.float32))


def branching(x: tf.Tensor) -> tf.Tensor:
    return tf.cond(x > 0, lambda: x + 1.0, lambda: x)


@pytest.mark.parametrize(
    ("shape", "parameters", "jit", "chosen"),
    [
        ([128, 128], 2**15 - 1, "none", ONE_THREAD),
        ([128, 128], 2**15, "none", USUAL),
        ([128, 129], 10, "none", USUAL),
        ([None, 2], 10, "none", USUAL),
        ([128, 129], 2**30, "step", ONE_THREAD),
        ([2], 10, "chunk", USUAL),
    ],
)
def test_one_thread_runs_compiled_steps_and_small_ones(
    shape: list[int | None], parameters: int, jit: str, chosen: str
) -> None:
    assert choose(step_on(shape), jit, parameters) == chosen


def test_a_step_that_branches_is_left_to_threads_but_where_xla_compiles_it() -> None:
    step = traced(branching, SCALAR)
    assert [choose(step, jit, 10) for jit in ("none", "step")] == [USUAL, ONE_THREAD]


def test_nothing_is_sent_between_devices_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: ["CPU:0", "GPU:0"])
    assert [choose(step_on([2]), jit, 10) for jit in ("none", "step")] == [USUAL, USUAL]


def test_data_may_need_a_thread_while_the_one_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "thread_counts", lambda: {"inter_op": 1, "intra_op": 2})
    assert [choose(step_on([2]), jit, 10) for jit in ("none", "step")] == [USUAL, USUAL]


# --- What one thread can run ------------------------------------------------------------------------------------------


def in_a_loop(step: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    def run(x: tf.Tensor) -> tf.Tensor:
        body = lambda number, x: (number + 1, step(x))  # noqa: E731
        return tf.while_loop(lambda number, x: number < 3, body, (tf.constant(0), x))[1]

    return run


def counted(x: tf.Tensor) -> tf.Tensor:
    COUNT.assign_add(1.0)
    return x + 1.0


compiled = tf.function(branching, autograph=False, jit_compile=True)
called = tf.function(lambda x: x + 1.0, autograph=False)


@pytest.mark.parametrize(
    ("step", "possible"),
    [
        pytest.param(counted, True, id="plain"),
        pytest.param(in_a_loop(counted), True, id="loop in a loop"),
        pytest.param(lambda x: compiled(x), True, id="compiled branch"),
        pytest.param(lambda x: tf.map_fn(lambda y: y + 1.0, x[None])[0], True, id="map_fn"),
        pytest.param(lambda x: tf.numpy_function(lambda y: y + 1, [x], tf.float32), True, id="numpy_function"),
        pytest.param(branching, False, id="branch"),
        pytest.param(in_a_loop(branching), False, id="branch in a loop"),
        pytest.param(lambda x: called(x), False, id="call"),
        pytest.param(lambda x: tf.switch_case(tf.cast(x, tf.int32), [lambda: x] * 2), False, id="case"),
        pytest.param(lambda x: tf.raw_ops.Merge(inputs=tf.raw_ops.Switch(data=x, pred=x > 0))[0], False, id="switch"),
        pytest.param(lambda x: tf.py_function(called, [x], tf.float32), False, id="py_function"),
        pytest.param(lambda x: tf.data.Dataset.range(2).reduce(x, lambda s, _: s + 1.0), False, id="dataset"),
    ],
)
def test_branches_and_calls_need_other_threads(step: Callable[[tf.Tensor], tf.Tensor], possible: bool) -> None:
    def ensured(x: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(step(x), [])

    with tf.experimental.function_executor_type(ONE_THREAD):
        program = traced(in_a_loop(ensured), SCALAR)
        assert possible_in_one_thread(program) == possible
        if possible:
            assert program(tf.constant(1.0)).numpy() in (4.0, 10.0)


def test_a_loop_that_was_traced_for_threads_is_seen() -> None:
    assert not possible_in_one_thread(traced(in_a_loop(counted), SCALAR))


# --- A traced function in place ---------------------------------------------------------------------------------------


def test_a_traced_function_in_place_does_the_same_in_the_same_order() -> None:
    memory, table = tf.Variable([1.0, 2.0]), tf.constant([10.0, 20.0])

    def step(values: dict[str, tf.Tensor], weights: tf.Tensor | None, seeds: tf.Tensor) -> Any:
        before = memory.read_value()
        memory.assign(2.0 * memory)
        memory.assign_add(values["later"])
        with tf.control_dependencies([values["later"]]):
            counted(before[0])
        return before + table, {"after": memory.read_value(), "drawn": values["earlier"] - tf.cast(seeds, tf.float32)}

    pair = tf.TensorSpec([2], tf.float32)
    traced_step = traced(step, {"later": pair, "earlier": pair}, None, tf.TensorSpec([2], tf.int32))

    def run(function: Callable[..., Any]) -> Any:
        memory.assign([1.0, 2.0])
        COUNT.assign(0.0)
        values = {"later": tf.constant([0.5, 0.25]), "earlier": tf.constant([7.0, 8.0])}

        @tf.function(autograph=False)
        def twice() -> Any:
            return [function(values, None, tf.constant([3, 4])) for _ in range(2)]

        return tf.nest.map_structure(lambda tensor: tensor.numpy().tolist(), [twice(), memory, COUNT])

    assert run(in_place(traced_step)) == run(traced_step)
    assert COUNT.numpy() == 2.0


# --- The program ------------------------------------------------------------------------------------------------------


def trained(experiment: Any, jit: str) -> tuple[str, bytes, bytes]:
    """The executor, the windows and the weights of seven steps."""
    state = TrainState(experiment, 1)
    program = Program(experiment, state, experiment.train_data(), seed=1, jit=jit)
    advance = program.run(7, [3, 6])
    weights = b"".join(variable.numpy().tobytes() for variable in state.trainable_variables())
    return program._executor, advance.closed.tobytes(), weights


def test_a_compiled_step_has_the_same_bits_in_either_executor(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *bits = trained(linear(), "step")
    monkeypatch.setattr(executor, "choose", lambda *arguments: USUAL)
    assert (name, *trained(linear(), "step")) == (ONE_THREAD, USUAL, *bits)


def test_the_executor_is_named_for_the_trace_and_for_each_call(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    named, name = [], tf.experimental.function_executor_type
    monkeypatch.setattr(tf.experimental, "function_executor_type", lambda kind: named.append(kind) or name(kind))
    experiment = linear()
    program = Program(experiment, TrainState(experiment, 1), experiment.train_data(), seed=1, jit="none")
    for step in (2, 4):
        program.run(step, [])
    assert named == [ONE_THREAD] * 3


def test_a_map_of_data_in_memory_is_a_call_and_left_to_threads(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Mapped(linear):
        def train_data(self) -> Any:
            return super().train_data().map(lambda example, seed: example)

    for jit in ("none", "step"):
        assert trained(Mapped(), jit)[0] == USUAL
        assert trained(linear(), jit)[0] == ONE_THREAD


def test_data_that_branches_is_left_to_threads(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def branch_on(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda feed, arguments, examples: method(
            feed, arguments, tf.cond(examples > 0, lambda: examples, lambda: examples + 0)
        )

    monkeypatch.setattr(GraphFeed, "next", branch_on(GraphFeed.next))
    for jit in ("none", "step"):
        assert trained(linear(), jit)[0] == USUAL


def on_a_stream(linear: Any, checked: Callable[[tf.Tensor, str], tf.Tensor]) -> Any:
    """An experiment whose data and whose loss pass through `checked(values, "data" or "loss")`."""

    @dataclasses.dataclass(frozen=True)
    class Checked(linear):
        def train_data(self) -> Any:
            rows = tf.data.Dataset.from_tensor_slices(self.arrays())
            return trainer.data.stream(
                lambda: rows.map(lambda row: {**row, "x": checked(row["x"], "data")}), batch_size=4, resume="replay"
            )

        def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, per_example=checked(loss.per_example, "loss"))

    return Checked()


def failing(where: str) -> Callable[[tf.Tensor, str], tf.Tensor]:
    return lambda values, place: tf.debugging.check_numerics(values * np.nan, place) if place == where else values


@pytest.mark.parametrize("kind", [ONE_THREAD, USUAL])
@pytest.mark.parametrize("jit", ["none", "step"])
def test_data_that_cannot_be_read_is_told_where_no_operation_is_named(
    linear: Any, jit: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "choose", lambda *arguments: kind)
    with pytest.raises(Unusable, match=r"^the training data cannot be read: .*data : Tensor had NaN values; mend that"):
        trained(on_a_stream(linear, failing("data")), jit)


@pytest.mark.parametrize("kind", [ONE_THREAD, USUAL])
def test_data_without_an_example_is_told(linear: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "choose", lambda *arguments: kind)

    @dataclasses.dataclass(frozen=True)
    class Empty(linear):
        def train_data(self) -> Any:
            rows = tf.data.Dataset.from_tensor_slices(self.arrays())
            return trainer.data.stream(lambda: rows.filter(lambda row: False), batch_size=4, resume="replay")

    with pytest.raises(Unusable, match=r"^the training data has no examples to go on with; expected at least one"):
        trained(Empty(), "none")


# Of the loss, of weights, of what hangs on nothing: the last two could be computed before there is a batch.
MISTAKES = {
    "loss": lambda loss, model: loss,
    "weights": lambda loss, model: model.kernel[0] + tf.zeros_like(loss),
    "nothing": lambda loss, model: tf.fill(loss.shape, tf.cast(tf.timestamp(), loss.dtype)),
}


@pytest.mark.parametrize("kind", [ONE_THREAD, USUAL])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_fails_in_the_step_is_no_failure_of_the_data(
    linear: Any, mistake: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "choose", lambda *arguments: kind)

    class Mistaken(type(on_a_stream(linear, lambda values, place: values))):
        def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            bad = tf.debugging.check_numerics(MISTAKES[mistake](loss.per_example, model) * np.nan, "mistake")
            return dataclasses.replace(loss, metrics={**loss.metrics, "bad": bad})

    with pytest.raises(tf.errors.InvalidArgumentError, match="mistake : Tensor had NaN values"):
        trained(Mistaken(), "none")


@pytest.mark.parametrize("kind", [ONE_THREAD, USUAL])
def test_what_comes_to_an_end_in_the_step_is_no_end_of_the_data(
    linear: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "choose", lambda *arguments: kind)
    values = iter([np.float32(1.0)])

    def taken(loss: tf.Tensor, place: str) -> tf.Tensor:
        if place == "data":
            return loss
        return loss + 0.0 * tf.ensure_shape(tf.numpy_function(lambda: next(values), [], tf.float32), [])

    with pytest.raises(tf.errors.OutOfRangeError):
        trained(on_a_stream(linear, taken), "none")


def test_the_time_of_a_step_is_no_waiting_for_data(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # What Python returns has no size that is known.
    monkeypatch.setattr(executor, "_SMALL_TENSOR", math.inf)

    def slept(values: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return values

    def slow(values: tf.Tensor, place: str) -> tf.Tensor:
        if place == "data":
            return values
        # Which has no gradient.
        return values + 0.0 * tf.ensure_shape(tf.numpy_function(slept, [values], values.dtype), values.shape)

    experiment = on_a_stream(linear, slow)
    program = Program(experiment, TrainState(experiment, 1), experiment.train_data(), seed=1, jit="none")
    assert program._executor == ONE_THREAD
    # The machine may be slow once, but not each time.
    assert min(program.run(until, []).data_wait for until in (4, 8, 12)) < 0.1
