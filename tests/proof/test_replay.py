"""Replay: what a run left comes out again, and what it did not leave is named."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator
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
    manifests = load_manifests(directory)[0].values()
    with contextlib.closing(Replay(directory, info, **options)) as replay:
        return list(replay.stretches([*([None] if from_start else []), *manifests]))


@pytest.fixture(scope="module")
def built(finished: pathlib.Path) -> Iterator[Replay]:
    """The finished run, put together once for all tests that change nothing but what it left."""
    info = RunInfo.load(RunDirectory(finished))
    assert info is not None
    with contextlib.closing(Replay(RunDirectory(finished), info)) as replay:
        yield replay


@pytest.fixture
def again(built: Replay, copy: RunDirectory) -> Callable[..., list[Stretch]]:
    """Trains the copy again, from the checkpoint of a step or from the beginning, as far as to that of another."""

    def run(start: int = 0, end: int = 24, **options: Any) -> list[Stretch]:
        manifests = load_manifests(copy)[0]
        kept = [manifest for step, manifest in manifests.items() if start <= step <= end]
        replay = dataclasses.replace(built, directory=copy, **options)
        return list(replay.stretches([*([] if start else [None]), *kept]))

    return run


def failures(stretches: list[Stretch]) -> list[str]:
    return [stretch.describe() for stretch in stretches if not stretch.ok]


@pytest.mark.parametrize(
    ("experiment", "options"),
    [
        (
            planes.Noisy(last="short", weighted=True),
            {"jit": "chunk", "reconcile": "flush", "ema": 0.9, "eval_at_start": True},
        ),
        (planes.Noisy(data="stream"), {"reconcile": "align", "accumulate": 2, **DECISIONS}),
        (planes.Noisy(data="replay"), {"save_every": "7steps,1h", "train_for": "24steps,1h"}),
        (planes.OwnStep(), {**DECISIONS, "reconcile": "flush"}),
    ],
    ids=["compiled, flush, ema", "stream, align, decisions", "counted, clocks", "own step, flush, decisions"],
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


Again = Callable[..., list[Stretch]]


def test_a_touched_tensor_with_its_checksums_repaired_is_named(copy: RunDirectory, again: Again) -> None:
    def touched(kernel: np.ndarray) -> np.ndarray:
        kernel[1] += 1e-6
        return kernel

    forge_tensor(pathlib.Path(copy.path), 16, "model/kernel", touched)
    to_it, from_it = again(12, 18)
    assert to_it.describe().startswith(
        "from step 12 to 16: it diverges at step 16: checkpoint 16: model/kernel [1] is "
    )
    assert "(1 of 3 elements differ)" in to_it.describe()
    assert not from_it.ok  # What was trained from the true weights does not come out of these.


def test_the_sums_of_an_open_window_are_compared_too(copy: RunDirectory, again: Again) -> None:
    forge_tensor(pathlib.Path(copy.path), 18, "window", lambda sums: sums * (1 + 1e-15))
    (failure,) = failures(again(16, 18))
    assert failure.startswith("from step 16 to 18: it diverges at step 18: checkpoint 18: window [0] is ")


def test_a_changed_digit_in_a_record_with_its_checksums_repaired_is_named(copy: RunDirectory, again: Again) -> None:
    def changed(records: list[Record]) -> list[Record]:
        at = next(index for index, record in enumerate(records) if record.window == (10, 15))
        metrics = {**records[at].metrics, "loss": (records[at].metrics["loss"] or 0) + 1e-9}
        return [*records[:at], dataclasses.replace(records[at], metrics=metrics), *records[at + 1 :]]

    forge_records(pathlib.Path(copy.path), changed)
    (failed,) = [stretch for stretch in again() if not stretch.ok]
    assert failed.describe().startswith(
        "from step 12 to 16: it diverges in the steps 13 to 15: record 7 (train, window (10, 15]): metrics.loss is "
    )


def test_a_learning_rate_that_is_not_the_schedules_is_named(copy: RunDirectory, again: Again) -> None:
    def changed(records: list[Record]) -> list[Record]:
        return [dataclasses.replace(record, learning_rate=0.1) if record.window else record for record in records]

    forge_records(pathlib.Path(copy.path), changed)
    found = failures(again())
    assert found
    assert all("learning_rate is 0.1" in failure for failure in found)


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("examples",), 65),
        (("epoch",), 2.5),
        (("reasons",), ["condition"]),
        (("train", "metrics", "loss"), 0.5),
        (("eval", "validation", "metrics", "loss"), 0.5),
        (("open_window", "metrics", "loss"), 0.5),
        (("control", "best", "validation/loss"), [{"value": 0.125, "step": 6, "relation": "exact"}]),
        (("control", "modes", "validation/loss"), "max"),
        (("data", "fingerprint"), "0123456789abcdef"),
        (("log", "records"), 3),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_manifest_says_and_does_not_follow_is_named(
    copy: RunDirectory, again: Again, names: tuple[str, ...], value: Any
) -> None:
    def changed(manifest: dict[str, Any]) -> None:
        *within, last = names
        for name in within:
            manifest = manifest[name]
        manifest[last] = value

    forge_manifest(pathlib.Path(copy.path), 16, changed)
    failure = failures(again(12, 16))[0]
    assert f"checkpoint 16: its manifest: {'.'.join(names)} is " in failure


def test_a_checkpoint_that_cannot_be_restored_is_a_failure_and_no_crash(copy: RunDirectory, again: Again) -> None:
    data = pathlib.Path(copy.state_prefix(8) + ".data-00000-of-00001")
    data.write_bytes(bytes(len(data.read_bytes())))
    stretches = again(6)
    assert [stretch.ok for stretch in stretches] == [8 not in (stretch.start, stretch.end) for stretch in stretches]
    to_it, from_it = failures(stretches)
    assert "from step 6 to 8: checkpoint 8 cannot be read: " in to_it
    assert "from step 8 to 12: checkpoint 8 cannot be restored" in from_it


def test_threads_of_another_attempt_are_no_reason_to_fail(copy: RunDirectory, again: Again) -> None:
    journal = pathlib.Path(copy.journal)
    journal.write_bytes(journal.read_bytes().replace(b'"threads":0', b'"threads":7'))
    (stretch,) = again(16, 18)
    assert stretch.ok
    assert stretch.machine == "threads=7 then, and 0 now, which may change the last bits"


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
    info = RunInfo.load(copy)
    assert info is not None
    manifests = load_manifests(copy)[0]
    with contextlib.closing(Replay(copy, info)) as replay:
        (stretch,) = replay.stretches([manifests[18], manifests[24]])
        assert stretch.ok
        assert stretch.machine == "another kind of machine (cpu: a then, b now)"
        replay.tolerance = 1e-9
        (stretch,) = replay.stretches([manifests[18], manifests[24]])
        assert not stretch.ok


def test_an_interrupted_replay_ends_with_what_is_done(again: Again) -> None:
    reached: list[int] = []
    stretches = again(
        tell=lambda step, end: reached.append(step), interrupted=lambda: bool(reached) and reached[-1] >= 8
    )
    assert [stretch.end for stretch in stretches] in ([6], [6, 8])
    assert failures(stretches) == []
