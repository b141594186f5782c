"""Tracing a function of a batch once, before any loop uses it."""

from __future__ import annotations

import functools
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

    The user's code runs once, here; whatever it only tells while it is traced, such as the names of its metrics, is
    known afterwards.

    Args:
      specs: the shapes of the values by name, and of the weights.
      function: what to trace.
      seeds: the shape of the seed, or seeds, that it takes: int32.
    """
    try:
        return tf.function(function, autograph=False).get_concrete_function(*specs, tf.TensorSpec(seeds, tf.int32))
    except ConfigError as error:
        raise _as_raised(error) from None


def in_place(traced: Any) -> Callable[..., Any]:
    """What does the same as a traced function, by its operations instead of a call: they become part of the caller's.

    TensorFlow puts them there by itself for its usual executor; that of a single thread would call, by another thread.
    As with a call, none of them begins before the first argument is there.
    """
    graph_def = traced.graph.as_graph_def()
    taken = {tensor.op.name for tensor in traced.inputs}
    first = f"^{traced.inputs[0].op.name}"
    for node in graph_def.node:
        sources = (source.split(":")[0] for source in node.input if not source.startswith("^"))
        if node.name not in taken and taken.issuperset(sources):
            node.input.append(first)

    def call(*arguments: Any) -> Any:
        caller = tf.compat.v1.get_default_graph()
        # None is no tensor: a batch may have no weights.
        given = [value for value in tf.nest.flatten(arguments, expand_composites=True) if value is not None]
        values = [caller.capture(value) for value in (*given, *traced.captured_inputs)]
        by_name = {tensor.name: value for tensor, value in zip(traced.inputs, values, strict=True)}
        outputs = tf.graph_util.import_graph_def(
            graph_def,
            # What waits for an input waits for what is given in its place.
            input_map={**{f"^{tensor.op.name}": by_name[tensor.name] for tensor in traced.inputs}, **by_name},
            return_elements=[tensor.name for tensor in traced.outputs],
            name="step",
        )
        return tf.nest.pack_sequence_as(traced.structured_outputs, outputs, expand_composites=True)

    return call


def uses_seeds(traced: Any) -> bool:
    """Whether anything comes of the seeds that a function takes which `trace_on_batch` traced.

    To fold them takes as many operations as a small model has, and most models draw nothing.
    """
    # What it captures comes after what it takes.
    seeds = traced.inputs[-1 - len(traced.captured_inputs)]
    results = {id(tensor) for tensor in traced.outputs}
    ahead, seen = [seeds], set()
    while ahead:
        tensor = ahead.pop()
        if id(tensor) in results:
            return True
        for operation in tensor.consumers():
            if operation.op_def.is_stateful:
                return True
            if operation.name not in seen:
                seen.add(operation.name)
                ahead.extend(operation.outputs)
    return False


def converted(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the user's as a `tf.function` would call it, with autograph: it may branch on its tensors.

    It alone: to convert what stands around it, which needs none of that, takes most of the time of a trace.
    """

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return _autographed()(method, *arguments, **named)
        except Exception as error:
            # As a tf.function does: told with the lines that the user wrote, in place of those that autograph made.
            if hasattr(error, "ag_error_metadata"):
                raise error.ag_error_metadata.to_exception(error) from error
            raise

    return call


@functools.cache
def _autographed() -> Callable[..., Any]:
    """Calls a function with arguments; autograph converts what it calls, or says why it cannot, and does without."""
    return tf.autograph.to_graph(_call)  # type: ignore[no-any-return]


def _call(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


def _as_raised(error: BaseException) -> BaseException:
    """The error as our code raised it: autograph raises it again, with pages of its own around the one line."""
    while isinstance(error.__context__, ConfigError):
        error = error.__context__
    return error
