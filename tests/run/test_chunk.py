"""The program's parts: the seeds of its steps."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import fold_in, run_seed
from trainer.run.chunk import seeds_of_step, seeds_of_steps
from trainer.run.state import TRAIN_STREAM


@pytest.mark.parametrize("compiled", [False, True])
def test_the_seed_of_a_step_is_folded_of_step_micro_batch_and_replica(compiled: bool) -> None:
    steps, replica = [0, 1, 2, 1000, 2**31, 2**40 + 7], 0
    expected = [[fold_in(run_seed(17), TRAIN_STREAM, step, micro, replica) for micro in range(3)] for step in steps]
    at_once = tf.function(lambda steps: seeds_of_steps(17, steps, 3), jit_compile=compiled)
    assert np.array_equal(at_once(tf.constant(steps, tf.int64)), expected)
    one = tf.function(lambda step: seeds_of_step(17, step, 3), jit_compile=compiled)
    for step, seeds in zip(steps, expected, strict=True):
        assert np.array_equal(one(tf.constant(step, tf.int64)), seeds)
