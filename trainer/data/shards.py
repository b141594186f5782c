"""Examples in shards: files that hold many, each found by its offset."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.data.offsets import Offsets, OffsetsCache
from trainer.data.paths import Found, is_local
from trainer.data.reading import RandomAccess, open_file
from trainer.errors import ConfigError, Unusable, Unwritable

# One thread reads small records of local files faster than two, which hand Python's lock to and fro with each of them.
_LARGE = 4096
_OPEN_FILES = 256
_SCANS_AT_ONCE = 8


class Format(Protocol):
    """How a kind of shard holds its examples."""

    kind: str
    """What the examples are called, such as "records"."""

    def scan(self, file: RandomAccess, shard: Found) -> Offsets:
        """Finds all examples of a shard that is not empty, or raises Unusable."""

    def contents(
        self, pieces: list[bytes], checks: npt.NDArray[np.uint32]
    ) -> tuple[list[bytes], npt.NDArray[np.bool_]]:
        """Returns what pieces of shards hold, and of which the checksum is wrong; sizes are right."""


class Shards:
    """All examples of some shards, by index: those of the first shard, then those of the next.

    Args:
      found: the shards.
      form: how they hold their examples.
      cache: a folder for the offsets; None for beside each shard.

    Raises:
      ConfigError: a shard is empty.
      Unusable: a shard cannot be read, is torn, or is of another kind.
    """

    def __init__(self, found: Sequence[Found], form: Format, cache: str | os.PathLike[str] | None) -> None:
        for shard in found:
            if not shard.bytes:
                raise ConfigError(f"{shard.path} is empty; write it again, or leave it out")
        self._found = tuple(found)
        self._form = form
        self._cache = OffsetsCache(form.kind, cache)
        offsets = _offsets_of_all(self._found, form, self._cache)
        counts = [len(each.checks) for each in offsets]
        self._first = np.cumsum([0, *counts[:-1]])
        # One array for all shards: that of a shard has one offset more than it has examples.
        self._begin = np.concatenate([each.begin for each in offsets])
        self._checks = np.concatenate([each.checks for each in offsets])
        self.count = sum(counts)
        self.mean_bytes = sum(shard.bytes for shard in found) / max(1, self.count)
        self.parallel = self.mean_bytes >= _LARGE or not all(is_local(shard.path) for shard in found)
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(self._opened)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all sizes and checksums: not of how the shards are cut and named."""
        digest = hashlib.sha256(f"{self._form.kind}\n".encode())
        for number, first in enumerate(self._first):
            count = (self._first[number + 1] if number + 1 < len(self._first) else self.count) - first
            sizes = np.diff(self._begin[first + number : first + number + count + 1])
            pairs = np.stack([sizes, self._checks[first : first + count].astype(np.int64)], axis=1)
            digest.update(pairs.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def read(self, index: npt.NDArray[np.int64]) -> list[bytes]:
        """Returns the examples at indices, int64 [n]. Safe to call from several threads.

        Raises:
          Unusable: a shard is not what it was when its offsets were found.
        """
        shard = np.searchsorted(self._first, index, side="right") - 1
        row = index + shard
        begin, end = self._begin[row], self._begin[row + 1]
        sizes = (end - begin).tolist()
        try:
            numbers, places = shard.tolist(), begin.tolist()
            pieces = [b""] * len(sizes)
            # Shard by shard: a block may touch more of them than a process may have open.
            for at in np.argsort(shard, kind="stable").tolist():
                pieces[at] = self._open(numbers[at]).read(places[at], sizes[at])
        except OSError as error:
            path = error.filename or "a shard"
            raise Unusable(f"cannot read {path}: {error.strerror or error}; mend that, then run again") from error
        wrong = np.array(list(map(len, pieces))) != np.array(sizes)
        if not wrong.any():
            contents, wrong = self._form.contents(pieces, self._checks[index])
            if not wrong.any():
                return contents
        which = int(np.argmax(wrong))
        # A file that took its place may have the same size and time: the next start is to look at it anew.
        self._cache.forget(self._found[int(shard[which])].path)
        raise self._changed(int(shard[which]), f"at byte {int(begin[which])}")

    def _opened(self, number: int) -> RandomAccess:
        file = open_file(self._found[number])
        if not file.unchanged():
            raise self._changed(number, "in size or time")
        return file

    def _changed(self, number: int, where: str) -> Unusable:
        path = self._found[number].path
        return Unusable(
            f"{path} is not what it was when its offsets were found: it differs {where}; put it back, then run again"
        )


def _offsets_of_all(found: Sequence[Found], form: Format, cache: OffsetsCache) -> list[Offsets]:
    """The offsets of each shard, from the cache or from the shard."""
    refused: list[str] = []

    def offsets_of(shard: Found) -> Offsets:
        offsets = cache.load(shard)
        if offsets is None:
            offsets = _scanned(shard, form)
            try:
                cache.save(shard, offsets)
            except Unwritable:
                refused.append(cache.path(shard.path))
        return offsets

    with ThreadPoolExecutor(min(len(found), _SCANS_AT_ONCE)) as pool:
        offsets = list(pool.map(offsets_of, found))
    if refused:
        folder = os.path.dirname(min(refused)) or "."
        warnings.warn(
            f"the offsets of {len(refused)} of {len(found)} files cannot be kept in {folder}, so each start finds them "
            "again; make it writable, or name a folder with cache=…",
            stacklevel=2,
        )
    return offsets


def _scanned(shard: Found, form: Format) -> Offsets:
    try:
        return form.scan(open_file(shard), shard)
    except OSError as error:
        raise Unusable(f"cannot read {shard.path}: {error.strerror or error}; mend that, then run again") from error
