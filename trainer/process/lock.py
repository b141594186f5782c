"""One writer a run directory."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator

from trainer.errors import InUse, Unwritable

_held: set[int] = set()
"""What is locked by this process: one that is forked would hold it as well, and may outlive this one."""


class Lock:
    """A lock that is held.

    Args:
      path: the folder or file that is locked.
      descriptor: that folder or file, open.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def check(self) -> None:
        """Makes sure that what is at the path is still what is locked.

        Raises:
          Unwritable: it was removed or replaced. What is written there now may be another run's.
        """
        try:
            same = os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError as error:
            raise Unwritable(
                f"cannot reach {self._path}: {error.strerror}; mend that, then run the same command again"
            ) from error
        if not same:
            raise Unwritable(f"{self._path} was removed or replaced while it was in use; put it back, or start again")


@contextlib.contextmanager
def locked(path: str, *, folder: bool = True) -> Iterator[Lock]:
    """Holds the lock file `path`; the operating system lets go of it when the process ends, however it ends.

    Args:
      path: the lock file.
      folder: whether its folder is locked with it. Otherwise another process may hold that, with another lock file.

    Yields:
      The lock, which can be asked whether what is locked, the folder or the file alone, is still there.

    Raises:
      InUse: another process holds it; the message names the holder.
      Unwritable: the lock file cannot be made.
    """
    another = ", or choose another run_dir" if folder else ""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            stack.enter_context(_ours_alone(descriptor))
            held, at = descriptor, path
            if folder:
                # A lock file that somebody deletes, taking it for a stale one, must not let two in.
                at = os.path.dirname(path)
                held = os.open(at, os.O_RDONLY | os.O_CLOEXEC)
                stack.enter_context(_ours_alone(held))
            if not (_taken(descriptor) and (held == descriptor or _taken(held))):
                raise InUse(f"{at} is in use by {_holder(descriptor)}; wait for it or stop it{another}")
            since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
        except OSError as error:
            raise Unwritable(
                f"cannot write {path}: {error.strerror}; free space or mend the permissions{another}"
            ) from error
        yield Lock(at, held)


@contextlib.contextmanager
def _ours_alone(descriptor: int) -> Iterator[None]:
    """Closes it in the end; and at once in each process that is forked meanwhile, which leaves the lock with us."""
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def _taken(descriptor: int) -> bool:
    """Takes the lock, if need be at the third try: `status` holds it for an instant when it looks who does."""
    for pause in (0.02, 0.05, 0.0):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        else:
            return True
    return False


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
