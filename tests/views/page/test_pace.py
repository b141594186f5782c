"""Speed and stalls as the journal tells them: pauses are no training, and no attempt reaches into another."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.views.page.pace import Stretch, read_pace


def test_speed_is_that_between_events_without_evaluations_and_stalls(run: Any) -> None:
    run.note("start")
    run.note("plan", lines=[])
    run.note("evaluate", after=10, step=100, splits=["validation"], seconds=4.0)
    # Asked for at 10 s, it stalls for one second, is written for three, and noted only then.
    run.note(
        "save",
        after=4,
        step=100,
        reasons=["interval"],
        stall_s=1.0,
        wait_s=0.5,
        snapshot_s=0.5,
        write_s=2.5,
        commit_s=0.5,
    )
    run.note("decide", after=17, step=300, best=[], condition=False, stop=False)
    first, second = read_pace(run.directory).stretches
    assert first == Stretch(0, 100, pytest.approx(6.0), first=True)
    assert second == Stretch(100, 300, pytest.approx(20.0), first=False)


def test_each_attempt_begins_at_the_step_that_it_resumed(killed: Any) -> None:
    killed.note("rewind", step=20, from_step=40, moved=[], cut_bytes=0, orphans="orphans/x", done=True)
    stretches = read_pace(killed.directory).stretches
    assert [(item.start, item.end, item.first) for item in stretches] == [(20, 25, False), (20, 40, True)]


def test_stalls_are_told_by_step_the_last_one_of_a_step_made_twice(run: Any) -> None:
    run.note("start")
    run.save(10, stall=0.5)
    run.save(20, stall=0.25)
    run.restart()
    run.save(20, stall=0.125)
    stalls = read_pace(run.directory).stalls
    assert (stalls.steps.tolist(), stalls.values.tolist()) == ([10, 20], [0.5, 0.125])


def test_beside_a_loop_of_ones_own_nothing_is_known(run: Any) -> None:
    pace = read_pace(run.directory)
    assert (pace.stretches, len(pace.stalls)) == ((), 0)
