"""An explanation as text: values and differences, rounded so that they still add up."""

from __future__ import annotations

import itertools
import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

_DIGITS = 6
"""Significant digits of the largest value."""
_NARROWEST = 24
_INDENT = 2


def explanation_lines(explanation: Mapping[str, Any], run_dir: str, width: int | None = None) -> list[str]:
    """The lines that a person reads.

    Args:
      explanation: as `explain --json` prints it.
      run_dir: whose run it is.
      width: of the terminal in characters; by default as wide as it is.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    terms: Sequence[Mapping[str, Any]] = explanation["terms"]
    (a, b), step = explanation["window"], explanation["step"]
    metric, split = explanation["metric"], explanation["split"]
    values = rounded([term["value"] for term in terms])
    gap = values[-1] - values[0]
    measured = f"{split} {metric} of checkpoint {step}" if split else f"{metric} of checkpoint {step}"
    lines = [
        f"{run_dir}: why the logged train {metric} {plain(values[0])} is not the {measured}, {plain(values[-1])}",
        f"the log averages the steps {a + 1} to {b}{_origin(explanation)}",
        "",
    ]
    names = [term["name"].replace("_", " ") for term in terms]
    errors = ["" if term["stderr"] is None else f"± {_short(term['stderr'])}" for term in terms]
    differences = [signed(after - before) for before, after in itertools.pairwise(values)]
    rows = list(zip(names, map(plain, values), ["", *differences], errors, strict=True))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    head = [
        name.rjust(max(size, len(name))) for name, size in zip(("value", "difference", ""), widths[1:], strict=True)
    ]
    widths = [widths[0], *(len(name) for name in head)]
    lead = " " * _INDENT
    lines.append(f"{lead}{'':{widths[0]}}  {'  '.join(head)}".rstrip())
    left = _INDENT + sum(widths) + 2 * len(widths)
    for row, term in zip(rows, terms, strict=True):
        cells = "  ".join(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True))
        start = f"{lead}{row[0]:{widths[0]}}  {cells}  "
        if width - left < _NARROWEST:
            lines.append(start.rstrip())
            lines += textwrap.wrap(
                term["meaning"], max(_NARROWEST, width), initial_indent=lead * 3, subsequent_indent=lead * 3
            )
        else:
            lines += textwrap.wrap(term["meaning"], width, initial_indent=start, subsequent_indent=" " * left) or [
                start
            ]
    lines += ["", f"gap {signed(gap)}{_largest(explanation, dict(zip(names, ['', *differences], strict=True)), gap)}"]
    if opened := explanation["open_steps"]:
        steps = f"step {opened[0]} is" if len(opened) == 1 else f"the steps {opened[0]} to {opened[-1]} are"
        lines.append(f"{steps} in no record yet: checkpoint {step} lies inside the window that is open there")
    lines += [f"note: {note}" for note in explanation["notes"]]
    return lines


def plain(value: Decimal) -> str:
    """A value without an exponent."""
    return f"{value:f}"


def signed(difference: Decimal) -> str:
    """A difference with its sign, without an exponent."""
    return f"{difference:+f}"


def rounded(values: Sequence[float]) -> list[Decimal]:
    """The values with the same number of decimals, so that the differences of what is printed add up exactly."""
    largest = max(abs(value) for value in values)
    decimals = _DIGITS - 1 - (math.floor(math.log10(largest)) if largest > 0 else 0)
    quantum = Decimal(1).scaleb(-max(0, min(decimals, 12)))
    return [Decimal(repr(value)).quantize(quantum) for value in values]


def _origin(explanation: Mapping[str, Any]) -> str:
    if explanation["reproduced"] is None:
        return ""
    start = explanation["replayed_from"]
    how = "reproduced to the last bit"
    if not explanation["reproduced"]:
        near = any(term["name"] == "own_update" for term in explanation["terms"])
        how = "reproduced but for the last bits" if near else "not reproduced"
    return f", trained again from {f'checkpoint {start}' if start else 'the beginning'}: {how}"


def _largest(explanation: Mapping[str, Any], differences: Mapping[str, str], gap: Decimal) -> str:
    dominant = explanation["dominant"]
    if dominant is None:
        return ": nothing differs"
    name = dominant.replace("_", " ")
    return f"; the largest part of it is {name}, {differences[name]}"


def _short(value: float) -> str:
    return f"{value:.2g}"
