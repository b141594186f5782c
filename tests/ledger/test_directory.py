"""Where things are in a run directory: names that users and other tools rely on."""

from __future__ import annotations

import os
import pathlib

import pytest

from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory, check_run_directory


def test_every_name_is_the_documented_one(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    paths = {
        "run.json": directory.run_info,
        "flags.txt": directory.flags,
        "metrics.jsonl": directory.metrics,
        "journal.jsonl": directory.journal,
        "checkpoints": directory.checkpoints,
        "checkpoints/checkpoint": directory.state_file,
        "checkpoints/step-0000000500": directory.checkpoint(500),
        "checkpoints/step-0000000500/state": directory.state_prefix(500),
        "checkpoints/step-0000000500/manifest.json": directory.manifest(500),
        "events": directory.events,
        "orphans": directory.orphans,
        "lock": directory.lock,
    }
    assert {name: os.path.relpath(path, tmp_path) for name, path in paths.items()} == {name: name for name in paths}


def test_what_an_attempt_puts_aside_lies_among_the_orphans(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    folders = [directory.orphans_of(attempt) for attempt in (1, 2, 10)]
    assert {os.path.dirname(folder) for folder in folders} == {directory.orphans}
    assert sorted(folders) == folders


def test_only_a_manifest_makes_a_checkpoint(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    for step in (7, 500, 20_000_000_000):
        pathlib.Path(directory.checkpoint(step)).mkdir(parents=True)
        if step != 500:
            pathlib.Path(directory.manifest(step)).touch()
    assert directory.step_folders() == [20_000_000_000, 500, 7]
    assert directory.committed_steps() == [20_000_000_000, 7]


@pytest.mark.parametrize(
    "name", ["step-500", "step-0000000500.bak", "step-0000000500_temp", "xstep-0000000500", "step-00000000500"]
)
def test_what_does_not_bear_a_checkpoints_name_is_not_seen(tmp_path: pathlib.Path, name: str) -> None:
    directory = RunDirectory(tmp_path)
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / name / "manifest.json").touch()
    assert directory.step_folders() == []
    assert directory.committed_steps() == []


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path / "none")
    assert directory.step_folders() == directory.committed_steps() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("kind", "what"), [("missing", "does not exist"), ("file", "is a file"), ("empty", "is no run")]
)
def test_what_is_no_run_directory_is_told_in_one_line(kind: str, what: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.touch()
    elif kind == "empty":
        path.mkdir()
    with pytest.raises(Unusable, match=what) as caught:
        check_run_directory(str(path), "run.json", "checkpoints")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("mark", ["run.json", "checkpoints"])
def test_one_mark_makes_a_run_directory(mark: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / mark).mkdir()
    check_run_directory(str(tmp_path), "run.json", "checkpoints")
