"""Which checkpoints stay: the laws of a pure function."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoint.retention import kept_checkpoints, settled
from trainer.ledger.manifest import RUN_REASONS, TRANSIENT_REASONS

REASONS = st.one_of(
    st.sets(st.sampled_from(sorted(TRANSIENT_REASONS)), min_size=1),
    st.sets(st.sampled_from(sorted(RUN_REASONS | TRANSIENT_REASONS)), min_size=1),
)
SAVES = st.dictionaries(st.integers(0, 30), REASONS, max_size=12)
KEEP_LAST = st.integers(1, 4)
BEST = st.sets(st.integers(0, 30), max_size=3)
GOOD = st.sets(st.integers(0, 30), max_size=3)
RESUMED = st.none() | st.integers(0, 30)


@pytest.fixture(scope="session")
def made(manifest):
    """Returns the manifests of saves that are given as their reasons by step; those of `good` stay for good."""

    def make(saves, good=()):
        return {
            step: manifest(
                step, reasons=tuple(reasons), train=None, for_good=step in good and bool(reasons & RUN_REASONS)
            )
            for step, reasons in saves.items()
        }

    return make


@pytest.fixture(scope="session")
def kept(made):
    """Returns what stays of such saves."""

    def keep(saves, *, keep_last, best=(), good=(), resumed=None):
        return kept_checkpoints(made(saves, good).values(), keep_last=keep_last, best_steps=best, resumed_from=resumed)

    return keep


def regular(saves):
    """Returns the steps that the run's own course asked for."""
    return {step for step, reasons in saves.items() if reasons & RUN_REASONS}


def newest(steps, count=1):
    return set(sorted(steps)[-count:])


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST, good=GOOD, resumed=RESUMED)
def test_exactly_what_has_a_reason_stays_and_says_every_reason_why(kept, saves, keep_last, best, good, resumed):
    groups = {
        "newest": newest(saves),
        "last": newest(regular(saves), keep_last),
        "best": best,
        "every": good & regular(saves),
        "transient": newest(saves.keys() - regular(saves)),
        "resumed": {resumed},
    }
    stay = kept(saves, keep_last=keep_last, best=best, good=good, resumed=resumed)
    assert stay == {
        step: why for step in saves if (why := tuple(name for name, steps in groups.items() if step in steps))
    }


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST, good=GOOD, resumed=RESUMED)
def test_there_is_always_one_and_it_is_the_newest(kept, saves, keep_last, best, good, resumed):
    stay = kept(saves, keep_last=keep_last, best=best, good=good, resumed=resumed)
    assert newest(saves) <= stay.keys() <= saves.keys()


@given(saves=SAVES, keep_last=KEEP_LAST, best=BEST, good=GOOD, resumed=RESUMED)
def test_neither_transient_saves_nor_a_resume_change_which_others_settle(
    kept, made, saves, keep_last, best, good, resumed
):
    alone = {step: saves[step] for step in regular(saves)}
    undisturbed = kept(alone, keep_last=keep_last, best=best, good=good)
    disturbed = kept(saves, keep_last=keep_last, best=best, good=good, resumed=resumed)
    assert settled(undisturbed, made(alone, good)) == tuple(sorted(undisturbed))
    assert settled(disturbed, made(saves, good)) == tuple(sorted(undisturbed))
    # And of the others only that one stays besides.
    assert disturbed.keys() & alone.keys() - undisturbed.keys() <= {resumed}


@given(saves=SAVES, keep_last=KEEP_LAST, good=GOOD)
def test_pruning_after_every_save_keeps_what_pruning_at_the_end_keeps(kept, saves, keep_last, good):
    left = {}
    for step in sorted(saves):
        left[step] = saves[step]
        left = {step: left[step] for step in kept(left, keep_last=keep_last, good=good)}
    assert left.keys() == kept(saves, keep_last=keep_last, good=good).keys()


@given(saves=SAVES, later=SAVES, keep_last=KEEP_LAST, good=GOOD)
def test_what_stays_for_good_stays_whatever_comes_later(kept, saves, later, keep_last, good):
    more = saves | {step + 31: reasons for step, reasons in later.items()}
    assert good & regular(saves) <= kept(more, keep_last=keep_last, good=good).keys()


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
