"""The laws of a pass, tried op by op: compiling each drawn length and batch size would take minutes."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.permutation import permutation
from trainer.data.rows import short, wrapped
from trainer.data.seeds import run_seed

LENGTHS = st.integers(1, 30)
BATCH_SIZES = st.integers(1, 70)
# Where a run may be after any history of batch sizes, billions of examples in.
STARTS = st.one_of(st.integers(0, 100), st.sampled_from([10**9, 10**9 + 7, 10**12, 2**50 + 1]))
SEEDS = st.sampled_from([None, 17])


def _seed(number):
    return None if number is None else run_seed(number)


def _sequence(seed, start, count, length):
    """Returns examples start … start + count − 1 of all passes, computed in NumPy."""
    steps = start + np.arange(count)
    if seed is None:
        return steps % length
    return permutation(run_seed(seed), steps // length, steps % length, length=length)


def _real(rows):
    """Returns the rows that count, and checks that they say so in the same words."""
    weights = np.ones(len(rows.index)) if rows.weights is None else rows.weights.numpy()
    assert set(weights) <= {0, 1}
    assert int(rows.examples) == weights.sum()
    return rows.index.numpy()[weights == 1]


@given(LENGTHS, BATCH_SIZES, STARTS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_wrapped_batch_is_a_piece_of_the_endless_sequence(length, batch_size, start, seed):
    rows = wrapped(tf.constant(start, tf.int64), _seed(seed), length=length, batch_size=batch_size)
    assert rows.weights is None
    assert rows.examples.dtype == rows.index.dtype == tf.int64
    np.testing.assert_array_equal(_real(rows), _sequence(seed, start, batch_size, length))


@given(LENGTHS, BATCH_SIZES, STARTS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_short_batch_holds_what_is_left_of_its_pass(length, batch_size, start, seed):
    rows = short(tf.constant(start, tf.int64), _seed(seed), length=length, batch_size=batch_size)
    left = min(batch_size, length - start % length)
    assert int(rows.examples) == left
    assert rows.weights.dtype == tf.float32
    assert rows.weights.numpy().tolist() == [1] * left + [0] * (batch_size - left)
    assert all(0 <= index < length for index in rows.index.numpy())
    np.testing.assert_array_equal(_real(rows), _sequence(seed, start, left, length))


@pytest.mark.slow
@given(
    rule=st.sampled_from([wrapped, short]),
    length=LENGTHS,
    before=BATCH_SIZES,
    after=BATCH_SIZES,
    change=st.integers(0, 5),
    first=st.sampled_from([0, 10**9, 10**12]),
)
@settings(max_examples=25, deadline=None)
def test_every_example_comes_once_a_pass_whatever_the_batch_size_becomes(rule, length, before, after, change, first):
    start = first - first % length
    passes, seen, batches = 2, [], 0
    while len(seen) < passes * length:
        batch_size = before if batches < change else after
        seen.extend(
            _real(rule(tf.constant(start + len(seen), tf.int64), run_seed(3), length=length, batch_size=batch_size))
        )
        batches += 1
    for number in range(passes):
        counted = collections.Counter(seen[number * length : (number + 1) * length])
        assert counted == dict.fromkeys(range(length), 1)
