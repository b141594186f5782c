"""Where the examples of a shard begin: found once, and kept in a cache that is believed only when it proves itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.paths import Found, is_local
from trainer.errors import ConfigError, Unwritable
from trainer.storage.files import Files
from trainer.storage.schemes import open_files

_FORMAT = 1
_DIGEST_BYTES = hashlib.sha256().digest_size


class Offsets(NamedTuple):
    """Where the n examples of a shard are, and what tells when they have changed."""

    begin: npt.NDArray[np.int64]
    """[n + 1]: example i lies from begin[i] to begin[i + 1]."""

    checks: npt.NDArray[np.uint32]
    """[n]: a checksum of each."""


class OffsetsCache:
    """Offsets in files, one a shard.

    A file holds the SHA-256 of all that follows; a line of JSON with the format, the kind of shard, its size, its
    modification time and the number of examples; `begin` and `checks`, little-endian.

    Args:
      kind: what the shards are, such as "records".
      folder: where the files are; None for beside each shard, under a hidden name.
    """

    def __init__(self, kind: str, folder: str | os.PathLike[str] | None) -> None:
        self._kind = kind
        self._folder = None if folder is None else os.fspath(folder)

    def path(self, shard: str) -> str:
        """Where the offsets of a shard are kept."""
        name = os.path.basename(shard)
        if self._folder is None:
            return os.path.join(os.path.dirname(shard), f".{name}.{self._kind}-offsets")
        # Shards of one name may come from several folders.
        whole = os.path.abspath(shard) if is_local(shard) else shard
        return os.path.join(self._folder, f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}.offsets")

    def load(self, shard: Found) -> Offsets | None:
        """Returns what is kept of a shard; None where that is nothing, is damaged, or is of another state of it."""
        path = self.path(shard.path)
        try:
            data = open_files(path).read(path)
        except OSError:
            return None
        digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            return None
        line, _, payload = body.partition(b"\n")
        header = json.loads(line)
        if header != self._header(shard, header.get("examples")):
            return None
        count = header["examples"]
        return Offsets(np.frombuffer(payload, "<i8", count + 1), np.frombuffer(payload, "<u4", count, 8 * (count + 1)))

    def save(self, shard: Found, offsets: Offsets) -> None:
        """Keeps the offsets of a shard, at once or not at all.

        Raises:
          Unwritable: the folder cannot be written.
        """
        header = json.dumps(self._header(shard, len(offsets.checks))).encode() + b"\n"
        body = header + offsets.begin.astype("<i8").tobytes() + offsets.checks.astype("<u4").tobytes()
        path = self.path(shard.path)
        files = open_files(path)
        if self._folder is not None:
            files.make_directory(self._folder)
        # Several processes may find the same offsets at the same time.
        temporary = f"{path}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            files.write(temporary, hashlib.sha256(body).digest() + body)
            files.rename(temporary, path)
        except Unwritable:
            _discard(files, temporary)
            raise

    def forget(self, shard: str) -> None:
        """Drops what is kept of a shard, because it is not true."""
        path = self.path(shard)
        _discard(open_files(path), path)

    def _header(self, shard: Found, examples: Any) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "kind": self._kind,
            "bytes": shard.bytes,
            "mtime_ns": shard.mtime_ns,
            "examples": examples,
        }


def checked_cache(cache: Any) -> str | os.PathLike[str] | None:
    """Returns the folder for the caches, or raises ConfigError."""
    if cache is not None and not isinstance(cache, str | os.PathLike):
        raise ConfigError(f"cache={cache!r} is no folder; give the path of one, or None for beside each shard")
    return cache


def _discard(files: Files, path: str) -> None:
    # It may never have been made; and what stays is found out again.
    with contextlib.suppress(Unwritable):
        files.remove(path)
