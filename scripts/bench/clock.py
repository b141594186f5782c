"""A clock that stands still while its process is stopped, so that others may have the machine meanwhile."""

from __future__ import annotations

import ctypes
import mmap
import time

_real = time.monotonic
_stopped_s: ctypes.c_double | None = None
"""Of this process, as whoever stops it counts them; None where nobody does."""


def install() -> None:
    """Has all of this process tell the time by `now`: whoever takes part, and what it imports after this."""
    for name in ("monotonic", "perf_counter"):
        setattr(time, name, now)


def now() -> float:
    """Seconds that this process was not stopped in, from an arbitrary moment on."""
    if _stopped_s is None:
        return _real()
    while True:
        before = _stopped_s.value
        seconds = _real() - before
        # Unless it was stopped between the two.
        if _stopped_s.value == before:
            return seconds


def shared() -> ctypes.c_double:
    """A count of stopped seconds that is the same memory in a process and in those that it forks."""
    return ctypes.c_double.from_buffer(mmap.mmap(-1, ctypes.sizeof(ctypes.c_double)))


def follow(stopped_s: ctypes.c_double) -> None:
    """From now on, what is counted there has not passed."""
    global _stopped_s
    _stopped_s = stopped_s
