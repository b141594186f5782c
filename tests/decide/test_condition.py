"""Conditions on the metrics: what they mean, and that a resume goes on with their state."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.decide.condition import Conditions
from trainer.errors import ConfigError
from trainer.ledger.record import Record

VALUES = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.floats(-10, 10)), max_size=25)


def window(step: int, value: float | None) -> Record:
    return Record("train", step, step * 4, None, {"loss": value}, window=(step - 1, step))


def evaluation(step: int, value: float | None, name: str = "loss") -> Record:
    return Record("eval", step, step * 4, None, {name: value}, split="validation", weights="raw")


def held(text: str, values: list[float | None], **options: Any) -> list[bool]:
    conditions = Conditions(text, **options)
    return [hold(conditions, window(step, value)) for step, value in enumerate(values, start=1)]


def hold(conditions: Conditions, *records: Record) -> bool:
    for record in records:
        conditions.fold(record)
    return conditions.hold(records[-1].step)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train/loss<0.5", [False, True, False, False, True]),
        ("train/loss<=0.5", [True, True, False, False, True]),
        ("train/loss>0.5", [False, False, True, False, False]),
        ("train/loss>=.5", [True, False, True, False, False]),
        ("0.5 > train/loss", [False, True, False, False, True]),
        (" train/loss < 5e-1 , train/loss > 0.2 ", [False, True, False, False, False]),
        ("train/loss<0.5,train/loss>0.2,train/loss<0.3", [False, True, False, False, False]),
    ],
)
def test_a_comparison_holds_where_the_record_says_so_and_never_for_what_is_not_finite(
    text: str, expected: list[bool]
) -> None:
    assert held(text, [0.5, 0.25, 0.75, None, 0.125]) == expected


def test_all_of_several_conditions_have_to_be_measured_and_to_hold_at_the_same_step() -> None:
    conditions = Conditions("train/loss<0.1,validation/loss<0.15")
    assert not hold(conditions, window(1, 0.05))
    assert hold(conditions, window(2, 0.05), evaluation(2, 0.1))
    assert not hold(conditions, window(3, 0.05))  # that the validation was good before confirms nothing
    assert not hold(conditions, evaluation(4, 0.1))
    assert not hold(conditions, window(5, 0.05), evaluation(5, 0.2))
    assert not conditions.hold(6)


def test_a_mean_is_undefined_before_there_are_enough_records_and_with_one_that_is_not_finite() -> None:
    assert held("mean3(train/loss)<0.5", [0.0, 0.0, 0.0]) == [False, False, True]
    assert held("mean2(train/loss)<=0.5", [1.0, 0.0, 0.5, None, 0.0, 0.0, 9.0]) == [
        *(False, True, True, False, False, True, False)
    ]


@given(values=VALUES, count=st.integers(1, 6))
def test_a_mean_is_that_of_the_last_values(values: list[float | None], count: int) -> None:
    for step, told in enumerate(held(f"mean{count}(train/loss)<0.3", values), start=1):
        last = values[max(0, step - count) : step]
        known = [value for value in last if value is not None]
        assert told == (len(known) == count and math.fsum(known) / count < 0.3)


def test_a_moving_average_begins_at_the_first_value_and_is_undefined_where_the_value_is() -> None:
    assert held("ema0.5(train/loss)<=0.5", [0.5, 0.0, 1.0, None, 0.375]) == [True, True, False, False, True]
    assert held("ema0.5(train/loss)<=0.5", [0.5, None]) == [True, False]


def test_best_is_the_bar_that_the_values_before_have_set() -> None:
    values = [0.5, 0.5, 0.25, None, 0.375, 0.125]
    assert held("train/loss<best(train/loss)", values) == [True, False, True, False, False, True]
    rising = [0.5, 0.5, 0.75, None, 0.625, 0.875]
    assert held("train/loss>best(train/loss)", rising, mode_of=lambda metric: "max") == [
        *(True, False, True, False, False, True)
    ]


def test_what_is_best_of_an_accuracy_is_large() -> None:
    conditions = Conditions("validation/accuracy>best(validation/accuracy)")
    told = [hold(conditions, evaluation(step, value, "accuracy")) for step, value in enumerate([0.5, 0.4, 0.6])]
    assert told == [True, False, True]


def test_functions_nest() -> None:
    text = "mean2(train/loss)<best(mean2(train/loss))"
    assert held(text, [1.0, 0.5, 0.75, 0.25, 0.25]) == [False, True, True, True, True]
    assert held("best(mean2(train/loss))<0.6", [0.0, 0.0, 0.0]) == [False, False, True]


@pytest.mark.parametrize("outer", ["mean2", "ema0.5", "best"])
@pytest.mark.parametrize("inner", ["mean2", "ema0.5", "best"])
def test_any_function_of_any_function_can_be_kept_and_is_defined_some_time(outer: str, inner: str) -> None:
    conditions = Conditions(f"{outer}({inner}(train/loss))<1")
    for step in range(1, 6):
        conditions.fold(window(step, 0.5))
        json.dumps(conditions.to_json(), allow_nan=False)
    assert conditions.hold(5)


def test_both_sides_have_to_be_measured_at_the_step() -> None:
    for text in ("validation/loss<train/loss", "train/loss>validation/loss"):
        conditions = Conditions(text)
        assert hold(conditions, window(1, 0.5), evaluation(1, 0.25))
        assert not hold(conditions, evaluation(2, 0.25))
        assert not hold(conditions, window(3, 0.5))


def test_the_best_by_another_mode_begins_anew() -> None:
    first = Conditions("train/loss<best(train/loss)")
    for step, value in enumerate([0.9, 0.5], start=1):
        first.fold(window(step, value))
    other = Conditions("train/loss>best(train/loss)", lambda metric: "max")
    other.restore(first.to_json())
    assert hold(other, window(3, 0.25))


TEXTS = st.sampled_from(
    [
        "train/loss<0.3",
        "mean3(train/loss)<0.4",
        "ema0.9(train/loss)<0.4",
        "train/loss<best(train/loss)",
        "mean2(train/loss)<=best(mean2(train/loss)),ema0.5(train/loss)<0.5",
        "train/loss<mean2(best(train/loss)),train/loss<=ema0.5(best(train/loss))",
    ]
)


@settings(deadline=None)
@given(text=TEXTS, values=VALUES, cut=st.integers(0, 25))
def test_a_resume_at_any_record_decides_as_the_undisturbed_run(text: str, values: list[float | None], cut: int) -> None:
    cut = min(cut, len(values))
    undisturbed = held(text, values)
    first, resumed = Conditions(text), Conditions(text)
    for step, value in enumerate(values[:cut], start=1):
        first.fold(window(step, value))
    resumed.restore(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    # At the step of the cut itself it is as it was: an evaluation may still have to be made up for there.
    assert resumed.hold(cut) == first.hold(cut)
    later = [hold(resumed, window(step, value)) for step, value in enumerate(values[cut:], start=cut + 1)]
    assert later == undisturbed[cut:]
    assert resumed.to_json() == conditions_after(text, values).to_json()


def conditions_after(text: str, values: list[float | None]) -> Conditions:
    conditions = Conditions(text)
    for step, value in enumerate(values, start=1):
        conditions.fold(window(step, value))
    return conditions


def test_other_conditions_take_over_what_they_share_and_nothing_of_data_that_is_another_now() -> None:
    first = Conditions("mean2(train/loss)<0.5")
    first.fold(window(1, 0.0))
    for comparable, expected in ((True, True), (False, False)):
        second = Conditions("mean2(train/loss)<0.4,train/loss>-1")
        second.restore(first.to_json(), lambda metric, answer=comparable: answer)  # type: ignore[misc]
        assert hold(second, window(2, 0.0)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends where a metric"),
        ("train/loss", "ends where <"),
        ("train/loss<", "ends where a metric"),
        ("train/loss==0.1", "has 'train/loss==0.1' where a number"),
        ("train/loss=<0.1", "has 'train/loss=' where a number"),
        ("mean5(3)<train/loss", "has '3.0' where a metric for mean5"),
        ("train/loss<best(mean1(0.5))", "has '0.5' where a metric for mean1"),
        ("mean99999999999999999999(train/loss)<1", "meanN such as mean5 .up to 10000."),
        ("mean10001(train/loss)<1", "meanN such as mean5 .up to 10000."),
        (f"{'mean2(' * 2000}train/loss{')' * 2000}<1", "no more than 10 functions inside one another"),
        ("loss<0.1", "has 'loss' where a number, or a metric such as train/loss"),
        ("train/loss<0.1,", "ends where a metric"),
        ("train/loss<0.1 validation/loss<1", "has 'validation/loss' where a comma"),
        ("mean(train/loss)<0.1", "has 'mean' where meanN such as mean5"),
        ("mean0(train/loss)<0.1", "has 'mean0' where meanN"),
        ("ema1(train/loss)<0.1", "has 'ema1' where meanN"),
        ("mean5(train/loss<0.1", "has '<' where [)]"),
        ("mean5 train/loss<0.1", "has 'mean5' where a number"),
        ("train/loss<nan", "has 'nan' where a finite number"),
        ("1<2", "compares 1.0 with 2.0, and neither is measured"),
        (")<2", "has '[)]' where a metric"),
    ],
)
def test_what_is_not_of_the_grammar_is_refused_in_one_line_with_examples(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Conditions(text)
    assert "train/loss<0.1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_metric_that_its_records_do_not_have_is_refused_with_those_they_have() -> None:
    with pytest.raises(ConfigError, match=r"train/acc is in no record; expected one of train/loss"):
        Conditions("train/acc>0.5").fold(window(1, 0.1))
