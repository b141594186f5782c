"""Replay: what a run left comes out again, and what it did not leave is named."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import planes
import pytest
from forge import forge_manifest, forge_records, forge_tensor

from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import load_manifests
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.proof import reopen
from trainer.proof.replay import Replay, Stretch

pytestmark = pytest.mark.slow

Train = Callable[..., RunDirectory]
DECISIONS = {
    "monitor": "validation/loss,train/loss",
    "keep_best": 2,
    "save_if": "mean2(train/loss)<5",
    "early_stop": "4evals",
}


def replayed(directory: RunDirectory, *, from_start: bool = True, **options: Any) -> list[Stretch]:
    """What comes of every stretch between the checkpoints that are there."""
    info = RunInfo.load(directory)
    assert info is not None
    replay = Replay(directory, info, **options)
    manifests = load_manifests(directory)[0].values()
    try:
        return list(replay.stretches([*([None] if from_start else []), *manifests]))
    finally:
        replay.close()


def failures(stretches: list[Stretch]) -> list[str]:
    return [stretch.describe() for stretch in stretches if not stretch.ok]


@pytest.mark.parametrize(
    ("experiment", "options"),
    [
        (planes.Noisy(), {"jit": "chunk"}),
        (planes.Noisy(last="short", weighted=True), {"reconcile": "flush", "ema": 0.9, "eval_at_start": True}),
        (planes.Noisy(data="stream"), {"reconcile": "align", "accumulate": 2, **DECISIONS}),
        (planes.Noisy(data="replay"), {"save_every": "7steps,0.05s", "train_for": "24steps,1h"}),
        (planes.OwnStep(), {**DECISIONS, "reconcile": "flush"}),
    ],
    ids=["plain", "flush, ema", "stream, align, decisions", "counted, clocks", "own step, flush, decisions"],
)
def test_a_run_that_was_stopped_inside_a_window_comes_out_again(
    trained: Train, experiment: planes.Noisy, options: dict[str, Any]
) -> None:
    options = {"train_for": 24, **options}
    trained(experiment, stop=11, **options)
    directory = trained(experiment, **options)
    stretches = replayed(directory)
    assert failures(stretches) == []
    # Each record once, and both kinds of saves.
    assert sum(stretch.records for stretch in stretches) == pathlib.Path(directory.metrics).read_bytes().count(b"\n")
    assert {11, 24} <= {stretch.end for stretch in stretches}
    assert all(stretch.tensors > 8 for stretch in stretches)


def test_a_stretch_over_changed_flags_and_parameters_is_trained_leg_by_leg(trained: Train) -> None:
    trained(planes.Noisy(), train_for=10)
    trained(planes.Noisy(), train_for=18, log_every=4, reconcile="flush")
    directory = trained(planes.Noisy(learning_rate=0.2), train_for=26, log_every=4, eval_every=9)
    for step in directory.committed_steps():
        if 8 < step < 24:
            shutil.rmtree(directory.checkpoint(step))
    stretches = replayed(directory)
    assert failures(stretches) == []
    assert (8, 24) in [(stretch.start, stretch.end) for stretch in stretches]


def test_a_touched_tensor_with_its_checksums_repaired_is_named(copy: RunDirectory) -> None:
    def touched(kernel: np.ndarray) -> np.ndarray:
        kernel[1] += 1e-6
        return kernel

    forge_tensor(pathlib.Path(copy.path), 16, "model/kernel", touched)
    to_it, from_it = (stretch for stretch in replayed(copy, from_start=False) if 16 in (stretch.start, stretch.end))
    assert to_it.describe().startswith(
        "from step 12 to 16: it diverges at step 16: checkpoint 16: model/kernel [1] is "
    )
    assert "(1 of 3 elements differ)" in to_it.describe()
    assert not from_it.ok  # What was trained from the true weights does not come out of these.


def test_a_changed_digit_in_a_record_with_its_checksums_repaired_is_named(copy: RunDirectory) -> None:
    def changed(records: list[Record]) -> list[Record]:
        at = next(index for index, record in enumerate(records) if record.window == (10, 15))
        metrics = {**records[at].metrics, "loss": (records[at].metrics["loss"] or 0) + 1e-9}
        return [*records[:at], dataclasses.replace(records[at], metrics=metrics), *records[at + 1 :]]

    forge_records(pathlib.Path(copy.path), changed)
    (failed,) = [stretch for stretch in replayed(copy) if not stretch.ok]
    assert failed.describe().startswith(
        "from step 12 to 16: it diverges in the steps 13 to 15: record 7 (train, window (10, 15]): metrics.loss is "
    )


def test_a_learning_rate_that_is_not_the_schedules_is_named(copy: RunDirectory) -> None:
    def changed(records: list[Record]) -> list[Record]:
        return [dataclasses.replace(record, learning_rate=0.1) if record.window else record for record in records]

    forge_records(pathlib.Path(copy.path), changed)
    found = failures(replayed(copy))
    assert found
    assert all("learning_rate is 0.1" in failure for failure in found)


def test_what_a_manifest_says_and_does_not_follow_is_named(copy: RunDirectory) -> None:
    best = {"validation/loss": [{"value": 0.125, "step": 6, "relation": "exact"}]}
    forge_manifest(pathlib.Path(copy.path), 16, lambda manifest: manifest["control"].update(best=best))
    assert "checkpoint 16: its manifest: control.best.validation/loss is [{" in failures(replayed(copy))[0]


def test_a_checkpoint_that_cannot_be_restored_is_a_failure_and_no_crash(copy: RunDirectory) -> None:
    data = pathlib.Path(copy.state_prefix(8) + ".data-00000-of-00001")
    data.write_bytes(bytes(len(data.read_bytes())))
    stretches = replayed(copy, from_start=False)
    assert "from step 8 to 12: checkpoint 8 cannot be restored" in failures(stretches)[-1]
    assert [stretch.ok for stretch in stretches] == [8 not in (stretch.start, stretch.end) for stretch in stretches]
    to_it, _ = (stretch for stretch in replayed(copy) if 8 in (stretch.start, stretch.end))
    assert "from step 6 to 8: checkpoint 8 cannot be read: " in to_it.describe()


def test_other_data_is_told_and_not_taken_for_a_divergence(copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = planes.Noisy.arrays
    monkeypatch.setattr(planes.Noisy, "arrays", lambda self, seed=3, examples=None: arrays(self, seed + 1, examples))
    (failure, *_) = failures(replayed(copy))
    assert "it cannot be trained again here: the experiment is not what it was then: other data: " in failure


def test_code_that_is_gone_is_told(copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(planes, "Noisy")
    assert "it cannot be trained again here: experiment=planes:Noisy names 0 experiments" in failures(replayed(copy))[0]


def test_another_kind_of_machine_is_held_to_the_tolerance(copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopen, "another_machine", lambda known, asked: "another kind of machine (cpu: a then, b now)")
    forge_tensor(pathlib.Path(copy.path), 24, "model/kernel", lambda kernel: kernel * np.float32(1 + 1e-6))
    stretches = replayed(copy)
    assert failures(stretches) == []
    assert {stretch.machine for stretch in stretches} == {"another kind of machine (cpu: a then, b now)"}
    assert len(failures(replayed(copy, tolerance=1e-9))) == 1


def test_an_interrupted_replay_ends_with_what_is_done(copy: RunDirectory) -> None:
    reached: list[int] = []
    stretches = replayed(
        copy, tell=lambda step, end: reached.append(step), interrupted=lambda: bool(reached) and reached[-1] >= 8
    )
    assert [stretch.end for stretch in stretches] in ([6], [6, 8])
    assert failures(stretches) == []


def test_nothing_in_the_run_directory_is_touched(copy: RunDirectory) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = (path for path in pathlib.Path(copy.path).rglob("*"))
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    replayed(copy)
    assert state() == before
