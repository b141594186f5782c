"""File operations with the durability that the run directory's protocol names.

Everything that the ledger and the checkpoint store write goes through one `Files`, so that tests can record, drop or
fail single operations, and so that another kind of storage can take its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import zlib
from collections.abc import Iterator

from trainer.errors import Unusable, Unwritable

_BLOCK = 1 << 22


class Files:
    """The local file system. Paths are strings; every method that writes raises `Unwritable` when it cannot."""

    def read(self, path: str) -> bytes:
        """All bytes of `path`."""
        with _named(path), open(path, "rb") as file:
            return file.read()

    def blocks(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes of `path` from `start` to `stop`, by default to its end, a few megabytes at a time."""
        with _named(path), open(path, "rb") as file:
            file.seek(start)
            while block := file.read(_BLOCK if stop is None else max(0, min(_BLOCK, stop - file.tell()))):
                yield block

    def read_tail(self, path: str, limit: int) -> bytes:
        """The last `limit` bytes of `path`."""
        with _named(path), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limit))
            return file.read()

    def exists(self, path: str) -> bool:
        """Whether `path` is there; where that cannot be told, an `OSError`: what cannot be seen is not missing."""
        return _status(path) is not None

    def is_directory(self, path: str) -> bool:
        """Whether `path` is a folder; where that cannot be told, an `OSError`."""
        status = _status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def size(self, path: str) -> int:
        """Bytes in the file `path`."""
        return os.stat(path).st_size

    def list(self, path: str) -> list[str]:
        """The sorted names in the folder `path`; none when it is not there."""
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def crc32(self, path: str) -> str:
        """The CRC-32 (ISO 3309, as in zlib) of the file `path`, eight lower-case hex digits."""
        checksum = 0
        for block in self.blocks(path):
            checksum = zlib.crc32(block, checksum)
        return f"{checksum:08x}"

    def make_directory(self, path: str, *, parents: bool = True) -> None:
        """Makes the folder `path`, and with `parents` those above it, durably."""
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        if parents:
            self.make_directory(parent)
        with writing(path):
            try:
                os.mkdir(path)
            except FileExistsError:
                if not os.path.isdir(path):  # Else another process made it a moment ago.
                    raise
        self.sync_directory(parent)

    def write(self, path: str, data: bytes) -> None:
        """Writes `data` to a new or emptied file, durably; its name is durable after `sync_directory`."""
        with writing(path), open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def commit(self, path: str, data: bytes) -> None:
        """Puts `data` at `path` at once, as `replace`, and durably."""
        self.replace(path, data)
        self.sync_directory(os.path.dirname(path))

    def replace(self, path: str, data: bytes) -> None:
        """Puts `data` at `path` at once: a crash leaves the old file or the whole new one, and may undo it."""
        temporary = path + ".tmp"
        self.write(temporary, data)
        self.rename(temporary, path)

    def append(self, path: str, data: bytes) -> None:
        """Adds `data` to the end of `path` with one write; durable after `sync`."""
        with writing(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            finally:
                os.close(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """Cuts `path` to its first `size` bytes, durably."""
        with writing(path), open(path, "r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def sync(self, path: str) -> None:
        """Makes what was written to the file `path` durable."""
        with writing(path), open(path, "rb") as file:
            os.fsync(file.fileno())

    def sync_directory(self, path: str) -> None:
        """Makes the names in the folder `path` durable."""
        with writing(path):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Moves a file or folder within the file system, replacing a file at `target`."""
        with writing(target):
            os.replace(source, target)

    def remove(self, path: str) -> None:
        """Removes the file `path`, if it is there."""
        with writing(path), contextlib.suppress(FileNotFoundError):
            os.remove(path)

    def remove_directory(self, path: str) -> None:
        """Removes the folder `path` if it is there and empty."""
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise Unwritable(f"cannot remove {path}: {error.strerror}; mend the permissions") from error

    def remove_tree(self, path: str) -> None:
        """Removes the folder `path` and everything in it."""
        with writing(path):
            shutil.rmtree(path)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # The last: no path at all.
        return None


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Lets an error in the middle of a file tell which file it is, as one at its opening does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turns the operating system's refusal to write `path` into `Unwritable`."""
    try:
        yield
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
        advice = "put back what was removed" if gone else "free space or mend the permissions"
        raise Unwritable(
            f"cannot write {path}: {error.strerror or error}; {advice}, then run the same command again"
        ) from error


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns the operating system's refusal to read `path` into `Unusable`."""
    try:
        yield
    except OSError as error:
        raise Unusable(
            f"cannot read {error.filename or path} now: {error.strerror or error}; mend that, then run again"
        ) from error
