"""The plan in words: what it says of saves that only a clock knows."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trainer.ledger.run_info import RunInfo
from trainer.timeline.schedule import RECONCILE_MODES, Schedule
from trainer.views.plan import plan_lines


def plan_of(**cadences: Any) -> dict[str, list[str]]:
    """The lines of the plan of a hundred steps of two examples, by their label."""
    info = RunInfo(
        experiment="experiments.line:Line",
        parameters={},
        seed=17,
        jit="chunk",
        deterministic=False,
        threads={"intra_op": 2},
        machine={"cpu": "a processor", "devices": []},
        versions={},
        data={},
        epoch_examples=None,
        clock_in_log=False,
    )
    schedule = Schedule(train_for="100steps", log_every=7, batch_size=2, **cadences)
    told: dict[str, list[str]] = {}
    lines = plan_lines(
        schedule, info, monitors=[], state_bytes=1000, keep_last=3, keep_best=0, async_save=True, update=[]
    )
    label = ""
    for line in lines:
        label = line[:6].strip() or label
        told.setdefault(label, []).append(line[7:])
    return told


def test_saves_by_a_cadence_are_counted_and_set_against_the_windows() -> None:
    save, *more = plan_of(save_every=5)["save"]
    assert save == "every 5 steps: 20 checkpoints"
    assert any("of the checkpoints end a window" in line for line in more)


@pytest.mark.parametrize("reconcile", RECONCILE_MODES)
@pytest.mark.parametrize("save_every", ["auto", "10m"])
def test_of_saves_by_a_clock_no_share_ends_a_window(save_every: str, reconcile: str) -> None:
    told = plan_of(save_every=save_every, reconcile=reconcile)["save"]
    assert not any("end a window" in line or "lag" in line for line in told)


def test_automatic_saves_are_not_counted_and_follow_from_what_is_measured() -> None:
    save = plan_of(save_every="auto")["save"][0]
    assert save.startswith("automatically")
    assert "what a save costs" in save
    assert "how often the run is interrupted" in save
    assert "checkpoint" not in save
    assert not re.search(r"\d", save)
