"""Tracing a function of a batch once, before any loop uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.data import Batch
from trainer.errors import ConfigError


def trace_on_batch(batch_at: Callable[[tf.Tensor], Batch], function: Callable[..., tf.Tensor]) -> Any:
    """Traces `function(values, weights, seed)` on the shapes of the batches of `batch_at(start)`.

    The user's code runs once, here, with autograph; and whatever it only tells while it is traced, such as the names of
    its metrics, is known afterwards.
    """
    start = tf.TensorSpec([], tf.int64)
    values, weights, _ = tf.function(batch_at, autograph=False).get_concrete_function(start).structured_outputs
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in values.items()}
    weight_spec = None if weights is None else tf.TensorSpec(weights.shape, weights.dtype)
    try:
        return tf.function(function).get_concrete_function(specs, weight_spec, tf.TensorSpec([2], tf.int32))
    except ConfigError as error:
        raise _as_raised(error) from None


def _as_raised(error: BaseException) -> BaseException:
    """The error as our code raised it: autograph raises it again, with pages of its own around the one line."""
    while isinstance(error.__context__, ConfigError):
        error = error.__context__
    return error
