"""Tracing a function of a batch once, before any loop uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError


def trace_on_batch(
    specs: tuple[dict[str, tf.TensorSpec], tf.TensorSpec | None],
    function: Callable[..., tf.Tensor],
    *,
    seeds: tuple[int, ...] = (2,),
) -> Any:
    """Traces `function(values, weights, seed)` on batches of these shapes.

    The user's code runs once, here, with autograph; and whatever it only tells while it is traced, such as the names of
    its metrics, is known afterwards.

    Args:
      specs: the shapes of the values by name, and of the weights.
      function: what to trace.
      seeds: the shape of the seed, or seeds, that it takes: int32.
    """
    try:
        return tf.function(function).get_concrete_function(*specs, tf.TensorSpec(seeds, tf.int32))
    except ConfigError as error:
        raise _as_raised(error) from None


def _as_raised(error: BaseException) -> BaseException:
    """The error as our code raised it: autograph raises it again, with pages of its own around the one line."""
    while isinstance(error.__context__, ConfigError):
        error = error.__context__
    return error
