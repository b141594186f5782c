"""The format of TensorBoard's event files: `Event` messages in protobuf's wire format, framed as TFRecords.

Written by hand, because TensorFlow needs seconds to import and does not bring TensorBoard's writer. Only what a curve
needs is here. Of `event.proto` and `summary.proto`:

    Event       1 wall_time: double   2 step: int64   3 file_version: string   5 summary   7 session_log
    Summary     1 value: repeated Value
    Value       1 tag: string   2 simple_value: float
    SessionLog  1 status: enum, START = 1

A frame is, little-endian, `length: uint64 | its masked CRC: uint32 | message | its masked CRC: uint32`.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.storage.crc32c import masked_crc32c, masked_crc32c_of_rows

FILE_VERSION: Final = 3
SUMMARY: Final = 5
SESSION_LOG: Final = 7

VERSION_2: Final = b"brain.Event:2"  # from this version on, TensorBoard goes by SessionLog.START, not by guesses
SESSION_START: Final = b"\x08\x01"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT: Final = struct.Struct("<f")
_UINT32: Final = struct.Struct("<I")
_UINT64: Final = struct.Struct("<Q")
_WALL_TIME: Final = struct.Struct("<Bd")
_HEADER: Final = _UINT64.size + _UINT32.size
_FOOTER: Final = _UINT32.size


class Event(NamedTuple):
    """One event: when, at which step, and one payload."""

    wall_time: float
    """Seconds since the epoch of the clock."""
    step: int
    field: int
    """Which payload: `FILE_VERSION`, `SUMMARY` or `SESSION_LOG`."""
    payload: bytes
    """The payload, encoded."""


def _varint(value: int) -> bytes:
    """`value` ≥ 0, seven bits a byte, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _float32(value: float | None) -> bytes:
    """`value` as a float32: None is NaN, and what float32 cannot hold is infinite."""
    try:
        return _FLOAT.pack(math.nan if value is None else value)
    except OverflowError:
        return _FLOAT.pack(math.copysign(math.inf, value or 0.0))


@functools.lru_cache(maxsize=4096)
def _before_value(tag: str) -> bytes:
    """All that comes before the four bytes of the scalar called `tag`: the same in every event, so encoded once."""
    name = tag.encode()
    head = b"\x0a" + _varint(len(name)) + name + b"\x15"
    return b"\x0a" + _varint(len(head) + _FLOAT.size) + head


@functools.lru_cache(maxsize=4096)
def _header(length: int) -> bytes:
    size = _UINT64.pack(length)
    return size + _UINT32.pack(masked_crc32c(size))


def encode_summary(scalars: Iterable[tuple[str, float | None]]) -> bytes:
    """A Summary of `(tag, value)`; None is written as NaN. Empty if there is no scalar."""
    return b"".join([_before_value(tag) + _float32(value) for tag, value in scalars])


def encode_event(event: Event) -> bytes:
    """`event` as a frame, ready to append to a file."""
    message = _message(event)
    return _header(len(message)) + message + _UINT32.pack(masked_crc32c(message))


def encode_summaries(
    wall_time: float,
    tags: Sequence[str],
    steps: Sequence[int],
    values: Sequence[Sequence[float | None]] | npt.NDArray[np.float64],
) -> bytes:
    """The frames of events of one time that show the same scalars, as `encode_event` makes them one by one.

    Args:
      wall_time: when, in seconds since the epoch of the clock.
      tags: the scalars, at least one.
      steps: the step of each event.
      values: of each event, the value of each scalar; None is written as NaN.
    """
    numbers = np.array(steps, np.int64)
    with np.errstate(over="ignore"):
        singles = np.array(values, np.float64).astype("<f4")
    # Frames of one length differ in numbers only: steps grow, and with them the bytes that they take.
    lengths = np.array([1]) + (numbers[:, None] >> np.arange(7, 63, 7) > 0).sum(axis=1)
    borders = np.flatnonzero(np.diff(lengths)) + 1
    parts = zip(np.split(numbers, borders), np.split(singles, borders), strict=True)
    return b"".join([_alike(wall_time, tags, *part) for part in parts])


def _alike(
    wall_time: float, tags: Sequence[str], steps: npt.NDArray[np.int64], values: npt.NDArray[np.float32]
) -> bytes:
    """As `encode_summaries`, where all steps take as many bytes."""
    payload = encode_summary([(tag, 0.0) for tag in tags])
    first = encode_event(Event(wall_time, int(steps[0]), SUMMARY, payload))
    frames = np.tile(np.frombuffer(first, np.uint8), (len(steps), 1))
    at, length = _HEADER + _WALL_TIME.size + 1, len(_varint(int(steps[0])))
    for byte in range(length):
        frames[:, at + byte] = steps >> 7 * byte & 0x7F | (0x80 if byte < length - 1 else 0)
    at = len(first) - _FOOTER - len(payload)
    for position, tag in enumerate(tags):
        at += len(_before_value(tag)) + _FLOAT.size
        frames[:, at - _FLOAT.size : at] = values[:, position, None].view(np.uint8)
    sums = masked_crc32c_of_rows(frames[:, _HEADER:-_FOOTER])
    frames[:, -_FOOTER:] = sums.astype("<u4")[:, None].view(np.uint8)
    return frames.tobytes()


def _message(event: Event) -> bytes:
    return b"".join(
        (
            _WALL_TIME.pack(0x09, event.wall_time),
            b"\x10",
            _varint(event.step),
            bytes((event.field << 3 | _BYTES,)),
            _varint(len(event.payload)),
            event.payload,
        )
    )


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and where the next byte is."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of `message` in order: number and content, a varint as its own bytes."""
    at = 0
    while at < len(message):
        key, start = _read_varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            _, at = _read_varint(message, start)
        elif wire == _BYTES:
            size, start = _read_varint(message, start)
            at = start + size
        elif wire in (_FIXED32, _FIXED64):
            at = start + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {wire} is not used in event files")
        yield key >> 3, message[start:at]


def _decode_event(message: bytes) -> Event:
    wall_time, step, field, payload = 0.0, 0, 0, b""
    for number, content in _fields(message):
        if number == 1:
            (wall_time,) = struct.unpack("<d", content)
        elif number == 2:
            step, _ = _read_varint(content, 0)
        else:
            field, payload = number, content
    return Event(wall_time, step, field, payload)


def decode_summary(payload: bytes) -> Iterator[tuple[str, float]]:
    """The `(tag, value)` of a Summary's scalars; values are float32."""
    for _, value in _fields(payload):
        content = dict(_fields(value))
        if 2 in content:
            yield content[1].decode(), _FLOAT.unpack(content[2])[0]


def read_events(path: Path, *, strict: bool) -> Iterator[Event]:
    """The events of one file. A torn last event is left out: it is still being written, or its writer was killed.

    Args:
      path: The file.
      strict: Whether damage raises. Otherwise it ends the file, as it does for TensorBoard.

    Raises:
      ValueError: `strict`, and a CRC does not match or a message does not parse.
      OSError: The file cannot be read.
    """
    data = path.read_bytes()
    at = 0
    while at + _HEADER + _FOOTER <= len(data):
        size = data[at : at + _UINT64.size]
        (length,) = _UINT64.unpack(size)
        start = at + _HEADER
        end = start + length
        problem = ""
        if _UINT32.unpack_from(data, at + _UINT64.size)[0] != masked_crc32c(size):
            problem = "the CRC of a length does not match"
        elif end + _FOOTER > len(data):
            return
        elif _UINT32.unpack_from(data, end)[0] != masked_crc32c(data[start:end]):
            problem = "the CRC of an event does not match"
        else:
            try:
                yield _decode_event(data[start:end])
            except (ValueError, IndexError, struct.error) as error:
                problem = f"an event does not parse: {error}"
        if problem:
            if strict:
                raise ValueError(f"{path}: {problem} (byte {at})")
            return
        at = end + _FOOTER
