"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import pathlib
import resource
import types

import pytest

from trainer.process import memory

BLOCKS, BYTES = 50_000, 2_000


def resident() -> int:
    """Bytes of the process that are in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only the GNU C library has the call")
def test_what_is_freed_between_what_is_used_goes_back() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BYTES)
    # The last one stays: what is below it is kept.
    for block in blocks[:-1]:
        library.free(block)
    before = resident()
    memory.give_back()
    assert before - resident() > BLOCKS * BYTES // 2
    library.free(blocks[-1])


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    memory.give_back()
