"""What is left of a curve looks like all of it: no extreme and no gap is lost."""

from __future__ import annotations

import hypothesis
import numpy as np
from hypothesis import strategies

from trainer.views.page.decimate import visible

COLUMNS = 7


VALUES = strategies.floats(-1e300, 1e300) | strategies.sampled_from([float("nan"), 0.0, 1.0])


@strategies.composite
def curves(draw: strategies.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Many points from few numbers: a seed spreads a handful of values over the steps."""
    some = np.array(draw(strategies.lists(VALUES, min_size=1, max_size=8)))
    random = np.random.default_rng(draw(strategies.integers(0, 1000)))
    count = draw(strategies.integers(0, 150))
    return np.sort(random.integers(0, 1000, count, endpoint=True).astype(float)), random.choice(some, count)


def columns_of(steps: np.ndarray) -> np.ndarray:
    return np.minimum((steps / 1000 * COLUMNS).astype(int), COLUMNS - 1)


@hypothesis.given(curves())
def test_each_column_of_pixels_keeps_its_ends_its_extremes_and_its_gaps(curve: tuple[np.ndarray, np.ndarray]) -> None:
    steps, values = curve
    kept = visible(steps, values, low=0, high=1000, columns=COLUMNS)
    assert (np.diff(kept) > 0).all()
    shown = steps[kept], values[kept]
    for column in np.unique(columns_of(steps)):
        every, left = values[columns_of(steps) == column], shown[1][columns_of(shown[0]) == column]
        assert np.array_equal(every[[0, -1]], left[[0, -1]], equal_nan=True)
        assert np.isnan(every).any() == np.isnan(left).any()
        if not np.isnan(every).all():
            assert (np.nanmin(every), np.nanmax(every)) == (np.nanmin(left), np.nanmax(left))


@hypothesis.given(curves())
def test_a_stretch_without_a_finite_value_interrupts_what_is_left_too(curve: tuple[np.ndarray, np.ndarray]) -> None:
    steps, values = curve
    kept = visible(steps, values, low=0, high=1000, columns=COLUMNS)
    gaps = np.flatnonzero(np.isnan(values))
    columns = set(columns_of(steps[kept[np.isnan(values[kept])]]))
    assert set(columns_of(steps[gaps])) == columns


@hypothesis.given(curves())
def test_what_is_left_is_bounded_and_a_short_curve_stays_whole(curve: tuple[np.ndarray, np.ndarray]) -> None:
    steps, values = curve
    kept = visible(steps, values, low=0, high=1000, columns=COLUMNS)
    assert len(kept) <= 6 * COLUMNS
    if len(steps) <= COLUMNS:
        assert kept.tolist() == list(range(len(steps)))


def test_of_a_million_values_the_spike_and_the_single_gap_are_left() -> None:
    steps, values = np.arange(1e6), np.zeros(1_000_000)
    values[612_345], values[300_001] = 9.5, np.nan
    kept = visible(steps, values, low=0, high=1e6, columns=800)
    assert {612_345, 300_001} <= set(kept.tolist())
    assert len(kept) < 3300
