"""File operations: what is promised to be durable or at once is, and what fails says so in one line.

What says nothing of the local disk is held for every implementation.
"""

from __future__ import annotations

import os
import pathlib
import stat
import zlib
from collections.abc import Callable
from typing import NamedTuple

import pytest

from trainer.errors import EXIT_UNWRITABLE, Unwritable
from trainer.storage.files import Files
from trainer.storage.gfile import GfileFiles
from trainer.storage.ram import RamFiles


class Place(NamedTuple):
    """An implementation, and a folder that it can write."""

    files: Files
    path: str


@pytest.fixture(params=["local", "gfile", "ram"])
def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Place:
    if request.param == "local":
        return Place(Files(), str(tmp_path))
    if request.param == "gfile":
        # A scheme whose storage is at hand: what TensorFlow does on it, it does on the others.
        return Place(GfileFiles(), f"file://{tmp_path}")
    made = Place(RamFiles(), f"ram:/{tmp_path}")
    made.files.make_directory(made.path)
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operating system's calls that matter for durability, in order; descriptors are shown as what they are."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"file of {os.fstat(descriptor).st_size}"
        seen.append(f"fsync {kind}")
        fsync(descriptor)

    def traced_replace(source: str, target: str) -> None:
        seen.append(f"replace {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    return seen


def test_a_commit_is_written_synced_renamed_and_its_folder_synced(tmp_path: pathlib.Path, calls: list[str]) -> None:
    path = tmp_path / "manifest.json"
    Files().commit(str(path), b"12345")
    assert path.read_bytes() == b"12345"
    assert calls == ["fsync file of 5", "replace manifest.json", "fsync directory"]
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_commit_that_fails_leaves_the_old_file_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    Files().commit(str(path), b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for operation in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, refuse)
            with pytest.raises(Unwritable, match="No space left on device"):
                Files().commit(str(path), b"new and longer")
        assert path.read_bytes() == b"old"
    Files().commit(str(path), b"new")
    assert path.read_bytes() == b"new"


def test_a_write_is_durable(tmp_path: pathlib.Path, calls: list[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something longer")
    Files().write(str(path), b"short")
    assert path.read_bytes() == b"short"
    assert calls == ["fsync file of 5"]


def test_an_append_that_the_system_takes_in_parts_is_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))
    Files().append(str(tmp_path / "log"), b"a whole line\n")
    assert (tmp_path / "log").read_bytes() == b"a whole line\n"


def test_an_append_is_one_write(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = os.write

    def traced(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", traced)
    Files().append(str(tmp_path / "log"), b"line\n" * 1000)
    assert sizes == [5000]


def test_a_cut_is_durable(tmp_path: pathlib.Path, calls: list[str]) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"keep and cut")
    Files().truncate(str(path), 4)
    assert path.read_bytes() == b"keep"
    assert calls == ["fsync file of 4"]


def test_syncs_reach_files_and_folders(tmp_path: pathlib.Path, calls: list[str]) -> None:
    (tmp_path / "log").write_bytes(b"abc")
    Files().sync(str(tmp_path / "log"))
    Files().sync_directory(str(tmp_path))
    assert calls == ["fsync file of 3", "fsync directory"]


def test_new_folders_are_durable_up_to_the_first_that_was_there(tmp_path: pathlib.Path, calls: list[str]) -> None:
    Files().make_directory(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
    assert calls == ["fsync directory"] * 2
    Files().make_directory(str(tmp_path / "a" / "b"))
    assert calls == ["fsync directory"] * 2


def test_a_relative_folder_can_be_made(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Files().make_directory("runs/digits")
    assert (tmp_path / "runs" / "digits").is_dir()


def test_a_folder_that_another_process_makes_at_the_same_moment_is_fine(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def made_by_another(path: str) -> None:
        mkdir(path)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "mkdir", made_by_another)
    Files().make_directory(str(tmp_path / "run"))
    assert (tmp_path / "run").is_dir()


def test_a_rename_moves_folders(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    Files().rename(str(tmp_path / "folder"), str(tmp_path / "moved"))
    assert os.listdir(tmp_path) == ["moved"]


@pytest.mark.parametrize(
    "operation",
    [
        lambda files, path: files.write(path, b"x"),
        lambda files, path: files.commit(path, b"x"),
        lambda files, path: files.append(path, b"x"),
        lambda files, path: files.truncate(path, 0),
        lambda files, path: files.sync(path),
        lambda files, path: files.sync_directory(path),
        lambda files, path: files.rename(path, path + "2"),
        lambda files, path: files.remove(path),
        lambda files, path: files.remove_tree(path),
    ],
    ids=["write", "commit", "append", "truncate", "sync", "sync_directory", "rename", "remove", "remove_tree"],
)
def test_what_cannot_be_written_is_named_in_one_line(
    tmp_path: pathlib.Path, operation: Callable[[Files, str], None]
) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "below")
    with pytest.raises(Unwritable) as caught:
        operation(Files(), path)
    assert caught.value.exit_code == EXIT_UNWRITABLE == 74
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_names_what_is_in_the_way(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unwritable, match=str(tmp_path / "file")):
        Files().make_directory(str(tmp_path / "file" / "below"))


# Every implementation.


def test_what_is_written_is_read(place: Place) -> None:
    files, path = place.files, f"{place.path}/file"
    files.write(path, b"0123456789")
    assert files.read(path) == b"0123456789"
    assert b"".join(files.blocks(path)) == b"0123456789"
    assert b"".join(files.blocks(path, 3)) == b"3456789"
    assert b"".join(files.blocks(path, 3, 5)) == b"34"
    assert b"".join(files.blocks(path, 8, 99)) == b"89"
    assert list(files.blocks(path, 5, 5)) == list(files.blocks(path, 10)) == list(files.blocks(path, 11)) == []
    assert files.read_tail(path, 3) == b"789"
    assert files.read_tail(path, 99) == b"0123456789"
    assert files.size(path) == 10
    assert files.exists(path)
    assert not files.exists(path + "x")


def test_a_large_file_comes_in_blocks(place: Place) -> None:
    data = bytes(range(256)) * (5 << 12)
    place.files.write(f"{place.path}/file", data)
    blocks = list(place.files.blocks(f"{place.path}/file"))
    assert [len(block) for block in blocks] == [4 << 20, 1 << 20]
    assert b"".join(blocks) == place.files.read(f"{place.path}/file") == data
    later = list(place.files.blocks(f"{place.path}/file", 100, (4 << 20) + 101))
    assert [len(block) for block in later] == [4 << 20, 1]
    assert b"".join(later) == data[100 : (4 << 20) + 101]


@pytest.mark.parametrize("name", ["write", "commit", "replace"])
def test_a_file_that_is_written_anew_holds_nothing_of_before(place: Place, name: str) -> None:
    for data in (b"something long", b"short", b""):
        # What a kill left of an earlier one is in nobody's way.
        place.files.write(f"{place.path}/file.tmp", b"left over")
        getattr(place.files, name)(f"{place.path}/file", data)
        assert place.files.read(f"{place.path}/file") == data
        assert place.files.size(f"{place.path}/file") == len(data)
    place.files.remove(f"{place.path}/file.tmp")
    assert place.files.list(place.path) == ["file"]


def test_appends_follow_one_another(place: Place) -> None:
    for data in (b"one\n", b"", b"two\n"):
        place.files.append(f"{place.path}/log", data)
    assert place.files.read(f"{place.path}/log") == b"one\ntwo\n"


@pytest.mark.parametrize("size", [0, 4, 12])
def test_a_cut_keeps_the_first_bytes_and_what_is_appended_follows_them(place: Place, size: int) -> None:
    path = f"{place.path}/log"
    place.files.write(path, b"keep and cut")
    place.files.truncate(path, size)
    assert place.files.read(path) == b"keep and cut"[:size]
    place.files.append(path, b"; more")
    assert place.files.read(path) == b"keep and cut"[:size] + b"; more"
    assert place.files.list(place.path) == ["log"]


def test_names_are_sorted_and_what_is_no_folder_has_none(place: Place) -> None:
    files, path = place.files, place.path
    for name in ("b", "a", "c"):
        files.write(f"{path}/{name}", b"")
    files.make_directory(f"{path}/aa")
    files.write(f"{path}/aa/below", b"")
    assert files.list(path) == ["a", "aa", "b", "c"]
    assert files.list(f"{path}/none") == files.list(f"{path}/a") == []
    assert [files.is_directory(f"{path}/{name}") for name in ("aa", "a", "none")] == [True, False, False]


def test_a_name_is_not_taken_for_a_longer_one_that_begins_with_it(place: Place) -> None:
    files, path = place.files, place.path
    files.write(f"{path}/manifest.json.tmp", b"not committed")
    assert not files.exists(f"{path}/manifest.json")
    assert not files.is_directory(f"{path}/manifest.json")
    for name in ("step-10", "step-1"):
        files.make_directory(f"{path}/{name}")
        files.write(f"{path}/{name}/of-{name}", b"")
    assert files.list(f"{path}/step-1") == ["of-step-1"]
    assert files.list(f"{path}/step") == []
    files.remove_tree(f"{path}/step-1")
    assert files.list(path) == ["manifest.json.tmp", "step-10"]
    assert files.list(f"{path}/step-10") == ["of-step-10"]


def test_a_name_with_the_signs_of_a_pattern_is_a_name(place: Place) -> None:
    for name in ("a*", "a?", "[ab]", "ab"):
        place.files.make_directory(f"{place.path}/{name}")
        place.files.write(f"{place.path}/{name}/{name}", b"")
    assert place.files.list(place.path) == ["[ab]", "a*", "a?", "ab"]
    for name in place.files.list(place.path):
        assert place.files.list(f"{place.path}/{name}") == [name]
    place.files.remove_tree(f"{place.path}/a*")
    assert not place.files.exists(f"{place.path}/a*")
    assert place.files.list(place.path) == ["[ab]", "a?", "ab"]


def test_a_folder_is_made_with_those_above_it_and_may_be_there(place: Place) -> None:
    for _ in range(2):
        place.files.make_directory(f"{place.path}/a/b")
        assert place.files.is_directory(f"{place.path}/a/b")
        assert place.files.list(f"{place.path}/a") == ["b"]
    place.files.make_directory(f"{place.path}/a/b/c", parents=False)
    assert place.files.list(f"{place.path}/a/b") == ["c"]


def test_a_folder_is_not_made_where_those_above_it_are_not_wanted(place: Place) -> None:
    with pytest.raises(Unwritable, match=f"{place.path}/a/b"):
        place.files.make_directory(f"{place.path}/a/b", parents=False)
    assert place.files.list(place.path) == []


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", "00000000"), (b"123456789", "cbf43926"), (b"\x00" * 4, "2144df1c"), (bytes(range(256)) * 40_000, None)],
)
def test_crc32_is_the_usual_one_in_eight_lower_case_digits(place: Place, data: bytes, checksum: str | None) -> None:
    place.files.write(f"{place.path}/file", data)
    assert place.files.crc32(f"{place.path}/file") == (checksum or format(zlib.crc32(data), "08x"))


def test_what_is_removed_is_gone_and_what_is_not_there_stays_so(place: Place) -> None:
    files, path = place.files, place.path
    files.make_directory(f"{path}/tree/deep")
    files.write(f"{path}/tree/deep/file", b"")
    files.write(f"{path}/tree/file", b"")
    files.remove_directory(f"{path}/tree")
    assert files.exists(f"{path}/tree/deep/file")
    files.remove(f"{path}/tree/deep/file")
    assert files.list(f"{path}/tree/deep") == []
    files.remove_directory(f"{path}/tree/deep")
    assert files.list(f"{path}/tree") == ["file"]
    files.remove_tree(f"{path}/tree")
    assert files.list(path) == []
    files.remove(f"{path}/none")
    files.remove_directory(f"{path}/none")


def test_a_rename_replaces_a_file(place: Place) -> None:
    place.files.write(f"{place.path}/old", b"old and longer")
    place.files.write(f"{place.path}/new", b"new")
    place.files.rename(f"{place.path}/new", f"{place.path}/old")
    assert place.files.list(place.path) == ["old"]
    assert place.files.read(f"{place.path}/old") == b"new"


@pytest.mark.parametrize(
    "operation",
    [
        lambda files, path: files.read(path),
        lambda files, path: list(files.blocks(path)),
        lambda files, path: files.read_tail(path, 1),
        lambda files, path: files.size(path),
        lambda files, path: files.crc32(path),
    ],
    ids=["read", "blocks", "read_tail", "size", "crc32"],
)
def test_what_is_not_there_is_not_read(place: Place, operation: Callable[[Files, str], object]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        operation(place.files, f"{place.path}/none")
    assert f"{place.path}/none" in str(caught.value)


@pytest.mark.parametrize(
    "operation",
    [
        lambda files, path: files.write(path, b"x"),
        lambda files, path: files.append(path, b"x"),
        lambda files, path: files.remove(path),
        lambda files, path: files.truncate(f"{path}/none", 0),
        lambda files, path: files.sync(f"{path}/none"),
        lambda files, path: files.rename(f"{path}/none", f"{path}/file"),
        lambda files, path: files.remove_tree(f"{path}/none"),
    ],
    ids=["write", "append", "remove", "truncate", "sync", "rename", "remove_tree"],
)
def test_a_folder_is_no_file_and_what_is_not_there_cannot_be_changed(
    place: Place, operation: Callable[[Files, str], None]
) -> None:
    place.files.make_directory(f"{place.path}/folder")
    place.files.write(f"{place.path}/folder/kept", b"")
    with pytest.raises(Unwritable) as caught:
        operation(place.files, f"{place.path}/folder")
    assert f"{place.path}/folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert place.files.list(f"{place.path}/folder") == ["kept"]
