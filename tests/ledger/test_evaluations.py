"""The file of evaluations made later: what a line holds, what survives in it, and what it is of."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import (
    Evaluation,
    Subject,
    append_evaluation,
    checkpoint_identity,
    group_evaluations,
    read_evaluations,
)
from trainer.ledger.manifest import BadManifest, LogPosition, Manifest, StateFile
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.storage.files import Files


def evaluation(step: int = 500, **changes: object) -> Evaluation:
    record = Record("eval", step, step * 64, 1.5, {"loss": 0.25}, split="test", weights="ema")
    return Evaluation(dataclasses.replace(record, **changes), "0badcafe", "4f977665babd3a96")


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def lines_of(directory: RunDirectory) -> list[bytes]:
    return pathlib.Path(directory.evaluations).read_bytes().splitlines(keepends=True)


def test_a_line_is_the_record_and_then_what_it_is_of() -> None:
    assert evaluation().line() == (
        b'{"kind":"eval","step":500,"examples":32000,"epoch":1.5,"split":"test","weights":"ema",'
        b'"metrics":{"loss":0.25},"checkpoint":"0badcafe","fingerprint":"4f977665babd3a96"}\n'
    )


@given(
    metrics=st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    step=st.integers(0, 10**12),
    epoch=st.none() | st.floats(0, 1e9),
)
def test_what_is_written_is_what_is_read(metrics: Mapping[str, float | None], step: int, epoch: float | None) -> None:
    made = evaluation(step, metrics=metrics, epoch=epoch)
    assert Evaluation.parse(made.line()) == made


def test_what_is_evaluated_once_are_weights_on_data() -> None:
    subject = evaluation().subject
    assert subject == Subject(500, "0badcafe", "test", "ema", "4f977665babd3a96")
    others = [
        evaluation(501),
        evaluation(split="other"),
        evaluation(weights="raw"),
        dataclasses.replace(evaluation(), checkpoint="00000000"),
        dataclasses.replace(evaluation(), fingerprint="0"),
    ]
    assert len({subject, *(other.subject for other in others)}) == 6
    assert evaluation(metrics={"loss": 7.0}).subject == subject


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "train", "window": [400, 500]},
        {"checkpoint": None},
        {"fingerprint": 3},
        {"split": None},
        {"weights": 1},
        {"metrics": {"loss": "low"}},
        {"metrics": {"loss": float("nan")}},
        {"metrics": {"loss": True}},
        {"metrics": [1]},
        {"epoch": "two"},
        {"step": "many"},
    ],
)
def test_a_line_that_is_no_evaluation_is_passed_over(change: Mapping[str, object], directory: RunDirectory) -> None:
    append_evaluation(directory, evaluation(1))
    with open(directory.evaluations, "a") as file:
        file.write(json.dumps({**evaluation().to_json(), **change}) + "\n")
    append_evaluation(directory, evaluation(2))
    assert read_evaluations(directory) == [evaluation(1), evaluation(2)]


def test_a_missing_file_holds_nothing(directory: RunDirectory) -> None:
    assert read_evaluations(directory) == []


@given(cut=st.integers(0, 200))
def test_a_line_that_a_kill_has_torn_takes_no_other_with_it(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    append_evaluation(directory, evaluation(1))
    torn = evaluation(2).line()[:cut]
    with open(directory.evaluations, "ab") as file:
        file.write(torn)
    whole = len(torn) >= len(evaluation(2).line()) - 1
    append_evaluation(directory, evaluation(3))
    append_evaluation(directory, evaluation(4))
    steps = [found.record.step for found in read_evaluations(directory)]
    assert steps == [1, *([2] if whole else []), 3, 4]
    assert lines_of(directory)[-2:] == [evaluation(3).line(), evaluation(4).line()]


def test_a_line_is_durable_before_it_is_told(tmp_path: pathlib.Path) -> None:
    class Noted(Files):
        def __init__(self) -> None:
            self.done: list[str] = []

        def append(self, path: str, data: bytes) -> None:
            super().append(path, data)
            self.done.append("append")

        def sync(self, path: str) -> None:
            super().sync(path)
            self.done.append(f"sync {os.path.basename(path)}")

        def sync_directory(self, path: str) -> None:
            super().sync_directory(path)
            self.done.append("sync directory")

    files = Noted()
    append_evaluation(RunDirectory(tmp_path, files), evaluation())
    assert files.done == ["append", "sync evaluations.jsonl", "sync directory"]


def test_a_full_disk_is_one_line_and_costs_no_line_that_was_there(tmp_path: pathlib.Path) -> None:
    class Full(Files):
        full = False

        def append(self, path: str, data: bytes) -> None:
            if self.full:
                super().append(path, data[: len(data) // 2])
                raise Unwritable(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")
            super().append(path, data)

    files = Full()
    directory = RunDirectory(tmp_path, files)
    append_evaluation(directory, evaluation(1))
    files.full = True
    with pytest.raises(Unwritable) as caught:
        append_evaluation(directory, evaluation(2))
    assert caught.value.exit_code == 74
    files.full = False
    append_evaluation(directory, evaluation(3))
    assert read_evaluations(directory) == [evaluation(1), evaluation(3)]


def test_a_folder_in_the_way_is_one_line(directory: RunDirectory) -> None:
    os.mkdir(directory.evaluations)
    with pytest.raises(Unwritable, match=r"cannot write .*evaluations\.jsonl") as caught:
        append_evaluation(directory, evaluation())
    assert "\n" not in str(caught.value)


def manifest(*files: StateFile) -> Manifest:
    return Manifest(5, 320, None, None, ("interval",), 1, None, files, LogPosition(0, 0, ""), None, {}, {}, {}, {})


def test_a_checkpoint_is_known_by_its_index_which_holds_the_checksum_of_each_tensor() -> None:
    data = StateFile("state.data-00000-of-00001", 7, "11111111")
    assert checkpoint_identity(manifest(data, StateFile("state.index", 3, "0badcafe"))) == "0badcafe"
    with pytest.raises(BadManifest, match=r"state\.index"):
        checkpoint_identity(manifest(data))


def saved(step: int, index: str, segments: Sequence[Mapping[str, object]] = ()) -> Manifest:
    files = (StateFile("state.index", 34, index),) if index else ()
    none = {"from": step, "steps": 0, "metrics": {}}
    position, control = LogPosition(0, 0, ""), {"segments": list(segments)}
    return Manifest(step, step, None, "run", ("final",), 1, None, files, position, None, none, {}, control, {})


def known_data(**fingerprints: str) -> dict[str, dict[str, str]]:
    return {split: {"fingerprint": fingerprint} for split, fingerprint in fingerprints.items()}


def info(**fingerprints: str) -> RunInfo:
    return RunInfo("a:B", {}, 1, "none", False, {}, {}, {}, known_data(**fingerprints), None, False)


def told(directory: RunDirectory, manifests: Mapping[int, Manifest], of: RunInfo | None) -> tuple[object, ...]:
    """The losses that count by step and split, those on other data, and how many are gone and there in all."""
    found = group_evaluations(directory, manifests, of)
    counts = {
        step: {split: one.record.metrics["loss"] for split, one in splits.items()} for step, splits in found.of.items()
    }
    return counts, [one.record.metrics["loss"] for one in found.other_data], found.gone, found.lines


def append(directory: RunDirectory, step: int, loss: float, data: str, *, split: str = "test", of: str = "a") -> None:
    record = Record("eval", step, step, None, {"loss": loss}, split=split, weights="raw")
    append_evaluation(directory, Evaluation(record, of, data))


def test_of_each_split_one_data_counts_the_runs_where_it_has_the_split(directory: RunDirectory) -> None:
    for step, loss, data in ((1, 0.1, "old"), (2, 0.2, "old"), (2, 0.3, "new")):
        append(directory, step, loss, data)
        append(directory, step, loss + 1, data, split="validation")
    there = {step: saved(step, "a") for step in (1, 2)}
    both = {1: {"validation": 1.1}, 2: {"validation": 1.2, "test": 0.3}}
    assert told(directory, there, info(validation="old")) == (both, [0.1, 0.2, 1.3], 0, 6)
    newest = {2: {"test": 0.3, "validation": 1.3}}
    for unknown in (None, info()):
        assert told(directory, there, unknown) == (newest, [0.1, 1.1, 0.2, 1.2], 0, 6)


def test_the_runs_data_is_that_of_its_last_segment(directory: RunDirectory) -> None:
    for loss, data in ((0.1, "second"), (0.2, "first")):
        append(directory, 2, loss, data, split="validation")
    segment = {"segment": 1, "step": 1, "examples": 1, "changed": ["eval_data"], "parameters": {}, "seed": 1}
    changed = {**segment, "data": known_data(validation="second")}
    there = {1: saved(1, "a"), 2: saved(2, "a", [changed])}
    assert told(directory, there, info(validation="first"))[:2] == ({2: {"validation": 0.1}}, [0.2])
    assert told(directory, {2: saved(2, "a")}, info(validation="first"))[:2] == ({2: {"validation": 0.2}}, [0.1])


def test_what_is_of_no_checkpoint_that_is_there_and_whole_is_gone_and_says_nothing_of_data(
    directory: RunDirectory,
) -> None:
    append(directory, 1, 0.1, "data")
    append(directory, 2, 0.2, "later", of="b")
    append(directory, 3, 0.3, "later")
    append(directory, 4, 0.4, "later")
    there = {1: saved(1, "a"), 2: saved(2, "a"), 3: saved(3, "")}
    assert told(directory, there, None) == ({1: {"test": 0.1}}, [], 3, 4)


def test_without_checkpoints_all_is_gone(directory: RunDirectory) -> None:
    assert told(directory, {}, info()) == ({}, [], 0, 0)
    append(directory, 1, 0.1, "data")
    assert told(directory, {}, info()) == ({}, [], 1, 1)
