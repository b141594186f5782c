"""The program's parts: the seeds of its steps, and how many windows it has room for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.data import fold_in, run_seed
from trainer.run.chunk import most_closes, seeds_of_step, seeds_of_steps
from trainer.run.program import Program
from trainer.run.state import TRAIN_STREAM, TrainState


@pytest.mark.parametrize("compiled", [False, True])
def test_the_seed_of_a_step_is_folded_of_step_micro_batch_and_replica(compiled: bool) -> None:
    steps, replica = [0, 1, 2, 1000, 2**31, 2**40 + 7], 0
    expected = [[fold_in(run_seed(17), TRAIN_STREAM, step, micro, replica) for micro in range(3)] for step in steps]
    at_once = tf.function(lambda steps: seeds_of_steps(17, steps, 3), jit_compile=compiled)
    assert np.array_equal(at_once(tf.constant(steps, tf.int64)), expected)
    one = tf.function(lambda step: seeds_of_step(17, step, 3), jit_compile=compiled)
    for step, seeds in zip(steps, expected, strict=True):
        assert np.array_equal(one(tf.constant(step, tf.int64)), seeds)


def test_what_is_never_the_last_batch_costs_a_step_nothing(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A number that nothing else has.
    ended = -987_654_321
    monkeypatch.setattr("trainer.run.chunk.ENDED", ended)
    found = []
    for source in (linear().train_data(), stream_that_ends(linear())):
        program = Program(linear(), TrainState(linear(), 17), source, seed=17)
        nodes = [node for f in program._chunk.graph.as_graph_def().library.function for node in f.node_def]
        constants = [list(node.attr["value"].tensor.int64_val) for node in nodes if node.op == "Const"]
        found.append([ended] in constants)
    assert found == [False, True]


def stream_that_ends(experiment: Any) -> Any:
    values = experiment.arrays()
    source = trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(values), batch_size=experiment.batch_size)
    return source.resumed_by("iterator", on_end="stop")


def test_windows_close_in_a_chunk_as_many_as_fit_into_32_kib_and_at_least_16() -> None:
    # That of digits: the weights, two means, two counts of what is not finite, and a learning rate.
    assert most_closes(6) == 405
    found = [most_closes(width) for width in range(1, 3000)]
    for width, most in enumerate(found, 1):
        # Beside those there are the row where the chunk ends, the open window and the time waited; one is to spare.
        assert most == 16 or 8 * (width + 4) * (most + 3) <= 1 << 15
        assert 8 * (width + 4) * (most + 5) > 1 << 15
    assert found == sorted(found, reverse=True)
    assert found[-1] == most_closes(10**9) == 16
