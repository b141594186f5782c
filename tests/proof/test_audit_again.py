"""The audit's long checks: evaluations made again, and steps trained again."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import planes
import pytest
from forge import forge_tensor

from trainer.ledger.directory import RunDirectory
from trainer.proof.audit import again
from trainer.proof.audit.again import reevaluate, replay
from trainer.proof.audit.engine import audit
from trainer.proof.audit.evidence import NotChecked, read_evidence

pytestmark = pytest.mark.slow

Check = Callable[..., Generator[str, None, str]]


def made(check: Check, directory: RunDirectory, **options: Any) -> tuple[list[str], str]:
    """The failures of a check, and what it has looked at."""
    failures, found = [], check(read_evidence(directory), lambda line: None, **options)
    while True:
        try:
            failures.append(next(found))
        except StopIteration as end:
            return failures, end.value


def test_a_healthy_run_comes_out_again_and_nothing_of_it_is_touched(copy: RunDirectory) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = pathlib.Path(copy.path).rglob("*")
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = state()
    assert made(reevaluate, copy) == ([], "8 evaluations of 4 checkpoints, the same to the last bit")
    failures, detail = made(replay, copy, from_start=True)
    assert failures == []
    assert detail.startswith("24 steps of 6 stretches: 13 records and 65 tensors")
    assert state() == before


def test_a_touched_tensor_whose_checksums_were_repaired_is_named_by_both_and_by_nothing_else(
    copy: RunDirectory,
) -> None:
    forge_tensor(pathlib.Path(copy.path), 12, "model/kernel", lambda kernel: kernel + np.float32(1e-3))
    checks = [
        (name, lambda seen, check=check: check(seen, lambda line: None))
        for name, check in (("reevaluate", reevaluate), ("replay", replay))
    ]
    outcomes = {outcome.name: outcome for outcome in audit(copy.path, more=checks).outcomes}
    assert {name for name, outcome in outcomes.items() if outcome.ok is False} == {"reevaluate", "replay"}
    assert outcomes["reevaluate"].detail.startswith("checkpoint 12, other: loss is ")
    assert " recorded, " in outcomes["reevaluate"].detail
    assert outcomes["replay"].detail.startswith(
        "from step 8 to 12: it diverges at step 12: checkpoint 12: model/kernel [0] is "
    )


def test_only_the_newest_stretches_are_trained_again_where_a_number_is_given(copy: RunDirectory) -> None:
    failures, detail = made(replay, copy, newest=2)
    assert (failures, detail.partition(":")[0]) == ([], "8 steps of 2 stretches")
    failures, detail = made(replay, copy, newest=99, from_start=True)
    assert (failures, detail.partition(":")[0]) == ([], "24 steps of 6 stretches")


def test_what_cannot_be_made_is_not_checked(copy: RunDirectory) -> None:
    for step in copy.committed_steps():
        if step != 16:
            shutil.rmtree(copy.checkpoint(step))
    with pytest.raises(NotChecked, match="no checkpoint that is there was evaluated at its own step"):
        made(reevaluate, copy)
    with pytest.raises(NotChecked, match="no two checkpoints to train between; --from_start trains from step 0"):
        made(replay, copy)
    assert made(replay, copy, from_start=True)[0] == []
    pathlib.Path(copy.run_info).unlink()
    for check in (reevaluate, replay):
        with pytest.raises(NotChecked, match=r"there is no run\.json"):
            made(check, copy)


def test_other_data_and_a_split_that_is_gone_are_failures(copy: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = planes.Noisy.eval_data
    monkeypatch.setattr(planes.Noisy, "eval_data", lambda self: {"other": splits(self)["other"]})
    failures, _ = made(reevaluate, copy)
    assert failures[0] == "checkpoint 6, validation: the experiment has no such split any more"
    arrays = planes.Noisy.arrays
    monkeypatch.setattr(planes.Noisy, "arrays", lambda self, seed=3, examples=None: arrays(self, seed + 1, examples))
    failures, _ = made(reevaluate, copy)
    assert failures[0].startswith("checkpoint 6, other: it is other data now (")


def test_another_kind_of_machine_has_a_tolerance_that_is_printed(
    copy: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "another_machine", lambda known, asked: "another kind of machine (cpu: a then, b now)")
    forge_tensor(pathlib.Path(copy.path), 12, "model/kernel", lambda kernel: kernel * np.float32(1 + 1e-6))
    assert made(reevaluate, copy) == (
        [],
        "8 evaluations of 4 checkpoints, each within 0.0001: another kind of machine (cpu: a then, b now)",
    )


def test_a_checkpoint_that_retention_deletes_meanwhile_is_no_failure(copy: RunDirectory) -> None:
    evidence = read_evidence(copy)

    def deleting(line: str) -> None:
        if pathlib.Path(copy.checkpoint(6)).exists():
            shutil.rmtree(copy.checkpoint(6))

    for check in (reevaluate, replay):
        found: Generator[str, None, str] = check(evidence, deleting)
        assert list(found) == []
