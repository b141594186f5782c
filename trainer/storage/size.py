"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from trainer.errors import ConfigError

_UNITS = {"": 1} | {
    f"{letter}{infix}b": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate(("", "k", "m", "g", "t"))
    if letter or not infix
}


def parse_size(text: str) -> int:
    """Bytes.

    >>> parse_size("2GB"), parse_size("1.5 MiB"), parse_size("4096")
    (2000000000, 1572864, 4096)

    Raises:
      ConfigError: it does not parse, or is less than a byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:_\d+)*(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    unit = _UNITS.get(match[2]) if match else None
    size = int(Fraction(match[1].replace("_", "")) * unit) if match and unit else 0
    if size < 1:
        raise ConfigError(f"{text!r} is no size; expected a number of bytes with a unit, such as 2GB or 512MiB")
    return size
