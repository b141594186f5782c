"""What all optimizers share: the step, the learning rate, the variables, the checkpoint."""

from __future__ import annotations

import ast
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import trainer.optim
from trainer.errors import ConfigError
from trainer.optim import SGD, Adam, AdamW, cosine, piecewise, warmup

MAKERS = {
    "sgd": lambda rate: SGD(rate),
    "momentum": lambda rate: SGD(rate, momentum=0.9),
    "adam": lambda rate: Adam(rate),
    "adamw": lambda rate: AdamW(rate),
}


class Problem(tf.Module):
    """A least-squares fit with its optimizer and its step, as a training program holds them."""

    def __init__(self, optimizer, *, jit: bool = True):
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([4, 2], seed=[1, 2]), name="kernel")
        self.bias = tf.Variable(tf.zeros([2]), name="bias")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.optimizer = optimizer
        self.train = tf.function(self._train, autograph=False, jit_compile=jit)

    @property
    def weights(self):
        return [self.kernel, self.bias]

    def _train(self):
        features = tf.random.stateless_normal([8, 4], seed=tf.stack([self.step, 7]), alg="philox")
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((features @ self.kernel + self.bias - 1.0) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.weights), self.weights)
        self.step.assign_add(1)

    def run(self, steps: int) -> Problem:
        for _ in range(steps):
            self.train()
        return self

    def checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(kernel=self.kernel, bias=self.bias, step=self.step, optimizer=self.optimizer)


def keys(prefix: str) -> list[str]:
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    return [name.removesuffix(suffix) for name, _ in tf.train.list_variables(prefix) if name.endswith(suffix)]


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_restored_run_continues_bit_for_bit(name, tmp_path):
    make = lambda: MAKERS[name](warmup(3, cosine(0.1, 20)))  # noqa: E731
    whole = Problem(make())
    whole.optimizer.build(whole.weights, whole.step)
    prefix = whole.run(4).checkpoint().write(str(tmp_path / "state"))
    whole.run(4)

    resumed = Problem(make())
    resumed.optimizer.build(resumed.weights, resumed.step)
    resumed.checkpoint().read(prefix).assert_consumed()
    resumed.run(4)

    left, right = tmp_path / "left", tmp_path / "right"
    whole.checkpoint().write(str(left))
    resumed.checkpoint().write(str(right))
    for key in keys(str(left)):
        key = f"{key}/.ATTRIBUTES/VARIABLE_VALUE"
        np.testing.assert_array_equal(tf.train.load_variable(str(left), key), tf.train.load_variable(str(right), key))


def test_checkpoint_holds_the_slots_by_position_and_neither_the_learning_rate_nor_a_second_step(tmp_path):
    expected = {
        "sgd": [],
        "momentum": ["momentum/0", "momentum/1"],
        "adam": ["first_moment/0", "first_moment/1", "second_moment/0", "second_moment/1"],
        "adamw": ["first_moment/0", "first_moment/1", "second_moment/0", "second_moment/1"],
    }
    for name, make in MAKERS.items():
        problem = Problem(make(0.1))
        problem.optimizer.build(problem.weights, problem.step)
        prefix = tf.train.Checkpoint(optimizer=problem.optimizer).write(str(tmp_path / name))
        assert keys(prefix) == sorted(f"optimizer/{key}" for key in ["iterations", *expected[name]])
        assert problem.optimizer.trainable_variables == ()


def test_building_in_the_first_call_costs_no_second_trace():
    variable, optimizer, traces = tf.Variable(1.0), Adam(0.1), []

    @tf.function(autograph=False)
    def update():
        traces.append(None)
        optimizer.apply([tf.constant(1.0)], [variable])

    update()
    update()
    assert len(traces) == 1
    assert optimizer.iterations.numpy() == 2


@pytest.mark.parametrize("jit", [False, True])
def test_built_in_the_first_call_or_before_it_the_checkpoint_is_the_same(jit, tmp_path):
    eager, lazy = Problem(Adam(0.1), jit=jit), Problem(Adam(0.1), jit=jit)
    eager.optimizer.build(eager.weights)
    files = [problem.run(2).checkpoint().write(str(tmp_path / f"{id(problem)}")) for problem in (eager, lazy)]
    assert keys(files[0]) == keys(files[1])
    fresh = Problem(Adam(0.1))
    fresh.optimizer.build(fresh.weights)
    fresh.checkpoint().read(files[1]).assert_consumed()
    np.testing.assert_array_equal(fresh.optimizer.second_moment[0], eager.optimizer.second_moment[0])


def test_slots_built_after_a_restore_get_the_saved_values(tmp_path):
    saved = Problem(SGD(0.1, momentum=0.9)).run(3)
    prefix = saved.checkpoint().write(str(tmp_path / "state"))
    late = Problem(SGD(0.1, momentum=0.9))
    status = late.checkpoint().read(prefix)
    saved.run(2)
    late.run(2)
    status.assert_consumed()
    np.testing.assert_array_equal(saved.kernel, late.kernel)


def test_after_a_restore_the_learning_rate_is_the_constructors(tmp_path):
    saved = Problem(Adam(0.1)).run(3)
    prefix = saved.checkpoint().write(str(tmp_path / "state"))
    resumed = Problem(Adam(0.003))
    resumed.optimizer.build(resumed.weights)
    resumed.checkpoint().read(prefix).assert_consumed()
    assert resumed.optimizer.learning_rate.numpy() == np.float32(0.003)
    before = resumed.kernel.numpy()
    resumed.run(1)
    assert 0 < np.abs(resumed.kernel.numpy() - before).max() < 0.01


def test_schedule_reads_the_step_given_and_not_the_updates_applied():
    variable, step = tf.Variable(0.0), tf.Variable(7, dtype=tf.int64)
    optimizer = SGD(piecewise([8], [1.0, 0.5]))
    optimizer.build([variable], step)
    rates = []

    @tf.function(autograph=False)
    def update():
        rate = optimizer.learning_rate
        optimizer.apply([tf.constant(1.0)], [variable])
        step.assign_add(1)
        return rate

    for _ in range(3):
        rates.append(update().numpy())
    assert rates == [1.0, 0.5, 0.5]
    assert variable.numpy() == -2.0
    assert optimizer.iterations.numpy() == 3


def test_schedule_reads_the_updates_applied_when_no_step_is_given():
    variable = tf.Variable(0.0)
    optimizer = SGD(piecewise([1], [1.0, 0.5]))
    for _ in range(2):
        optimizer.apply([tf.constant(1.0)], [variable])
    assert variable.numpy() == -1.5


def test_learning_rate_is_a_float32_scalar_whatever_the_schedule_gives():
    optimizer = SGD(lambda step: 0.5 / tf.cast(step + 1, tf.float64))
    assert (optimizer.learning_rate.dtype, optimizer.learning_rate.shape) == (tf.float32, [])
    optimizer.iterations.assign(1)
    assert optimizer.learning_rate.numpy() == 0.25


@pytest.mark.parametrize("jit", [False, True])
def test_skipped_update_counts_for_nothing(jit):
    variable, twin = tf.Variable(1.0), tf.Variable(1.0)
    optimizer, reference = Adam(0.1), Adam(0.1)

    @tf.function(autograph=False, jit_compile=jit)
    def update(gradient):
        finite = tf.math.is_finite(gradient)
        tf.cond(finite, lambda: optimizer.apply([gradient], [variable]), lambda: None)

    for gradient in (1.0, np.nan, 0.5):
        update(tf.constant(gradient))
    for gradient in (1.0, 0.5):
        reference.apply([tf.constant(gradient)], [twin])
    assert optimizer.iterations.numpy() == 2
    assert variable.numpy() == pytest.approx(twin.numpy(), abs=1e-6)


def test_build_again_for_the_same_variables_does_nothing():
    variable, step = tf.Variable(1.0), tf.Variable(0, dtype=tf.int64)
    optimizer = Adam(0.1)
    optimizer.build([variable], step)
    slot = optimizer.first_moment[0]
    optimizer.build([variable], step)
    optimizer.build([variable])
    assert optimizer.first_moment[0] is slot


def test_misuse_is_refused_in_one_line():
    a, b = tf.Variable(1.0, name="a"), tf.Variable(1.0, name="b")
    one = tf.constant(1.0)
    optimizer = Adam(0.1)
    optimizer.build([a, b])
    double = tf.constant(1.0, tf.float64)
    calls = {
        "built for 2 variables and is given 1": lambda: optimizer.apply([one], [a]),
        "built for 'a:0' at position 0 and is given 'b:0'": lambda: optimizer.build([b, a]),
        "built with another step": lambda: optimizer.build([a, b], tf.Variable(0, dtype=tf.int64)),
        "1 gradients for 2 variables": lambda: optimizer.apply([one], [a, b]),
        "none of the 2 variables has a gradient": lambda: optimizer.apply([None, None], [a, b]),
        "is float64 and the variable float32": lambda: optimizer.apply([double, one], [a, b]),
        "is int32; give an int64 variable": lambda: SGD(0.1).build([a], tf.Variable(0)),
    }
    for message, call in calls.items():
        with pytest.raises(ConfigError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert optimizer.iterations.numpy() == 0


def test_keras_variables_are_updated_and_keras_is_never_imported():
    # TensorFlow imports Keras by itself, so sys.modules could not tell: what counts is what our files import.
    for path in pathlib.Path(trainer.optim.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = [name for node in nodes if isinstance(node, ast.Import) for name in node.names]
        assert not any(name.name.startswith("keras") for name in names)
        assert "tf.keras" not in path.read_text(encoding="utf-8")

    layer = tf.keras.layers.Dense(2)
    layer.build([None, 3])
    optimizer = AdamW(0.1, exclude=lambda variable: variable.name == "bias")

    @tf.function(autograph=False, jit_compile=True)
    def update():
        optimizer.apply([tf.ones([3, 2]), tf.ones([2])], layer.trainable_variables)

    bias = layer.bias.numpy()
    update()
    np.testing.assert_allclose(layer.bias.numpy(), bias - 0.1, atol=1e-6)
