"""Bytes from anywhere in a file, for several threads at once."""

from __future__ import annotations

import os
import threading
from typing import Protocol

import tensorflow as tf

from trainer.data.paths import Found, is_local, look


class RandomAccess(Protocol):
    """A file that is open for reading."""

    def read(self, at: int, size: int) -> bytes:
        """Returns `size` bytes from `at` on, or as many as there are."""

    def unchanged(self) -> bool:
        """Whether size and modification time still are what they were when the file was found."""


class LocalFile:
    """A file of the operating system's. The descriptor is closed when nobody refers to the object any more."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, at: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, at)

    def unchanged(self) -> bool:
        status = os.fstat(self._descriptor)
        return (status.st_size, status.st_mtime_ns) == (self._found.bytes, self._found.mtime_ns)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class RemoteFile:
    """A file behind a scheme that TensorFlow knows. Whether it changed is asked once: each time is a request."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._file = tf.io.gfile.GFile(found.path, "rb")
        self._lock = threading.Lock()
        self._unchanged = look(found.path) == found

    def read(self, at: int, size: int) -> bytes:
        try:
            with self._lock:
                self._file.seek(at)
                data: bytes = self._file.read(size)
                return data
        except tf.errors.OutOfRangeError:
            return b""
        except tf.errors.OpError as error:
            raise OSError((error.message or type(error).__name__).splitlines()[0]) from error

    def unchanged(self) -> bool:
        return self._unchanged


def open_file(found: Found) -> RandomAccess:
    """Opens a file.

    Raises:
      OSError: it cannot be opened.
    """
    return LocalFile(found) if is_local(found.path) else RemoteFile(found)
