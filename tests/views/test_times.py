"""Where the time of attempts went, summed and in words."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.ledger.journal import PARTS, TOTAL
from trainer.views.times import in_words, read_times, sum_of


def times(**seconds: float) -> dict[str, float]:
    return {**dict.fromkeys((*PARTS, TOTAL), 0.0), **seconds}


@pytest.mark.parametrize(
    "value", [None, 1.5, "x", [], {"total": "long"}, {"step": math.nan}, {"save": -1}, {"log": True}]
)
def test_what_is_no_split_is_none(value: Any) -> None:
    assert read_times(value) is None


def test_parts_that_a_line_lacks_are_none_of_its_time_and_others_are_left_out() -> None:
    assert read_times({"step": 2, "total": 3, "new": 1}) == times(step=2, total=3)


def test_the_sum_is_of_those_that_told() -> None:
    assert sum_of([None, times(step=1, total=2), times(step=3, save=1, total=5)]) == times(step=4, save=1, total=7)
    assert sum_of([None]) is None
    assert sum_of([]) is None


def test_shares_are_told_the_largest_first_and_what_is_small_with_the_rest() -> None:
    told = in_words(times(step=91, start=5, save=2, log=0.3, evaluation=1, total=100))
    assert told == "91% steps, 5% starting, 2% saving, 1% evaluating, 1% other of 1m 40s"


def test_no_time_at_all_has_no_shares() -> None:
    assert in_words(times()) == "0s"


@given(st.lists(st.floats(0, 1e6), min_size=len(PARTS) + 1, max_size=len(PARTS) + 1))
def test_any_split_has_words(seconds: list[float]) -> None:
    *parts, other = seconds
    split = dict(zip(PARTS, parts, strict=True))
    assert in_words({**split, TOTAL: sum(seconds)})
    assert other >= 0
