"""`run.json`: what identifies a run is read as it was written, or refused."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from trainer.errors import EXIT_UNUSABLE, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.run_info import RunInfo

INFO = RunInfo(
    experiment="digits",
    parameters={"hidden": 128, "name": "größe"},
    seed=17,
    jit="chunk",
    deterministic=False,
    threads={"intra_op": 2, "inter_op": 2},
    machine={"cpu": "x86"},
    versions={"tensorflow": "2.21.0"},
    data={"train": {"mode": "indexed", "fingerprint": "ab", "examples": 1500}},
    epoch_examples=1500,
    clock_in_log=False,
)


def test_it_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").write_bytes(INFO.encode())
    assert RunInfo.load(RunDirectory(tmp_path)) == INFO


def test_it_says_its_format_and_its_run(tmp_path: pathlib.Path) -> None:
    value = json.loads(INFO.encode())
    assert value["format"] == 1
    assert value["run_id"] == INFO.run_id
    assert value["clock_in_log"] is False


def test_every_run_has_an_id_of_its_own() -> None:
    fields = {item.name: getattr(INFO, item.name) for item in dataclasses.fields(INFO) if item.name != "run_id"}
    assert RunInfo(**fields).run_id != RunInfo(**fields).run_id


def test_before_the_first_start_there_is_none(tmp_path: pathlib.Path) -> None:
    assert RunInfo.load(RunDirectory(tmp_path)) is None


def test_keys_of_a_later_version_of_the_same_format_do_no_harm(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**json.loads(INFO.encode()), "added_later": [1], "crc32": None}))
    assert RunInfo.load(RunDirectory(tmp_path)) == INFO


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'"text"', b"null", b"7", b"{}", b'{"format":1}', b"\xff\xfe\x00"),
        INFO.encode()[:-20],
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        INFO.encode().replace(b'"format": 1', b'"format": 2'),
        INFO.encode().replace(b'"seed"', b'"sead"'),
    ],
)
def test_what_this_version_did_not_write_is_refused_and_named(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(Unusable) as caught:
        RunInfo.load(RunDirectory(tmp_path))
    assert caught.value.exit_code == EXIT_UNUSABLE
    assert str(tmp_path / "run.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_json_whose_section_is_no_object_is_refused(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    value = json.loads(INFO.encode())
    (tmp_path / "run.json").write_text(json.dumps({**value, "parameters": 3, "crc32": None}))
    with pytest.raises(Unusable, match="parameters"):
        RunInfo.load(directory)
    (tmp_path / "run.json").write_text(json.dumps({**value, "fixed": 3, "crc32": None}))
    with pytest.raises(Unusable, match="fixed"):
        RunInfo.load(directory)


def test_a_file_that_is_older_than_the_fixed_flags_holds_none(tmp_path: pathlib.Path) -> None:
    value = {name: known for name, known in json.loads(INFO.encode()).items() if name not in ("fixed", "crc32")}
    (tmp_path / "run.json").write_text(json.dumps(value))
    assert RunInfo.load(RunDirectory(tmp_path)) == INFO
