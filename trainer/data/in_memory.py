"""Examples that fit in memory: each array is one tensor, and a batch is gathered from it by index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.arguments import SHORT, WRAP, checked_batch_size, checked_last
from trainer.data.mapping import EVAL_SEED, Mappable, check_shapes, example_seeds, mapped_batch
from trainer.data.rows import ORDER_STREAM, Rows, short, wrapped
from trainer.data.seeds import fold_in
from trainer.data.sources import Batch, GraphSource
from trainer.errors import ConfigError

_ROWS: dict[str, Callable[..., Rows]] = {WRAP: wrapped, SHORT: short}


def arrays(mapping: Mapping[str, Any], *, batch_size: int, shuffle: bool = True, last: str = "wrap") -> InMemory:
    """Returns a source over arrays in memory, whose first axis counts examples.

    Args:
      mapping: by name, an array [examples, …], or what NumPy makes one of; dtypes stay as they are.
      batch_size: rows in a batch; it may exceed the number of examples.
      shuffle: whether training takes each pass in an order of its own. Evaluation always keeps the file's order.
      last: what the last batch of a training pass does: "wrap" goes on into the next pass, so that every batch is full
        and nothing is dropped; "short" holds what is left and is padded with weight 0.

    Raises:
      ConfigError: there are no examples, the arrays do not fit together or cannot be tensors, or an argument is wrong.
    """
    rows, last = checked_batch_size(batch_size), checked_last(last)
    return InMemory(_checked(mapping), batch_size=rows, shuffle=bool(shuffle), last=last)


class InMemory(Mappable, GraphSource):
    """A source over arrays; `arrays` makes one, and checks first."""

    mode = "indexed"

    def __init__(self, values: dict[str, np.ndarray], *, batch_size: int, shuffle: bool, last: str) -> None:
        self.batch_size = batch_size
        self.examples: int = len(next(iter(values.values())))
        self.shuffle = shuffle
        self.last = last
        self.fingerprint = fingerprint(values)
        # Eager tensors, so that a graph captures them by reference and holds no copy.
        self._values = {name: tf.constant(value) for name, value in values.items()}
        self.maps = ()
        self.element = {name: tf.TensorSpec(value.shape[1:], value.dtype) for name, value in self._values.items()}
        shape = {"length": self.examples, "batch_size": batch_size}
        rows = partial(_ROWS[last], **shape)
        self._train_rows: Callable[..., Rows] = rows
        self._eval_rows: Callable[..., Rows] = partial(short, **shape)
        if shuffle:
            self._train_rows = _shuffled(last, self.examples, batch_size)

    def train_batch(self, seed: np.ndarray | tf.Tensor, start: tf.Tensor) -> Batch:
        order = tf.convert_to_tensor(seed) if self.shuffle else None
        return self._batch(self._train_rows(tf.cast(start, tf.int64), order), seed)

    def eval_batch(self, start: tf.Tensor) -> Batch:
        rows = self._eval_rows(tf.cast(start, tf.int64), None)
        return self._batch(rows._replace(passes=tf.zeros_like(rows.passes)), EVAL_SEED)

    def _batch(self, rows: Rows, seed: np.ndarray | tf.Tensor) -> Batch:
        values = {name: tf.gather(value, rows.index) for name, value in self._values.items()}
        if self.maps:
            check_shapes(self.element)
            seeds = example_seeds(seed, rows.passes, rows.index, len(self.maps))
            values = mapped_batch(self.maps, self.element, values, seeds, compiled=True)
        return Batch(values, rows.weights, rows.examples)


@lru_cache(maxsize=256)
def _shuffled(last: str, length: int, batch_size: int) -> Callable[..., Rows]:
    """The rows of a batch, from where it starts and the run's seed.

    A permutation is hundreds of small integer operations: with the gather, a batch of 64 takes 17 to 23 µs when they
    are one compiled program in a graph, 135 to 210 one by one. Integers are exact: no bit changes. It takes a second
    to compile, and for data of one size that is done once a process.
    """
    rows = partial(_ROWS[last], length=length, batch_size=batch_size)
    return tf.function(  # type: ignore[no-any-return]  # TensorFlow ships no types.
        lambda start, seed: rows(start, fold_in(seed, ORDER_STREAM)), jit_compile=True, autograph=False
    )


def fingerprint(values: Mapping[str, np.ndarray]) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of names, dtypes, shapes and bytes; names in any order."""
    digest = hashlib.sha256()
    for name, value in sorted(values.items()):
        # One line of JSON before the bytes says where they end: no two sets of arrays read the same.
        digest.update(json.dumps([name, value.dtype.name, list(value.shape)]).encode() + b"\n")
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _checked(mapping: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays, contiguous and in native byte order, or raises ConfigError for the first that cannot be."""
    if not isinstance(mapping, Mapping) or not mapping:
        raise ConfigError(f"arrays({_brief(mapping)}) has no arrays; give a mapping such as {{'image': array [N, …]}}")
    values = {name: _array(name, value) for name, value in mapping.items()}
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ConfigError(f"arrays have different numbers of examples ({given}); give all the same first axis")
    if not any(lengths.values()):
        raise ConfigError(f"arrays {', '.join(lengths)} hold no examples; give a first axis of at least 1")
    return values


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise ConfigError(f"array name {name!r} is not a string; name what the batch calls it, such as 'image'")
    try:
        array = np.asarray(value)
    except ValueError:
        raise ConfigError(f"array {name!r} has rows of different lengths; pad them to one shape [N, …]") from None
    if array.ndim == 0:
        raise ConfigError(f"array {name!r} is a scalar ({_brief(value)}); give an array [N, …] with examples first")
    if array.dtype.hasobject or not _is_tensor_dtype(array.dtype):
        raise ConfigError(f"array {name!r} has dtype {array.dtype}, which no tensor has; convert it, e.g. to float32")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _is_tensor_dtype(dtype: np.dtype[Any]) -> bool:
    try:
        tf.as_dtype(dtype)
    except TypeError:
        return False
    return True


def _brief(value: Any) -> str:
    """Returns a value's repr on one line of at most 40 characters, for an error message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:39] + "…"
