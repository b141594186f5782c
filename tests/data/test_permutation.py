"""The permutation: one for every length, the same bits everywhere, and nothing to be seen in its order."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.permutation import MAX_LENGTH, permutation
from trainer.data.seeds import run_seed


def order(seed, number, length):
    """Returns the whole order of one pass."""
    return permutation(run_seed(seed), np.full(length, number), np.arange(length), length=length)


def correlation(x, y):
    return float(np.corrcoef(x, y)[0, 1])


def deviations(counts):
    """Returns by how many standard deviations the chi-square of counts, all expected equal, exceeds its mean."""
    expected = counts.mean(axis=-1, keepdims=True)
    freedom = counts.size - counts.size // counts.shape[-1]
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_every_small_length_is_permuted():
    for length in range(1, 301):
        np.testing.assert_array_equal(np.sort(order(17, length % 5, length)), np.arange(length), err_msg=str(length))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1500, 4097, 2**16 + 1, 99_991, 10**6, 2**20 - 3, 2**20])
def test_large_length_is_permuted(length):
    np.testing.assert_array_equal(np.sort(order(3, 10**12, length)), np.arange(length))


@given(st.integers(2, MAX_LENGTH), st.integers(0, 2**40), st.data())
@settings(max_examples=50, deadline=None)
def test_any_length_maps_into_itself_one_to_one(length, number, data):
    start = data.draw(st.integers(0, length - 1))
    positions = (start + np.arange(min(length, 500))) % length
    examples = permutation(run_seed(5), np.full(len(positions), number), positions, length=length)
    assert examples.min() >= 0
    assert examples.max() < length
    assert len(np.unique(examples)) == len(positions)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 7, 1500, 2**40 + 15, MAX_LENGTH])
def test_bits_are_the_same_in_numpy_graph_and_xla(length):
    rng = np.random.default_rng(0)
    passes, positions = rng.integers(0, 2**50, 257), rng.integers(0, length, 257)
    expected = permutation(run_seed(17), passes, positions, length=length)

    def permuted(seed, passes, positions):
        return permutation(seed, passes, positions, length=length)

    for jit in (False, True):
        compiled = tf.function(permuted, jit_compile=jit, autograph=False)
        examples = compiled(tf.constant(run_seed(17)), tf.constant(passes), tf.constant(positions))
        assert examples.dtype == tf.int64
        np.testing.assert_array_equal(examples, expected)


def test_tensors_are_permuted_one_to_one():
    for length in (5, 97, 2**16 + 1):
        passes, positions = tf.fill([length], tf.constant(3, tf.int64)), tf.range(length, dtype=tf.int64)
        examples = permutation(tf.constant(run_seed(1)), passes, positions, length=length)
        np.testing.assert_array_equal(np.sort(examples), np.arange(length))


def test_each_element_follows_its_own_pass():
    passes = np.array([0, 1, 2**40, 1, 0])
    mixed = permutation(run_seed(2), passes, np.full(5, 11), length=50)
    np.testing.assert_array_equal(mixed, [order(2, number, 50)[11] for number in passes])


def test_bits_stay_what_they_were_when_runs_began():
    assert order(17, 0, 10).tolist() == [6, 1, 8, 4, 5, 3, 2, 7, 9, 0]
    assert order(17, 3, 2**20)[:6].tolist() == [32186, 804455, 530812, 150472, 631292, 1036934]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 17])
def test_order_of_a_million_looks_like_noise(seed):
    length = 2**20  # One standard deviation of a correlation is 0.001.
    first = order(seed, 0, length)
    assert abs(correlation(first[1:], first[:-1])) < 0.004
    assert abs(correlation(first, np.arange(length))) < 0.004
    assert abs(correlation(first, order(seed, 1, length))) < 0.004
    assert abs(correlation(first, order(seed + 1, 0, length))) < 0.004


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7, 8, 30])
def test_every_example_stands_at_every_position_equally_often(length):
    passes = 40_000
    grid = np.repeat(np.arange(passes), length), np.tile(np.arange(length), passes)
    examples = permutation(run_seed(5), *grid, length=length).reshape(passes, length)
    counts = np.stack([np.bincount(column, minlength=length) for column in examples.T])
    assert deviations(counts) < 4


@pytest.mark.parametrize("length", [3, 4, 5, 6])
def test_every_order_of_a_few_examples_comes_equally_often(length):
    passes = 40_000
    grid = np.repeat(np.arange(passes), length), np.tile(np.arange(length), passes)
    examples = permutation(run_seed(5), *grid, length=length).reshape(passes, length)
    _, counts = np.unique(examples, axis=0, return_counts=True)
    assert len(counts) == math.factorial(length)
    assert deviations(counts) < 4


@pytest.mark.parametrize("length", [0, -1, MAX_LENGTH + 1])
def test_impossible_length_is_refused_in_one_line(length):
    with pytest.raises(ValueError, match="1 to 2\\^62") as error:
        permutation(run_seed(1), np.zeros(1, np.int64), np.zeros(1, np.int64), length=length)
    assert "\n" not in str(error.value)
