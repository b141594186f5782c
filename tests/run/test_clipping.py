"""Gradients that are scaled together, to be no larger than their bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.run.gradients import clipped, each_once
from trainer.run.health import Health


def cut(gradients: Sequence[Any], most: float) -> list[Any]:
    health = Health(tf.constant(0.0), gradients, ["a"] * len(gradients), compiled=False)
    return clipped(gradients, health.half_squares(), most)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("most", [0.5, 3.0, 1e6])
def test_gradients_are_scaled_together_to_their_bound_where_they_exceed_it(most: float, dtype: str) -> None:
    generator = np.random.default_rng(7)
    values = [generator.normal(size=shape).astype(dtype) for shape in ([3, 4], [5], [])]
    norm = np.sqrt(sum((value.astype("float64") ** 2).sum() for value in values))
    found = cut([tf.constant(values[0]), None, tf.constant(values[1]), tf.constant(values[2])], most)
    assert found.pop(1) is None
    rtol = 1e-6 if dtype == "float32" else 1e-12
    for gradient, value in zip(found, values, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, value * min(1, most / norm), rtol=rtol)
        if most > norm:
            np.testing.assert_array_equal(gradient, value)


def test_a_gradient_of_zeros_stays_one() -> None:
    found = cut([tf.zeros([3]), tf.zeros([])], 1.0)
    assert [np.any(gradient) for gradient in found] == [False, False]


def test_large_gradients_of_float64_are_scaled_and_not_lost() -> None:
    found = cut([tf.constant([3e30, 4e30], tf.float64)], 1.0)[0]
    np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-6)


def test_gradients_are_scaled_where_only_the_sum_of_their_squares_is_beyond_float32() -> None:
    for gradient in cut([tf.constant([1.5e19])] * 4, 1.0):
        np.testing.assert_allclose(gradient, [0.5], rtol=1e-6)


def test_sparse_gradients_stay_sparse() -> None:
    slices = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([0, 2]), tf.constant([3, 1]))
    found = cut([slices], 1.0)[0]
    assert isinstance(found, tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(found), [[0.6], [0], [0.8]], rtol=1e-6)


def test_the_norm_of_slices_is_that_of_their_sum() -> None:
    slices = tf.IndexedSlices(tf.constant([[1.0], [4.0], [2.0]]), tf.constant([0, 2, 0]), tf.constant([9, 1]))
    tensor = tf.zeros([2])
    variables = [tf.Variable(tf.zeros([9, 1])), tf.Variable(tensor), tf.Variable(tensor)]
    once = each_once([slices, None, tensor], variables)
    assert once[1] is None
    assert once[2] is tensor
    found = cut(once, 1.0)[0]
    assert isinstance(found, tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(found)[:3], [[0.6], [0], [0.8]], rtol=1e-6)
