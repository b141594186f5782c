"""Which checkpoints stay: the laws of a pure function."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.retention import kept_checkpoints
from trainer.ledger.manifest import RUN_REASONS, TRANSIENT_REASONS

REASONS = st.one_of(
    st.sets(st.sampled_from(sorted(TRANSIENT_REASONS)), min_size=1),
    st.sets(st.sampled_from(sorted(RUN_REASONS | TRANSIENT_REASONS)), min_size=1),
)
SAVES = st.dictionaries(st.integers(0, 30), REASONS, max_size=12)
KEEP_LAST = st.integers(1, 4)
BEST = st.sets(st.integers(0, 30), max_size=3)


@pytest.fixture(scope="session")
def kept(manifest):
    """Returns what stays of saves that are given as their reasons by step."""

    def keep(saves, *, keep_last, best=()):
        return kept_checkpoints(
            [manifest(step, reasons=tuple(reasons), train=None) for step, reasons in saves.items()],
            keep_last=keep_last,
            best_steps=best,
        )

    return keep


def regular(saves):
    """Returns the steps that the run's own course asked for."""
    return {step for step, reasons in saves.items() if reasons & RUN_REASONS}


def newest(steps, count=1):
    return set(sorted(steps)[-count:])


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST)
def test_exactly_the_newest_the_last_the_best_and_the_newest_transient_stay(kept, saves, keep_last, best):
    transient = saves.keys() - regular(saves)
    expected = newest(saves) | newest(regular(saves), keep_last) | newest(transient) | (best & saves.keys())
    assert kept(saves, keep_last=keep_last, best=best).keys() == expected


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST)
def test_each_checkpoint_that_stays_says_every_reason_why(kept, saves, keep_last, best):
    groups = {
        "newest": newest(saves),
        "last": newest(regular(saves), keep_last),
        "transient": newest(saves.keys() - regular(saves)),
        "best": best,
    }
    for step, reasons in kept(saves, keep_last=keep_last, best=best).items():
        assert sorted(reasons) == sorted(name for name, steps in groups.items() if step in steps)


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST)
def test_transient_saves_never_change_which_others_stay(kept, saves, keep_last, best):
    alone = {step: saves[step] for step in regular(saves)}
    with_transient = kept(saves, keep_last=keep_last, best=best).keys() & alone.keys()
    assert with_transient == kept(alone, keep_last=keep_last, best=best).keys()


@given(saves=SAVES, keep_last=KEEP_LAST)
def test_pruning_after_every_save_keeps_what_pruning_at_the_end_keeps(kept, saves, keep_last):
    left = {}
    for step in sorted(saves):
        left[step] = saves[step]
        left = {step: left[step] for step in kept(left, keep_last=keep_last)}
    assert left.keys() == kept(saves, keep_last=keep_last).keys()


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST, seed=st.integers())
def test_order_in_which_checkpoints_are_found_does_not_matter(kept, saves, keep_last, best, seed):
    shuffled = list(saves)
    random.Random(seed).shuffle(shuffled)
    found = {step: saves[step] for step in shuffled}
    assert kept(found, keep_last=keep_last, best=best) == kept(saves, keep_last=keep_last, best=best)


def test_no_checkpoints_keep_nothing(kept):
    assert kept({}, keep_last=3, best={100}) == {}


def test_save_that_the_run_and_a_clock_both_asked_for_is_not_transient(kept):
    saves = {100: {"interval", "signal"}, 200: {"signal"}, 300: {"time"}, 400: {"interval"}}
    assert kept(saves, keep_last=2) == {400: ("newest", "last"), 300: ("transient",), 100: ("last",)}
