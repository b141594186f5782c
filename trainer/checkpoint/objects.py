"""The objects that a checkpoint reaches, and the variables among them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import tensorflow as tf

Children = Callable[[Any], Mapping[str, Any]]
"""From an object to those below it, by name."""


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


def is_trackable(node: Any) -> bool:
    """Whether a checkpoint can hold an object."""
    try:
        children_of(node)
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def variable_names(root: Any) -> dict[int, str]:
    """The variables below `root`, by their identity: each with the path of attributes that leads there."""
    names: dict[int, str] = {}
    for path, node in walk(root, children_of, id):
        variable = variable_of(node)
        if variable is not None:
            names.setdefault(id(variable), path)
    return names


def walk(root: Any, children: Children, identity: Callable[[Any], Hashable]) -> Iterator[tuple[str, Any]]:
    """Every object from `root` down, nearest first, each once and by the first path that leads there."""
    queue = collections.deque([("", root)])
    seen = {identity(root): root}  # Their objects too: the identity of one that is gone can be another's.
    while queue:
        path, node = queue.popleft()
        yield path, node
        for name, child in children(node).items():
            if identity(child) not in seen:
                seen[identity(child)] = child
                queue.append((f"{path}/{name}" if path else name, child))
