"""The files that a source is made of."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.errors import ConfigError
from trainer.storage.schemes import open_files

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A path, a pattern such as `shards/*.tfrecord` (`**` goes into folders, where the storage is local), or several."""

_PATTERN = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file, as it was when it was found."""

    path: str
    bytes: int
    mtime_ns: int


def find(paths: Paths) -> list[Found]:
    """Returns the files that paths and patterns name, by name, each once. Patterns leave out hidden names and folders.

    Raises:
      ConfigError: there is none, or a path is not there, is a folder or cannot be seen.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    if not isinstance(given, Sequence) or not given or not all(isinstance(path, str | os.PathLike) for path in given):
        kind = "no paths" if isinstance(given, Sequence) and not given else type(paths).__name__
        raise ConfigError(f"{kind} given as paths; give a path, a pattern such as shards/*.tfrecord, or a list of them")
    found: dict[str, Found] = {}
    for name in given:
        path = os.fspath(name)
        matched = _matching(path)
        if not matched:
            raise ConfigError(f"no file matches {path}; give a path, or a pattern that matches some files")
        found |= {file.path: file for file in matched}
    return [found[path] for path in sorted(found)]


def look(path: str) -> Found | None:
    """Returns the file as it is now; None where it is a folder.

    Raises:
      OSError: it is not there, or cannot be seen.
    """
    if not is_local(path):
        try:
            status = tf.io.gfile.stat(path)
        except tf.errors.NotFoundError:
            raise FileNotFoundError(path) from None
        except tf.errors.OpError as error:
            raise OSError((error.message or type(error).__name__).splitlines()[0]) from error
        return None if status.is_directory else Found(path, int(status.length), int(status.mtime_nsec))
    local = os.stat(path)
    return None if stat.S_ISDIR(local.st_mode) else Found(path, local.st_size, local.st_mtime_ns)


def is_local(path: str) -> bool:
    """Whether the operating system knows the path; else it has a scheme, and TensorFlow does."""
    return "://" not in path


def _matching(path: str) -> list[Found]:
    if not is_local(path):
        open_files(path)  # Refuses a scheme that is not known.
    try:
        file = look(path)
        if file is None:
            raise ConfigError(f"{path} is a folder; give its files, such as {path.rstrip('/')}/*")
        return [file]
    except FileNotFoundError:
        if not _PATTERN.search(path):
            raise ConfigError(f"there is no file {path}; give a path or a pattern of files that are there") from None
    except OSError as error:
        raise _unseen(path, error) from error
    try:
        return [file for file in map(look, _expanded(path)) if file is not None]
    except OSError as error:
        raise _unseen(path, error) from error


def _expanded(pattern: str) -> Iterable[str]:
    if is_local(pattern):
        return glob.glob(pattern, recursive=True)
    try:
        names = tf.io.gfile.glob(pattern)
    except tf.errors.NotFoundError:
        return []
    except tf.errors.OpError as error:
        raise OSError((error.message or type(error).__name__).splitlines()[0]) from error
    return [name for name in names if not os.path.basename(name).startswith(".")]


def _unseen(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"cannot look at {path}: {error.strerror or error}; mend that, or give another path")
