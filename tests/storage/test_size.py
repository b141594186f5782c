"""Sizes in bytes, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import EXIT_CONFIG, ConfigError
from trainer.storage.size import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("7B", 7),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("2GB", 2_000_000_000),
        ("2gb", 2_000_000_000),
        ("512MiB", 512 << 20),
        ("1.5 MiB", 3 << 19),
        (" 1_000 MB ", 10**9),
        ("3TB", 3 * 10**12),
        ("1TiB", 1 << 40),
        ("0.5kB", 500),
        pytest.param("9" * 400, int("9" * 400), id="beyond floating point"),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(1, 2**53))
def test_a_number_alone_is_bytes(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "GB", "2 apples", "2G", "-1MB", "+1MB", "1e9", "1,5MB", "0", "0GB", "0.4", "0.0001kB", "inf", "nan",
     "2GB2", "2 G B", "_1", "1_MB", "1__0MB", "1.MB", ".5MB", "2GBit", "\n"],
)  # fmt: skip
def test_what_is_no_size_is_refused_in_one_line_that_shows_how(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_size(text)
    assert refused.value.exit_code == EXIT_CONFIG
    assert repr(text) in str(refused.value)
    assert "2GB" in str(refused.value)
    assert "\n" not in str(refused.value)
