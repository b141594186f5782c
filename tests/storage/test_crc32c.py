"""CRC-32C against values that others published, and its own algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.storage.crc32c import crc32c, masked_crc32c, masked_crc32c_of_rows


def bit_by_bit(data: bytes) -> int:
    """The definition, as slow as it is plain."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


# RFC 3720, appendix B.4.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"\x00" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 255, 256, 257, 258, 511, 512, 513, 1000])
def test_any_length_around_the_block_agrees_with_the_definition(length: int) -> None:
    data = bytes((7 * i * i + 3) % 256 for i in range(length))
    assert crc32c(data) == bit_by_bit(data)


def test_the_mask_is_a_rotation_plus_a_constant() -> None:
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


@given(st.integers(0, 600).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), min_size=1, max_size=5)))
def test_many_at_once_have_the_sums_of_each(messages: list[bytes]) -> None:
    rows = np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), -1)
    assert masked_crc32c_of_rows(rows).tolist() == [masked_crc32c(message) for message in messages]
