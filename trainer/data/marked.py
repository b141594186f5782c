"""Datasets of batches that tell which of them is the last."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.data.sources import Batch


def with_last(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The batches of `dataset`, each with a bool scalar that says whether no other follows.

    Each is held back until the next one is there, or the end. The state of an iterator over it can be saved where that
    of one over `dataset` can.
    """
    structure = dataset.element_spec

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def tensors(batch: Batch) -> tuple[Any, ...]:
        return tuple(part for part in tf.nest.flatten(batch) if part is not None)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def batch_of(flat: tuple[Any, ...]) -> Any:
        parts = iter(flat)
        return tf.nest.map_structure(lambda spec: next(parts) if isinstance(spec, tf.TensorSpec) else None, structure)

    flat = dataset.map(tensors)
    nothing = tuple(tf.zeros([size or 0 for size in spec.shape], spec.dtype) for spec in flat.element_spec)
    # A batch that is none ends the data, so that the last one that is comes out too.
    held_back = flat.map(lambda *parts: (parts, False)).concatenate(tf.data.Dataset.from_tensors((nothing, True)))
    shifted = held_back.scan(nothing, lambda held, following: (following[0], (held, following[1])))
    return shifted.skip(1).map(lambda parts, last: (batch_of(parts), last))
