"""Where an export may go is known before any work is done; what is in the way is told in one line."""

from __future__ import annotations

import errno
import json
import os
import pathlib
from collections.abc import Callable

import pytest

from trainer.errors import ConfigError, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.trained.destination import check_destination, is_export

OURS = {"format": 1, "run": "r", "step": 5, "kind": "weights"}


@pytest.fixture
def check(tmp_path: pathlib.Path) -> Callable[..., None]:
    directory = RunDirectory(tmp_path / "run")
    pathlib.Path(directory.checkpoints).mkdir(parents=True)

    def check(to: str | pathlib.Path, *, overwrite: bool = False) -> None:
        check_destination(str(to), directory, overwrite=overwrite)

    return check


def folder(path: pathlib.Path, **files: str) -> pathlib.Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def refused(check: Callable[..., None], to: str | pathlib.Path, *, overwrite: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        check(to, overwrite=overwrite)
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


def test_it_may_be_new_or_empty_with_parents_or_without(check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    check(tmp_path / "new")
    check(tmp_path / "new" / "below" / "it")
    check(folder(tmp_path / "empty"))
    check(tmp_path / "run" / "export")
    assert sorted(os.listdir(tmp_path)) == ["empty", "run"]


def test_a_relative_one_is_where_the_command_runs(
    check: Callable[..., None], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "taken", export_json=json.dumps(OURS))
    assert "--overwrite" in refused(check, "taken")
    check("free")


def test_an_export_is_replaced_only_when_asked(check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    to = folder(tmp_path / "to", export_json=json.dumps(OURS))
    assert "replace it with --overwrite" in refused(check, to)
    check(to, overwrite=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_what_only_looks_like_an_export_is_never_replaced(
    text: str, check: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    to = folder(tmp_path / "to", export_json=text)
    assert not is_export(str(to))
    assert "--overwrite" not in refused(check, to)
    assert "no export: its export.json is not that of one" in refused(check, to, overwrite=True)


@pytest.mark.parametrize("made", ["thesis.tex", "variables/thesis.tex", ".hidden", "checkpoints/step", "state.indexes"])
def test_an_export_that_somebody_put_something_into_is_never_replaced(
    made: str, check: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    to = folder(tmp_path / "to", export_json=json.dumps(OURS))
    for name in ("saved_model.pb", "fingerprint.pb", "manifest.json", "state.index", "state.data-00000-of-00001"):
        (to / name).touch()
    folder(to / "variables", variables_index="")
    folder(to / "assets", words_txt="")
    assert is_export(str(to))
    (to / made).parent.mkdir(exist_ok=True)
    (to / made).touch()
    assert not is_export(str(to))
    told = f"it has {made.removesuffix('/step')} in it, which no export writes"
    assert told in refused(check, to, overwrite=True)
    assert "--overwrite" not in refused(check, to)


def test_the_run_that_is_exported_is_never_replaced(
    check: Callable[..., None], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "export.json").write_text(json.dumps(OURS))
    (tmp_path / "link").symlink_to(tmp_path)
    for to in (tmp_path, tmp_path / "link", tmp_path / "run" / "..", tmp_path.parent):
        assert "has the run directory in it" in refused(check, to, overwrite=True)
    (tmp_path / "run" / "export.json").write_text(json.dumps(OURS))
    for to in (tmp_path / "run", tmp_path / "link" / "run"):
        assert "is the run directory" in refused(check, to, overwrite=True)
    monkeypatch.chdir(tmp_path / "run")
    assert "is the run directory" in refused(check, ".", overwrite=True)


def test_a_folder_of_somebody_else_is_never_replaced(check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    to = folder(tmp_path / "to", thesis_tex="ten years")
    assert "not empty" in refused(check, to)
    assert "not empty" in refused(check, to, overwrite=True)


def test_a_file_in_the_way_is_named(check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for to in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"{tmp_path / 'file'} is a file" in refused(check, to, overwrite=True)


@pytest.mark.parametrize(
    "path", ["assets/thesis/deep/x", "saved_model.pb/x", "variables/variables.index/x", "manifest.json/x"]
)
def test_a_folder_where_an_export_has_a_file_is_foreign(
    path: str, check: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    to = folder(tmp_path / "to", export_json=json.dumps(OURS))
    (to / path).parent.mkdir(parents=True)
    (to / path).write_text("ten years")
    assert str(pathlib.Path(path).parent).split("/deep")[0] in refused(check, to, overwrite=True)
    assert (to / path).exists()


def test_an_export_json_that_is_too_deep_is_not_that_of_one(check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    to = folder(tmp_path / "to", export_json="[" * 100_000)
    assert "is not that of one" in refused(check, to, overwrite=True)


@pytest.mark.parametrize(
    "name", ["events", "orphans", "profile", "lock", "evaluations.jsonl", "evaluations.jsonl.lock", "journal.jsonl"]
)
def test_it_is_not_among_what_the_trainer_writes(name: str, check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    for to in (tmp_path / "run" / name, tmp_path / "run" / name / "below"):
        assert f"among the run's {name}" in refused(check, to)


@pytest.mark.parametrize(
    "name", ["checkpoints", "checkpoints/step-0000000005", "checkpoints/a/b", "x/../checkpoints/c"]
)
def test_it_is_not_among_the_checkpoints(name: str, check: Callable[..., None], tmp_path: pathlib.Path) -> None:
    assert "among the run's checkpoints" in refused(check, tmp_path / "run" / name)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert "among the run's checkpoints" in refused(check, tmp_path / "link" / "checkpoints" / "x")


@pytest.mark.parametrize("to", ["", "gs://bucket/model", "ram://x"])
def test_what_is_no_local_path_is_refused(to: str, check: Callable[..., None]) -> None:
    assert "expected" in refused(check, to)


@pytest.mark.parametrize("name", ["new", "new/below", "."])
def test_a_folder_that_cannot_be_written_is_told_at_once(
    name: str, check: Callable[..., None], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = folder(tmp_path / "above" / "empty") if name == "." else folder(tmp_path / "above") / name
    # To root permissions mean nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path / "above"))
    with pytest.raises(Unwritable, match=f"cannot write {tmp_path}/above: Permission denied") as caught:
        check(to)
    assert "\n" not in str(caught.value)


def test_a_file_system_that_is_read_only_is_told_as_one(
    check: Callable[..., None], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mounted:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: Mounted)
    with pytest.raises(Unwritable, match=os.strerror(errno.EROFS)):
        check(tmp_path / "new")
