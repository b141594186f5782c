"""A disk that can be stopped anywhere: what a run did to its files, and all that a kill or a crash may leave of it.

A `Recorder` notes every operation that goes through it. A `Disk` repeats them and knows, at any moment, what a machine
that loses its power may keep: of a file, what was there when it was last synced, with more of it or less; of a folder,
the names that it had when it was last synced, with any of the later changes. A rename within a folder is one change;
from one folder to another it is two, which may be kept or lost apart. A process that is killed loses nothing.

The run directory itself is taken to be there.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import pathlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import tensorflow as tf

from trainer.checkpoint import folder, tensors
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest
from trainer.storage.files import Files

Tree = dict[str, "bytes | None"]
"""Everything under a folder by its relative path: a file's bytes, None for a folder."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One thing that was done to the files of a run, or one that it may count on from here: `name` is `committed`."""

    name: str
    path: str = ""
    data: bytes = b""
    target: str = ""
    size: int = 0
    files: Mapping[str, bytes | None] = dataclasses.field(default_factory=dict)
    """Of TensorFlow's write: what it left in the folder `path`."""
    step: int = 0
    """Of `committed`: the checkpoint that has to be found from now on, unless there is a newer one."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.name, self.path, self.target, self.step or "") if part)

    def torn(self) -> list[Operation]:
        """What may have been done when it is stopped on the way, other than nothing and all of it."""
        half = self.data[: len(self.data) // 2]
        match self.name:
            case "write":
                return [dataclasses.replace(self, name="overwrite", data=data) for data in (b"", half)]
            case "append":
                return [dataclasses.replace(self, data=half)]
            case "tensors":
                return [dataclasses.replace(self, files=files) for files in _torn_tensors(self.files)]
        return []


def _torn_tensors(files: Mapping[str, bytes | None]) -> Iterator[Tree]:
    """What TensorFlow's write leaves when it is stopped, in the order in which it does things."""
    (data_name, data), (index_name, index) = sorted(files.items())
    assert data is not None
    assert index is not None
    temporary = "state_temp"
    aside = {name: name.replace("state", f"{temporary}/part-00000-of-00001", 1) for name in (data_name, index_name)}
    yield {temporary: None}
    yield {temporary: None, f"{aside[data_name]}.tempstate1836": data[: len(data) // 2]}
    yield {temporary: None, aside[data_name]: data, f"{aside[index_name]}.tempstate1420": index[: len(index) // 2]}
    yield {temporary: None, aside[data_name]: data, aside[index_name]: index}
    yield {temporary: None, data_name: data, aside[index_name]: index}
    yield {temporary: None, data_name: data, aside[index_name]: index, index_name: b""}
    yield {temporary: None, data_name: data, aside[index_name]: index, index_name: index[: len(index) // 2]}
    yield {temporary: None, data_name: data, index_name: index}


class Recorder(Files):
    """The local file system, which notes what is done to the folder `root`, in the order in which it was done.

    One operation at a time, whichever thread asks for it; TensorFlow's writes are noted when they are done.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.operations: list[Operation] = []
        self._root = os.path.abspath(root)
        self._one = threading.RLock()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Also notes what does not go through `Files`: TensorFlow's writes; and which commits have returned."""
        write, commit = tensors.write, folder.commit

        def noted_write(checkpoint: tf.train.Checkpoint, prefix: str, **options: Any) -> None:
            path = pathlib.Path(prefix).parent
            before = read_tree(path)
            write(checkpoint, prefix, **options)
            files = {name: data for name, data in read_tree(path).items() if name not in before}
            with self._one:
                self._note("tensors", str(path), files=files)

        def noted_commit(directory: RunDirectory, manifest: Manifest) -> None:
            commit(directory, manifest)
            self.committed(manifest.step)

        with mock.patch.object(tensors, "write", noted_write), mock.patch.object(folder, "commit", noted_commit):
            yield

    def committed(self, step: int) -> None:
        """Notes that the checkpoint of `step` is one to count on."""
        with self._one:
            self._note("committed", self._root, step=step)

    def write(self, path: str, data: bytes) -> None:
        with self._one:
            self._note("write", path, data=data)
            super().write(path, data)

    def append(self, path: str, data: bytes) -> None:
        with self._one:
            self._note("append", path, data=data)
            super().append(path, data)

    def truncate(self, path: str, size: int) -> None:
        with self._one:
            self._note("truncate", path, size=size)
            super().truncate(path, size)

    def sync(self, path: str) -> None:
        with self._one:
            self._note("sync", path)
            super().sync(path)

    def sync_directory(self, path: str) -> None:
        with self._one:
            self._note("sync_directory", path)
            super().sync_directory(path)

    def rename(self, source: str, target: str) -> None:
        with self._one:
            self._note("rename", source, target=self._relative(target))
            super().rename(source, target)

    def remove(self, path: str) -> None:
        with self._one:
            if self.exists(path):
                self._note("remove", path)
            super().remove(path)

    def remove_directory(self, path: str) -> None:
        with self._one:
            if self.is_directory(path) and not self.list(path):
                self._note("remove", path)
            super().remove_directory(path)

    def remove_tree(self, path: str) -> None:
        with self._one:
            for name in reversed(read_tree(path)):
                self._note("remove", os.path.join(path, name))
            self._note("remove", path)
            super().remove_tree(path)

    def make_directory(self, path: str, *, parents: bool = True) -> None:
        with self._one:
            if self.is_directory(path):
                return
            if parents:
                self.make_directory(os.path.dirname(os.path.abspath(path)))
            self._note("make_directory", path)
            super().make_directory(path, parents=False)

    def _note(self, name: str, path: str, **details: Any) -> None:
        relative = self._relative(path)
        if relative != ".." and (name, relative) != ("make_directory", "."):
            self.operations.append(Operation(name, relative, **details))

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._root)


@dataclasses.dataclass(eq=False)
class _File:
    content: bytes = b""
    synced: bytes = b""


Change = dict[str, "_File | _Folder | None"]
"""What one operation made of the names in a folder: None for a name that went."""


@dataclasses.dataclass(eq=False)
class _Folder:
    names: dict[str, _File | _Folder] = dataclasses.field(default_factory=dict)
    synced: dict[str, _File | _Folder] = dataclasses.field(default_factory=dict)
    since: list[Change] = dataclasses.field(default_factory=list)
    """The changes that have not been synced, oldest first."""

    def change(self, change: Change) -> None:
        self.since.append(change)
        self.names = changed(self.names, [change])

    def sync(self) -> None:
        self.synced, self.since = dict(self.names), []


def changed(names: Mapping[str, _File | _Folder], changes: list[Change]) -> dict[str, _File | _Folder]:
    """`names` after `changes`."""
    after: dict[str, _File | _Folder | None] = dict(names)
    for change in changes:
        after.update(change)
    return {name: node for name, node in after.items() if node is not None}


@dataclasses.dataclass(frozen=True)
class Survival:
    """What outlives a crash of what was not synced: which changes of each folder's names, and which bytes of a file."""

    name: str
    changes: Callable[[list[Change]], list[Change]]
    content: Callable[[_File], bytes]


def _all(changes: list[Change]) -> list[Change]:
    return changes


def _none(changes: list[Change]) -> list[Change]:
    return []


def _written(file: _File) -> bytes:
    return file.content


def _synced(file: _File) -> bytes:
    return file.synced


def _torn(file: _File) -> bytes:
    kept = len(file.synced) if file.content.startswith(file.synced) else 0
    return file.content[: kept + (len(file.content) - kept) // 2]


def _zeros(file: _File) -> bytes:
    """What some file systems leave of a file that has grown: its new size, and nothing in it."""
    return file.synced.ljust(len(file.content), b"\0")


KILLED = Survival("killed", _all, _written)
"""Nothing is lost when only the process is gone."""
CRASHED = (
    Survival("crashed, nothing kept that was not synced", _none, _synced),
    Survival("crashed, names kept and bytes lost", _all, _synced),
    Survival("crashed, names kept and bytes torn", _all, _torn),
    Survival("crashed, names lost and bytes kept", _none, _written),
    Survival("crashed, only the last change of each folder kept", lambda changes: changes[-1:], _written),
    Survival("crashed, only the last change of each folder lost", lambda changes: changes[:-1], _synced),
)


def mixed(chance: random.Random) -> Survival:
    """A crash in which each change and each file has its own luck."""
    return Survival(
        "crashed, mixed",
        lambda changes: [change for change in changes if chance.random() < 0.5],
        lambda file: chance.choice((_written, _synced, _torn, _zeros))(file),
    )


class Disk:
    """The files of a run, as the machine and as its memory have them.

    Args:
      tree: what is there at first, and durable.
    """

    def __init__(self, tree: Tree | None = None) -> None:
        self._root = _Folder()
        for path, data in (tree or {}).items():
            self._folder(path).change({os.path.basename(path): _Folder() if data is None else _File(data, data)})
        for node in list(self._folders(self._root)):
            node.sync()

    def copy(self) -> Disk:
        """Another one in the same state."""
        return copy.deepcopy(self)

    def apply(self, operation: Operation) -> None:
        """Does what the operation did."""
        path, name = operation.path, os.path.basename(operation.path)
        match operation.name:
            case "write":
                file = self._file(path)
                file.content = file.synced = operation.data
            case "overwrite":
                self._file(path).content = operation.data
            case "append":
                self._file(path).content += operation.data
            case "truncate":
                file = self._file(path)
                file.content = file.synced = file.content[: operation.size]
            case "sync":
                file = self._file(path)
                file.synced = file.content
            case "sync_directory":
                node = self._node(path)
                assert isinstance(node, _Folder)
                node.sync()
            case "make_directory" | "remove":
                self._folder(path).change({name: _Folder() if operation.name == "make_directory" else None})
            case "rename":
                source, target = self._folder(path), self._folder(operation.target)
                moved = {os.path.basename(operation.target): self._node(path)}
                if source is target:
                    source.change({name: None, **moved})
                else:
                    target.change({**moved})
                    source.change({name: None})
            case "tensors":
                for inner, data in operation.files.items():
                    inner = os.path.join(path, inner)
                    node = _Folder() if data is None else _File(data)
                    self._folder(inner).change({os.path.basename(inner): node})
            case "committed":
                pass
            case _:
                raise ValueError(f"no such operation: {operation}")

    def tree(self, survival: Survival = KILLED) -> Tree:
        """What is found after the end."""
        tree: Tree = {}

        def visit(folder: _Folder, prefix: str) -> None:
            changes = survival.changes(folder.since)
            names = folder.names if changes is folder.since else changed(folder.synced, changes)
            for name, node in sorted(names.items()):
                if isinstance(node, _Folder):
                    tree[prefix + name] = None
                    visit(node, f"{prefix}{name}/")
                else:
                    tree[prefix + name] = survival.content(node)

        visit(self._root, "")
        return tree

    def _node(self, path: str) -> _File | _Folder:
        node: _File | _Folder = self._root
        for name in path.split("/") if path != "." else ():
            assert isinstance(node, _Folder), path
            node = node.names[name]
        return node

    def _folder(self, path: str) -> _Folder:
        """The folder that has the name `path`."""
        node = self._node(os.path.dirname(path) or ".")
        assert isinstance(node, _Folder), path
        return node

    def _file(self, path: str) -> _File:
        """The file `path`, which is made where it is not there."""
        folder, name = self._folder(path), os.path.basename(path)
        if name not in folder.names:
            folder.change({name: _File()})
        file = folder.names[name]
        assert isinstance(file, _File), path
        return file

    def _folders(self, folder: _Folder) -> Iterator[_Folder]:
        yield folder
        for node in folder.names.values():
            if isinstance(node, _Folder):
                yield from self._folders(node)


def read_tree(path: str | os.PathLike[str]) -> Tree:
    """Everything under `path`; a folder before what is in it."""
    root = str(path)
    tree: Tree = {}
    for folder_path, folders, files in os.walk(root):
        folders.sort()
        for name in (*folders, *files):
            item = os.path.join(folder_path, name)
            tree[os.path.relpath(item, root)] = None if name in folders else pathlib.Path(item).read_bytes()
    return dict(sorted(tree.items()))


def write_tree(path: str | os.PathLike[str], tree: Tree) -> None:
    """Makes the folder `path` with `tree` in it, whose folders come before what is in them."""
    os.makedirs(path)
    for name, data in tree.items():
        item = os.path.join(path, name)
        if data is None:
            os.mkdir(item)
        else:
            pathlib.Path(item).write_bytes(data)
