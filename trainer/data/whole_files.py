"""Files of which each is an example, such as images."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.mapping import Example
from trainer.data.paths import Paths, find, is_local
from trainer.data.pipeline import Examples, IndexedPipeline


def files(paths: Paths, *, batch_size: int, shuffle: bool = True, last: str = "wrap") -> IndexedPipeline:
    """Returns a source over whole files: {"path": string scalar, "bytes": string scalar}, what a file holds.

    Args:
      paths: a path, a pattern such as `images/**/*.png`, or several. Examples are in the order of the names.
      batch_size: rows in a batch; it may exceed the number of files.
      shuffle: whether training takes each pass in an order of its own. Evaluation always keeps the names' order.
      last: what the last batch of a training pass does: "wrap" goes on into the next pass, "short" is padded with
        weight 0.

    Raises:
      ConfigError: an argument is wrong, or no file is there.
    """
    found = find(paths)
    names = [file.path.encode() for file in found]

    def read(index: npt.NDArray[np.int64]) -> list[bytes]:
        return [names[number] for number in index.tolist()]

    def decode(raw: tf.Tensor) -> Example:
        return {"path": raw, "bytes": tf.map_fn(tf.io.read_file, raw)}

    examples = Examples(
        count=len(found),
        mean_bytes=sum(file.bytes for file in found) / len(found),
        fingerprint=fingerprint([file.path for file in found], [file.bytes for file in found]),
        read=read,
        decode=decode,
        element={"path": tf.TensorSpec([], tf.string), "bytes": tf.TensorSpec([], tf.string)},
        parallel=True,
    )
    return IndexedPipeline(examples, batch_size=batch_size, shuffle=shuffle, last=last)


def fingerprint(paths: list[str], sizes: list[int]) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of sizes and names, relative to the folder that all are in."""
    local = [os.path.abspath(path) if is_local(path) else path for path in paths]
    # The first name and the last have in common what all have. It ends with a folder, not inside a name.
    first, final = min(local), max(local)
    same = next(
        (at for at, (a, b) in enumerate(zip(first, final, strict=False)) if a != b), min(len(first), len(final))
    )
    folder = first[: first.rfind("/", 0, same) + 1]
    named = [[path[len(folder) :], size] for path, size in zip(local, sizes, strict=True)]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
