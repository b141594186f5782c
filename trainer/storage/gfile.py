"""The same file operations on every storage that TensorFlow knows by a scheme: `ram://…`, `gs://…`.

Object stores know no folders and nothing to sync: a file that is closed is durable under its name. What is not atomic
there, the protocol does not ask for: it renames single files, and renames last what commits.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

from trainer.storage.files import Files, writing

_BLOCK = 1 << 22

# What recovery has to tell apart: not there, not allowed, or not now, which says nothing of the file.
_ERRNO = {
    "NotFoundError": errno.ENOENT,
    "AlreadyExistsError": errno.EEXIST,
    "FailedPreconditionError": errno.ENOTDIR,
    "PermissionDeniedError": errno.EACCES,
    "UnauthenticatedError": errno.EACCES,
    "ResourceExhaustedError": errno.ENOMEM,
    "UnavailableError": errno.EAGAIN,
    "AbortedError": errno.EAGAIN,
    "CancelledError": errno.EAGAIN,
    "DeadlineExceededError": errno.ETIMEDOUT,
    "UnimplementedError": errno.ENOTSUP,
}


class GfileFiles(Files):
    """Files behind `tf.io.gfile`, for paths with a scheme. It raises what the local file system raises.

    A folder that was not made may be there or not: make those whose names are to be listed.
    """

    def __init__(self) -> None:
        import tensorflow as tf

        self._tf: Any = tf

    def read(self, path: str) -> bytes:
        """All bytes of `path`."""
        return b"".join(self.blocks(path))

    def blocks(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes of `path` from `start` to `stop`, by default to its end, a few megabytes at a time."""
        with self._errors_of(path), self._tf.io.gfile.GFile(path, "rb") as file:
            try:
                file.seek(start)
                while block := file.read(_BLOCK if stop is None else min(_BLOCK, stop - start)):
                    start += len(block)
                    yield block
            except self._tf.errors.OutOfRangeError:
                return  # `start` lies behind the end, where other files just have no more bytes.

    def read_tail(self, path: str, limit: int) -> bytes:
        """The last `limit` bytes of `path`."""
        return b"".join(self.blocks(path, start=max(0, self.size(path) - limit)))

    def exists(self, path: str) -> bool:
        """Whether `path` is there."""
        try:
            self._stat(path)
        except FileNotFoundError:
            return False
        return True

    def is_directory(self, path: str) -> bool:
        """Whether `path` is a folder, or the beginning of other names."""
        try:
            return bool(self._stat(path).is_directory)
        except FileNotFoundError:
            return False

    def size(self, path: str) -> int:
        """Bytes in the file `path`."""
        return int(self._stat(path).length)

    def list(self, path: str) -> list[str]:
        """The sorted names in the folder `path`; none when it is not there."""
        try:
            with self._errors_of(path):
                names = self._tf.io.gfile.listdir(path)
        except FileNotFoundError as error:
            if self.is_directory(path):
                # `listdir` says this too when the storage did not answer: a run must not take that for an empty one.
                raise OSError(errno.EAGAIN, "the storage does not answer", path) from error
            return []
        return sorted(name.rstrip("/") for name in names)  # Some storages mark folders so.

    def make_directory(self, path: str, *, parents: bool = True) -> None:
        """Makes the folder `path`, and with `parents` those above it, where the storage has any."""
        with writing(path), self._errors_of(path):
            if not parents:
                self._stat(os.path.dirname(path))
            self._tf.io.gfile.makedirs(path)

    def write(self, path: str, data: bytes) -> None:
        """Writes `data` to a new or emptied file, durably."""
        with writing(path), self._errors_of(path), self._tf.io.gfile.GFile(path, "wb") as file:
            file.write(data)

    def append(self, path: str, data: bytes) -> None:
        """Adds `data` to the end of `path`. An object store uploads all of it again."""
        with writing(path), self._errors_of(path), self._tf.io.gfile.GFile(path, "ab") as file:
            file.write(data)

    def truncate(self, path: str, size: int) -> None:
        """Cuts `path` to its first `size` bytes at once: it becomes a new file."""
        with writing(path):
            kept = b"".join(self.blocks(path, stop=size))
        self.replace(path, kept)

    def sync(self, path: str) -> None:
        """Nothing: a closed file is durable. As elsewhere, it has to be there."""
        with writing(path):
            self._stat(path)

    def sync_directory(self, path: str) -> None:
        """Nothing: a closed file is durable under its name."""

    def rename(self, source: str, target: str) -> None:
        """Moves a file, replacing one at `target`."""
        with writing(target), self._errors_of(source):
            self._tf.io.gfile.rename(source, target, overwrite=True)

    def remove(self, path: str) -> None:
        """Removes the file `path`, if it is there."""
        with writing(path), contextlib.suppress(FileNotFoundError), self._errors_of(path):
            if self.is_directory(path):
                # Some storages would take it for a file, and lose what is in it.
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._tf.io.gfile.remove(path)

    def remove_directory(self, path: str) -> None:
        """Removes the folder `path` if it is there and empty."""
        with writing(path):
            empty = self.is_directory(path) and not self.list(path)
        if empty:
            self.remove_tree(path)

    def remove_tree(self, path: str) -> None:
        """Removes the folder `path` and everything in it."""
        with writing(path), self._errors_of(path):
            self._tf.io.gfile.rmtree(path)

    def _stat(self, path: str) -> Any:
        """What is known of `path`. `gfile.isdir` would say no of a storage that does not answer at all."""
        with self._errors_of(path):
            return self._tf.io.gfile.stat(path)

    @contextlib.contextmanager
    def _errors_of(self, path: str) -> Iterator[None]:
        """Turns what TensorFlow raises for `path` into the operating system's errors."""
        try:
            yield
        except self._tf.errors.OpError as error:
            number = _ERRNO.get(type(error).__name__, errno.EIO)
            message = (error.message or os.strerror(number)).splitlines()[0]
            raise OSError(number, message, path) from error
