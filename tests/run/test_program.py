"""The chunk: many steps as one program, whose result does not depend on where it is cut."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError
from trainer.run.program import Row

pytestmark = pytest.mark.slow

EACH_MODE = pytest.mark.parametrize("jit", ["none", "step", "chunk"])
WRAP_AND_SHORT = pytest.mark.parametrize("last", ["wrap", "short"])


@pytest.fixture(scope="module")
def noisy(linear: Any) -> Any:
    """An experiment that uses all that could depend on where a chunk is cut: an order, randomness and slots."""

    @dataclasses.dataclass(frozen=True)
    class Noisy(linear):
        shuffle: bool = True
        weighted: bool = True

        def optimizer(self) -> Any:
            return trainer.optim.Adam(lambda step: 0.1 / (1.0 + tf.cast(step, tf.float32)))

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            noise = tf.random.stateless_uniform([self.batch_size], seed, alg="philox")
            return dataclasses.replace(
                loss, per_example=loss.per_example * noise, metrics={**loss.metrics, "noise": noise}
            )

    return Noisy


def same(first: list[Row], second: list[Row]) -> bool:
    """Whether windows are the same to the last bit."""

    def bits(row: Row) -> tuple[Any, ...]:
        rates = {name: rate.tobytes() for name, rate in row.learning_rates.items()}
        return row.step, row.examples, row.totals.tobytes(), rates

    return list(map(bits, first)) == list(map(bits, second))


# --- What a window averages -------------------------------------------------------------------------------------------


def by_hand(experiment: Any, kernel: np.ndarray, bias: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Least squares by gradient descent in NumPy: the values of each step, measured before its update."""
    data, consumed, size = experiment.arrays(), 0, experiment.batch_size
    kernel, bias = kernel.copy(), bias.copy()
    while True:
        if experiment.last == "wrap":
            index, real = (consumed + np.arange(size)) % experiment.examples, np.ones(size)
        else:
            position = consumed % experiment.examples + np.arange(size)
            index, real = np.minimum(position, experiment.examples - 1), 1.0 * (position < experiment.examples)
        weight = real * (data["weight"][index] if experiment.weighted else 1.0)
        error = data["x"][index] @ kernel + bias - data["y"][index]
        consumed += int(real.sum())
        yield {"consumed": consumed, "weight": weight, "loss": error**2, "absolute": np.abs(error)}
        slope = 2 * weight * error / weight.sum()
        kernel -= experiment.learning_rate * (slope @ data["x"][index])
        bias -= experiment.learning_rate * slope.sum()


@pytest.mark.parametrize(
    ("jit", "last", "weighted"),
    [
        ("none", "wrap", False),
        ("none", "wrap", True),
        ("none", "short", False),
        ("none", "short", True),
        ("chunk", "wrap", False),
        ("chunk", "short", True),
        ("step", "wrap", False),
        ("step", "short", True),
    ],
)
def test_a_window_holds_the_weighted_means_of_its_steps_each_measured_before_its_update(
    jit: str, last: str, weighted: bool, linear: Any, machinery: Callable[..., Any]
) -> None:
    experiment = linear(dtype="float64", last=last, weighted=weighted)
    machine = machinery(experiment, jit=jit)
    model, layout = machine.state.model, machine.program.layout
    steps = by_hand(experiment, model.kernel.numpy(), model.bias.numpy())
    rows = machine.run(5, 11, closes=[1, 4, 9])
    for row, (start, end) in zip(rows, [(0, 1), (1, 4), (4, 9), (9, 11)], strict=True):
        window = [next(steps) for _ in range(end - start)]
        assert (row.step, row.examples) == (end, window[-1]["consumed"])
        weights = np.concatenate([step["weight"] for step in window])
        means = layout.means(row.totals)
        for name in ("loss", "absolute"):
            values = np.concatenate([step[name] for step in window])
            np.testing.assert_allclose(means[name], (weights * values).sum() / weights.sum(), rtol=1e-12)


def test_a_window_of_many_steps_is_added_up_in_float64(linear: Any, machinery: Callable[..., Any]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Large(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            # Float32 has 24 bits: each of the small ones would be lost beside the large one.
            return dataclasses.replace(loss, metrics={"large": tf.where(batch["index"] == 0, 2.0**25, 1.0)})

    machine = machinery(Large())
    row, _ = machine.run(20, closes=[20])
    # Eighty examples are eight passes over ten.
    assert machine.program.layout.means(row.totals)["large"] == (8 * 2**25 + 72) / 80


@EACH_MODE
def test_the_learning_rate_of_a_row_is_that_of_its_last_update(
    jit: str, noisy: Any, rewound: Callable[..., Any]
) -> None:
    rows = rewound(noisy(), jit=jit).run(7, closes=[1, 4])
    # Update k reads the schedule at k − 1.
    for row in rows:
        assert row.learning_rates == {"": np.float32(0.1) / np.float32(row.step)}


def test_regularization_is_part_of_the_objective_and_apart_from_the_loss(
    linear: Any, machinery: Callable[..., Any]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Decayed(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, regularization=3.0 * tf.reduce_sum(model.kernel**2))

    plain, decayed = (machinery(kind(dtype="float64", weighted=True)) for kind in (linear, Decayed))
    kernel = plain.state.model.kernel.numpy()
    (without, _), (row, _) = plain.run(1, closes=[1]), decayed.run(1, closes=[1])
    means = decayed.program.layout.means(row.totals)
    assert means["loss"] == plain.program.layout.means(without.totals)["loss"]
    np.testing.assert_allclose(means["regularization"], 3 * (kernel**2).sum(), rtol=1e-12)
    pulled = plain.state.model.kernel.numpy() - decayed.state.model.kernel.numpy()
    np.testing.assert_allclose(pulled, 0.125 * 6 * kernel, rtol=1e-9)


# --- Where a chunk is cut ---------------------------------------------------------------------------------------------

CHUNKINGS = {
    "step by step": range(1, 14),
    "at every border of a pass": (3, 6, 9, 12, 13),
    "just before and after the borders": (2, 4, 5, 7, 8, 10, 11, 13),
    "at the ends of windows": (4, 8, 12, 13),
    "unevenly": (1, 6, 13),
}


@EACH_MODE
@WRAP_AND_SHORT
def test_where_a_chunk_is_cut_changes_no_bit(jit: str, last: str, noisy: Any, rewound: Callable[..., Any]) -> None:
    experiment = noisy(last=last)
    machine = rewound(experiment, jit=jit)
    whole, end = machine.run(13, closes=[4, 8, 12]), machine.bits()
    assert [row.step for row in whole] == [4, 8, 12, 13]
    for name, cuts in CHUNKINGS.items():
        assert same(rewound(experiment, jit=jit).run(*cuts, closes=[4, 8, 12]), whole), name
        assert machine.bits() == end, name


@EACH_MODE
@WRAP_AND_SHORT
def test_a_fresh_program_goes_on_from_a_checkpoint_bit_for_bit(
    jit: str,
    last: str,
    noisy: Any,
    machinery: Callable[..., Any],
    rewound: Callable[..., Any],
    tmp_path: pathlib.Path,
) -> None:
    undisturbed = rewound(noisy(last=last), jit=jit)
    undisturbed.run(5, closes=[4])
    undisturbed.state.checkpoint().write(str(tmp_path / "state"))
    saved = undisturbed.bits()
    rows = undisturbed.run(13, closes=[8, 12])

    fresh = machinery(noisy(last=last), jit=jit)
    fresh.state.checkpoint().read(str(tmp_path / "state")).assert_consumed()
    assert fresh.bits() == saved
    assert same(fresh.run(13, closes=[8, 12]), rows)
    assert fresh.bits() == undisturbed.bits()


def test_what_is_random_belongs_to_the_step_and_to_the_seed_of_the_run(noisy: Any, rewound: Callable[..., Any]) -> None:
    def noise(**options: int) -> list[float]:
        # All weigh alike and no order is random: nothing but the noise differs from step to step.
        machine = rewound(noisy(shuffle=False, weighted=False), jit="none", **options)
        return [machine.program.layout.means(row.totals)["noise"] for row in machine.run(6, closes=range(1, 7))[:-1]]

    once = noise()
    assert len(set(once)) == 6
    assert noise() == once
    assert not set(noise(seed=18)) & set(once)


def test_a_window_closed_by_hand_is_the_one_that_the_program_would_have_closed(
    noisy: Any, rewound: Callable[..., Any]
) -> None:
    closed = rewound(noisy(), jit="none").run(7, closes=[5])
    machine = rewound(noisy(), jit="none")
    machine.run(3, 5)
    assert same([machine.program.peek()], closed[:1])
    assert same([machine.program.close()], closed[:1])
    assert not machine.state.window.numpy().any()
    assert same(machine.run(7), closed[1:])


def test_as_many_windows_as_a_chunk_can_hold_come_out_of_it(linear: Any, rewound: Callable[..., Any]) -> None:
    machine = rewound(linear(), jit="none")
    most = machine.program.max_closes
    every_step = range(1, most + 1)
    rows = machine.run(most, closes=every_step)
    assert [row.step for row in rows] == [*every_step, most]
    assert all(row.totals[0] == 4 for row in rows[:-1])
    assert not rows[-1].totals.any()


# --- Which examples a step sees ---------------------------------------------------------------------------------------


def orders(machine: Any, steps: int) -> list[list[int]]:
    """The examples of each step in their order."""
    size = 4
    rows = machine.run(steps, closes=range(1, steps + 1))[:-1]
    # Σ weight · value without the division: 0 where a row is padding.
    start = 1 + 1 + 1  # Σ weight, loss, absolute
    assert [name for name, _ in machine.program.layout.sizes] == ["loss", "absolute", "order"]
    return [row.totals[start : start + size].astype(int).tolist() for row in rows]


@WRAP_AND_SHORT
def test_a_graph_and_xla_take_the_same_examples_in_the_same_order(
    last: str, linear: Any, rewound: Callable[..., Any]
) -> None:
    graph, xla = (orders(rewound(linear(shuffle=True, last=last), jit=jit), 15) for jit in ("none", "chunk"))
    assert graph == xla


def test_another_seed_takes_the_examples_in_another_order(linear: Any, rewound: Callable[..., Any]) -> None:
    experiment = linear(shuffle=True)
    assert orders(rewound(experiment, jit="none"), 15) != orders(rewound(experiment, jit="none", seed=18), 15)


def test_wrapped_passes_hold_every_example_once_and_each_pass_has_its_own_order(
    linear: Any, rewound: Callable[..., Any]
) -> None:
    sequence = np.ravel(orders(rewound(linear(shuffle=True, last="wrap"), jit="none"), 15))
    passes = sequence.reshape(6, 10)
    assert np.sort(passes, axis=1).tolist() == [list(range(10))] * 6
    assert len({tuple(one) for one in passes}) == 6


def test_short_passes_hold_every_example_once_and_weigh_padding_with_nothing(
    linear: Any, rewound: Callable[..., Any]
) -> None:
    experiment = linear(shuffle=True, last="short")
    rows = rewound(experiment, jit="none").run(6, closes=range(1, 7))
    assert [row.examples for row in rows[:-1]] == [4, 8, 10, 14, 18, 20]
    assert [row.totals[0] for row in rows[:-1]] == [4, 4, 2, 4, 4, 2]
    batches = orders(rewound(experiment, jit="none"), 6)
    for one in (batches[:3], batches[3:]):
        # Example 0 counts as 0, and so does padding: the others have to be there once each.
        assert sorted(index for batch in one for index in batch if index) == list(range(1, 10))
        assert one[-1][2:] == [0, 0]


# --- One trace, one compilation, no way out of a chunk ----------------------------------------------------------------


def test_the_loss_and_the_chunk_are_traced_once_for_all_lengths(linear: Any, machinery: Callable[..., Any]) -> None:
    traced: list[bool] = []

    @dataclasses.dataclass(frozen=True)
    class Counted(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            traced.append(training)
            return super().loss(model, batch, training=training, seed=seed)

    machine = machinery(Counted())
    step = 0
    for length in range(1, 21):
        machine.run(step + length, closes=range(step + 1, step + length))
        step += length
    assert traced == [True]
    assert machine.program.traces() == 1


COMPILED = """
    import tensorflow as tf
    from experiments.regression import Regression
    from trainer.run.program import Program
    from trainer.run.state import TrainState

    experiment = Regression()
    state = TrainState(experiment, 17)
    program = Program(experiment, state, experiment.train_data(), seed=17, jit="chunk")
    for length in range(1, 21):
        step = int(state.step.numpy())
        program.run(step + length, [step + 1])

    variable = tf.Variable(0.0)

    @tf.function(jit_compile=True)
    def counted_loop(n):
        for _ in tf.range(n):
            variable.assign_add(1.0)
        return variable.read_value()

    @tf.function(jit_compile=True)
    def python_length(n):
        for _ in range(n):
            variable.assign_add(1.0)
        return variable.read_value()

    for length in (1, 2, 3):
        counted_loop(tf.constant(length))
        python_length(length)
    print("traces", program.traces(), counted_loop.experimental_get_tracing_count())
"""


def test_xla_compiles_the_chunk_once_for_all_lengths(tmp_path: pathlib.Path) -> None:
    script, dump = tmp_path / "compiled.py", tmp_path / "dump"
    script.write_text(textwrap.dedent(COMPILED))
    # XLA itself tells what it compiles: a file a module, and a module a compilation.
    environment = {**os.environ, "XLA_FLAGS": f"--xla_dump_to={dump}", "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr

    def compilations(name: str) -> int:
        return len(list(dump.glob(f"module_*inference_{name}_*.before_optimizations.txt")))

    assert compilations("run") == 1
    # The counter sees what a trace counter does not: a counted loop is traced once, and compiled for each length.
    assert "traces 1 1" in done.stdout
    assert compilations("counted_loop") == 3
    assert compilations("python_length") == 3


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every read of a tensor's value by Python, as it happens: `numpy`, `int`, `bool` and their like."""
    seen: list[str] = []
    (base,) = (kind for kind in type(tf.constant(0)).__mro__ if "_numpy" in vars(kind))
    read = base._numpy

    def noted(tensor: tf.Tensor) -> Any:
        seen.append(str(tensor.dtype))
        return read(tensor)

    monkeypatch.setattr(base, "_numpy", noted)
    return seen


def test_the_counter_of_reads_sees_them(reads: list[str]) -> None:
    value = tf.constant(1)
    for read in (int, float, bool, range, str, lambda v: v.numpy(), lambda v: tf.Variable(v).numpy()):
        reads.clear()
        read(value)
        assert len(reads) >= 1, read


@EACH_MODE
def test_python_reads_one_value_a_chunk(
    jit: str, linear: Any, rewound: Callable[..., Any], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = rewound(linear(), jit=jit).program
    # Tracing reads constants, once.
    program.run(1, [])
    chunk, results = program._chunk, []

    class Result:
        """What a chunk returns, for those who read it as they should: NumPy's own ways past `numpy` are closed."""

        def __init__(self, tensor: tf.Tensor) -> None:
            self.tensor = tensor

        def numpy(self) -> np.ndarray:
            results.append(self)
            return self.tensor.numpy()

    monkeypatch.setattr(program, "_chunk", lambda *arguments: Result(chunk(*arguments)))
    for start, until in ((1, 2), (2, 7), (7, 40)):
        reads.clear()
        results.clear()
        program.run(until, list(range(start + 1, until + 1)))
        assert len(reads) == len(results) == 1


HOST = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "Print", "PrintV2", "StringFormat", "WriteFile", "WriteSummary"}


def operations(program: Any) -> list[str]:
    """The kinds of all operations of the chunk, those of the functions that it calls included."""
    chunk = program._chunk.graph.as_graph_def()
    inner = [node.op for function in chunk.library.function for node in function.node_def]
    return [*(node.op for node in chunk.node), *inner]


def leaves(kinds: list[str]) -> set[str]:
    """The operations that leave the device, or call back into Python."""
    return {kind for kind in kinds if kind in HOST or "Host" in kind or "feed" in kind.lower()}


@EACH_MODE
def test_nothing_in_a_chunk_leaves_the_device(jit: str, noisy: Any, rewound: Callable[..., Any]) -> None:
    kinds = operations(rewound(noisy(), jit=jit).program)
    assert leaves(kinds) == set()
    # The loop over the steps is in the program itself.
    assert {"While", "StatelessWhile"} & set(kinds)
    assert "AssignVariableOp" in kinds


def test_what_leaves_the_device_would_be_seen(linear: Any, machinery: Callable[..., Any]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Talkative(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            tf.print("loss", loss.per_example)
            doubled = tf.numpy_function(lambda value: 2 * value, [loss.per_example], tf.float32)
            doubled.set_shape([4])
            return dataclasses.replace(loss, metrics={"doubled": doubled})

    assert {"PrintV2", "PyFunc"} <= leaves(operations(machinery(Talkative()).program))


# --- What goes wrong --------------------------------------------------------------------------------------------------


@EACH_MODE
def test_the_program_stops_at_the_step_whose_loss_is_not_finite(
    jit: str, linear: Any, machinery: Callable[..., Any]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Poisoned(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, per_example=loss.per_example / tf.where(batch["index"] == 9, 0.0, 1.0))

    machine = machinery(Poisoned(), jit=jit)
    advance = machine.program.run(10, [2, 4])
    # Example 9 is in the third batch of four.
    assert advance.problem == "the loss"
    assert advance.open.step == 3
    assert [row.step for row in advance.rows] == [2]
    assert int(machine.state.step.numpy()) == 3


def test_a_metric_that_is_not_finite_stops_nothing_and_is_counted(linear: Any, machinery: Callable[..., Any]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Ratio(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, metrics={"ratio": 1.0 / tf.cast(batch["index"], tf.float32)})

    machine = machinery(Ratio())
    first, second, _ = machine.run(6, closes=[2, 5])
    assert machine.program.layout.nonfinite(first.totals) == {"ratio": 1}
    # Steps 3 and 5 see example 0 again: the wrapped passes begin at examples 10 and 20.
    assert machine.program.layout.nonfinite(second.totals) == {"ratio": 1}


def test_variables_that_the_loss_does_not_use_are_named_and_stay_as_they_are(
    linear: Any, machinery: Callable[..., Any]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Spare(linear):
        def model(self, seed: Any) -> Any:
            model = super().model(seed)
            model.spare = tf.Variable(1.5, name="spare")
            return model

    machine = machinery(Spare())
    machine.run(3)
    assert machine.program.unconnected == ("spare",)
    assert machine.state.model.spare.numpy() == 1.5


def test_a_loss_may_branch_on_its_tensors(linear: Any, machinery: Callable[..., Any]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Branching(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            error = model(batch["x"]) - batch["y"]
            value = error * 0.0 + 7.0
            if tf.reduce_min(batch["index"]) > 0:
                value = tf.abs(error)
            return trainer.Loss(value)

    machine = machinery(Branching())
    first, second, _ = machine.run(2, closes=[1, 2])
    assert machine.program.layout.means(first.totals) == {"loss": 7.0}
    assert machine.program.layout.means(second.totals)["loss"] < 7


def test_what_xla_cannot_compile_is_refused_in_one_line_with_the_way_out(
    linear: Any, machinery: Callable[..., Any]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Text(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, metrics={"digits": tf.strings.length(tf.as_string(batch["index"]))})

    machinery(Text()).run(2)
    with pytest.raises(ConfigError, match="jit=none") as caught:
        machinery(Text(), jit="chunk").run(2)
    assert "\n" not in str(caught.value)
