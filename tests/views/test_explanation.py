"""An explanation as text: what is printed adds up to the last digit, at any width."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.views.explanation import explanation_lines, rounded

NAMES = ("logged", "own_update", "motion", "mode", "sampling", "generalization")
numbers = st.floats(-1e9, 1e9, allow_subnormal=False)


def explanation(values: list[float], **more: Any) -> dict[str, Any]:
    terms = [
        {
            "name": name,
            "value": value,
            "difference": value - values[max(0, index - 1)],
            "stderr": 0.0125 if name == "sampling" else None,
            "meaning": f"what the {name} of this run means, in some words",
        }
        for index, (name, value) in enumerate(zip(NAMES, values, strict=False))
    ]
    return {
        "step": 120,
        "metric": "loss",
        "split": "validation",
        "gap": values[-1] - values[0],
        "terms": terms,
        "dominant": "motion",
        "open_steps": [],
        "window": [100, 118],
        "weights": "raw",
        "replayed_from": 99,
        "reproduced": True,
        "notes": [],
        **more,
    }


@given(st.lists(numbers, min_size=3, max_size=6))
def test_the_printed_differences_add_up_to_the_printed_gap(values: list[float]) -> None:
    lines = explanation_lines(explanation(values), "runs/x", 200)
    rows = [line.split() for line in lines if re.match(r"  (logged|own|motion|mode|sampling|general)", line)]
    differences = [
        Decimal(next(cell for cell in row if re.fullmatch(r"[+-][\d.E+-]+", cell) and cell != row[1]))
        for row in map(_without_value, rows[1:])
    ]
    gap = Decimal(next(line for line in lines if line.startswith("gap")).split()[1].rstrip(";:"))
    assert sum(differences) == gap


def _without_value(row: list[str]) -> list[str]:
    """The cells of a row without its first number, which is the value."""
    at = next(index for index, cell in enumerate(row) if re.fullmatch(r"-?[\d.E+-]+", cell))
    return ["", "", *row[at + 1 :]]


@given(numbers)
def test_the_largest_value_has_six_digits_and_none_is_hidden(value: float) -> None:
    (shown,) = rounded([value])
    assert float(shown) == pytest.approx(value, rel=1e-5, abs=1e-11)


def test_it_says_what_is_explained_what_dominates_and_what_is_in_no_record() -> None:
    value = explanation([0.5, 0.25, 0.125, 0.25, 0.25, 0.375], open_steps=[119, 120], notes=["one thing was left out"])
    lines = explanation_lines(value, "runs/x", 120)
    assert lines[0] == (
        "runs/x: why the logged train loss 0.500000 is not the validation loss of checkpoint 120, 0.375000"
    )
    assert lines[1].endswith("the steps 101 to 118, trained again from checkpoint 99: reproduced to the last bit")
    assert "gap -0.125000; the largest part of it is motion, -0.125000" in lines
    assert (
        "the steps 119 to 120 are in no record yet: checkpoint 120 lies inside the window that is open there" in lines
    )
    assert lines[-1] == "note: one thing was left out"
    (sampling,) = [line for line in lines if line.startswith("  sampling")]
    assert re.search(r"0\.250000 +\+0\.000000 +± 0\.013 ", sampling)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_of_the_table_is_wider_than_the_terminal(width: int) -> None:
    lines = explanation_lines(explanation([0.5, 0.25, 0.125, 0.25, 0.25, 0.375]), "runs/x", width)
    table = lines[3 : lines.index("", 3)]
    assert max(map(len, table)) <= max(width, 50)
