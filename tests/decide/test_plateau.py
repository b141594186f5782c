"""Where the train loss stopped improving."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.decide.plateau import Plateau, Point, find_plateau
from trainer.errors import Unusable
from trainer.ledger.record import Record

LOSSES = st.lists(st.sampled_from([0, 0, 0, 0, 0.25, 1, 8, -0.25, -1]), min_size=9, max_size=60).map(
    lambda drops: [100.0 - drop for drop in itertools.accumulate([0.0, *drops])]
)
"""Of whole quarters, which mostly fall."""


def records(losses: Sequence[float | None]) -> list[Record]:
    """A record each 10 steps."""
    return [
        Record("train", 10 * end, 0, None, {"loss": loss}, window=(10 * end - 10, 10 * end))
        for end, loss in enumerate(losses, start=1)
    ]


def found(losses: Sequence[float | None]) -> Plateau:
    return find_plateau(records(losses))


def falling(count: int, *, over: float = 5.0, to: float = 0.0, noise: float = 0.0, seed: int = 0) -> list[float]:
    """An exponential from `to` + 1, with normal noise."""
    drawn = random.Random(seed)
    return [to + math.exp(-index / over) + drawn.gauss(0, noise) for index in range(count)]


def smoothed(losses: Sequence[float]) -> dict[int, float]:
    """The median of five records in a row, by the step at which the last of them ends."""
    return {10 * end: statistics.median(losses[end - 5 : end]) for end in range(5, len(losses) + 1)}


def test_the_loss_is_smoothed_over_five_records_and_has_stopped_at_98_percent_of_its_gain() -> None:
    # Medians of five: 5, 5, 5, 4, 3, 2, 1, three times what is left, 0 …
    def losses(left: float) -> list[float]:
        return [5.0, 5, 5, 5, 5, 4, 3, 2, 1, left, left, left, 0, 0, 0, 0, 0, 0]

    plateau = found(losses(0.05))
    assert plateau.first == Point(50, 5.0)
    assert plateau.lowest == Point(150, 0.0)
    # What is still to come after step 120 is 0.05 of 5, which is less than 2 %.
    assert plateau.stopped == 120
    assert str(plateau) == (
        "the smoothed train loss fell from 5 at step 50 to 0 at step 150; 98% of that was reached at step 120"
    )
    assert found(losses(0.2)).stopped == 150


@given(LOSSES, st.integers(-1000, 1000), st.integers(-8, 8))
def test_only_the_shape_matters(losses: list[float], offset: int, power: int) -> None:
    try:
        plateau = found(losses)
    except Unusable:
        assume(False)
    rest = [value - plateau.lowest.loss for value in smoothed(losses).values()]
    threshold = plateau.noise or 0.02 * (plateau.first.loss - plateau.lowest.loss)
    # What lies at the threshold itself falls to either side by the last bit.
    assume(all(abs(value - threshold) > 1e-6 for value in rest))
    moved = found([(offset + loss) * 2.0**power for loss in losses])
    assert (moved.stopped, moved.first.step) == (plateau.stopped, plateau.first.step)


@given(LOSSES)
def test_after_it_stopped_little_was_gained_and_before_it_more_was_to_come(losses: list[float]) -> None:
    try:
        plateau = found(losses)
    except Unusable:
        assume(False)
    assert plateau.lowest.loss < plateau.first.loss
    values = smoothed(losses)
    assert plateau.lowest.loss == min(values.values())
    if plateau.stopped is not None:
        allowed = plateau.noise or 0.02 * (plateau.first.loss - plateau.lowest.loss)
        assert values[plateau.stopped] - plateau.lowest.loss <= allowed + 1e-9
        earlier = [value for step, value in values.items() if step < plateau.stopped]
        assert all(value - plateau.lowest.loss >= allowed - 1e-9 for value in earlier)
        assert plateau.stopped <= plateau.lowest.step


@pytest.mark.parametrize("to", [0.0, -50.0, 3.0])
def test_negative_losses_are_losses(to: float) -> None:
    assert found(falling(50, to=to)).stopped == 250


def test_a_loss_that_rises_at_the_end_stopped_where_it_was_low() -> None:
    losses = [*falling(50), *(index / 20 for index in range(20))]
    assert found(losses).stopped == 250


@pytest.mark.parametrize(("index", "value"), [(40, 50.0), (0, 1e6), (30, -3.0), (12, 1e308)])
def test_a_record_that_stands_out_is_neither_noise_nor_an_improvement(index: int, value: float) -> None:
    quiet, losses = found(falling(60)), falling(60)
    losses[index] = value
    assert abs((found(losses).stopped or 0) - (quiet.stopped or 0)) <= 10


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_put_it_where_the_luckiest_records_are(seed: int) -> None:
    quiet, noisy = found(falling(200, over=20)), found(falling(200, over=20, noise=0.05, seed=seed))
    # Its luckiest is anywhere in the second half.
    assert 0.5 * (quiet.stopped or 0) <= (noisy.stopped or 0) <= 1.25 * (quiet.stopped or 0)
    assert "all but its noise of 0.0" in str(noisy)


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * 20,
        [float(index) for index in range(20)],
        falling(200, over=1e9, noise=0.05, seed=1),
        falling(1000, over=1e9, noise=0.05, seed=2),
    ],
    ids=["constant", "rising", "noise", "more noise"],
)
def test_a_loss_that_never_improved_has_no_plateau(losses: list[float]) -> None:
    with pytest.raises(Unusable, match=r"the train loss never improved.* at step 50, .*; name a step") as caught:
        found(losses)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [10, 20, 60, 200, 1000])
def test_a_loss_that_still_improves_has_not_stopped(count: int) -> None:
    plateau = found([float(count - index) for index in range(count)])
    assert plateau.stopped is None
    assert str(plateau).endswith("was still improving at the end of the log")


def test_two_records_after_it_are_enough() -> None:
    assert found([*[9.0] * 5, *[1.0] * 5]).stopped == 80
    assert found([*[9.0] * 6, *[1.0] * 4]).stopped is None


def test_windows_without_a_loss_and_evaluations_are_passed_over() -> None:
    losses: list[float | None] = list(falling(50))
    plain = found(losses)
    losses.insert(3, None)
    log = records(losses)
    log.insert(5, Record("eval", 50, 0, None, {"loss": -1e9}, split="validation", weights="raw"))
    log.insert(6, Record("train", 50, 0, None, {"other": 1.0}, window=(40, 50)))
    plateau = find_plateau(log)
    assert (plateau.first.loss, plateau.stopped) == (plain.first.loss, 260)


@pytest.mark.parametrize("losses", [[], [1.0] * 9, [*falling(9), None, None]])
def test_too_few_records_are_refused(losses: list[float | None]) -> None:
    with pytest.raises(Unusable, match=rf"^{min(len(losses), 9)} train records.*takes 10; log more often"):
        found(losses)
