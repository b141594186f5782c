"""Which kernels an update may use: TensorFlow has some for graphs that XLA lacks."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_traced: contextvars.ContextVar[Any] = contextvars.ContextVar("traced", default=None)


@contextlib.contextmanager
def without_xla() -> Iterator[None]:
    """Says of the function that is being traced here that XLA will not compile it, and that its gradients are checked.

    They are to be finite, and so are their squares: where those overflow, one of Adam's kernels goes on with numbers
    that the rule has not. Whoever says this throws away what comes of such gradients.

    Without that nobody knows: an update is written the same in a function that is compiled. It holds for the function
    and the branches in it, not for another function that it calls, which may ask for XLA by itself.
    """
    token = _traced.set(_function())
    try:
        yield
    finally:
        _traced.reset(token)


def is_without_xla() -> bool:
    """Whether `without_xla` was said of what is being traced here."""
    return _function() is _traced.get()


def _function() -> Any:
    """The function that is being traced here, whatever branch or loop of it."""
    graph = tf.compat.v1.get_default_graph()
    while type(graph).__name__ in ("CondBranchFuncGraph", "WhileBodyFuncGraph"):
        graph = graph.outer_graph
    return graph
