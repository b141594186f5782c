"""Examples that any `tf.data` pipeline makes: where the run stands in it is saved, or found again by counting."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.data.mapping import MAP_STREAM, Map
from trainer.data.marked import with_last
from trainer.data.pipeline_fingerprint import pipeline_fingerprint
from trainer.data.seeds import fold_in
from trainer.data.sources import ITERATOR, REPEAT, REPLAY, Batch, HostSource
from trainer.errors import ConfigError

_NO_SEED = np.zeros(2, np.int32)
_AHEAD_BYTES = 1 << 20
_MOST_AHEAD = 64
_FAIL_ON_STATE = 2
"""TensorFlow's number for: refuse to save an iterator over what keeps a state elsewhere."""

MakeDataset = Callable[[], tf.data.Dataset]


def stream(
    make_dataset: MakeDataset,
    *,
    batch_size: int | None = None,
    examples: int | None = None,
    resume: str = ITERATOR,
    fingerprint: str | None = None,
) -> StreamSource:
    """Returns a source over a `tf.data` pipeline.

    TensorFlow's global seed is derived from the run's before each call of `make_dataset`: what shuffles without a seed
    of its own shuffles as the run says.

    Args:
      make_dataset: makes the pipeline, each time the same one; its elements are dicts of tensors by name.
      batch_size: rows of a batch, where the elements are examples and are to be batched here. None where they are
        batches already, each of the same, static number of rows.
      examples: examples in a pass, where the pipeline does not know it.
      resume: how a resume finds its place: `iterator` saves the pipeline's state in the checkpoint and refuses at step
        0 one that cannot be saved; `replay` reads and drops what was consumed, which has to come again as it came.
      fingerprint: what tells this data from other data. By default it follows from the pipeline itself; of files it
        knows the names and not the content, and of a replayed one only the shapes and the number of its elements.

    Raises:
      ConfigError: an argument is wrong, or the elements cannot be batches.
    """
    if not callable(make_dataset):
        raise ConfigError(f"stream({type(make_dataset).__name__}) is no function; expected one that makes a dataset")
    if resume not in (ITERATOR, REPLAY):
        raise ConfigError(f"resume={resume!r} is no choice for a stream; expected {ITERATOR} or {REPLAY}")
    for name, value in (("batch_size", batch_size), ("examples", examples)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
            raise ConfigError(f"{name}={value!r} is no positive integer; expected one, or None")
    return StreamSource(make_dataset, batch_size=batch_size, examples=examples, mode=resume, known_as=fingerprint)


class StreamSource(HostSource):
    """A source over a pipeline; `stream` makes one."""

    shuffle = True
    last = "wrap"

    def __init__(
        self,
        make_dataset: MakeDataset,
        *,
        batch_size: int | None,
        examples: int | None,
        mode: str,
        known_as: str | None,
    ) -> None:
        self._make = make_dataset
        self.batches_here = batch_size is not None
        self._known_as = known_as
        self._maps: tuple[Map, ...] = ()
        self._on_end = REPEAT
        self.mode = mode
        dataset = self._made(_NO_SEED)
        spec = dataset.element_spec
        self.batch_size = int(batch_size) if batch_size else _rows(spec)
        cardinality = int(dataset.cardinality().numpy())
        if cardinality == 0:
            raise ConfigError("the stream has no elements; expected at least one")
        self.finite = cardinality != tf.data.INFINITE_CARDINALITY
        if examples is None and cardinality > 0:
            examples = cardinality * (1 if self.batches_here else self.batch_size)
        self.examples = examples

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hexadecimal digits of the pipeline that is trained on, or of what the user says it is."""
        shapes = sorted((name, str(spec)) for name, spec in self._made(_NO_SEED).element_spec.items())
        told: list[Any] = [shapes, self.examples]
        if self._known_as is not None:
            told = [self._known_as]
        if self.mode == ITERATOR:
            # A saved position fits only a pipeline like the one that it was saved of.
            told += [shapes, self.batch_size]
            if self._known_as is None:
                return pipeline_fingerprint(self._full(self._mapped(self._made(_NO_SEED), _NO_SEED)))
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def map(self, function: Map) -> StreamSource:
        """This source with `function(element, seed)` applied to each element before it is batched.

        Args:
          function: from an element and its stateless seed, int32 [2], to the dict that takes its place. The seed
            follows from the run's and from how many elements came before.
        """
        return self._with(_maps=(*self._maps, function))

    def resumed_by(self, mode: str, *, on_end: str) -> StreamSource:
        """This source with another way to find its place, and what its end means."""
        return self._with(mode=mode, _on_end=on_end)

    def train_batches(self, seed: np.ndarray, *, skip: int = 0) -> tf.data.Dataset:
        """The batches of training, each with whether it is the last: a dataset of (`Batch`, bool scalar).

        Args:
          seed: int32 [2], from which all randomness of the pipeline follows.
          skip: elements to leave out at the beginning.
        """
        if self.endless:
            return self.full_batches(seed, skip=skip).map(lambda values: (self.full_batch(values), False))
        batches = self._batched(self._elements(seed, skip), padded=self.batches_here)
        return _ahead(with_last(batches))

    @property
    def endless(self) -> bool:
        """Whether training on it has no last batch, so that all of them are full."""
        return self._on_end == REPEAT or not self.finite

    def full_batches(self, seed: np.ndarray, *, skip: int = 0) -> tf.data.Dataset:
        """As `train_batches` where that is endless: the values alone, which say all that there is to say.

        A map that only packs them up would cost as much for each batch as a step of a small model.
        """
        return _ahead(self._full(self._elements(seed, skip)))

    def full_batch(self, values: dict[str, tf.Tensor]) -> Batch:
        """The batch of such values."""
        return Batch(values, None, tf.constant(self.batch_size, tf.int64))

    def eval_batches(self) -> tf.data.Dataset:
        if not self.finite:
            raise ConfigError("the stream has no end; an evaluation covers a whole split: use take() or a finite one")
        dataset = self._mapped(self._made(_NO_SEED), _NO_SEED)
        return _ahead(self._batched(dataset, padded=self.batches_here))

    def _with(self, **changes: Any) -> StreamSource:
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed

    def _made(self, seed: np.ndarray) -> tf.data.Dataset:
        """The user's pipeline, made with this seed for whatever has none of its own."""
        tf.random.set_seed(int(seed.view(np.uint64)[0] % 2**31))
        dataset = self._make()
        if not isinstance(dataset, tf.data.Dataset):
            raise ConfigError(f"the stream's function made {type(dataset).__name__}; expected a tf.data.Dataset")
        spec = dataset.element_spec
        if not isinstance(spec, dict) or not all(isinstance(part, tf.TensorSpec) for part in spec.values()):
            raise ConfigError(f"the stream's elements are {type(spec).__name__}; expected dicts of tensors by name")
        options = tf.data.Options()
        # Of what the pipeline leaves open; what it says itself is looked at before the first step.
        options.deterministic = True
        return dataset.with_options(options)

    def _mapped(self, dataset: tf.data.Dataset, seed: np.ndarray) -> tf.data.Dataset:
        for number, function in enumerate(self._maps):
            dataset = dataset.enumerate().map(
                _seeded(function, fold_in(np.asarray(seed, np.int32), MAP_STREAM, number)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        return dataset

    def _elements(self, seed: np.ndarray, skip: int) -> tf.data.Dataset:
        """What training takes its batches of: the elements of all passes, or of the only one."""
        dataset = self._made(seed)
        if self._on_end == REPEAT:
            dataset = dataset.repeat()
        dataset = self._mapped(dataset, seed)
        return dataset.skip(skip) if skip else dataset

    def _full(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.batch(self.batch_size, drop_remainder=True) if self.batches_here else dataset

    def _batched(self, dataset: tf.data.Dataset, *, padded: bool) -> tf.data.Dataset:
        rows = self.batch_size
        if not padded:
            return self._full(dataset).map(self.full_batch)
        return dataset.batch(rows).map(lambda values: _padded(values, rows))


def _ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """`batches` prepared ahead: as many as a megabyte holds, but at least 2, and at most 64.

    A checkpoint of an iterator holds all of them; with AUTOTUNE they become more at every pause of training.
    """
    sizes = [_bytes(spec) for spec in tf.nest.flatten(batches.element_spec)]
    known = sum(size or 0 for size in sizes)
    return batches.prefetch(max(2, min(_MOST_AHEAD, _AHEAD_BYTES // max(known, 1))) if None not in sizes else 2)


def _bytes(spec: Any) -> int | None:
    """What a part of an element takes; None of strings, of shapes that are not known, of ragged and sparse tensors."""
    if isinstance(spec, tf.NoneTensorSpec):
        return 0
    plain = isinstance(spec, tf.TensorSpec) and spec.dtype.size and spec.shape.is_fully_defined()
    return spec.shape.num_elements() * spec.dtype.size if plain else None


def check_state(dataset: tf.data.Dataset) -> None:
    """Makes sure that the state of an iterator over `dataset` can be saved.

    Raises:
      ConfigError: it cannot; the message names what stands in the way.
    """
    try:
        iterator_state(iter(dataset))
    except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError) as error:
        reason = (error.message.partition("}} ")[2] or error.message).partition(" [Op:")[0].rstrip(".")
        raise ConfigError(
            f"the stream's position cannot be saved: {reason}; make that part stateless, or set data_resume=replay to "
            "count through the data again at a resume, or data_resume=restart to begin again"
        ) from None


def iterator_state(iterator: tf.data.Iterator) -> tf.Tensor:
    """Where an iterator stands, with what is in its buffers: a string scalar."""
    with tf.device("CPU:0"):
        state = tf.raw_ops.SerializeIterator(
            resource_handle=iterator._iterator_resource, external_state_policy=_FAIL_ON_STATE
        )
        return tf.io.serialize_tensor(state)


def put_back(iterator: tf.data.Iterator, state: tf.Tensor) -> None:
    """Has an iterator over the same pipeline go on where another stood."""
    with tf.device("CPU:0"):
        tf.raw_ops.DeserializeIterator(
            resource_handle=iterator._iterator_resource, serialized=tf.io.parse_tensor(state, tf.variant)
        )


def _rows(spec: Mapping[str, tf.TensorSpec]) -> int:
    """The rows of batches of this kind."""
    shapes = {name: part.shape for name, part in spec.items()}
    sizes = {shape[0] if shape.rank else None for shape in shapes.values()}
    if len(sizes) != 1 or None in sizes:
        given = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        raise ConfigError(
            f"the stream's elements are no batches of one static size ({given}); give batch_size to have examples "
            "batched, or batch with drop_remainder=True"
        )
    return int(next(iter(shapes.values()))[0])


def _seeded(function: Map, seed: Any) -> Callable[..., dict[str, tf.Tensor]]:
    def apply(number: tf.Tensor, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        mapped = function(values, fold_in(seed, number))
        if not isinstance(mapped, Mapping):
            raise ConfigError(f"map's function returned {type(mapped).__name__}; expected a dict of tensors by name")
        return dict(mapped)

    return apply


def _padded(values: dict[str, tf.Tensor], rows: int) -> Batch:
    """A batch filled up with zeros that weigh nothing."""
    real = tf.shape(next(iter(values.values())))[0]
    padded = {}
    for name, value in values.items():
        # Not `tf.pad`, which knows no strings.
        rest = tf.zeros(tf.concat([[rows - real], tf.shape(value)[1:]], axis=0), value.dtype)
        padded[name] = tf.ensure_shape(tf.concat([value, rest], axis=0), [rows, *value.shape[1:]])
    return Batch(padded, tf.cast(tf.range(rows) < real, tf.float32), tf.cast(real, tf.int64))
