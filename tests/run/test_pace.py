"""How long the next chunk may be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.run.pace import Pace

# What a clock of nanoseconds can tell.
SECONDS = st.one_of(st.just(0.0), st.floats(1e-9, 1e4))


def test_the_first_chunk_is_one_step_because_nothing_is_known() -> None:
    assert Pace(1.0).steps == 1


def test_the_pace_settles_at_what_fits_into_the_tick() -> None:
    pace = Pace(1.0)
    for _ in range(10):
        pace.learn(pace.steps, pace.steps * 0.01)
    assert pace.steps == 100


def test_one_fast_call_is_not_believed_at_once() -> None:
    pace = Pace(1.0)
    pace.learn(1, 1e-6)
    assert pace.steps <= 10


def test_a_chunk_that_took_too_long_is_cut_down_at_once() -> None:
    pace = Pace(1.0)
    for _ in range(10):
        pace.learn(pace.steps, pace.steps * 0.001)
    pace.learn(pace.steps, 100.0)
    assert pace.steps == 10


def test_a_clock_that_did_not_move_is_no_division_by_zero() -> None:
    pace = Pace(1.0)
    pace.learn(1, 0.0)
    assert pace.steps > 1


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.lists(SECONDS, max_size=20))
def test_a_chunk_is_always_at_least_one_step(tick: float, durations: list[float]) -> None:
    pace = Pace(tick)
    for seconds in durations:
        before = pace.steps
        pace.learn(before, seconds)
        assert 1 <= pace.steps <= 10 * before
        # What is expected of the next call fits the tick, unless a single step does not.
        if pace.steps > 1:
            assert pace.steps * (seconds / before) <= tick * (1 + 1e-9)
