"""TFRecord shards: a record stands between a header of 12 bytes and a footer of 4 (TensorFlow's `record_writer.h`)."""

from __future__ import annotations

import array
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.offsets import Offsets, checked_cache
from trainer.data.paths import Found, Paths, find
from trainer.data.pipeline import Examples, IndexedPipeline
from trainer.data.reading import RandomAccess
from trainer.data.shards import Shards
from trainer.errors import ConfigError, Unusable
from trainer.storage.crc32c import masked_crc32c_of_rows

_HEADER, _FOOTER = 12, 4
_BETWEEN = struct.Struct("<IQI")
"""A record's footer with the next one's header: the CRC of the data; the length, and the CRC of the length."""

# Records that are small are read through, and those that are not are passed over.
_WINDOW, _SMALL = 1 << 18, 1 << 12

_COMPRESSED = {b"\x1f\x8b": "GZIP", b"\x78\x01": "ZLIB", b"\x78\x5e": "ZLIB", b"\x78\x9c": "ZLIB", b"\x78\xda": "ZLIB"}


def records(
    paths: Paths,
    *,
    batch_size: int,
    shuffle: bool = True,
    last: str = "wrap",
    parse: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> IndexedPipeline:
    """Returns a source over the records of TFRecord shards, which are not compressed.

    Any record is read at once, so that a pass has the same order as that of arrays of this length. Where the records
    begin is found by a scan of their headers, and kept beside each shard or in `cache`.

    Args:
      paths: a path, a pattern such as `shards/*.tfrecord`, or several; shards are taken in the order of their names.
      batch_size: rows in a batch; it may exceed the number of records.
      shuffle: whether training takes each pass in an order of its own. Evaluation always keeps the shards' order.
      last: what the last batch of a training pass does: "wrap" goes on into the next pass, "short" is padded with
        weight 0.
      parse: by name, a `tf.io.FixedLenFeature` of the `tf.train.Example` that a record is. Whole batches are parsed at
        once, several times faster than in a map. By default an example is {"record": string scalar}.
      cache: a folder for the offsets, made where it is missing. By default a hidden file beside each shard.

    Raises:
      ConfigError: an argument is wrong, no file is there, or one is empty.
      Unusable: a shard is compressed, torn or no TFRecord file; the message names the byte.
    """
    shards = Shards(find(paths), TFRecords(), checked_cache(cache))
    if parse is None:
        element, decode = {"record": tf.TensorSpec([], tf.string)}, lambda raw: {"record": raw}
    else:
        features = _checked(parse)
        element = {name: tf.TensorSpec(feature.shape, feature.dtype) for name, feature in features.items()}
        decode = lambda raw: tf.io.parse_example(raw, features)  # noqa: E731
    examples = Examples(
        count=shards.count,
        mean_bytes=shards.mean_bytes,
        fingerprint=shards.fingerprint,
        read=shards.read,
        decode=decode,
        element=element,
        parallel=shards.parallel,
    )
    return IndexedPipeline(examples, batch_size=batch_size, shuffle=shuffle, last=last)


class TFRecords:
    """The format of TFRecord shards. The checksum of a record is the one that its footer holds."""

    kind = "records"

    def scan(self, file: RandomAccess, shard: Found) -> Offsets:
        """Finds the records by their headers alone: what is between is not read where it is long."""
        begin, lengths = array.array("q"), array.array("Q")
        length_crcs, data_crcs = array.array("I"), array.array("I")
        # What lies between two records is read in one piece: it begins with the footer that the first one lacks.
        window, base, at = bytes(_FOOTER) + file.read(0, _WINDOW), -_FOOTER, 0
        step = _WINDOW
        while True:
            here = at - _FOOTER - base
            if here + min(_BETWEEN.size, shard.bytes - at + _FOOTER) > len(window):
                window, base, here = file.read(at - _FOOTER, step), at - _FOOTER, 0
            if at == shard.bytes or len(window) - here < _BETWEEN.size:
                break
            data_crc, length, length_crc = _BETWEEN.unpack_from(window, here)
            data_crcs.append(data_crc)
            lengths.append(length)
            length_crcs.append(length_crc)
            begin.append(at)
            if length > shard.bytes - at - _HEADER - _FOOTER:
                break
            at += _HEADER + length + _FOOTER
            step = _WINDOW if length < _SMALL else _BETWEEN.size
        rows = np.array(lengths, "<u8").view(np.uint8).reshape(-1, 8)
        wrong = masked_crc32c_of_rows(rows) != np.array(length_crcs, np.uint32)
        if wrong.any():
            raise _no_header(shard, begin[int(np.argmax(wrong))], file.read(0, 2))
        if at != shard.bytes or len(window) - here < _FOOTER:
            raise Unusable(
                f"{shard.path} ends inside the record that begins at byte {at}; cut it there or write it again"
            )
        data_crcs.extend(struct.unpack_from("<I", window, here))
        # The first footer stands before the first record, and is none.
        return Offsets(np.array([*begin, at], np.int64), np.array(data_crcs, np.uint32)[1:])

    def contents(
        self, pieces: list[bytes], checks: npt.NDArray[np.uint32]
    ) -> tuple[list[bytes], npt.NDArray[np.bool_]]:
        """The records; wrong where a length, or the data's CRC as the footer holds it, is another than it was."""
        data = [piece[_HEADER:-_FOOTER] for piece in pieces]
        lengths = np.frombuffer(b"".join([piece[:8] for piece in pieces]), "<u8")
        footers = np.frombuffer(b"".join([piece[-_FOOTER:] for piece in pieces]), "<u4")
        expected = np.array(list(map(len, data)), np.uint64)
        return data, (lengths != expected) | (footers != checks)


def _no_header(shard: Found, at: int, beginning: bytes) -> Unusable:
    packing = _COMPRESSED.get(beginning) if at == 0 else None
    if packing is not None:
        return Unusable(
            f"{shard.path} is compressed ({packing}) from byte 0, so no record can be read alone; write it uncompressed"
        )
    return Unusable(f"{shard.path} has no TFRecord header at byte {at}; write it again, or leave it out")


def _checked(parse: Any) -> dict[str, Any]:
    if not isinstance(parse, Mapping) or not parse:
        raise ConfigError(f"parse={type(parse).__name__} names no features; give tf.io.FixedLenFeature by name")
    for name, feature in parse.items():
        if not isinstance(feature, tf.io.FixedLenFeature):
            kind = type(feature).__name__
            raise ConfigError(
                f"parse has {name!r} as {kind}; give a tf.io.FixedLenFeature, or parse in a map that pads to one shape"
            )
    return dict(parse)
