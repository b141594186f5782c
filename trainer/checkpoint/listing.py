"""What a checkpoint would write, without writing it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class _Listed(Exception):
    """What there is to write is known: nothing is to be written."""


class _Lister(tf.train.experimental.ShardingCallback):  # type: ignore[misc]  # TensorFlow has no types.
    """Notes all tensors that are about to be written, and lets none be."""

    description = "lists the tensors"

    def __init__(self) -> None:
        self.tensors: dict[str, tf.Tensor] = {}

    def __call__(self, tensors: Sequence[Any]) -> Any:
        self.tensors.update((tensor.checkpoint_key, tensor.tensor) for tensor in tensors)
        raise _Listed


def tensors_to_write(checkpoint: tf.train.Checkpoint) -> dict[str, tf.Tensor]:
    """The tensors that `checkpoint` would write now, by their keys; what an object saves is no public knowledge.

    Raises:
      tf.errors.OpError: a part of it refuses to be saved.
    """
    lister = _Lister()
    with contextlib.suppress(_Listed):
        checkpoint.write("ram://nothing/state", tf.train.CheckpointOptions(experimental_sharding_callback=lister))
    return lister.tensors
