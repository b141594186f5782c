"""Sums are made in one order, whatever the threads do: the same steps give the same bits each time."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.run import machine
from trainer.run.exact_sums import sum_in_order
from trainer.run.program import Program
from trainer.run.state import TrainState
from trainer.run.tracing import trace_on_batch

pytestmark = pytest.mark.slow  # Each traces a graph, and one runs many steps.

SPECS = ({"x": tf.TensorSpec([4, 8], tf.float32)}, None)


class Recurrent(tf.Module):
    """A recurrent layer that is unrolled, and its input is added in each step: a sum of gradients that others use."""

    def __init__(self, units: int) -> None:
        super().__init__()
        random = np.random.default_rng(3)
        self.inputs, self.hidden = (
            tf.Variable(random.normal(size=[units, units]) / units**0.5, dtype=tf.float32) for _ in range(2)
        )

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        added, state = x @ self.inputs, tf.zeros_like(x)
        for _ in range(6):
            state = tf.tanh(state @ self.hidden + added)
        return state


@dataclasses.dataclass(frozen=True)
class Unrolled(trainer.Experiment):
    """Trains it, by several losses whose sum is a sum of what else is recorded."""

    def model(self, seed: Any) -> Recurrent:
        return Recurrent(64)

    def optimizer(self) -> Any:
        return trainer.optim.SGD(0.01)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays({"x": np.random.default_rng(4).normal(size=[640, 64]).astype("f4")}, batch_size=16)

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        state = model(batch["x"])
        parts = [tf.reduce_mean(value, axis=1) for value in (state**2, tf.abs(state), tf.sin(state), tf.exp(state))]
        return trainer.Loss(tf.add_n(parts), {f"part_{number}": part for number, part in enumerate(parts)})


@contextlib.contextmanager
def noise() -> Iterator[None]:
    """Others that want the processors at any time."""
    over = threading.Event()

    def work() -> None:
        values = np.ones([60, 60])
        while not over.is_set():
            for _ in range(20):
                values @ values
            time.sleep(0.0005)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_what_threads_do_meanwhile_changes_no_bit() -> None:
    machine.configure(threads=0, deterministic="false")
    experiment = Unrolled()
    state = TrainState(experiment, seed=17)
    program = Program(experiment, state, experiment.train_data(), seed=17)
    variables = [*state.trainable_variables(), state.step, state.examples]
    first = [variable.numpy() for variable in variables]
    seen = set()
    with noise():
        for _ in range(6):
            for variable, value in zip(variables, first, strict=True):
                variable.assign(value)
            program.clear_window()
            program.begin(np.asarray([1, 2], np.int32))
            totals = program.run(200, []).open.totals
            seen.add(b"".join([totals.tobytes(), *(variable.numpy().tobytes() for variable in variables)]))
    assert len(seen) == 1


def operations(graph: tf.Graph) -> Iterator[Any]:
    """All nodes of a graph and of the functions that it calls."""
    definition = graph.as_graph_def()
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def test_no_sum_of_more_than_two_is_traced() -> None:
    machine.configure(threads=0, deterministic="false")

    @tf.function(autograph=False)
    def inner(x: tf.Tensor) -> tf.Tensor:
        return x * x + tf.sin(x) + tf.tanh(x) * x

    model = Recurrent(8)

    def step(values: Any, weights: Any, seed: Any) -> tf.Tensor:
        def body(number: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return number + 1, tf.tanh(x @ model.hidden) + tf.sin(x) * tf.cos(x)

        with tf.GradientTape() as tape:
            _, looped = tf.while_loop(lambda number, x: number < 3, body, (tf.constant(0), values["x"]))
            loss = tf.reduce_sum(tf.add_n([model(values["x"]), inner(values["x"]), looped]))
        return tape.gradient(loss, [model.inputs, model.hidden])

    traced = trace_on_batch(SPECS, step)
    sums = [node.attr["N"].i for node in operations(traced.graph) if node.op == "AddN"]
    assert set(sums) == {2}


def test_additions_are_left_as_they_are() -> None:
    machine.configure(threads=0, deterministic="false")
    assert tf.config.optimizer.get_experimental_options()["arithmetic_optimization"] is False


def test_a_sum_is_what_it_was() -> None:
    values = [tf.constant([1e8]), tf.constant([1.0]), tf.constant([-1e8]), tf.constant([1.0])]
    # Called again and again, as by each trainer of a process.
    for _ in range(2):
        sum_in_order()
    # In float32, (((1e8 + 1) - 1e8) + 1).
    assert float(tf.add_n(values)[0]) == 1.0
    assert float(tf.add_n(values[:1])[0]) == 1e8
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        tf.add_n([tf.zeros([2]), tf.zeros([2]), tf.zeros([3])])


def test_what_a_model_and_its_data_trace_for_themselves_is_in_order_too(train: Callable[..., Any]) -> None:
    """A function that a model calls before its step is traced is not traced again in it."""
    graphs = []

    def summed(*values: Any) -> Any:
        graphs.append(tf.compat.v1.get_default_graph())
        return tf.add_n(values)

    class Warmed(Recurrent):
        def __init__(self) -> None:
            super().__init__(64)
            self.sum = tf.function(summed, autograph=False)
            self(tf.ones([16, 64]))

        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return super().__call__(self.sum(x, tf.sin(x), tf.cos(x)))

    class Experiment(Unrolled):
        def model(self, seed: Any) -> Recurrent:
            return Warmed()

        def train_data(self) -> trainer.data.Source:
            def noisy(example: Any, seed: Any) -> Any:
                return {"x": summed(example["x"], tf.sin(example["x"]), tf.cos(example["x"]))}

            return super().train_data().map(noisy)

    train(Experiment(), train_for=2)
    counts = [node.attr["N"].i for graph in graphs for node in operations(graph) if node.op == "AddN"]
    assert len(graphs) >= 2
    assert set(counts) == {2}
