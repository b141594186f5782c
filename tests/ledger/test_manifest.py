"""The manifest: what it says of a checkpoint is checked, and one that cannot be trusted is refused with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import (
    RUN_REASONS,
    TRANSIENT_REASONS,
    BadManifest,
    LogPosition,
    Manifest,
    StateFile,
    eval_relation,
    train_relation,
)
from trainer.ledger.record import Record

DOCUMENTED = """{"format":1,"step":500,"examples":32000,"reasons":["interval"],"transient":false,"attempt":2,
 "parent":400,
 "files":[{"name":"state.index","bytes":1234,"crc32":"0a1b2c3d"},
          {"name":"state.data-00000-of-00001","bytes":56789,"crc32":"ffffffff"}],
 "log":{"records":9,"bytes":1811,"sha256":"ab"},
 "train":{"relation":"window","window":[400,500],"lag":0,"metrics":{"loss":0.37}},
 "open_window":{"from":500,"steps":0,"metrics":{}},
 "eval":{"validation":{"relation":"exact","step":500,"age":0,"metrics":{"loss":0.36}}},
 "control":{"best":{"validation/loss":[{"value":0.36,"step":500}]},"early_stop":{},"cadence":{},"pending":[]},
 "data":{"mode":"indexed","fingerprint":"cd"}}"""

MANIFEST = Manifest(
    step=500,
    examples=32000,
    epoch=21.3,
    run="0123456789abcdef",
    reasons=("interval", "best"),
    attempt=2,
    parent=400,
    files=(StateFile("state.index", 3, "352441c2"), StateFile("state.data-00000-of-00001", 5, "0cd1b93e")),
    log=LogPosition(9, 1811, "ab"),
    train={"relation": "window", "window": [400, 500], "lag": 0, "metrics": {"loss": 0.37}},
    open_window={"from": 500, "steps": 0, "metrics": {}},
    eval={"validation": {"relation": "exact", "step": 500, "age": 0, "weights": "raw", "metrics": {"loss": 0.36}}},
    control={"best": {}, "early_stop": {}, "cadence": {"seconds": 1.5}, "pending": []},
    data={"mode": "indexed", "fingerprint": "cd"},
)


def changed(**values: Any) -> bytes:
    """The manifest with other values; `...` takes a key away."""
    value = {**MANIFEST.to_json(), **values}
    return json.dumps({key: known for key, known in value.items() if known is not ...}).encode()


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path) -> tuple[RunDirectory, pathlib.Path]:
    """A run directory with the checkpoint of step 500, and the folder of that checkpoint."""
    directory = RunDirectory(tmp_path)
    folder = pathlib.Path(directory.checkpoint(500))
    folder.mkdir(parents=True)
    (folder / "state.index").write_bytes(b"abc")
    (folder / "state.data-00000-of-00001").write_bytes(b"01234")
    (folder / "manifest.json").write_bytes(MANIFEST.encode())
    return directory, folder


def test_the_documented_manifest_is_read() -> None:
    manifest = Manifest.parse(DOCUMENTED.encode())
    assert (manifest.step, manifest.examples, manifest.attempt, manifest.parent) == (500, 32000, 2, 400)
    assert manifest.reasons == ("interval",)
    assert not manifest.transient
    assert manifest.size == 1234 + 56789
    assert manifest.log == LogPosition(9, 1811, "ab")
    assert manifest.files[0] == StateFile("state.index", 1234, "0a1b2c3d")


def test_every_documented_key_is_written_and_in_that_order() -> None:
    documented = json.loads(DOCUMENTED)
    written = json.loads(MANIFEST.encode())
    assert [key for key in written if key in documented] == list(documented)
    for section in ("log", "train", "open_window"):
        assert list(written[section]) == list(documented[section])
    assert list(written["files"][0]) == ["name", "bytes", "crc32"]


def test_it_is_one_line_and_read_as_it_was_written() -> None:
    assert MANIFEST.encode().count(b"\n") == 1
    assert Manifest.parse(MANIFEST.encode()) == MANIFEST
    first = dataclasses.replace(MANIFEST, parent=None, train=None, epoch=None, run=None, eval={})
    assert Manifest.parse(first.encode()) == first


def test_keys_of_a_later_version_of_the_same_format_do_no_harm() -> None:
    assert Manifest.parse(changed(added_later=[1])) == MANIFEST


@pytest.mark.parametrize(
    ("reasons", "transient"),
    [
        *(((reason,), False) for reason in ("interval", "best", "condition", "final")),
        *(((reason,), True) for reason in ("time", "auto", "signal", "request", "runtime")),
        (("time", "signal"), True),
        (("signal", "interval"), False),
    ],
)
def test_only_what_a_clock_or_a_signal_alone_asked_for_is_transient(reasons: tuple[str, ...], transient: bool) -> None:
    manifest = dataclasses.replace(MANIFEST, reasons=reasons)
    assert manifest.transient is transient
    assert json.loads(manifest.encode())["transient"] is transient
    assert set(reasons) <= RUN_REASONS | TRANSIENT_REASONS


def test_a_whole_checkpoint_is_loaded(checkpoint: tuple[RunDirectory, pathlib.Path]) -> None:
    assert Manifest.load(checkpoint[0], 500) == MANIFEST


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"{", b"\x00" * 100, b"\xff\xfe", b"[]", b"7", b"null", b'"text"', b"{}", b'{"format":1}'),
        *(MANIFEST.encode()[:length] for length in (1, 100, len(MANIFEST.encode()) - 3)),
        MANIFEST.encode() * 2,
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(BadManifest, match="its manifest"):
        Manifest.parse(content)


REQUIRED = ["format", "step", "examples", "reasons", "attempt", "parent", "files", "log", "train"]
REQUIRED += ["open_window", "eval", "control", "data"]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_manifest_that_lacks_a_documented_key_is_refused(key: str) -> None:
    with pytest.raises(BadManifest, match=key):
        Manifest.parse(changed(**{key: ...}))


@pytest.mark.parametrize("key", ["step", "examples", "attempt"])
@pytest.mark.parametrize("value", [-1, 1.5, "500", None, True, [500]])
def test_a_count_that_is_none_is_refused(key: str, value: Any) -> None:
    with pytest.raises(BadManifest, match=key):
        Manifest.parse(changed(**{key: value}))


@pytest.mark.parametrize(
    "values",
    [
        {"format": 2},
        {"format": "1"},
        {"reasons": None},
        {"files": None},
        {"files": ["state.index"]},
        {"files": [{"name": "state.index", "crc32": "00"}]},
        {"files": [{"name": "state.index", "bytes": -1, "crc32": "00"}]},
        {"log": None},
        {"log": {"records": 9, "bytes": 1811}},
        {"log": {"records": 9, "bytes": -1, "sha256": "ab"}},
        {"train": "window"},
        {"train": {"relation": "window", "metrics": {}}},
        {"train": {"relation": "window", "window": [400], "metrics": {}}},
        {"open_window": None},
        {"open_window": "text"},
        {"open_window": {}},
        {"open_window": {"from": "500", "steps": 0, "metrics": {}}},
        {"eval": None},
        {"eval": {"validation": 3}},
        {"control": 7},
        {"control": "text"},
        {"data": "text"},
    ],
    ids=repr,
)
def test_a_manifest_that_lacks_what_a_resume_needs_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(BadManifest):
        Manifest.parse(changed(**values))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_flipped_byte_gives_a_manifest_or_a_bad_one(data: st.DataObject) -> None:
    content = bytearray(MANIFEST.encode())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BadManifest):
        Manifest.parse(bytes(content))


def test_a_manifest_of_another_step_is_refused(checkpoint: tuple[RunDirectory, pathlib.Path]) -> None:
    directory, folder = checkpoint
    folder.rename(directory.checkpoint(600))
    with pytest.raises(BadManifest, match="step 500"):
        Manifest.load(directory, 600)


def _remove(folder: pathlib.Path) -> None:
    (folder / "state.index").unlink()


def _cut(folder: pathlib.Path) -> None:
    (folder / "state.index").write_bytes(b"ab")


def _empty(folder: pathlib.Path) -> None:
    (folder / "state.index").write_bytes(b"")


def _lengthen(folder: pathlib.Path) -> None:
    (folder / "state.index").write_bytes(b"abcd")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_remove, "state.index is missing"),
        (_cut, "state.index has 2 bytes.* 3"),
        (_empty, "state.index has 0 bytes.* 3"),
        (_lengthen, "state.index has 4 bytes.* 3"),
    ],
)
def test_a_file_that_is_not_what_the_manifest_says_is_named(
    checkpoint: tuple[RunDirectory, pathlib.Path], damage: Callable[[pathlib.Path], None], reason: str
) -> None:
    directory, folder = checkpoint
    damage(folder)
    with pytest.raises(BadManifest, match=reason):
        Manifest.load(directory, 500)


@pytest.mark.parametrize("name", ["../../run.json", "/etc/hostname", "none"])
def test_a_manifest_names_only_files_of_its_own_folder(
    checkpoint: tuple[RunDirectory, pathlib.Path], tmp_path: pathlib.Path, name: str
) -> None:
    directory, folder = checkpoint
    (tmp_path / "run.json").write_bytes(b"abc")
    (folder / "manifest.json").write_bytes(changed(files=[{"name": name, "bytes": 3, "crc32": "352441c2"}]))
    with pytest.raises(BadManifest, match="missing"):
        Manifest.load(directory, 500)


def test_a_manifest_without_files_is_refused(checkpoint: tuple[RunDirectory, pathlib.Path]) -> None:
    directory, folder = checkpoint
    (folder / "manifest.json").write_bytes(changed(files=[]))
    with pytest.raises(BadManifest, match="no files"):
        Manifest.load(directory, 500)


def test_a_missing_manifest_is_an_error_of_the_file_system(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError, match=r"manifest\.json"):
        Manifest.load(RunDirectory(tmp_path), 500)


def test_the_train_metrics_of_a_checkpoint_are_those_of_the_newest_window() -> None:
    record = Record("train", 400, 25600, 17.1, {"loss": 0.4}, window=(300, 400))
    assert train_relation(record, 450) == {
        "relation": "window",
        "window": [300, 400],
        "lag": 50,
        "metrics": {"loss": 0.4},
    }
    exact = train_relation(record, 400)
    assert exact is not None
    assert exact["lag"] == 0
    assert train_relation(None, 450) is None


def test_the_evaluations_of_a_checkpoint_are_exact_or_tell_their_age() -> None:
    records = {
        "validation": Record("eval", 400, 1, 1.0, {"loss": 0.4}, split="validation", weights="raw"),
        "test": Record("eval", 300, 1, 1.0, {"loss": 0.5}, split="test", weights="ema"),
    }
    relation = eval_relation(records, 400)
    assert list(relation) == ["test", "validation"]
    exact = {"relation": "exact", "step": 400, "age": 0, "metrics": {"loss": 0.4}}
    assert exact.items() <= relation["validation"].items()
    assert (relation["test"]["relation"], relation["test"]["step"], relation["test"]["age"]) == ("earlier", 300, 100)
    assert eval_relation({}, 400) == {}


def test_an_edited_manifest_is_refused_for_its_checksum() -> None:
    edited = MANIFEST.encode().replace(b'"attempt":', b'"attempt":1', 1)
    assert edited != MANIFEST.encode()
    with pytest.raises(BadManifest, match="crc32"):
        Manifest.parse(edited)


def test_what_was_added_behind_the_checksum_is_refused_too() -> None:
    edited = MANIFEST.encode().rstrip()[:-1] + b',"kept":[1]}'
    assert b'"crc32":' in edited
    with pytest.raises(BadManifest, match="crc32"):
        Manifest.parse(edited)


def test_the_rankings_are_read_in_their_order() -> None:
    known = {"b/loss": [{"value": 0.5, "step": 20, "relation": "exact"}, {"value": 0.6, "step": 10}], "a/loss": []}
    assert list(ranked(known).rankings.items()) == [("b/loss", [(0.5, 20), (0.6, 10)]), ("a/loss", [])]
    assert dataclasses.replace(ranked({}), control={}).rankings == {}


@pytest.mark.parametrize("best", [3, {"a": 3}, {"a": [3]}, {"a": [{"value": 1.0}]}, {"a": [{"value": 1, "step": "x"}]}])
def test_garbled_rankings_are_told(best: Any) -> None:
    with pytest.raises(BadManifest):
        _ = ranked(best).rankings


def ranked(best: Any) -> Manifest:
    none = {"from": 1, "steps": 0, "metrics": {}}
    position = LogPosition(0, 0, "")
    return Manifest(1, 1, None, None, ("final",), 1, None, (), position, None, none, {}, {"best": best}, {})
