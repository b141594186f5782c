"""A chunk that waits for its data is cut by the tick, so that a notice is seen; and that changes no bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.run.evaluate import Evaluator
from trainer.run.pace import Pace
from trainer.run.program import Program
from trainer.run.state import TrainState

pytestmark = pytest.mark.slow

BATCHES = 100
TICK_S = 0.05


@pytest.fixture(scope="module")
def streaming(linear: Any) -> Any:
    @dataclasses.dataclass(frozen=True)
    class Streaming(linear):
        """Its batches come from the host, each after a while, and then all at once."""

        seconds: float = 0.02
        slow: int = BATCHES

        def source(self, **options: Any) -> trainer.data.Source:
            arrays = self.arrays()

            def batches() -> Iterator[dict[str, np.ndarray]]:
                for number in range(BATCHES):
                    time.sleep(self.seconds if number < self.slow else 0.0)
                    yield {name: np.roll(array, number, axis=0)[:4] for name, array in arrays.items()}

            specs = {name: tf.TensorSpec([4, *array.shape[1:]], array.dtype) for name, array in arrays.items()}
            make = tf.data.Dataset.from_generator
            return trainer.data.stream(
                lambda: make(batches, output_signature=specs), resume="replay", fingerprint="steady"
            )

    return Streaming


def program_of(experiment: trainer.Experiment, **options: Any) -> Program:
    state = TrainState(experiment, 17)
    return Program(experiment, state, experiment.train_data(), seed=17, jit="none", **options)


def test_a_chunk_that_waits_for_its_batches_ends_with_the_tick(streaming: Any) -> None:
    program = program_of(streaming(), tick=TICK_S)
    advance = program.run(BATCHES, [])
    assert 1 <= advance.open.step < BATCHES
    assert advance.problem is None
    assert not advance.ended
    program.end()


def test_a_batch_that_takes_longer_than_the_tick_is_trained_all_the_same(streaming: Any) -> None:
    program = program_of(streaming(seconds=2 * TICK_S), tick=TICK_S)
    assert program.run(BATCHES, []).open.step >= 1
    program.end()


def test_where_it_is_cut_changes_no_bit(streaming: Any) -> None:
    def trained(**options: Any) -> tuple[Any, ...]:
        program, step, rows, calls = program_of(streaming(slow=8), **options), 0, [], 0
        while step < 20:
            advance = program.run(20, [close for close in (7, 14) if close > step])
            step, calls = advance.open.step, calls + 1
            rows += [(row.step, row.totals.tobytes()) for row in advance.rows]
        program.end()
        return calls, (rows, advance.open.totals.tobytes(), program._state.model.kernel.numpy().tobytes())

    (one, whole), (several, cut) = trained(), trained(tick=TICK_S)
    assert (one, whole) == (1, cut)
    assert several > 1


def test_an_evaluation_that_waits_for_its_batches_asks_whether_to_go_on_with_the_tick(streaming: Any) -> None:
    experiment = streaming()
    state = TrainState(experiment, 17)
    evaluator = Evaluator(experiment, state.model, experiment.source(), split="validation", seed=17, jit=False)
    evaluator.build()
    pace = Pace(TICK_S)
    # Fast batches have shown how many a call may take.
    pace.steps = 10 * BATCHES
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(pace.steps)
        return len(asked) > 1

    assert evaluator.run(pace, interrupted) is None
    assert len(asked) == 2


def test_where_an_evaluation_is_cut_changes_no_bit(streaming: Any) -> None:
    def evaluated(tick: float) -> tuple[int, Any]:
        experiment, asked = streaming(slow=8), 0
        state = TrainState(experiment, 17)
        evaluator = Evaluator(experiment, state.model, experiment.source(), split="validation", seed=17, jit=False)
        evaluator.build()
        pace = Pace(tick)
        pace.steps = 10 * BATCHES

        def interrupted() -> bool:
            nonlocal asked
            asked += 1
            return False

        result = evaluator.run(pace, interrupted)
        assert result is not None
        means, nonfinite = result
        bits = {name: np.asarray(mean).tobytes() for name, mean in means.items()}
        return asked, (bits, nonfinite, evaluator.weight)

    (one, whole), (several, cut) = evaluated(3600.0), evaluated(TICK_S)
    assert one == 1 < several
    assert whole == cut
