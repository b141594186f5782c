"""TensorFlow's storage in memory, `ram://…`, held to what every storage promises.

It is gone with the process, and so good for tests alone. Left to itself it takes the beginning of a name for a folder
of that name (`a` is there as soon as `a.tmp` is), and goes on at the end of a file that is opened to be written anew.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from typing import Any

from trainer.storage.files import writing
from trainer.storage.gfile import GfileFiles


class RamFiles(GfileFiles):
    """Files in memory. A folder is there when it was made."""

    def list(self, path: str) -> list[str]:
        """The sorted names in the folder `path`; none when it is not there."""
        return sorted(os.path.basename(found) for found in self._matches(f"{_literally(path)}/*"))

    def make_directory(self, path: str, *, parents: bool = True) -> None:
        """Makes the folder `path`, and with `parents` those above it."""
        parent = os.path.dirname(path)
        with writing(path), self._errors_of(path):
            if not parents:
                self._stat(parent)
            elif "://" in parent:
                self.make_directory(parent)
            self._tf.io.gfile.mkdir(path)

    def write(self, path: str, data: bytes) -> None:
        """Writes `data` to a new or emptied file."""
        self.remove(path)
        super().write(path, data)

    def remove_tree(self, path: str) -> None:
        """Removes the folder `path` and everything in it."""
        for name in self.list(path):
            below = f"{path}/{name}"
            if self.is_directory(below):
                self.remove_tree(below)
            else:
                self.remove(below)
        with writing(path), self._errors_of(path):
            self._tf.io.gfile.remove(path)

    def _stat(self, path: str) -> Any:
        if not self._matches(_literally(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return super()._stat(path)

    def _matches(self, pattern: str) -> Sequence[str]:
        with self._errors_of(pattern):
            matches: Sequence[str] = self._tf.io.gfile.glob(pattern)
            return matches


def _literally(path: str) -> str:
    """The pattern that `path` alone matches."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)
