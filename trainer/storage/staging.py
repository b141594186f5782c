"""A folder that comes into being at once: written beside its place, made durable, and put there by one rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator

from trainer.errors import ConfigError
from trainer.storage.files import Files, writing

_RENAME_AT_CWD = -100
"""Linux' AT_FDCWD: paths are relative to the working directory."""
_RENAME_SWAP = 2
"""RENAME_EXCHANGE of Linux' renameat2, and RENAME_SWAP of macOS' renamex_np."""
_NO_SWAP = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@contextlib.contextmanager
def staged(target: str, replaceable: Callable[[str], bool]) -> Iterator[str]:
    """A new folder beside `target`, which takes its place when the block ends without an error.

    A kill at any moment leaves what was at `target`, or the whole new folder there. What it leaves beside, in a folder
    `.NAME.staged-…`, is removed when the same target is next written. Another process may write the same target.

    Args:
      target: where the folder is to be; its parents are made. What is there is nothing, or an empty folder.
      replaceable: whether a folder at `target` that is not empty may be replaced; asked when it is about to be.

    Yields:
      The new folder's path for now.

    Raises:
      ConfigError: something is at `target` by now that may not be replaced.
      Unwritable: it cannot be written.
    """
    files, target = Files(), os.path.realpath(target)
    parent = os.path.dirname(target)
    files.make_directory(parent)
    _remove_abandoned(target)
    with contextlib.ExitStack() as stack:
        folder = _new_folder(target, stack)
        try:
            yield folder
            with writing(target):
                _sync_tree(files, folder)
                _put(folder, target, replaceable)
            files.sync_directory(parent)
        except BaseException:
            # What went wrong says more than what may go wrong here; the next one that is written here tries again.
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # After a swap the old folder goes by this name.
        _remove(folder)


def _new_folder(target: str, stack: contextlib.ExitStack) -> str:
    """Makes a folder beside `target`, and holds a lock on it that tells others that its maker lives."""
    while True:
        folder = _name_beside(target)
        with writing(folder):
            os.mkdir(folder)
        # Until it is locked, another may take it for abandoned, and remove it.
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError:
            # The file system has no such locks: nothing there is ever taken for abandoned.
            return folder
        if os.path.isdir(folder):
            return folder


def _remove_abandoned(target: str) -> None:
    """Removes the folders beside `target` whose makers were killed."""
    parent, name = os.path.split(target)
    ours = re.compile(re.escape(f".{name}.staged-") + "[0-9a-f]{12}")
    with writing(parent):
        found = [os.path.join(parent, other) for other in os.listdir(parent) if ours.fullmatch(other)]
    for folder in found:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:  # Its maker is done with it; or it is somebody else's.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # Its maker lives; or there is no telling.
            continue
        else:
            _remove(folder)
        finally:
            os.close(descriptor)


def _remove(folder: str) -> None:
    with writing(folder), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _sync_tree(files: Files, folder: str) -> None:
    """Makes everything in a folder durable."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            _sync_tree(files, path)
        else:
            files.sync(path)
    files.sync_directory(folder)


def _put(folder: str, target: str, replaceable: Callable[[str], bool]) -> None:
    """Gives `folder` the name `target`, and what is there the name `folder`."""
    try:
        if os.path.isdir(target) and os.listdir(target) and replaceable(target):
            _swap(folder, target)
        else:
            os.rename(folder, target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise ConfigError(f"{target} has come into being meanwhile; remove it, or choose another folder") from error


def _swap(folder: str, target: str) -> None:
    """Exchanges two folders: at once where the file system can, else with an instant without any at `target`."""
    try:
        _exchange(folder, target)
    except OSError as error:
        if error.errno not in _NO_SWAP:
            raise
        aside = _name_beside(target)
        os.rename(target, aside)
        os.rename(folder, target)
        os.rename(aside, folder)


def _exchange(first: str, second: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*paths, ctypes.c_uint(_RENAME_SWAP))
        else:
            here = _RENAME_AT_CWD
            failed = library.renameat2(here, paths[0], here, paths[1], ctypes.c_uint(_RENAME_SWAP))
    except AttributeError:  # A C library from before it.
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _name_beside(target: str) -> str:
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}.staged-{uuid.uuid4().hex[:12]}")
