"""How a Keras model is called that knows its inputs: by their names, in the structure that it has them in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from trainer.run.guests import is_guest

_UNNAMED = re.compile(r"keras_tensor(_\d+)?")
"""What Keras calls an input without a name; it counts them through the process."""


class GuestCall(NamedTuple):
    """A model as a function of tensors by name."""

    answer: Callable[[Mapping[str, tf.Tensor]], Any]
    """What the model returns in inference; the tensors of a list are named by their number."""
    specs: Mapping[str, tf.TensorSpec]
    """The inputs, with the batch dimension that the model has."""


def call_of_guest(model: Any) -> GuestCall | None:
    """The call of a Keras model; None where `model` is none, or does not know its inputs as dense tensors."""
    inputs = getattr(model, "inputs", None) if is_guest(model) else None
    if not inputs or any(tensor.sparse or tensor.ragged for tensor in inputs):
        return None
    # A sequential model has no `input` before it is called, and one input.
    structure = getattr(model, "input", inputs[0] if len(inputs) == 1 else inputs)
    tensors = tf.nest.flatten(structure)
    by_key = isinstance(structure, Mapping) and len(structure) == len(tensors)
    names = sorted(structure) if by_key else list(map(_name, tensors, range(len(tensors))))

    def answer(batch: Mapping[str, tf.Tensor]) -> Any:
        returned = model(tf.nest.pack_sequence_as(structure, [batch[name] for name in names]), training=False)
        if isinstance(returned, list | tuple):
            return {f"output_{index}": tensor for index, tensor in enumerate(returned)}
        return returned

    return GuestCall(answer, {name: tf.TensorSpec(t.shape, t.dtype) for name, t in zip(names, tensors, strict=True)})


def _name(tensor: Any, index: int) -> str:
    """The name that the user gave an input, or one by its number, from 0."""
    return f"input_{index}" if _UNNAMED.fullmatch(tensor.name) else str(tensor.name)
