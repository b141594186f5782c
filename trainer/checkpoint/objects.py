"""The objects that a checkpoint reaches, and the variables among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def children_of(node: Any) -> Mapping[str, Any]:
    """The objects below one, by the names that TensorFlow saves them under."""
    children: Mapping[str, Any] = tf.train.TrackableView.children(node)
    return children


def variable_of(node: Any) -> tf.Variable | None:
    """The variable that an object is; None for another object."""
    if isinstance(node, tf.Variable):
        return node
    # Keras wraps its variables, and is not imported here. A module that has a variable named so has it for a child.
    value = None if children_of(node) else getattr(node, "value", None)
    return value if isinstance(value, tf.Variable) else None
