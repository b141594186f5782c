"""How steps consume examples, against a loop that takes one batch after another."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.timeline.stepping import Stepping

STEPPINGS = st.builds(
    Stepping,
    st.integers(1, 40),
    st.none() | st.integers(1, 60),
    st.sampled_from(["wrap", "short"]),
    origin=st.integers(0, 200),
)


def one_step(stepping: Stepping, examples: int) -> int:
    """Takes one batch; in `short` mode only what the pass still has."""
    if stepping.last == "wrap" or stepping.data_examples is None:
        return examples + stepping.batch_size
    left = stepping.data_examples - (examples - stepping.origin) % stepping.data_examples
    return examples + min(stepping.batch_size, left)


@given(STEPPINGS, st.integers(0, 300), st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_advance_is_that_many_batches(stepping: Stepping, examples: int, steps: int) -> None:
    expected = examples
    for _ in range(steps):
        expected = one_step(stepping, expected)
    assert stepping.advance(examples, steps) == expected


@given(STEPPINGS, st.integers(0, 10**15), st.integers(0, 10**12), st.integers(0, 10**12))
@settings(max_examples=100, deadline=None)
def test_advancing_twice_is_advancing_once(stepping: Stepping, examples: int, first: int, second: int) -> None:
    assert stepping.advance(stepping.advance(examples, first), second) == stepping.advance(examples, first + second)


@given(STEPPINGS, st.integers(0, 10**15), st.integers(-100, 10**12))
@settings(max_examples=100, deadline=None)
def test_steps_to_is_the_fewest_that_reach_the_target(stepping: Stepping, examples: int, distance: int) -> None:
    target = examples + distance
    steps = stepping.steps_to(examples, target)
    assert stepping.advance(examples, steps) >= target
    assert steps == 0 or stepping.advance(examples, steps - 1) < target


@given(STEPPINGS, st.integers(0, 300), st.integers(0, 300), st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_passes_that_begin_later_are_those_of_a_run_that_begins_there(
    stepping: Stepping, origin: int, examples: int, steps: int
) -> None:
    first, later = (dataclasses.replace(stepping, origin=place) for place in (0, origin))
    assert later.advance(origin + examples, steps) == origin + first.advance(examples, steps)
    assert later.steps_to(origin + examples, origin + examples + 17) == first.steps_to(examples, examples + 17)


@pytest.mark.parametrize("batch_size", [10, 11, 25])
def test_a_short_batch_never_takes_more_than_a_pass(batch_size: int) -> None:
    stepping = Stepping(batch_size, data_examples=10, last="short")
    assert [stepping.advance(0, steps) for steps in range(4)] == [0, 10, 20, 30]
