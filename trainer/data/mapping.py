"""Functions of single examples, and the randomness that belongs to an example wherever it is read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from trainer.data.integers import Array
from trainer.data.seeds import absorb, fold_in, split
from trainer.data.stateful import RANDOM, operations_in
from trainer.errors import ConfigError

Example = dict[str, tf.Tensor]
Map = Callable[[Example, tf.Tensor], Mapping[str, Any]]
"""From an example and its seed, int32 [2], to the example that takes its place."""

MAP_STREAM = 0x6D617073
"""`maps` in ASCII: the randomness of an example's map shares nothing with what else is drawn from the seed."""
EVAL_SEED = np.asarray(fold_in(np.zeros(2, np.int32), 0x6576616C), np.int32)
"""Of the maps in every evaluation of every run, `eval` in ASCII: an evaluation measures the weights and no luck."""

_Mapped = TypeVar("_Mapped", bound="Mappable")


class Mappable:
    """What all indexed sources can do: have a function applied to each example."""

    maps: tuple[Map, ...]
    """In the order in which they are applied."""
    element: dict[str, tf.TensorSpec]
    """An example, by name, after all maps."""

    def map(self: _Mapped, function: Map) -> _Mapped:
        """Returns a new source with `function(example, seed)` applied to each example.

        Several compose, each with a seed of its own. A seed follows from the run's, the pass, the example and the
        number of the map: neither the batch size nor a resume nor how much is read at once changes it. Evaluations have
        seeds of their own, the same each time.

        Args:
          function: from an example, a dict of tensors by name, and its seed, int32 [2], to such a dict. It is traced
            like a `tf.function`; randomness comes from `tf.random.stateless_*(…, seed, alg="philox")` and its like.

        Raises:
          ConfigError: it returns something else, or draws random numbers that do not follow from the seed.
        """
        traced = tf.function(function)
        mapped = copy.copy(self)
        mapped.element = _result_of(traced, self.element)
        mapped.maps = (*self.maps, traced)
        return mapped


def example_seeds(seed: Array, passes: Array, index: Array, maps: int) -> Array:
    """Returns the seeds of examples, one for each map: int32 [batch, maps, 2], an array for arrays, else a tensor.

    Args:
      seed: int32 [2], of the run, or `EVAL_SEED`.
      passes: int64 [batch].
      index: int64 [batch], which example it is.
      maps: how many there are.
    """
    words = absorb(absorb(split(fold_in(seed, MAP_STREAM)), passes), index)
    words = absorb((words[0][:, None], words[1][:, None]), np.arange(maps, dtype=np.int64)[None, :])
    if all(isinstance(word, np.ndarray) for word in words):
        return np.stack(words, axis=-1).view(np.int32)
    return tf.cast(tf.stack(words, axis=-1), tf.int32)


def mapped_batch(
    maps: tuple[Map, ...], element: dict[str, tf.TensorSpec], values: Example, seeds: Array, *, compiled: bool
) -> Example:
    """Returns a batch with every map applied to each of its examples.

    Each example is computed by itself: `tf.vectorized_map` rounds differently from batch size to batch size, knows no
    compiled random operations, and is no faster where examples draw random numbers.

    Args:
      maps: at least one.
      element: an example after all of them.
      values: by name, [batch, …].
      seeds: int32 [batch, maps, 2].
      compiled: whether XLA may compile this.
    """
    rows = seeds.shape[0]
    if compiled and rows == 1:
        # XLA dissolves a loop of one turn in what is around it, and then rounds differently.
        values, seeds = tf.nest.map_structure(lambda value: tf.repeat(value, 2, axis=0), (values, seeds))

    def one(arguments: tuple[Example, tf.Tensor]) -> dict[str, Any]:
        example, own = arguments
        for number, function in enumerate(maps):
            example = dict(function(example, own[number]))
        return example

    mapped = tf.map_fn(one, (values, seeds), fn_output_signature=element)
    return {name: value[:rows] for name, value in mapped.items()} if compiled and rows == 1 else mapped


def check_shapes(element: Mapping[str, tf.TensorSpec]) -> None:
    """Makes sure that examples can be stacked to batches.

    Raises:
      ConfigError: a shape is not known; the message names it.
    """
    for name, spec in element.items():
        if not spec.shape.is_fully_defined():
            raise ConfigError(
                f"example {name!r} has shape {spec.shape}, which may differ; map it to one shape, e.g. with "
                "tf.image.resize, or name it with tf.ensure_shape"
            )


def _result_of(traced: Any, element: dict[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
    """What a map makes of such an example."""
    concrete = traced.get_concrete_function(dict(element), tf.TensorSpec([2], tf.int32))
    for drawn in operations_in(concrete.graph, RANDOM):
        kind = drawn.type if isinstance(drawn, tf.Operation) else drawn.op
        raise ConfigError(
            f"the function given to map draws from a generator of its own ({kind}), which no checkpoint holds; use "
            "tf.random.stateless_… with the seed that it is given"
        )
    result = concrete.structured_outputs
    if not isinstance(result, Mapping) or not result:
        given = "an empty dict" if isinstance(result, Mapping) else type(result).__name__
        given = {"NoneType": "nothing", "SymbolicTensor": "a tensor", "TensorSpec": "a tensor"}.get(given, given)
        raise ConfigError(f"the function given to map returned {given}; return a dict of tensors by name")
    for name, value in result.items():
        if not isinstance(name, str) or not isinstance(value, tf.Tensor | tf.TensorSpec):
            kind = type(value).__name__
            raise ConfigError(f"the function given to map returned {name!r} as {kind}; return dense tensors by name")
    return {name: tf.TensorSpec(value.shape, value.dtype) for name, value in result.items()}
