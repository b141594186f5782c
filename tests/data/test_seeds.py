"""Seeds: the same bits everywhere, for good, and no two alike."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.seeds import absorb, fmix32, fold_in, random_bits, run_seed

WORDS = st.integers(-(2**31), 2**31 - 1)
PARTS = st.integers(-(2**63), 2**63 - 1)
SEEDS = st.tuples(WORDS, WORDS).map(lambda words: np.array(words, np.int32))


def _folded(seed, first, second):
    return fold_in(seed, first, second)


SIGNATURE = [tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)]
GRAPH = tf.function(_folded, input_signature=SIGNATURE, autograph=False)
XLA = tf.function(_folded, input_signature=SIGNATURE, autograph=False, jit_compile=True)


def test_mixer_is_the_one_that_was_published():
    # MurmurHash3_x86_32 of the empty key is fmix32 of its seed: known answers of the reference implementation.
    values = np.array([0, 1, 0xFFFFFFFF], np.uint32)
    np.testing.assert_array_equal(fmix32(values), np.array([0, 0x514E28B7, 0x81F16F39], np.uint32))


def test_bits_stay_what_they_were_when_runs_began():
    assert run_seed(17).tolist() == [-281203172, 1278758648]
    assert fold_in(run_seed(17), 1000, 2, 3).tolist() == [-188512488, -1475366627]


@given(SEEDS, PARTS, PARTS)
@settings(max_examples=60, deadline=None)
def test_bits_are_the_same_in_numpy_graph_and_xla(seed, first, second):
    expected = fold_in(seed, first, second)
    arguments = tf.constant(seed), tf.constant(first, tf.int64), tf.constant(second, tf.int64)
    np.testing.assert_array_equal(GRAPH(*arguments), expected)
    np.testing.assert_array_equal(XLA(*arguments), expected)


@given(SEEDS, PARTS, PARTS)
def test_folding_in_turn_is_folding_together(seed, first, second):
    np.testing.assert_array_equal(fold_in(fold_in(seed, first), second), fold_in(seed, first, second))


@given(SEEDS, WORDS)
@settings(max_examples=30, deadline=None)
def test_value_means_the_same_in_every_dtype(seed, part):
    expected = fold_in(seed, part)
    for same in (np.int32(part), np.int64(part), np.array(part), part + 2**64):
        np.testing.assert_array_equal(fold_in(seed, same), expected)
    for same in (tf.constant(part, tf.int32), tf.constant(part, tf.int64), tf.Variable(part, dtype=tf.int64)):
        np.testing.assert_array_equal(fold_in(seed, same), expected)


def test_numpy_gives_numpy_and_a_tensor_anywhere_gives_a_tensor():
    seed = run_seed(1)
    assert isinstance(fold_in(seed, 1, np.int64(2)), np.ndarray)
    assert fold_in(seed, 1).dtype == np.int32
    for mixed in (fold_in(tf.constant(seed), 1), fold_in(seed, 1, tf.constant(2))):
        assert tf.is_tensor(mixed)
        assert mixed.dtype == tf.int32
        assert mixed.shape == [2]


def test_no_two_steps_of_a_run_share_a_seed():
    first, second = absorb(tuple(run_seed(17).view(np.uint32)[:, None]), np.arange(-(10**5), 3 * 10**5))
    seeds = first.astype(np.uint64) << np.uint64(32) | second
    assert len(np.unique(seeds)) == len(seeds)


@pytest.mark.parametrize("bit", [0, 1, 31, 32, 63])
def test_one_bit_of_a_part_flips_half_of_the_seed(bit):
    parts = np.arange(20_000, dtype=np.int64) * 2 + (0 if bit else 10)
    flipped = parts ^ np.array(1 << bit, np.uint64).astype(np.int64)
    words = tuple(run_seed(3).view(np.uint32)[:, None])
    for before, after in zip(absorb(words, parts), absorb(words, flipped), strict=True):
        changes = np.unpackbits((before ^ after).view(np.uint8)).reshape(-1, 32).mean(axis=0)
        assert np.abs(changes - 0.5).max() < 0.02  # Five standard deviations of 20,000 coins.


def test_order_and_number_of_parts_matter():
    seed = run_seed(0)
    folded = [fold_in(seed), fold_in(seed, 0), fold_in(seed, 0, 0), fold_in(seed, 1, 2), fold_in(seed, 2, 1)]
    assert len({tuple(each) for each in folded}) == len(folded)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64 - 2, 17])
def test_run_seeds_next_to_each_other_have_nothing_in_common(seed):
    changed = (run_seed(seed) ^ run_seed(seed + 1)).view(np.uint8)
    assert 12 <= np.unpackbits(changed).sum() <= 52


@pytest.mark.parametrize("part", [1.5, "1", True, None, np.float32(2)])
def test_what_is_not_an_integer_is_refused_in_one_line(part):
    with pytest.raises(TypeError, match="integer") as error:
        fold_in(run_seed(1), part)
    assert "\n" not in str(error.value)


def test_seed_of_another_shape_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"shape \[2\]") as error:
        fold_in(np.zeros(3, np.int32), 1)
    assert "\n" not in str(error.value)


def test_random_bits_are_the_same_in_numpy_in_a_graph_and_under_xla() -> None:
    seed = fold_in(run_seed(17), 5)
    expected = random_bits(seed, [3, 70])
    assert (expected.dtype, expected.shape) == (np.uint32, (3, 70))
    for jit in (False, True):
        in_graph = tf.function(lambda s: random_bits(s, [3, 70]), jit_compile=jit)(tf.constant(seed))
        np.testing.assert_array_equal(in_graph.numpy(), expected)


def test_random_bits_are_uniform_and_independent_of_their_neighbours_and_of_the_next_seed() -> None:
    def uniform(step: int) -> np.ndarray:
        return random_bits(fold_in(run_seed(17), step), [1 << 18]) / 2**32

    now, then = uniform(1), uniform(2)
    # One standard deviation of each of these is 0.002 or less.
    assert abs(np.corrcoef(now[1:], now[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(now, then)[0, 1]) < 0.01
    assert abs(now.mean() - 0.5) < 0.003
    counts = np.histogram(now, bins=64, range=(0, 1))[0]
    assert ((counts - 4096) ** 2 / 4096).sum() < 120  # chi-square of 63 degrees of freedom: beyond 120 in 1 of 10^5
