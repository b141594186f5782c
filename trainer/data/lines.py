"""Text files, of which each line is an example."""

from __future__ import annotations

import os
import zlib

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.offsets import Offsets, checked_cache
from trainer.data.paths import Found, Paths, find
from trainer.data.pipeline import Examples, IndexedPipeline
from trainer.data.reading import RandomAccess
from trainer.data.shards import Shards

_WINDOW = 1 << 22


def text_lines(
    paths: Paths,
    *,
    batch_size: int,
    shuffle: bool = True,
    last: str = "wrap",
    cache: str | os.PathLike[str] | None = None,
) -> IndexedPipeline:
    """Returns a source over the lines of text files: {"line": string scalar}, without the line's end.

    A line ends with a newline, of which a carriage return before it is part, or with the file. Empty ones are examples.

    Args:
      paths: a path, a pattern such as `text/*.txt`, or several; files are taken in the order of their names.
      batch_size: rows in a batch; it may exceed the number of lines.
      shuffle: whether training takes each pass in an order of its own. Evaluation always keeps the files' order.
      last: what the last batch of a training pass does: "wrap" goes on into the next pass, "short" is padded with
        weight 0.
      cache: a folder for the offsets, made where it is missing. By default a hidden file beside each text file.

    Raises:
      ConfigError: an argument is wrong, no file is there, or one is empty.
      Unusable: a file cannot be read.
    """
    shards = Shards(find(paths), TextLines(), checked_cache(cache))
    examples = Examples(
        count=shards.count,
        mean_bytes=shards.mean_bytes,
        fingerprint=shards.fingerprint,
        read=shards.read,
        decode=lambda raw: {"line": raw},
        element={"line": tf.TensorSpec([], tf.string)},
        parallel=shards.parallel,
    )
    return IndexedPipeline(examples, batch_size=batch_size, shuffle=shuffle, last=last)


class TextLines:
    """The format of text files. The checksum of a line is the CRC-32 of its bytes, its end included."""

    kind = "lines"

    def scan(self, file: RandomAccess, shard: Found) -> Offsets:
        """Finds the lines by reading all of the file."""
        ends: list[npt.NDArray[np.int64]] = []
        checks: list[int] = []
        at, rest = 0, b""
        while at < shard.bytes and (block := file.read(at, _WINDOW)):
            ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + at + 1)
            *lines, rest = (rest + block).split(b"\n")
            checks.extend([zlib.crc32(line + b"\n") for line in lines])
            at += len(block)
        if rest:
            ends.append(np.array([at], np.int64))
            checks.append(zlib.crc32(rest))
        return Offsets(np.concatenate([np.zeros(1, np.int64), *ends]), np.array(checks, np.uint32))

    def contents(
        self, pieces: list[bytes], checks: npt.NDArray[np.uint32]
    ) -> tuple[list[bytes], npt.NDArray[np.bool_]]:
        """The lines without their ends; wrong where a line is another than it was."""
        lines = [piece[:-2] if piece.endswith(b"\r\n") else piece.removesuffix(b"\n") for piece in pieces]
        return lines, np.array(list(map(zlib.crc32, pieces)), np.uint32) != checks
