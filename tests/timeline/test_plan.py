"""The plan: what is counted before the first step is what the run then makes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.timeline.cadence import Progress
from trainer.timeline.plan import Plan, make_plan
from trainer.timeline.schedule import ALIGN, RECONCILE_MODES, Schedule


def counted(schedule: Schedule) -> Plan:
    """Counts by going through the run step by step."""
    now, pending = Progress(), frozenset[str]()
    records = evaluations = checkpoints = on_ends = lag = window_start = 0
    while not schedule.finished(now):
        before, now = now, schedule.progress(now, now.step + 1)
        due = schedule.due(before, now, pending=pending)
        pending = due.pending
        if due.log:
            records, window_start = records + 1, now.step
        evaluations += due.evaluate
        if due.save:
            checkpoints += 1
            on_ends += window_start == now.step
            lag = max(lag, now.step - window_start)
    return Plan(
        steps=now.step,
        examples=now.examples,
        train_records=records,
        evaluations=evaluations,
        checkpoints=checkpoints,
        checkpoints_on_window_ends=on_ends,
        largest_lag=lag,
        exact=True,
    )


def cadences(*others: str) -> st.SearchStrategy[str]:
    steps = st.fractions(Fraction(1, 2), 30, max_denominator=6).map(lambda number: f"{number}steps")
    epochs = st.fractions(Fraction(1, 6), 4, max_denominator=6).map(lambda number: f"{number}epochs")
    one = steps | epochs | st.sampled_from(["1/7run", "37examples"])
    return one | st.tuples(one, one).map(",".join) | st.sampled_from(["never", *others])


@given(
    st.integers(1, 80),
    cadences(),
    cadences(),
    cadences("10s", "5steps,1h"),
    st.sampled_from(RECONCILE_MODES),
    st.integers(1, 30),
    st.sampled_from(["wrap", "short"]),
)
@settings(max_examples=100, deadline=None)
def test_the_counts_are_those_of_a_walk_through_the_run(
    steps: int, log_every: str, eval_every: str, save_every: str, reconcile: str, batch_size: int, last: str
) -> None:
    assume(reconcile != ALIGN or log_every != "never")
    schedule = Schedule(
        train_for=steps,
        log_every=log_every,
        eval_every=eval_every,
        save_every=save_every,
        reconcile=reconcile,
        batch_size=batch_size,
        data_examples=20,
        last=last,
    )
    assert make_plan(schedule) == counted(schedule)


def test_a_run_of_a_hundred_steps_as_the_documentation_tells_it() -> None:
    plan = make_plan(Schedule(train_for="100steps", log_every=7, eval_every=11, save_every=5, batch_size=64))
    assert plan == Plan(
        steps=100,
        examples=6400,
        train_records=15,
        evaluations=10,
        checkpoints=20,
        checkpoints_on_window_ends=3,
        largest_lag=6,
    )


@pytest.mark.parametrize("reconcile", ["flush", "align"])
def test_reconciled_checkpoints_all_end_a_window(reconcile: str) -> None:
    plan = make_plan(Schedule(train_for=100, log_every=7, save_every=5, reconcile=reconcile))
    assert plan.checkpoints_on_window_ends == plan.checkpoints > 0
    assert plan.largest_lag == 0


def test_a_run_that_only_the_clock_ends_is_not_counted() -> None:
    assert make_plan(Schedule(train_for="2h", save_every=5)) == Plan(steps=None)


@pytest.mark.parametrize(
    ("arguments", "records", "checkpoints"),
    [
        ({"log_every": 7, "save_every": 1000}, 10**9 / 7, 10**6),
        ({"log_every": "1/3epochs", "save_every": "1epoch"}, 10**9 * 64 * 3 / 1500, 10**9 * 64 / 1500),
    ],
)
def test_the_counts_of_a_very_long_run_are_estimates_and_say_so(
    arguments: dict[str, Any], records: float, checkpoints: float
) -> None:
    schedule = Schedule(train_for=10**9, batch_size=64, data_examples=1500, **arguments)
    plan = make_plan(schedule, limit=2000)
    assert not plan.exact
    assert (plan.steps, plan.examples) == (10**9, 64 * 10**9)
    assert plan.train_records == pytest.approx(records, rel=0.01)
    assert plan.checkpoints == pytest.approx(checkpoints, rel=0.2)
