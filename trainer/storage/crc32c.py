"""CRC-32C (Castagnoli), and the masked form of it that TFRecord files carry."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli's, reflected
_ONES: Final = 0xFFFFFFFF
_MASK_DELTA: Final = 0xA282EAD8
_BLOCK: Final = 256


def _effect_table() -> npt.NDArray[np.uint32]:
    """`[_BLOCK, 256]` uint32: what a byte, followed by so many others, contributes to the CRC."""
    table = np.empty((_BLOCK, 256), np.uint32)
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, (row >> 1) ^ np.uint32(_POLYNOMIAL), row >> 1).astype(np.uint32)
    table[0] = row
    for after in range(1, _BLOCK):
        row = table[0][row & 0xFF] ^ (row >> 8)
        table[after] = row
    return table


# A CRC is linear over GF(2): the XOR of what each byte contributes at its place. One gather and one XOR over a whole
# block cost 3 µs for an event of 150 bytes; the usual loop over bytes costs 13 in Python.
_EFFECT: Final = _effect_table().ravel()
_ROWS: Final = np.arange(_BLOCK - 1, -1, -1, dtype=np.intp) * 256


def _advance(state: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.uint32]:
    """Each `state` after `count` zero bytes, 1 ≤ count ≤ _BLOCK."""
    after: npt.NDArray[np.uint32] = state >> np.uint32(8 * count) if count < 4 else np.zeros_like(state)
    for k in range(min(4, count)):
        after ^= _EFFECT[(count - 1 - k) * 256 + (state >> 8 * k & 0xFF)]
    return after


@functools.lru_cache(maxsize=1024)
def _advance_one(state: int, count: int) -> int:
    """As `_advance`, of one state."""
    return int(_advance(np.array([state], np.uint32), count)[0])


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, as an unsigned 32-bit integer.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    values = np.frombuffer(data, np.uint8)
    state = _ONES
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        count = len(block)
        state = _advance_one(state, count) ^ int(np.bitwise_xor.reduce(_EFFECT.take(_ROWS[_BLOCK - count :] + block)))
    return state ^ _ONES


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of `data` as a TFRecord stores it: rotated by 15 bits plus a constant.

    Masked, because the CRC of a text that contains its own CRC is degenerate (TensorFlow's `lib/hash/crc32c.h`).
    """
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ONES


def masked_crc32c_of_rows(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """As `masked_crc32c` of each of `rows`, uint8 [n, length]; returns uint32 [n]."""
    state = np.full(len(rows), _ONES, np.uint32)
    for start in range(0, rows.shape[1], _BLOCK):
        block = rows[:, start : start + _BLOCK]
        count = block.shape[1]
        state = _advance(state, count) ^ np.bitwise_xor.reduce(_EFFECT.take(_ROWS[_BLOCK - count :] + block), axis=1)
    crc = ~state
    masked: npt.NDArray[np.uint32] = (crc >> 15 | crc << 17) + np.uint32(_MASK_DELTA)
    return masked
