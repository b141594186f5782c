"""The clock of an attempt: each moment belongs to one part, and none is counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.ledger.journal import DATA_WAIT, EVALUATE, LOG, PARTS, RESTORE, SAVE, START, STEP, TOTAL
from trainer.run.timing import Times, start_line


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def times(clock: Clock) -> Times:
    return Times(clock)


def spend(times: Times, clock: Clock, part: str, seconds: float) -> None:
    with times(part):
        clock.now += seconds


def test_before_the_first_steps_what_belongs_to_no_part_is_the_start(times: Times, clock: Clock) -> None:
    clock.now += 3
    spend(times, clock, RESTORE, 2)
    clock.now += 1
    told = times.to_json()
    assert (told[START], told[RESTORE], told[TOTAL]) == (4, 2, 6)


def test_the_first_chunk_in_which_the_program_is_compiled_belongs_to_the_start(times: Times, clock: Clock) -> None:
    spend(times, clock, STEP, 7)
    times.trained(waited=5)
    spend(times, clock, STEP, 2)
    times.trained(waited=0.5)
    told = times.to_json()
    assert (told[START], told[STEP], told[DATA_WAIT]) == (7, 1.5, 0.5)


def test_after_the_first_steps_what_belongs_to_no_part_is_in_the_total_alone(times: Times, clock: Clock) -> None:
    times.trained(waited=0)
    clock.now += 4
    told = times.to_json()
    assert told == {**dict.fromkeys(PARTS, 0), TOTAL: 4}


def test_what_is_within_another_part_is_charged_to_the_inner_one(times: Times, clock: Clock) -> None:
    times.trained(waited=0)
    with times(SAVE):
        clock.now += 1
        spend(times, clock, LOG, 2)
        clock.now += 4
    told = times.to_json()
    assert (told[SAVE], told[LOG], told[TOTAL]) == (5, 2, 7)


def test_a_part_that_raises_is_charged_and_over(times: Times, clock: Clock) -> None:
    times.trained(waited=0)

    def fail() -> None:
        with times(EVALUATE):
            clock.now += 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    clock.now += 2
    told = times.to_json()
    assert (told[EVALUATE], told[TOTAL]) == (1, 3)


def test_it_can_be_asked_in_the_middle_of_a_part(times: Times, clock: Clock) -> None:
    with times(SAVE):
        clock.now += 1
        assert times.to_json()[SAVE] == 1
        clock.now += 1
    assert times.to_json()[SAVE] == 2


def test_they_are_to_be_told_after_the_first_chunk_and_then_once_a_minute(times: Times, clock: Clock) -> None:
    assert times.trained(waited=0)
    times.to_json()
    clock.now += 59
    assert not times.trained(waited=0)
    clock.now += 1
    assert times.trained(waited=0)
    times.to_json()
    clock.now += 1
    assert not times.trained(waited=0)


def test_the_clock_may_begin_before_it_is_made(clock: Clock) -> None:
    times = Times(clock, since=3.0)
    clock.now += 1
    assert times.age == 4
    spend(times, clock, RESTORE, 2)
    told = times.to_json()
    assert (told[START], told[RESTORE], told[TOTAL]) == (4, 2, 6)


def test_the_age_grows_whatever_the_time_goes_into(times: Times, clock: Clock) -> None:
    assert times.age == 0
    with times(SAVE):
        clock.now += 2
        assert times.age == 2
    clock.now += 1
    assert times.age == 3


def test_what_the_start_consists_of_is_told_with_the_first_step_and_only_then(clock: Clock) -> None:
    times = Times(clock, since=1.0)
    for what, seconds in (("import", 4), ("build", 2), ("import", 1)):
        with times.starting(what):
            clock.now += seconds
    assert "start" not in times.told()
    assert times.first_step_s is None
    spend(times, clock, RESTORE, 0.5)
    spend(times, clock, STEP, 3)
    times.trained(waited=0)
    assert times.first_step_s == 11.5
    told = times.told()
    assert (told["first_step_s"], told["start"]) == (11.5, {"import": 5, "build": 2, "first_chunk": 3})
    assert (told["seconds"][START], told["seconds"][STEP], told["seconds"][TOTAL]) == (11, 0, 11.5)
    spend(times, clock, STEP, 3)
    times.trained(waited=0)
    assert list(times.told()) == ["seconds"]
    assert times.first_step_s == 11.5


def test_what_came_to_nothing_is_in_the_total_alone(times: Times, clock: Clock) -> None:
    times.trained(waited=0)
    spend(times, clock, STEP, 2)
    with times(STEP):
        clock.now += 10
        told = times.to_json(unfinished=True)
    assert (told[STEP], told[TOTAL]) == (2, 12)


def test_a_part_of_the_start_that_raises_is_told(times: Times, clock: Clock) -> None:
    def fail() -> None:
        with times.starting("build"):
            clock.now += 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert times.start == {"build": 2}


@given(
    st.lists(
        st.tuples(st.sampled_from([None, *PARTS]), st.integers(0, 50), st.sampled_from([None, *PARTS]), st.booleans())
    )
)
def test_the_parts_are_never_more_than_the_total_and_the_total_is_all_of_the_time(
    course: list[tuple[str | None, int, str | None, bool]],
) -> None:
    clock = Clock()
    times = Times(clock)
    for outer, seconds, inner, trained in course:
        if outer is None:
            clock.now += seconds
        else:
            with times(outer):
                clock.now += seconds
                if inner is not None:
                    spend(times, clock, inner, seconds)
        if trained:
            times.trained(waited=0)
    told = times.to_json()
    assert list(told) == [*PARTS, TOTAL]
    assert told[TOTAL] == clock.now - 100
    assert sum(told[part] for part in PARTS) <= told[TOTAL]


def test_a_person_reads_of_each_part_of_the_start_how_long_it_took() -> None:
    told = {"first_step_s": 5.0567, "start": {"import": 2.84, "first_chunk": 0.0321}}
    assert start_line(told) == "first step after 5.06 s: import 2.8 s, first chunk 0.032 s"
    told = {"first_step_s": 3725.2, "start": {"compile": 123.4}}
    assert start_line(told) == "first step after 1h 02m: compile 2m 03s"
    assert start_line({"seconds": {}}) is None
