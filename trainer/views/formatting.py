"""How numbers, times and sizes are shown to people."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, TextIO

from trainer.errors import Unwritable


def number(value: float | None) -> str:
    """A metric with about five digits, six characters wide in the usual range; None, which is not finite, as `nan`.

    >>> number(0.412), number(2.302585), number(1234.5678), number(4.12e-5), number(None)
    ('0.4120', '2.3026', '1234.6', '4.12e-05', 'nan')
    """
    if value is None:
        return "nan"
    size = abs(value)
    if size and not 1e-3 <= size < 1e5:
        return f"{value:.2e}"
    decimals = 4 if size < 10 else 3 if size < 100 else 2 if size < 1000 else 1 if size < 10_000 else 0
    return f"{value:.{decimals}f}"


def count(value: float) -> str:
    """A large count or a rate with three digits.

    >>> count(312.4), count(48_210), count(1_350_000)
    ('312', '48.2k', '1.35M')
    """
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * scale:
            return f"{_three_digits(value / scale)}{unit}"
    return f"{value:.0f}" if value >= 99.95 else _three_digits(value)


def duration(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> duration(7.4), duration(185), duration(3720), duration(183_600)
    ('7s', '3m 05s', '1h 02m', '2d 03h')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02d}h"


def size(count_of_bytes: int) -> str:
    """A number of bytes in decimal units, as disks are sold and `ls --si` counts.

    >>> size(812), size(1_400_000), size(56_789)
    ('812 B', '1.4 MB', '56.8 kB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_of_bytes >= 0.9995 * scale:
            return f"{count_of_bytes / scale:.1f} {unit}"
    return f"{count_of_bytes} B"


def printable(text: str, stream: TextIO) -> str:
    """`text` with `?` for what `stream` cannot encode: a metric's name must not stop a run whose terminal is ASCII."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def print_line(line: str, stream: TextIO | None) -> None:
    """Prints a line. Whoever read our output may be gone, or its disk full: what is done stands all the same."""
    if stream is None:  # It is closed, and for print None would mean stdout.
        return
    with contextlib.suppress(OSError):
        print(printable(line, stream), file=stream, flush=True)


def print_json(value: Any) -> None:
    """Prints the object that a script asked for to stdout. A reader that has gone is no error.

    Raises:
      Unwritable: it cannot be written.
    """
    line, reason = json.dumps(value, allow_nan=False), "it is closed"
    try:
        if sys.stdout is not None:
            print(line, flush=True)
            return
    except BrokenPipeError:
        return
    except OSError as error:
        reason = error.strerror or str(error)
    raise Unwritable(f"cannot write to stdout: {reason}; what was done stands, only what is told of it is lost")


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
