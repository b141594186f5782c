"""Early stopping: how long a metric may go without improvement."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.decide.early_stop import EarlyStop, parse_patience
from trainer.decide.monitor import Monitor
from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.timeline.duration import Duration
from trainer.timeline.schedule import Schedule

SCHEDULE = Schedule(train_for="100steps", batch_size=4, epoch_examples=40)
LOSS = Monitor("validation/loss", "min")
VALUES = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.floats(-10, 10)), max_size=25)


def evaluation(step: int, value: float | None, split: str = "validation") -> Record:
    return Record("eval", step, step * 4, step / 10, {"loss": value}, split=split, weights="raw")


def stopping(patience: str, *, monitor: Monitor = LOSS, **options: Any) -> EarlyStop:
    return EarlyStop(
        monitor,
        parse_patience(patience),
        place=lambda duration: SCHEDULE.place(duration, "early_stop"),
        **options,
    )


def stops_at(patience: str, values: list[float | None], *, every: int = 1, **options: Any) -> int | None:
    """The step at which a run ends that is evaluated every so many steps, with these values."""
    early_stop = stopping(patience, **options)
    for number, value in enumerate(values, start=1):
        early_stop.fold(evaluation(number * every, value))
        if early_stop.stopped:
            return number * every
    return None


@pytest.mark.parametrize(
    ("patience", "values", "expected"),
    [
        ("2evals", [0.5, 0.4, 0.4, 0.4, 0.1], 4),  # as good is no improvement
        ("2evals", [0.5, 0.6, 0.4, 0.5, 0.3], None),
        ("1eval", [0.5, 0.5], 2),
        ("2 evaluations", [None, None], 2),
        ("3evals", [None, 0.5, None, 0.6, None], 5),
        ("never", [0.5] * 50, None),
        ("1/10run", [0.5] * 50, 11),
    ],
)
def test_it_stops_when_so_many_evaluations_in_a_row_brought_no_improvement(
    patience: str, values: list[float | None], expected: int | None
) -> None:
    assert stops_at(patience, values) == expected


@pytest.mark.parametrize(
    ("patience", "expected"), [("5steps", 9), ("20examples", 9), ("0.5epochs", 9), ("7steps", 12), ("7steps,1eval", 6)]
)
def test_steps_examples_and_epochs_count_from_the_last_improvement_to_the_evaluation(
    patience: str, expected: int
) -> None:
    assert stops_at(patience, [0.5, 0.6, 0.6, 0.6, 0.6], every=3) == expected


def test_an_improvement_has_to_be_larger_than_min_delta_and_is_measured_from_the_last_one() -> None:
    values: list[float | None] = [1.0, 0.75, 0.5, 0.25, 0.0]
    assert stops_at("2evals", values, min_delta=0.25) is None  # 1.0, 0.5 and 0.0 improve
    assert stops_at("2evals", values, min_delta=0.5) == 3
    assert stops_at("2evals", [0.0, 0.25, 0.5, 0.75], min_delta=0.25, monitor=Monitor("validation/loss", "max")) is None


def test_with_a_baseline_only_what_is_better_than_it_improves() -> None:
    assert stops_at("3evals", [0.9, 0.8, 0.7, 0.6], baseline=0.5) == 3
    assert stops_at("3evals", [0.9, 0.8, 0.4, 0.4, 0.4, 0.4], baseline=0.5) == 6
    assert stops_at("6steps", [0.9, 0.8, 0.7], every=3, baseline=0.5) == 6  # counted from the beginning


def test_in_the_warm_up_nothing_is_looked_at_and_the_patience_begins_where_it_ends() -> None:
    warmup = Duration.parse("1epoch")
    values: list[float | None] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    # Evaluations at 3, 6 and 9 lie in the warm-up of 10 steps; the first value behind it is the bar.
    assert stops_at("2evals", values, every=3, warmup=warmup) == 18
    assert stops_at("9steps", values, every=3, warmup=warmup, baseline=0.05) == 18


def test_other_splits_and_windows_are_none_of_its_business() -> None:
    early_stop = stopping("1eval")
    for step in (1, 2, 3):
        early_stop.fold(evaluation(step, 0.5, split="test"))
        early_stop.fold(Record("train", step, step * 4, None, {"loss": 0.5}, window=(step - 1, step)))
    assert not early_stop.stopped


@settings(deadline=None)
@given(
    values=VALUES,
    cut=st.integers(0, 25),
    patience=st.sampled_from(["2evals", "3steps", "0.5epochs"]),
    warmup=st.sampled_from([None, Duration.parse("4steps")]),
    baseline=st.sampled_from([None, 0.5]),
    delta=st.sampled_from([0.0, 0.25]),
)
def test_a_resume_at_any_evaluation_has_the_patience_of_the_undisturbed_run(
    values: list[float | None], cut: int, patience: str, warmup: Duration | None, baseline: float | None, delta: float
) -> None:
    options: dict[str, Any] = {"warmup": warmup, "baseline": baseline, "min_delta": delta}
    undisturbed, first, resumed = (stopping(patience, **options) for _ in range(3))
    for step, value in enumerate(values, start=1):
        undisturbed.fold(evaluation(step, value))
        if step <= cut:
            first.fold(evaluation(step, value))
    resumed.restore(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    assert resumed.stopped == first.stopped
    for step, value in enumerate(values[cut:], start=cut + 1):
        resumed.fold(evaluation(step, value))
    assert resumed.to_json() == undisturbed.to_json()


def test_a_run_that_has_stopped_stays_so_and_goes_on_only_with_more_patience() -> None:
    first = stopping("2evals")
    for step, value in enumerate([0.5, 0.6, 0.6], start=1):
        first.fold(evaluation(step, value))
    assert first.stopped
    assert "validation/loss has not improved on 0.5 since step 1" in first.why
    for patience, stopped in (("2evals", True), ("1eval", True), ("3evals", False), ("3steps", False)):
        again = stopping(patience)
        again.restore(first.to_json())
        assert again.stopped == stopped


def test_less_patience_stops_a_run_at_its_next_evaluation_and_not_at_its_start() -> None:
    first = stopping("9evals")
    for step, value in enumerate([0.5, 0.6, 0.6], start=1):
        first.fold(evaluation(step, value))
    less = stopping("1eval")
    less.restore(first.to_json())
    assert not less.stopped
    less.fold(evaluation(4, 0.6))
    assert less.stopped


def test_a_warm_up_until_later_takes_a_stop_back() -> None:
    first = stopping("1eval")
    for step in (2, 4):
        first.fold(evaluation(step, 0.5))
    assert first.stopped
    for steps, stopped in (("4steps", True), ("5steps", False)):
        again = stopping("1eval", warmup=Duration.parse(steps))
        again.restore(first.to_json())
        assert again.stopped == stopped


def test_a_warm_up_made_longer_on_resume_leaves_what_an_undisturbed_one_would() -> None:
    warmup = Duration.parse("100steps")
    first, resumed, undisturbed = (
        stopping("3evals"),
        stopping("3evals", warmup=warmup),
        stopping("3evals", warmup=warmup),
    )
    for step in (10, 20, 30, 40):
        first.fold(evaluation(step, 0.5))
        undisturbed.fold(evaluation(step, 0.5))
    assert first.stopped
    resumed.restore(first.to_json())
    assert resumed.to_json() == undisturbed.to_json()


def test_a_patience_of_a_fraction_is_over_at_the_first_step_that_is_not_before_it() -> None:
    # A third of an epoch is 13.33 examples: 4 steps of 4 are more, 3 are not. A third of the run is 33.33 steps.
    assert stops_at("1/3epochs", [0.5] * 9) == 5
    assert stops_at("1/3run", [0.5] * 50) == 35


def test_what_is_kept_tells_where_the_last_measurement_was() -> None:
    early_stop = stopping("9evals")
    for step, value in ((3, 0.5), (6, 0.4), (9, 0.6)):
        early_stop.fold(evaluation(step, value))
        kept = early_stop.to_json()
        assert (kept["last_step"], kept["last_examples"]) == (step, 4 * step)
    assert (kept["value"], kept["step"], kept["examples"], kept["evals"]) == (0.4, 6, 24, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("90s", "counts seconds"),
        ("0evals", "not positive"),
        ("1.5evals", "unknown unit 'evals'"),
        ("soon", "'soon' is no duration"),
        ("1_evals", "unknown unit|no duration"),
        ("9" * 5000 + "evals", "is too large|unknown unit"),
        ("5evals,", "'' is no duration"),
    ],
)
def test_what_is_no_patience_is_refused_with_examples(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_patience(text)
    assert "5evals or 2epochs" in str(caught.value)
    assert "\n" not in str(caught.value)
