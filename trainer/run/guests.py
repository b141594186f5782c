"""Keras models and optimizers as guests: what `tf.Module` and `tf.train.Checkpoint` do not see of them.

Keras is never imported here: a guest has imported it.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.checkpoint.objects import children_of, variable_of


def is_guest(thing: Any) -> bool:
    """Whether an object is Keras', or of a class derived from one of Keras'."""
    return any(kind.__module__.split(".")[0] in ("keras", "tf_keras") for kind in type(thing).__mro__)


def has_guests(model: Any) -> bool:
    """Whether a model is Keras', or holds layers of Keras."""
    return any(True for _ in _guests(model))


def variables_of(model: Any) -> list[Any]:
    """All variables of a model, those of the Keras layers in it included; Keras' own come as Keras wraps them."""
    return _collected(model, "variables")


def trainable_variables_of(model: Any) -> list[Any]:
    """The variables of a model that training updates, those of the Keras layers in it included."""
    return _collected(model, "trainable_variables")


def unreached_variables(model: Any) -> list[tf.Variable]:
    """The variables of Keras layers that a checkpoint of `model` would not hold: the states of their random seeds."""
    reached = {id(node) for node in tf.train.TrackableView(model).descendants()}
    variables = (variable for guest in _guests(model) for variable in guest.variables if id(variable) not in reached)
    return [tensor_variable(variable) for variable in variables]


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
def tensor_variable(variable: Any) -> tf.Variable:
    """The `tf.Variable` of a variable that may be Keras' wrapper of one."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def constant_learning_rate(optimizer: Any) -> tf.Variable | None:
    """The variable in which a Keras optimizer keeps a constant learning rate; None for a schedule, or another's."""
    if not is_guest(optimizer):
        return None
    rate = optimizer.learning_rate
    # A schedule's present value is a tensor, and what a function returns may be a number.
    return variable_of(rate) if isinstance(rate, tf.Variable) or is_guest(rate) else None


@contextlib.contextmanager
def seeded(seed: np.ndarray) -> Iterator[None]:
    """Seeds everything that Keras, or a user, may draw initial weights from without a seed of their own.

    Keras seeds its initializers and layers from Python's generator, which is put back afterwards, as NumPy's is.

    Args:
      seed: int32 [2].
    """
    number = int(np.asarray(seed).view(np.uint64)[0] % 2**32)
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(number)
    np.random.seed(number)
    tf.random.set_seed(number)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Has Keras build layers of this precision meanwhile, where Keras is there and the precision is not the default."""
    keras = sys.modules.get("keras")
    if keras is None or precision == "float32":
        yield
        return
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _collected(model: Any, kind: str) -> list[Any]:
    found = {id(variable): variable for variable in getattr(model, kind)}
    for guest in _guests(model):
        found |= {id(variable): variable for variable in getattr(guest, kind)}
    return list(found.values())


def _guests(node: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The outermost Keras objects with variables that a checkpoint of `node` reaches, `node` included."""
    seen = set() if seen is None else seen
    if id(node) in seen or isinstance(node, tf.Variable):
        return
    seen.add(id(node))
    if is_guest(node) and hasattr(node, "trainable_variables"):
        yield node
        return
    for child in children_of(node).values():
        yield from _guests(child, seen)
