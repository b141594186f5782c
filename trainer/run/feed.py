"""How batches reach the program: computed in it, or taken from an iterator that it is called with."""

from __future__ import annotations

import abc
import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.checkpoint.tensors import first_line
from trainer.data import Batch, Source
from trainer.data.marked import with_last
from trainer.data.pipeline import reading_failure
from trainer.data.pipeline_fingerprint import check_order
from trainer.data.sources import ITERATOR, REPLAY, RESTART, GraphSource, HostSource, PipelineSource
from trainer.data.streams import StreamSource, check_state, iterator_state, put_back
from trainer.errors import ConfigError, Unusable

Counting = Callable[[int, int], bool]
"""Receives how many batches are counted and how many are to be; returns whether to go on."""


class Feed(abc.ABC):
    """The batches of training, one after another, as a compiled program asks for them.

    Attributes:
      specs: the shapes of a batch's values by name, and of its weights.
      signature: what the program takes as further arguments.
      state: string scalar, where in the data the run stands; None where that follows from the examples consumed.
      reading: bool scalar, whether `next_timed` waits for a batch: kept in either executor, and asked where it does not
        say what failed; None where the program computes it.
      waits: whether the program may have to wait for a batch, because it does not compute it.
    """

    specs: tuple[dict[str, tf.TensorSpec], tf.TensorSpec | None]
    signature: tuple[Any, ...]
    state: tf.Variable | None = None
    reading: tf.Variable | None = None
    waits = False

    @abc.abstractmethod
    def open(self, seed: np.ndarray, origin: int, examples: int, counting: Counting) -> tuple[Any, ...]:
        """The program's arguments, so that it goes on where the run stands.

        Args:
          seed: int32 [2], of the order and of what is random in the data.
          origin: the examples that had been consumed when this data began to be.
          examples: the examples consumed by now.
          counting: asked, where the place is found by counting batches, after each of them.

        Raises:
          Unusable: the data ends before the place.
        """

    @abc.abstractmethod
    def next(self, arguments: tuple[Any, ...], examples: tf.Tensor) -> tuple[Batch, tf.Tensor]:
        """The batch after `examples`, int64 scalar, and whether it is the last: in the program."""

    def capture(self) -> int:
        """Notes in `state` where the run stands; returns how many bytes that takes."""
        return 0

    def close(self) -> None:  # noqa: B027  # Not all read ahead.
        """Lets go of what reads ahead. It may call Python, and must not do so while the interpreter ends."""


class GraphFeed(Feed):
    """Batches that are operations of the program itself."""

    def __init__(self, source: GraphSource) -> None:
        self._source = source
        self.signature = (tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int64))
        self.specs = graph_specs(lambda start: source.train_batch(np.zeros(2, np.int32), start))

    def open(self, seed: np.ndarray, origin: int, examples: int, counting: Counting) -> tuple[Any, ...]:
        return tf.constant(seed), tf.constant(origin, tf.int64)

    def next(self, arguments: tuple[Any, ...], examples: tf.Tensor) -> tuple[Batch, tf.Tensor]:
        seed, origin = arguments
        return self._source.train_batch(seed, examples - origin), tf.zeros([], tf.bool)


class HostFeed(Feed):
    """Batches from an iterator, which the program is called with."""

    waits = True

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self.reading = tf.Variable(False, trainable=False, name="reading")

    def close(self) -> None:
        # An iterator stands in a circle of references.
        gc.collect()


class PipelineFeed(HostFeed):
    """Batches that a pipeline prepares from any position on."""

    def __init__(self, source: PipelineSource) -> None:
        super().__init__()
        self._source = source
        elements = source.train_batches(np.zeros(2, np.int32), 0).element_spec
        self.signature = (tf.data.IteratorSpec(elements),)
        self.specs = batch_specs(elements)

    def open(self, seed: np.ndarray, origin: int, examples: int, counting: Counting) -> tuple[Any, ...]:
        return (iter(self._source.train_batches(seed, examples - origin)),)

    def next(self, arguments: tuple[Any, ...], examples: tf.Tensor) -> tuple[Batch, tf.Tensor]:
        return arguments[0].get_next(), tf.zeros([], tf.bool)


class StreamFeed(HostFeed):
    """Batches of a pipeline that is resumed by its saved state, by counting, or not at all.

    Args:
      source: the pipeline.

    Raises:
      ConfigError: its position is to be saved and cannot be.
    """

    def __init__(self, source: StreamSource) -> None:
        super().__init__()
        self._source = source
        self._iterator: tf.data.Iterator | None = None
        self._batches = source.full_batches if source.endless else source.train_batches
        dataset = self._batches(np.zeros(2, np.int32))
        self.signature = (tf.data.IteratorSpec(dataset.element_spec),)
        self.specs = (dict(dataset.element_spec), None) if source.endless else batch_specs(dataset.element_spec[0])
        if source.mode != RESTART:
            check_order(dataset)
        if source.mode == ITERATOR:
            check_state(dataset)
            with tf.device("CPU:0"):
                self.state = tf.Variable("", trainable=False, name="data_state")

    def open(self, seed: np.ndarray, origin: int, examples: int, counting: Counting) -> tuple[Any, ...]:
        source, consumed = self._source, examples - origin
        replayed = consumed if source.mode == REPLAY else 0
        # What is no whole number of batches is a matter of elements: the batch size was another then.
        batches, rest = divmod(replayed, source.batch_size)
        self._iterator = iter(self._batches(seed, skip=rest))
        if self.state is not None and consumed:
            try:
                put_back(self._iterator, self.state.read_value())
            except tf.errors.OpError as error:
                raise Unusable(
                    f"the saved position in the stream does not fit this pipeline: {first_line(error)}; bring back the "
                    "one that it was saved of, or take up this one under another fingerprint= with --allow_change=data"
                ) from None
        if rest and not source.batches_here:
            raise Unusable(
                f"{replayed} examples were consumed, and batches of {source.batch_size} do not end there; have the "
                "stream make batches of the size it had, or take it up under another fingerprint= with "
                "--allow_change=data"
            )
        read = rest
        for done in range(batches):
            element = next(self._iterator, None)
            read += 0 if element is None else int(self._batch_of(element)[0].examples)
            # A short batch is the last one: what was consumed after it is not there any more.
            if read < rest + (done + 1) * source.batch_size:
                raise Unusable(
                    f"the stream ends after {read} examples, and {replayed} were consumed; "
                    "bring the data back, or take up what there is under another fingerprint= with --allow_change=data"
                )
            if not counting(done + 1, batches):
                break
        return (self._iterator,)

    def next(self, arguments: tuple[Any, ...], examples: tf.Tensor) -> tuple[Batch, tf.Tensor]:
        return self._batch_of(arguments[0].get_next())

    def _batch_of(self, element: Any) -> tuple[Batch, tf.Tensor]:
        if self._source.endless:
            return self._source.full_batch(element), tf.zeros([], tf.bool)
        batch, last = element
        return batch, last

    def close(self) -> None:
        self._iterator = None
        super().close()

    def capture(self) -> int:
        if self.state is None:
            return 0
        assert self._iterator is not None
        state = iterator_state(self._iterator)
        self.state.assign(state)
        return len(state.numpy())


def next_timed(
    feed: Feed, arguments: tuple[Any, ...], examples: tf.Tensor
) -> tuple[tuple[Batch, tf.Tensor], tf.Tensor, tf.Tensor]:
    """As `feed.next`, and how many seconds that took and when it was done, float64 scalars: in the program."""
    assert feed.reading is not None
    before = tf.timestamp()
    with tf.control_dependencies([before, feed.reading.assign(True)]):
        taken = feed.next(arguments, examples)
    batch, is_last = taken
    # What an iterator gives is there all at once.
    with tf.control_dependencies([next(iter(batch.values.values()))]):
        after, arrived = tf.timestamp(), feed.reading.assign(False)
    # An executor that goes through all of it in one order may else look at the clock when the step is done.
    with tf.control_dependencies([after, arrived]):
        values = {name: tf.identity(value) for name, value in batch.values.items()}
    return (batch._replace(values=values), is_last), after - before, after


def make_feed(source: Source) -> Feed:
    """The feed that fits a source.

    Raises:
      ConfigError: it is a stream whose position cannot be saved and is to be.
    """
    if isinstance(source, GraphSource):
        return GraphFeed(source)
    if isinstance(source, PipelineSource):
        return PipelineFeed(source)
    if isinstance(source, StreamSource):
        return StreamFeed(source)
    raise ConfigError(f"{type(source).__name__} is no source that can be trained on; expected one of trainer.data")


class EvaluationFeed:
    """The batches of a whole split, in its order; the last one says that it is.

    Args:
      source: the split.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        if isinstance(source, HostSource):
            elements = with_last(source.eval_batches()).element_spec
            self.signature: tuple[Any, ...] = (tf.data.IteratorSpec(elements),)
            self.specs = batch_specs(elements[0])
        else:
            assert isinstance(source, GraphSource)
            self.signature = ()
            self.specs = graph_specs(source.eval_batch)

    def open(self) -> tuple[Any, ...]:
        """The program's arguments, for an evaluation from the beginning."""
        # A dataset made anew each time: one that shuffles would give a second iterator another order.
        return (iter(with_last(self._source.eval_batches())),) if isinstance(self._source, HostSource) else ()

    def next(self, arguments: tuple[Any, ...], index: tf.Tensor) -> tuple[Batch, tf.Tensor]:
        """Batch number `index`, int64 scalar, and whether it is the last: in the program."""
        if arguments:
            return next_of(arguments)
        source = self._source
        assert isinstance(source, GraphSource)
        assert source.examples is not None
        start = index * source.batch_size
        return source.eval_batch(start), start + source.batch_size >= source.examples


@contextlib.contextmanager
def told_of(data: str, feed: Feed | None = None) -> Iterator[None]:
    """Has what goes wrong while a program reads data come out as one line.

    Args:
      data: which, in words.
      feed: what the program takes its batches from by `next_timed`; None where what failed names its operation.

    Raises:
      Unusable: there is nothing to read, or it cannot be read.
    """
    try:
        yield
    except tf.errors.OpError as error:
        reading = feed is not None and feed.reading is not None and bool(feed.reading.numpy())
        if failure := reading_failure(error, data, certain=reading):
            raise failure from error
        raise


def graph_specs(batch_at: Callable[[tf.Tensor], Batch]) -> tuple[dict[str, tf.TensorSpec], tf.TensorSpec | None]:
    """The shapes of the batches that `batch_at(start)` computes."""
    start = tf.TensorSpec([], tf.int64)
    values, weights, _ = tf.function(batch_at, autograph=False).get_concrete_function(start).structured_outputs
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in values.items()}
    return specs, None if weights is None else tf.TensorSpec(weights.shape, weights.dtype)


def batch_specs(batch: Batch) -> tuple[dict[str, tf.TensorSpec], tf.TensorSpec | None]:
    """The shapes of the batches of a dataset whose elements are described by `batch`."""
    weights = batch.weights if isinstance(batch.weights, tf.TensorSpec) else None
    return dict(batch.values), weights


def next_of(arguments: tuple[Any, ...]) -> tuple[Batch, tf.Tensor]:
    """The next batch of the iterator that a program was called with, and whether it is the last."""
    batch, last = arguments[0].get_next()
    return batch, last
