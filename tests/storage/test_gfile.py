"""Storage behind a scheme: what TensorFlow's errors become, and what an answer that does not come is taken for.

What every implementation promises is in `test_files.py`.
"""

from __future__ import annotations

import errno
import pathlib
from collections.abc import Callable

import pytest
import tensorflow as tf

from trainer.errors import Unwritable
from trainer.storage.files import Files
from trainer.storage.gfile import GfileFiles
from trainer.storage.ram import RamFiles

MADE_OF_OTHERS = {"commit", "replace", "crc32"}
"""What `Files` does with its own operations alone, and what therefore holds anywhere."""


def refuse(error: type[tf.errors.OpError]) -> Callable[..., None]:
    def operation(*_: object, **__: object) -> None:
        raise error(None, None, "said the storage\nat length")

    return operation


def test_no_operation_falls_through_to_the_local_disk() -> None:
    operations = {name for name in vars(Files) if not name.startswith("_")}
    assert operations - vars(GfileFiles).keys() == MADE_OF_OTHERS
    assert vars(RamFiles).keys() & MADE_OF_OTHERS == set()


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (tf.errors.NotFoundError, errno.ENOENT),
        (tf.errors.PermissionDeniedError, errno.EACCES),
        (tf.errors.UnauthenticatedError, errno.EACCES),
        (tf.errors.ResourceExhaustedError, errno.ENOMEM),
        (tf.errors.UnavailableError, errno.EAGAIN),
        (tf.errors.DeadlineExceededError, errno.ETIMEDOUT),
        (tf.errors.DataLossError, errno.EIO),
    ],
)
def test_an_error_of_tensorflow_becomes_the_operating_systems(
    error: type[tf.errors.OpError], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.io.gfile, "GFile", refuse(error))
    with pytest.raises(OSError, match="said the storage") as caught:
        GfileFiles().read("ram://x/file")
    assert (caught.value.errno, caught.value.filename) == (number, "ram://x/file")
    assert isinstance(caught.value, FileNotFoundError) == (number == errno.ENOENT)
    assert "\n" not in str(caught.value)
    for write in (GfileFiles().write, GfileFiles().append):
        with pytest.raises(Unwritable, match="cannot write gs://x/file: said the storage;") as refused:
            write("gs://x/file", b"data")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["exists", "is_directory", "list", "size", "read_tail"])
def test_a_storage_that_does_not_answer_is_not_taken_for_an_empty_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tf.io.gfile, "stat", refuse(tf.errors.UnavailableError))
    # As TensorFlow has it, when it could not find out whether there is such a folder.
    monkeypatch.setattr(tf.io.gfile, "listdir", refuse(tf.errors.NotFoundError))
    with pytest.raises(BlockingIOError):
        getattr(GfileFiles(), name)("gs://bucket/run", *([1] if name == "read_tail" else []))


def test_a_folder_that_is_there_but_could_not_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = GfileFiles()
    monkeypatch.setattr(tf.io.gfile, "listdir", refuse(tf.errors.NotFoundError))
    with pytest.raises(OSError, match="does not answer") as caught:
        files.list(f"file://{tmp_path}")
    assert not isinstance(caught.value, FileNotFoundError)
    assert files.list(f"file://{tmp_path}/none") == []


def test_a_folder_is_not_removed_when_the_storage_does_not_say_that_it_is_empty(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tf.io.gfile, "listdir", refuse(tf.errors.NotFoundError))
    with pytest.raises(Unwritable):
        GfileFiles().remove_directory(f"file://{tmp_path}")
    assert (tmp_path / "file").exists()


def test_names_come_without_the_mark_that_some_storages_give_to_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.io.gfile, "listdir", lambda path: ["step-2/", "step-10/", "checkpoint"])
    assert GfileFiles().list("gs://bucket/run") == ["checkpoint", "step-10", "step-2"]
