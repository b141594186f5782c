"""Datasets of batches that tell which of them is the last, and whose iterators can be saved."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import Batch
from trainer.data.marked import with_last
from trainer.data.streams import iterator_state, put_back

pytestmark = pytest.mark.slow  # Each makes pipelines.


def weighed(values: dict[str, tf.Tensor]) -> Batch:
    """A batch of two rows, the second of which is padding."""
    return Batch(values, tf.constant([1.0, 0.0]), tf.constant(1, tf.int64))


def batches(count: int) -> tf.data.Dataset:
    """As many batches, numbered from 1: no number is that of the batch that is none."""
    numbers = tf.data.Dataset.range(1, count + 1)
    return numbers.map(lambda number: weighed({"x": tf.stack([number, -number]), "name": tf.as_string([number, 0])}))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_only_the_last_batch_says_that_it_is(count: int) -> None:
    found = list(with_last(batches(count)))
    assert [bool(last) for _, last in found] == [False] * (count - 1) + [True] * (count > 0)
    for number, (batch, _) in enumerate(found, start=1):
        assert isinstance(batch, Batch)
        np.testing.assert_array_equal(batch.values["x"], [number, -number])
        assert batch.values["name"].numpy().tolist() == [str(number).encode(), b"0"]
        np.testing.assert_array_equal(batch.weights, [1, 0])
        assert int(batch.examples) == 1


def test_batches_that_are_never_padded_stay_without_weights() -> None:
    dataset = tf.data.Dataset.range(3).map(lambda i: Batch({"x": i[None]}, None, tf.constant(1, tf.int64)))
    found = list(with_last(dataset))
    assert [batch.weights for batch, _ in found] == [None] * 3
    assert [bool(last) for _, last in found] == [False, False, True]


def test_the_structure_and_static_shapes_stay_those_of_the_batches() -> None:
    dataset = batches(3)
    batch, last = with_last(dataset).element_spec
    assert batch == dataset.element_spec
    assert last == tf.TensorSpec([], tf.bool)


def test_dimensions_that_differ_from_batch_to_batch_are_held_back_too() -> None:
    def growing(number: tf.Tensor) -> Batch:
        text = tf.fill([2, number], "a")
        return weighed(
            {"x": tf.ensure_shape(tf.ones([2, number]), [2, None]), "text": tf.ensure_shape(text, [2, None])}
        )

    found = list(with_last(tf.data.Dataset.range(4).map(growing)))
    assert [batch.values["x"].shape for batch, _ in found] == [(2, width) for width in range(4)]
    assert [batch.values["text"].shape for batch, _ in found] == [(2, width) for width in range(4)]
    assert [bool(last) for _, last in found] == [False, False, False, True]


@pytest.mark.parametrize("taken", range(6))
def test_an_iterator_goes_on_where_another_stood_with_what_it_holds_back(taken: int) -> None:
    dataset = with_last(batches(5))

    def rest(iterator: tf.data.Iterator) -> list[tuple[list[int], bool]]:
        return [(batch.values["x"].numpy().tolist(), bool(last)) for batch, last in iterator]

    there, here = iter(dataset), iter(dataset)
    for _ in range(taken):
        next(there)
    put_back(here, iterator_state(there))
    assert rest(here) == rest(there)
