"""Looking through Python objects: values, variables and functions are found by path, and what changes is told."""

from __future__ import annotations

import collections
import functools
import itertools
import random
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.proof.python_state import PythonState, changes, look, traced_numbers

COUNTS = {"calls": 0}


class Part:
    """Something plain in a model."""

    total = 0

    def __init__(self) -> None:
        self.steps = 1
        self.weights = [tf.Variable(1.0), {"b": tf.Variable(2.0)}]


class Whole(tf.Module):
    """A model with parts."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [Part(), Part()]
        self.generator = np.random.default_rng(0)
        self.python = random.Random(0)
        self.counter = itertools.count()
        self.array = np.zeros(3)
        self.queue = collections.deque([1])

    @functools.cached_property
    def lazy(self) -> int:
        return 3

    @tf.function
    def double(self, x: Any) -> Any:
        return 2 * x


def seen(model: Whole) -> PythonState:
    return look({"model": model})


def test_nothing_changes_by_looking() -> None:
    model = Whole()
    assert changes(seen(model), seen(model)) == []


def test_what_changes_is_told_by_its_path() -> None:
    model = Whole()
    before = seen(model)
    model.parts[1].steps += 1
    model.generator.normal()
    model.python.random()
    next(model.counter)
    model.array[1] = 1
    model.queue.append(2)
    COUNTS["calls"] += 1
    Part.total += 1
    paths = {change.path for change in changes(before, seen(model))}
    module = Whole.__module__
    assert paths == {
        "model.parts[1].steps",
        "model.generator",
        "model.python",
        "model.counter",
        "model.array",
        "model.queue[1]",
        "Part.total",
        f"{module}.COUNTS['calls']",
    }


def test_generators_of_modules_are_looked_at() -> None:
    before = look({})
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.rand()
    random.random()
    assert {change.path for change in changes(before, look({}))} == {"numpy.random", "random"}
    np.random.set_state(numpy_state)
    random.setstate(python_state)


def test_what_is_made_at_first_use_is_no_state_unless_it_counts() -> None:
    model = Whole()
    before = seen(model)
    model.table = np.ones(3)
    assert model.lazy == 3
    assert changes(before, seen(model)) == []
    model.calls = 1
    [change] = changes(before, seen(model))
    assert str(change) == "model.calls (nothing, then 1)"


def test_what_is_put_aside_is_not_looked_into() -> None:
    model = Whole()
    before = look({"model": model}, aside=[model.parts[0], model.generator])
    model.parts[0].steps += 1
    model.generator.normal()
    assert changes(before, look({"model": model}, aside=[model.parts[0], model.generator])) == []


def test_variables_in_plain_objects_are_found_by_path() -> None:
    model = Whole()
    variables = seen(model).variables
    plain, nested = model.parts[1].weights
    assert variables[id(plain.handle)] == "model.parts[1].weights[0]"
    assert variables[id(nested["b"].handle)] == "model.parts[1].weights[1]['b']"


def test_circles_end() -> None:
    model = Whole()
    model.itself = [model]
    assert seen(model).values


def test_numbers_that_a_function_was_traced_for_are_known() -> None:
    model = Whole()
    for number in (1, 2, 2.5):
        model.double(number)
    model.double(tf.constant(1.0))
    [(path, function)] = seen(model).functions.items()
    assert path == "model.double"
    assert traced_numbers(function) == {"x": ["1", "2", "2.5"]}
