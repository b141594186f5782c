"""The loss scale: down after an overflow, up after a long time without one, within its bounds."""

from __future__ import annotations

import tensorflow as tf

from trainer.run.loss_scale import GROWTH_STEPS, INITIAL, LEAST, MOST, LossScale


def told(scale: LossScale, *finite: bool) -> tuple[float, int]:
    """Tells of updates; returns the scale and how many finite ones it counts."""
    for each in finite:
        scale.update(tf.constant(each))
    return float(scale.scale), int(scale.finite_steps)


def test_it_halves_after_an_overflow_and_counts_anew() -> None:
    scale = LossScale()
    scale.finite_steps.assign(5)
    assert told(scale, False) == (INITIAL / 2, 0)
    assert told(scale, False, False) == (INITIAL / 8, 0)


def test_it_doubles_after_2000_finite_updates_in_a_row() -> None:
    assert GROWTH_STEPS == 2000
    scale = LossScale()
    scale.finite_steps.assign(GROWTH_STEPS - 2)
    assert told(scale, True) == (INITIAL, GROWTH_STEPS - 1)
    assert told(scale, True) == (2 * INITIAL, 0)
    assert told(scale, True) == (2 * INITIAL, 1)


def test_an_overflow_just_before_it_would_double_begins_the_row_again() -> None:
    scale = LossScale()
    scale.finite_steps.assign(GROWTH_STEPS - 1)
    assert told(scale, False, True) == (INITIAL / 2, 1)


def test_it_stays_within_its_bounds() -> None:
    assert (LEAST, MOST) == (1, 2**24)
    scale = LossScale()
    scale.scale.assign(2.0)
    assert bool(scale.can_halve())
    assert told(scale, False) == (1.0, 0)
    assert not bool(scale.can_halve())
    assert told(scale, False) == (1.0, 0)
    scale.scale.assign(MOST)
    scale.finite_steps.assign(GROWTH_STEPS - 1)
    assert told(scale, True) == (MOST, 0)


def test_it_is_a_power_of_two_all_along() -> None:
    scale = LossScale()
    for finite in (False, False, True, False):
        scale.finite_steps.assign(GROWTH_STEPS - 1)
        value, _ = told(scale, finite)
        assert float.hex(value).startswith("0x1.0000000000000p")


def test_a_checkpoint_holds_the_scale_and_the_count() -> None:
    assert tf.train.TrackableView.children(LossScale()).keys() == {"scale", "finite_steps"}
