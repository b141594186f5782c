"""Schedules at their corners, op by op, in a graph and under XLA."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim import constant, cosine, piecewise, warmup


def at(schedule, *steps: int) -> list[float]:
    """The rates at `steps`, after checking dtype and shape and that graph and XLA agree bit for bit."""
    signature = [tf.TensorSpec([], tf.int64)]
    graph = tf.function(schedule, input_signature=signature, autograph=False)
    xla = tf.function(schedule, input_signature=signature, autograph=False, jit_compile=True)
    rates = []
    for step in steps:
        rate = schedule(tf.constant(step, tf.int64))
        assert (rate.dtype, rate.shape) == (tf.float32, [])
        step = tf.constant(step, tf.int64)
        assert rate.numpy() == graph(step).numpy() == xla(step).numpy()
        rates.append(rate.numpy())
    return rates


def float32(*values: float) -> list[float]:
    return [np.float32(value) for value in values]


def test_constant_is_the_same_everywhere():
    assert at(constant(0.1), 0, 1, 10**12) == float32(0.1, 0.1, 0.1)


def test_cosine_starts_at_the_peak_halves_in_the_middle_and_stays_at_final():
    assert at(cosine(0.3, 10), 0, 5, 10, 11, 10**12) == float32(0.3, 0.15, 0.0, 0.0, 0.0)
    assert at(cosine(0.3, 10, final=0.1), 0, 5, 10, 99) == float32(0.3, 0.2, 0.1, 0.1)
    assert at(cosine(1.0, 8), 3) == float32((1 + math.cos(math.pi * 3 / 8)) / 2)


def test_piecewise_changes_at_the_boundary_and_not_before():
    schedule = piecewise([10, 20], [1.0, 0.1, 0.01])
    assert at(schedule, 0, 9, 10, 19, 20, 10**12) == float32(1.0, 1.0, 0.1, 0.1, 0.01, 0.01)


def test_piecewise_tells_steps_apart_beyond_the_integers_of_float32():
    assert at(piecewise([2**24 + 1], [1.0, 0.5]), 2**24, 2**24 + 1) == [1.0, 0.5]


def test_piecewise_without_boundaries_is_constant():
    assert at(piecewise([], [0.5]), 0, 7) == float32(0.5, 0.5)


def test_warmup_gives_update_k_its_kth_share_and_the_peak_at_its_end():
    assert at(warmup(4, constant(0.8)), 0, 1, 2, 3, 4, 100) == float32(0.2, 0.4, 0.6, 0.8, 0.8, 0.8)
    assert at(warmup(1, 0.5), 0, 1) == float32(0.5, 0.5)


def test_warmup_passes_the_absolute_step_and_meets_the_schedule_without_a_jump():
    decay = cosine(1.0, 100)
    warmed = warmup(10, decay)
    assert at(warmed, 10, 50, 100) == at(decay, 10, 50, 100)
    assert at(warmed, 9) == at(decay, 10)
    share = np.float32(np.float64(at(decay, 10)[0]) * 0.5)
    assert at(warmed, 4) == [share]
    assert at(warmup(10, piecewise([5], [1.0, 0.1])), 0, 4, 9) == float32(0.01, 0.05, 0.1)


def test_warmup_of_no_steps_is_the_schedule():
    decay = cosine(1.0, 100)
    assert warmup(0, decay) is decay


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(-0.1),
        lambda: constant(math.nan),
        lambda: constant("0.1"),
        lambda: cosine(math.inf, 10),
        lambda: cosine(0.1, 0),
        lambda: cosine(0.1, 10.5),
        lambda: cosine(0.1, 10, final=-1.0),
        lambda: piecewise([10], [0.1]),
        lambda: piecewise([10, 10], [1.0, 0.1, 0.01]),
        lambda: piecewise([0], [1.0, 0.1]),
        lambda: warmup(-1, constant(0.1)),
        lambda: warmup(10, "cosine"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make):
    with pytest.raises(ConfigError) as refused:
        make()
    assert "\n" not in str(refused.value)
