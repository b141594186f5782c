"""File operations: what is promised to be durable or at once is, and what fails says so in one line."""

from __future__ import annotations

import os
import pathlib
import stat
import zlib
from collections.abc import Callable

import pytest

from trainer.errors import EXIT_UNWRITABLE, Unwritable
from trainer.storage.files import Files


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


def test_appends_follow_one_another(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    for data in (b"one\n", b"", b"two\n"):
        Files().append(str(path), data)
    assert path.read_bytes() == b"one\ntwo\n"


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


def test_reading(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "file")
    pathlib.Path(path).write_bytes(b"0123456789")
    files = Files()
    assert files.read(path) == b"0123456789"
    assert files.read(path, 3) == b"012"
    assert files.read_tail(path, 3) == b"789"
    assert files.read_tail(path, 99) == b"0123456789"
    assert files.size(path) == 10
    assert files.exists(path)
    assert not files.exists(path + "x")


def test_names_are_sorted_and_a_folder_that_is_not_there_has_none(tmp_path: pathlib.Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    assert Files().list(str(tmp_path)) == ["a", "b", "c"]
    assert Files().list(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", "00000000"), (b"123456789", "cbf43926"), (b"\x00" * 4, "2144df1c"), (bytes(range(256)) * 40_000, None)],
)
def test_crc32_is_the_usual_one_in_eight_lower_case_digits(
    tmp_path: pathlib.Path, data: bytes, checksum: str | None
) -> None:
    (tmp_path / "file").write_bytes(data)
    assert Files().crc32(str(tmp_path / "file")) == (checksum or format(zlib.crc32(data), "08x"))


def test_what_is_removed_is_gone_and_what_is_not_there_stays_so(tmp_path: pathlib.Path) -> None:
    files = Files()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").touch()
    files.remove_directory(str(tmp_path / "tree"))
    assert (tmp_path / "tree" / "deep" / "file").exists()
    files.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    files.remove(str(tmp_path / "none"))
    files.remove_directory(str(tmp_path / "none"))


def test_a_rename_moves_folders_and_replaces_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    Files().rename(str(tmp_path / "folder"), str(tmp_path / "moved"))
    Files().rename(str(tmp_path / "new"), str(tmp_path / "old"))
    assert (tmp_path / "moved").is_dir()
    assert (tmp_path / "old").read_bytes() == b"new"


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
