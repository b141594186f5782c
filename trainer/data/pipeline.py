"""Batches of indexed examples, read ahead by a `tf.data` pipeline that can begin anywhere."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.arguments import SHORT, WRAP, checked_batch_size, checked_last
from trainer.data.blocks import Course
from trainer.data.mapping import EVAL_SEED, Example, Mappable, check_shapes, example_seeds, mapped_batch
from trainer.data.rows import ORDER_STREAM
from trainer.data.seeds import fold_in
from trainer.data.sources import Batch, PipelineSource
from trainer.errors import Unusable

# A call from TensorFlow into Python takes some 0.3 ms and a permutation 0.4, of however few rows: many share one.
BLOCK_ROWS, BLOCK_BYTES = 2048, 1 << 22

_READ_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a source, however they are stored.

    Attributes:
      count: how many there are.
      mean_bytes: of one.
      fingerprint: hexadecimal digits that change with the data, and with nothing else.
      read: from indices, int64 [n], to as many byte strings. It is called from several threads, and what is wrong
        there is an `Unusable`.
      decode: from these byte strings, string [n], to tensors [n, …] by name.
      element: what `decode` makes of one example.
      parallel: whether several threads read sooner than one: not where they mostly wait for Python's lock.
    """

    count: int
    mean_bytes: float
    fingerprint: str
    read: Callable[[npt.NDArray[np.int64]], list[bytes]]
    decode: Callable[[tf.Tensor], Example]
    element: dict[str, tf.TensorSpec]
    parallel: bool


class IndexedPipeline(Mappable, PipelineSource):
    """A source that reads any example by its index.

    Args:
      examples: where they are.
      batch_size: rows in a batch; it may exceed the number of examples.
      shuffle: whether training takes each pass in an order of its own.
      last: "wrap" or "short", what the last batch of a training pass does.

    Raises:
      ConfigError: an argument is wrong.
    """

    mode = "indexed"

    def __init__(self, examples: Examples, *, batch_size: int, shuffle: bool, last: str) -> None:
        self.batch_size = checked_batch_size(batch_size)
        self.last = checked_last(last)
        self.shuffle = bool(shuffle)
        self.examples: int = examples.count
        self.fingerprint = examples.fingerprint
        self.element = examples.element
        self.maps = ()
        self._examples = examples

    def train_batches(self, seed: npt.NDArray[np.int32], start: int) -> tf.data.Dataset:
        seed = np.asarray(seed, np.int32)
        order = np.asarray(fold_in(seed, ORDER_STREAM)) if self.shuffle else None
        course = Course(order, int(start), self.examples, self.batch_size, self.last)
        return self._batches(course, seed, None)

    def eval_batches(self) -> tf.data.Dataset:
        course = Course(None, 0, self.examples, self.batch_size, SHORT)
        return self._batches(course, EVAL_SEED, -(-self.examples // self.batch_size))

    def _batches(self, course: Course, seed: npt.NDArray[np.int32], count: int | None) -> tf.data.Dataset:
        """The batches of a course, all of them or the first `count`."""
        check_shapes(self.element)
        rows = min(BLOCK_ROWS, int(BLOCK_BYTES / max(1.0, self._examples.mean_bytes)))
        per_block = max(1, rows // self.batch_size)
        last = 2**62 if count is None else count

        def block(number: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
            first = int(number) * per_block
            rows = course.batches(first, min(per_block, last - first))
            index, passes = rows.index.ravel(), rows.passes.ravel()
            raw = np.empty(index.size, dtype=object)
            raw[:] = self._examples.read(index)
            parts: tuple[npt.NDArray[Any], ...] = (raw, rows.weights)
            if self.maps:
                seeds = example_seeds(seed, passes, index, len(self.maps))
                parts += (seeds.reshape(*rows.index.shape, *seeds.shape[1:]),)
            return parts

        # TensorFlow crashes on an array of no elements from Python: without maps there are no seeds at all.
        kinds = [tf.string, tf.float32, tf.int32][: 3 if self.maps else 2]
        shapes = [[None], [None, self.batch_size], [None, self.batch_size, len(self.maps), 2]]

        def finished(values: Example, weights: tf.Tensor) -> Batch:
            examples = tf.reduce_sum(tf.cast(weights, tf.int64), axis=-1)
            return Batch(values, None if course.last == WRAP else weights, examples)

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
        def read(number: tf.Tensor) -> Any:
            parts = tf.numpy_function(block, [number], kinds)
            raw, weights, *seeds = (tf.ensure_shape(part, shape) for part, shape in zip(parts, shapes, strict=False))
            flat = self._examples.decode(raw)
            values = {name: tf.reshape(value, [-1, self.batch_size, *value.shape[1:]]) for name, value in flat.items()}
            return (values, weights, *seeds) if seeds else finished(values, weights)

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
        def mapped(values: Example, weights: tf.Tensor, seeds: tf.Tensor) -> Batch:
            return finished(mapped_batch(self.maps, self.element, values, seeds, compiled=False), weights)

        read_ahead = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        numbers = tf.data.Dataset.range(-(-last // per_block))
        blocks = numbers.map(read, **read_ahead) if self._examples.parallel else numbers.map(read).prefetch(1)
        batches = blocks.unbatch()
        if self.maps:
            batches = batches.map(mapped, **read_ahead)
        return batches.prefetch(_READ_AHEAD)


def reading_failure(error: tf.errors.OpError, data: str = "the data", *, certain: bool = False) -> Unusable | None:
    """Returns what went wrong when a pipeline's error comes from reading `data`, else None.

    TensorFlow wraps an error of a pipeline's own Python code, with its traceback, into the message of another.

    Args:
      error: TensorFlow's.
      data: which, in words.
      certain: whether it is known to come from there; otherwise its message has to say so.
    """
    message = error.message or ""
    if told := re.search(rf"\b{Unusable.__name__}: (.+)", message):
        return Unusable(told[1])
    # Where operations are named, an error of the program's own does not name an iterator's.
    if not certain and "IteratorGetNext" not in message:
        return None
    if isinstance(error, tf.errors.OutOfRangeError):
        return Unusable(f"{data} has no examples to go on with; expected at least one batch")
    before = re.split(r"\[\[\{\{node|\[Op:", message)[0]
    reason = next((line.strip() for line in reversed(before.splitlines()) if line.strip()), type(error).__name__)
    return Unusable(f"{data} cannot be read: {reason}; mend that, then run again")
