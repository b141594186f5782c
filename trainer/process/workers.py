"""Processes that are forked while a run is under way, such as those that load its data.

A terminal, a scheduler or a service manager signals all processes of a group. A worker that obeyed would take the data
away from under the step that is still to be finished and saved. So while the run is asked to stop, the workers go on;
but a SIGTERM that comes from the run itself, as `multiprocessing` ends its workers, ends them.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

LINGER_S = 5.0
"""How long a worker outlives a SIGTERM that was meant for all. The run takes its last batches within a tick, and may
itself wait for a worker's end, in which it has no more time than its grace."""

_NOTICE_S = 0.2
"""How long a worker waits for the run to be asked as well: the one signal reaches its processes one after another."""

_LOOK_S = 0.5
"""How often a worker looks whether its parent is still there."""

_IGNORED = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_GOING, _STOPPING, _OVER = range(3)

_shields: list[mmap.mmap] = []
"""Of the runs under way, a byte each that their workers share: how far the run is."""

_ALL = frozenset(signal.valid_signals())
_forking = threading.local()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Has processes that are forked meanwhile outlive the signals that are meant for all."""
    with mmap.mmap(-1, 1) as shield:
        _shields.append(shield)
        try:
            yield
        finally:
            shield[0] = _OVER
            _shields.remove(shield)


def stopping() -> None:
    """The run is asked to stop: from here on the workers take a SIGTERM for one that is meant for all."""
    for shield in _shields:
        if shield[0] == _GOING:
            shield[0] = _STOPPING


def over() -> None:
    """What workers load is not needed any more: from here on a SIGTERM ends them."""
    for shield in _shields:
        shield[0] = _OVER


def _begin_fork() -> None:
    """Holds signals back: in a process that is not ready for them they would be lost, and told to its parent."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL) if _shields else None
    _forking.parent = os.getpid()


def _end_fork() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _shield_worker() -> None:
    """What a forked process does first."""
    if _shields:
        # What the parent's handlers tell is told to the parent. Here a thread listens: the main one may wait for a
        # lock, in a call that a signal does not always interrupt, and then it runs no handler.
        listen, tell = os.pipe()
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        for number in (*_IGNORED, signal.SIGTERM):
            signal.signal(number, _go_on)
        threading.Thread(target=_listen, args=[listen, _forking.parent], name="shield", daemon=True).start()
    _end_fork()


def _go_on(number: int, frame: FrameType | None) -> None:
    """Does not obey. A program that the worker starts obeys again, where one that ignores would hand that on."""


def _listen(descriptor: int, parent: int) -> None:
    """Ends the worker when it is to end: by a SIGTERM, or because its parent is gone."""
    ends_at = math.inf
    while os.getppid() == parent and time.monotonic() < ends_at:
        heard = select.select([descriptor], [], [], _LOOK_S)[0]
        if not heard or signal.SIGTERM not in os.read(descriptor, 4096):
            continue
        deadline = time.monotonic() + _NOTICE_S
        while not any(shield[0] for shield in _shields) and time.monotonic() < deadline:
            time.sleep(0.01)
        if all(shield[0] != _STOPPING for shield in _shields):
            break
        ends_at = min(ends_at, time.monotonic() + LINGER_S)
    os.kill(os.getpid(), signal.SIGKILL)


os.register_at_fork(before=_begin_fork, after_in_parent=_end_fork, after_in_child=_shield_worker)
