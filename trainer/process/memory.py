"""Memory that the process holds and does not need."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Gives the system back what was freed and is kept for later: after XLA compiled, a hundred megabytes and more.

    The GNU C library has a call for it; other C libraries have none, and keep less.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
