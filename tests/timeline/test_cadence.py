"""Cadences and their grids: anchored at 0, exact, and crossed at the first step that reaches a point."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.timeline.cadence import Cadence, Grid, Progress, cadence_of, countable, position_on, resolve
from trainer.timeline.duration import EPOCH, EXAMPLE, RUN, SECOND, STEP, Duration

PERIODS = st.fractions(min_value=Fraction(1, 50), max_value=200, max_denominator=60)


def grid_of(period: Fraction, axis: str = STEP) -> Grid:
    return Grid(axis, period.numerator, period.denominator)


def test_joined_durations_are_read_in_their_order() -> None:
    cadence = Cadence.parse("100steps, 1epoch,2h")
    assert cadence.durations == tuple(map(Duration.parse, ("100steps", "1epoch", "2h")))
    assert str(cadence) == "100steps,1epoch,7200s"
    assert countable(cadence) == cadence.durations[:2]
    assert [cadence.has(unit) for unit in (STEP, EPOCH, SECOND, EXAMPLE, RUN)] == [True, True, True, False, False]


def test_a_bare_number_means_steps() -> None:
    assert Cadence.parse(100) == Cadence.parse("100") == Cadence.parse("100steps")


def test_never_has_no_durations() -> None:
    assert Cadence.parse("never").durations == Cadence.parse(" never ").durations == ()
    assert str(Cadence.parse("never")) == "never"


def test_auto_is_for_saves_and_has_no_durations() -> None:
    for text in ("auto", " auto "):
        cadence = cadence_of("save_every", text)
        assert (cadence.auto, cadence.durations, str(cadence)) == (True, (), "auto")
    assert cadence_of("save_every", str(cadence)) == cadence
    assert not any(Cadence.parse(text).auto for text in ("never", "100steps", "1h,2epochs"))
    assert cadence != Cadence.parse("never")


@pytest.mark.parametrize("flag", ["train_for", "log_every", "eval_every", "keep_every", "early_stop"])
def test_nothing_else_has_an_automatic_interval(flag: str) -> None:
    with pytest.raises(ConfigError, match=rf"{flag}=auto.*only save_every") as caught:
        cadence_of(flag, "auto")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["auto,100steps", "1epoch, auto", "auto,auto", "never,auto"])
def test_auto_stands_alone(text: str) -> None:
    with pytest.raises(ConfigError, match="auto stands alone"):
        Cadence.parse(text)


@pytest.mark.parametrize(
    "text", ["sometimes", "100steps,", "100steps,never", ",", "", "100steps;1epoch", "autos", "2auto", "Auto"]
)
def test_what_is_no_cadence_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Cadence.parse(text)


@given(PERIODS, st.integers(0, 500), st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_a_point_is_crossed_exactly_when_the_floor_of_the_quotient_grows(period: Fraction, one: int, two: int) -> None:
    before, now = sorted((one, two))
    crossed = math.floor(now / period) > math.floor(before / period)
    assert grid_of(period).crossed(before, now) == crossed
    assert grid_of(period).index(now) == math.floor(now / period)


@given(PERIODS, st.floats(0, 1e9))
@settings(max_examples=100, deadline=None)
def test_seconds_are_placed_exactly(period: Fraction, seconds: float) -> None:
    assert grid_of(period, SECOND).index(seconds) == math.floor(Fraction(seconds) / period)


@given(PERIODS, st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_the_following_position_is_the_first_that_crosses(period: Fraction, position: int) -> None:
    grid = grid_of(period)
    following = grid.following(position)
    assert following > position
    assert grid.crossed(position, following)
    assert not grid.crossed(position, following - 1)


def test_grids_stay_exact_where_floats_would_not() -> None:
    tenth, far = Grid(EXAMPLE, 1, 10), 2**60 + 1
    assert tenth.index(far) == 10 * far
    assert Grid(STEP, 2**60).following(2**60 - 1) == 2**60
    third_of_a_run = Grid(STEP, 10**18, 3)
    assert third_of_a_run.following(2 * 10**18 // 3 + 1) == 10**18


def test_positions_are_read_off_the_axis() -> None:
    progress = Progress(step=3, examples=192, seconds=1.5)
    assert [position_on(axis, progress) for axis in (STEP, EXAMPLE, SECOND)] == [3, 192, 1.5]


@pytest.mark.parametrize(
    ("duration", "run", "grid"),
    [
        ("7steps", None, Grid(STEP, 7)),
        ("2.5epochs", None, Grid(EXAMPLE, 3750)),
        ("1/7epochs", None, Grid(EXAMPLE, 1500, 7)),
        ("90s", None, Grid(SECOND, 90)),
        ("1/15run", "1000steps", Grid(STEP, 200, 3)),
        ("1/15run", "1e6examples", Grid(EXAMPLE, 200_000, 3)),
        ("1/15run", "10epochs", Grid(EXAMPLE, 1000)),
    ],
)
def test_durations_lie_on_the_axis_that_counts_them(duration: str, run: str | None, grid: Grid) -> None:
    whole = Duration.parse(run) if run else None
    assert resolve(Duration.parse(duration), epoch_examples=1500, run=whole, flag="log_every") == grid


def test_epochs_of_data_without_a_length_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"save_every=1epoch .*set epoch_examples"):
        resolve(Duration.parse("1epoch"), epoch_examples=None, run=None, flag="save_every")


def test_a_share_of_a_run_without_a_countable_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"log_every=1/15run .*set train_for"):
        resolve(Duration.parse("1/15run"), epoch_examples=10, run=None, flag="log_every")
