"""Many batches at once hold what each would alone."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.blocks import Course
from trainer.data.rows import short, wrapped
from trainer.data.seeds import run_seed

ROWS = {"wrap": wrapped, "short": short}


@given(
    last=st.sampled_from(["wrap", "short"]),
    length=st.integers(1, 20),
    batch_size=st.integers(1, 45),
    start=st.one_of(st.integers(0, 60), st.sampled_from([10**9 + 7, 10**12, 2**50 + 1])),
    seed=st.sampled_from([None, 17]),
    first=st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_block_is_the_batches_that_follow_one_another(last, length, batch_size, start, seed, first):
    order = None if seed is None else run_seed(seed)
    block = Course(order, start, length, batch_size, last).batches(first, 3)
    at = start
    for number in range(first + 3):
        rows = ROWS[last](tf.constant(at, tf.int64), order, length=length, batch_size=batch_size)
        if number >= first:
            weights = np.ones(batch_size) if rows.weights is None else rows.weights
            np.testing.assert_array_equal(block.index[number - first], rows.index)
            np.testing.assert_array_equal(block.weights[number - first], weights)
            np.testing.assert_array_equal(block.passes[number - first], rows.passes)
        at += int(rows.examples)


@pytest.mark.parametrize("last", ["wrap", "short"])
def test_no_element_of_a_pass_over_a_million_is_lost_where_the_batch_size_changes(last):
    length, begun = 2**20, 5 * 2**20
    first = Course(run_seed(3), begun, length, 1000, last).batches(0, 500)
    rest = Course(run_seed(3), begun + 500_000, length, 4096, last).batches(0, 134)
    index = np.concatenate([first.index.ravel(), rest.index.ravel()])
    counted = np.concatenate([first.weights.ravel(), rest.weights.ravel()]) * (
        np.concatenate([first.passes.ravel(), rest.passes.ravel()]) == 5
    )
    np.testing.assert_array_equal(np.bincount(index, counted, minlength=length), np.ones(length))


def test_the_last_batches_of_a_pass_are_padded_with_a_row_that_is_there():
    block = Course(None, 3, 5, 4, "short").batches(0, 3)
    assert block.index.tolist() == [[3, 4, 4, 4], [0, 1, 2, 3], [4, 4, 4, 4]]
    assert block.weights.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert block.passes.tolist() == [[0] * 4, [1] * 4, [1] * 4]
