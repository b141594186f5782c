"""What the tests of the checkpoint part share: files that are watched and fail, and checkpoints made by hand."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint import folder
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import LogPosition, Manifest
from trainer.ledger.record import Record
from trainer.storage.files import Files, writing

Tree = dict[str, bytes | None]


class Killed(BaseException):
    """The process ends here, in the middle of an operation."""


class WatchedFiles(Files):
    """Notes each operation as `(name, path)`, a rename by its target; fails at the one with the number `fail_at`.

    An operation that fails has not happened, but for the first half of the bytes that it would write. Several threads
    may use it. With `reads`, what only looks at files is noted too, and can fail.
    """

    def __init__(
        self, fail_at: int | None = None, error: Callable[[], BaseException] = Killed, *, reads: bool = False
    ) -> None:
        self.done: list[tuple[str, str]] = []
        self.reads = reads
        self.fail_at = fail_at
        self._error = error
        self._noting = threading.Lock()

    def write(self, path: str, data: bytes) -> None:
        if self._fails("write", path):
            super().write(path, data[: len(data) // 2])
            self._fail(path)
        super().write(path, data)

    def append(self, path: str, data: bytes) -> None:
        if self._fails("append", path):
            super().append(path, data[: len(data) // 2])
            self._fail(path)
        super().append(path, data)

    def rename(self, source: str, target: str) -> None:
        if self._fails("rename", target):
            self._fail(target)
        super().rename(source, target)

    def truncate(self, path: str, size: int) -> None:
        if self._fails("truncate", path):
            self._fail(path)
        super().truncate(path, size)

    def _fails(self, name: str, path: str) -> bool:
        with self._noting:
            self.done.append((name, path))
            return len(self.done) - 1 == self.fail_at

    def _fail(self, path: str) -> None:
        """Says it as the operation would."""
        with writing(path):
            raise self._error()


def _watched(name: str, *, read: bool = False) -> Callable[..., Any]:
    def operation(self: WatchedFiles, path: str, **options: Any) -> Any:
        if (self.reads or not read) and self._fails(name, path):
            if read:
                raise self._error()
            self._fail(path)
        return getattr(Files, name)(self, path, **options)

    return operation


for _name in ("sync", "sync_directory", "remove", "remove_directory", "remove_tree", "make_directory"):
    setattr(WatchedFiles, _name, _watched(_name))
for _name in ("size", "list", "crc32"):
    setattr(WatchedFiles, _name, _watched(_name, read=True))


class Past:
    """A run directory as a trainer would have left it, without TensorFlow: a state file holds any bytes."""

    def __init__(self, path: Path, run: str | None = "ours") -> None:
        self.directory = RunDirectory(path)
        self.log = MetricLog(self.directory)
        self.run = run

    def record(self, step: int) -> Past:
        """Logs the window of the 100 steps up to `step`."""
        loss = 1 / step
        self.log.append([Record("train", step, step * 32, None, metrics={"loss": loss}, window=(step - 100, step))])
        return self

    def files(self, step: int) -> Past:
        """Writes the files of a checkpoint that is not committed, marked as a save marks it."""
        folder_path = Path(self.directory.checkpoint(step))
        folder_path.mkdir(parents=True)
        Path(self.directory.unfinished(step)).touch()
        (folder_path / "state.index").write_bytes(b"index of %d" % step)
        (folder_path / "state.data-00000-of-00001").write_bytes(b"weights of %d" % step)
        return self

    def save(self, step: int) -> Past:
        """Commits a checkpoint that vouches for the log so far."""
        self.files(step)
        described = folder.describe_files(self.directory, step)
        folder.commit(self.directory, make_manifest(step, files=described, log=self.log.position, run=self.run))
        return self


def make_manifest(step: int, **fields: Any) -> Manifest:
    """The manifest of a checkpoint at `step`, 32 examples a step, whose window has just been closed."""
    given: dict[str, Any] = {
        "epoch": None,
        "run": "ours",
        "reasons": ("interval",),
        "attempt": 1,
        "parent": None,
        "files": (),
        "log": LogPosition(0, 0, ""),
        "train": {
            "relation": "window",
            "window": [step - 100, step],
            "lag": 0,
            "metrics": {"loss": 100 / (100 + step)},
        },
        "open_window": {"from": step, "steps": 0, "metrics": {}},
        "eval": {},
        "control": {"best": {}, "early_stop": {}, "cadence": {"seconds": 0.0}, "pending": []},
        "data": {},
    }
    return Manifest(step=step, examples=step * 32, **{**given, **fields})


def read_tree(path: str | os.PathLike[str]) -> Tree:
    """Everything under `path` by its relative name: a file's bytes, None for a folder."""
    root = Path(path)
    return {str(item.relative_to(root)): item.read_bytes() if item.is_file() else None for item in root.rglob("*")}


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Manifest]:
    """Makes manifests; see `make_manifest`."""
    return make_manifest


@pytest.fixture(scope="session")
def tree() -> Callable[[str | os.PathLike[str]], Tree]:
    """Reads a folder; see `read_tree`."""
    return read_tree


@pytest.fixture(scope="session")
def watched_files() -> type[WatchedFiles]:
    """Files that are watched and can fail."""
    return WatchedFiles


@pytest.fixture(scope="session")
def killed() -> type[Killed]:
    """What `watched_files` raises when it fails, unless it is told otherwise."""
    return Killed


@pytest.fixture
def past(tmp_path: Path) -> Past:
    """A run directory without a checkpoint yet."""
    return Past(tmp_path / "run")
