"""What the journal tells of where an attempt's time went; and that the waiting for data is measured."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import Diverged
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import DATA_WAIT, EVALUATE, PARTS, SAVE, START, STEP, TOTAL, read_journal
from trainer.run.feed import HostFeed
from trainer.run.program import Program
from trainer.run.state import TrainState

pytestmark = pytest.mark.slow

SECONDS = 0.02
"""What a batch of the slow stream takes."""


def lines(tmp_path: pathlib.Path, event: str, folder: str = "run") -> list[dict[str, Any]]:
    return [entry for entry in read_journal(RunDirectory(tmp_path / folder)) if entry["event"] == event]


@pytest.fixture(scope="module")
def streaming(linear: Any) -> Any:
    @dataclasses.dataclass(frozen=True)
    class Streaming(linear):
        """Its batches come from the host, each after a while."""

        seconds: float = 0.0

        def train_data(self) -> trainer.data.Source:
            arrays = self.arrays()

            def batches() -> Iterator[dict[str, np.ndarray]]:
                while True:
                    time.sleep(self.seconds)
                    yield {name: array[:4] for name, array in arrays.items()}

            def make() -> tf.data.Dataset:
                specs = {name: tf.TensorSpec([4, *array.shape[1:]], array.dtype) for name, array in arrays.items()}
                return tf.data.Dataset.from_generator(batches, output_signature=specs)

            return trainer.data.stream(make, resume="replay", fingerprint="steady")

    return Streaming


def program_of(experiment: trainer.Experiment) -> Program:
    return Program(experiment, TrainState(experiment, 17), experiment.train_data(), seed=17, jit="none")


def operations(program: Program) -> dict[str, list[list[str]]]:
    """The inputs of each operation of the program, by kind."""
    definition = program._chunk.graph.as_graph_def()
    found: dict[str, list[list[str]]] = {}
    for node in (*definition.node, *(node for function in definition.library.function for node in function.node_def)):
        found.setdefault(node.op, []).append(list(node.input))
    return found


def test_waiting_for_batches_of_the_host_is_measured_in_the_program(streaming: Any) -> None:
    program = program_of(streaming(seconds=SECONDS))
    program.run(1, [])
    started = time.monotonic()
    advance = program.run(11, [5])
    elapsed = time.monotonic() - started
    # The first may have been read ahead.
    assert 9 * SECONDS <= advance.data_wait <= elapsed
    assert [row.step for row in advance.rows] == [5]
    assert (advance.open.step, advance.open.examples) == (11, 44)
    program.end()


def test_it_changes_no_bit(streaming: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> tuple[Any, ...]:
        program = program_of(streaming())
        advance = program.run(20, [7, 14])
        program.end()
        rows = [(row.step, row.examples, row.totals.tobytes(), row.learning_rates) for row in advance.rows]
        return rows, advance.open.totals.tobytes(), program._state.model.kernel.numpy().tobytes()

    timed = trained()
    monkeypatch.setattr(HostFeed, "waits", False)
    assert trained() == timed


def test_a_program_that_computes_its_batches_has_no_clock(linear: Any, streaming: Any) -> None:
    program = program_of(linear())
    assert program.run(3, []).data_wait == 0
    assert "Timestamp" not in operations(program)


def test_the_clock_is_read_when_a_chunk_begins_when_a_batch_is_asked_for_and_when_it_is_there(streaming: Any) -> None:
    found = operations(program_of(streaming()))
    assert [any("Timestamp" in name for name in inputs) for inputs in found["IteratorGetNext"]] == [True]
    after_a_batch = [any("IteratorGetNext" in name for name in inputs) for inputs in found["Timestamp"]]
    assert sorted(after_a_batch) == [False, False, True]


def test_an_attempt_tells_where_its_time_went_at_its_first_steps_at_each_save_and_at_its_end(
    linear: Any, train: Callable[..., trainer.Result], tmp_path: pathlib.Path
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Evaluated(linear):
        def eval_data(self) -> dict[str, trainer.data.Source]:
            return {"validation": self.source()}

    began = time.monotonic()
    train(Evaluated(), train_for=9, save_every=3, eval_every=3, keep_best=0)
    took = time.monotonic() - began
    told = [entry["step"] for entry in lines(tmp_path, "times")]
    assert told == [1, 3, 6, 9]
    (start,) = lines(tmp_path, "start")
    first, *later = lines(tmp_path, "times")
    # To be noted, the attempt has to be assembled, and the first step comes after that.
    assert 0 < start["age_s"] <= first["first_step_s"] + 1e-3
    assert first["first_step_s"] <= first["seconds"][TOTAL] <= took
    assert {"prepare", "first_chunk"} <= first["start"].keys()
    assert 0 < first["start"]["first_chunk"] <= first["first_step_s"]
    assert not any({"start", "first_step_s"} & line.keys() for line in later)
    (stop,) = lines(tmp_path, "stop")
    seconds = stop["seconds"]
    assert list(seconds) == [*PARTS, TOTAL]
    assert all(seconds[part] > 0 for part in (START, STEP, EVALUATE, SAVE))
    assert seconds[DATA_WAIT] == 0
    assert sum(seconds[part] for part in PARTS) <= seconds[TOTAL] + 1e-5
    each = [entry["seconds"] for entry in lines(tmp_path, "times")]
    for part in (*PARTS, TOTAL):
        values = [one[part] for one in [*each, seconds]]
        assert values == sorted(values), part


def test_a_run_that_waits_for_its_data_says_so(
    streaming: Any, train: Callable[..., trainer.Result], tmp_path: pathlib.Path
) -> None:
    train(streaming(seconds=SECONDS), train_for=11, save_every="never")
    (stop,) = lines(tmp_path, "stop")
    assert stop["seconds"][DATA_WAIT] >= 9 * SECONDS


def test_an_attempt_that_fails_tells_where_its_time_went(
    linear: Any, train: Callable[..., trainer.Result], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(Diverged):
        train(linear(learning_rate=1e30), train_for=9)
    (stop,) = lines(tmp_path, "stop")
    assert stop["seconds"][TOTAL] > 0


def test_nothing_of_it_is_in_the_log_or_the_checkpoints(
    linear: Any, train: Callable[..., trainer.Result], tmp_path: pathlib.Path
) -> None:
    first = train(linear(), folder="first", train_for=6, save_every=3)
    second = train(linear(), folder="second", train_for=6, save_every=3)
    assert [record.line() for record in first.records] == [record.line() for record in second.records]
    assert lines(tmp_path, "stop", "first")[0]["seconds"] != lines(tmp_path, "stop", "second")[0]["seconds"]
