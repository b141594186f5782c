"""Keras models and optimizers as guests: all of their variables, their seeds and their precision."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data import run_seed
from trainer.run import guests


class Mixed(tf.Module):
    """A module of our kind that has guests, one of them by two names."""

    def __init__(self, net: keras.Model) -> None:
        super().__init__()
        self.own = tf.Variable(1.0)
        self.fixed = tf.Variable(2.0, trainable=False)
        self.layers = [net, {"dropout": keras.layers.Dropout(0.5)}]
        self.again = net


@pytest.fixture(scope="module")
def net() -> keras.Model:
    inner = keras.Sequential([keras.Input([4]), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])
    return keras.Sequential([keras.Input([3]), keras.layers.Dense(4), inner, keras.layers.Dense(1)])


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def test_what_is_keras_is_told_by_its_class_and_those_that_it_comes_from(net: keras.Model) -> None:
    class Own(keras.layers.Layer):
        pass

    class Named:
        __module__ = "kerasoid.layers"

    for guest in (net, Own(), keras.layers.Dense(1), keras.optimizers.SGD(0.1)):
        assert guests.is_guest(guest)
    for other in (tf.Module(), tf.Variable(1.0), Named(), None, 3, "keras"):
        assert not guests.is_guest(other)


def test_a_model_without_keras_has_no_guests(linear: Any) -> None:
    model = linear().model([1, 2])
    assert not guests.has_guests(model)
    assert guests.variables_of(model) == list(model.variables)
    assert guests.trainable_variables_of(model) == list(model.trainable_variables)
    assert guests.unreached_variables(model) == []


def test_guests_are_found_below_modules_lists_and_dicts(net: keras.Model) -> None:
    assert guests.has_guests(net)
    assert guests.has_guests(Mixed(net))


def test_each_variable_is_found_once_however_often_it_is_reached(net: keras.Model) -> None:
    model = Mixed(net)
    found = guests.variables_of(model)
    assert len({id(variable) for variable in found}) == len(found)
    # Two own ones; two dense layers, a normalization, two seeds of dropout.
    assert len(found) == 2 + 4 + 4 + 2
    trained = guests.trainable_variables_of(model)
    assert len({id(variable) for variable in trained}) == len(trained) == 1 + 4 + 2


def test_the_states_of_seeds_are_what_a_checkpoint_would_not_reach(net: keras.Model) -> None:
    model = Mixed(net)
    found = guests.unreached_variables(model)
    assert len(found) == 2
    assert all(isinstance(variable, tf.Variable) and "seed" in variable.name for variable in found)
    assert len(guests.unreached_variables(net)) == 1
    assert guests.unreached_variables(keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])) == []


def test_of_a_wrapped_variable_the_tensor_variable_is_known(net: keras.Model) -> None:
    own = tf.Variable(1.0)
    assert guests.tensor_variable(own) is own
    wrapped = net.trainable_variables[0]
    assert guests.tensor_variable(wrapped) is wrapped.value


# --- Learning rates -------------------------------------------------------------------------------------------------


def test_a_constant_learning_rate_is_found_in_its_variable() -> None:
    variable = guests.constant_learning_rate(keras.optimizers.Adam(0.25))
    assert isinstance(variable, tf.Variable)
    assert variable.numpy() == 0.25


def test_a_schedule_is_no_constant_and_neither_is_another_s_learning_rate(linear: Any) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    assert guests.constant_learning_rate(keras.optimizers.Adam(schedule)) is None
    assert guests.constant_learning_rate(keras.optimizers.Adam(lambda: 0.5)) is None
    assert guests.constant_learning_rate(linear().optimizer()) is None


# --- Seeds ----------------------------------------------------------------------------------------------------------


def drawn() -> list[Any]:
    layer = keras.layers.Dense(3)
    layer.build([None, 2])
    return [random.random(), np.random.rand(), layer.kernel.numpy().tolist()]


def test_what_is_drawn_without_a_seed_follows_the_one_that_is_given() -> None:
    found = []
    for number in (1, 1, 2):
        random.seed(None)
        with guests.seeded(run_seed(number)):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_the_generators_of_python_and_numpy_are_put_back(fails: bool) -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    try:
        with guests.seeded(run_seed(1)):
            random.random(), np.random.rand()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert (random.random(), np.random.rand()) == expected


# --- Precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "computed"), [("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16")])
def test_layers_compute_in_the_precision_and_keep_their_weights_in_float32(precision: str, computed: str) -> None:
    before = keras.config.dtype_policy().name
    with guests.dtype_policy(precision):
        layer = keras.layers.Dense(2)
        layer.build([None, 3])
    assert (layer.compute_dtype, layer.variable_dtype) == (computed, "float32")
    assert {variable.dtype for variable in layer.variables} == {"float32"}
    assert keras.config.dtype_policy().name == before


def test_the_policy_is_put_back_where_building_fails() -> None:
    with pytest.raises(KeyError), guests.dtype_policy("mixed_bfloat16"):
        raise KeyError
    assert keras.config.dtype_policy().name == "float32"


def test_the_default_precision_leaves_a_policy_of_the_user_s_own() -> None:
    keras.config.set_dtype_policy("float64")
    with guests.dtype_policy("float32"):
        assert keras.config.dtype_policy().name == "float64"
    with guests.dtype_policy("mixed_bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "float64"
