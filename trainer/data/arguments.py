"""What the makers of sources ask of their arguments."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from trainer.errors import ConfigError

WRAP, SHORT = LAST = ("wrap", "short")
"""What the last batch of a training pass does: go on into the next pass, or be padded."""


def checked_batch_size(batch_size: Any) -> int:
    """Returns the rows of a batch, or raises ConfigError."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ConfigError(f"batch_size={batch_size!r} is not a positive integer; give the rows of a batch, such as 64")
    return int(batch_size)


def checked_last(last: Any) -> str:
    """Returns `last`, or raises ConfigError."""
    if last not in LAST:
        raise ConfigError(f'last={last!r} is not known; give "wrap" (fill up from the next pass) or "short" (pad)')
    return str(last)
