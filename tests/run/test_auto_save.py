"""`save_every=auto`: what a run learns of its saves and its interruptions, and where it says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint.save_times import SaveTime, SaveTimes
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, read_journal
from trainer.run.auto_save import AutoSave, Drag, make_auto_save
from trainer.run.config import make_config
from trainer.run.timing import Times
from trainer.timeline.interval import AutoInterval, daly

HOUR = 3600.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run directory with the journal of the attempts before, and one under way."""

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory(path)
        self.directory.files.make_directory(self.directory.path)
        self.attempt = 0
        self.warnings: list[str] = []

    def lived(self, seconds: float, **stop: Any) -> Run:
        """An attempt of before, which ended with a line that says `stop`, or was killed."""
        self.attempt += 1
        minute = f"2026-03-01T{self.attempt:02d}"
        self.note(f"{minute}:00:00.000000Z", "start", host="vm", pid=1, age_s=0)
        self.note(f"{minute}:00:00.000000Z", "plan", lines=[])
        end = f"{minute}:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}.000000Z"
        if "signal" in stop:
            self.note(end, "signal", signal=stop.pop("signal"), step=1)
        if stop:
            self.note(end, "stop", step=1, saved=True, **stop)
        else:
            self.note(end, "save", step=1, reasons=["auto"])
        return self

    def note(self, time: str, event: str, **details: Any) -> None:
        with open(self.directory.journal, "a") as file:
            file.write(json.dumps({"time": time, "attempt": self.attempt, "event": event, **details}) + "\n")

    def goes_on(self, saves: SaveTimes | None = None, **options: Any) -> AutoSave | None:
        """The attempt now."""
        config = make_config({"save_every": "auto", "train_for": 10, **options}, {})
        journal = Journal(self.directory)
        journal.write("start", host="vm")
        return make_auto_save(
            config, self.directory, journal, saves or SaveTimes(), Times(), step=5, warn=self.warnings.append
        )

    def decisions(self) -> list[dict[str, Any]]:
        return [line for line in read_journal(self.directory) if line["event"] == "decide"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def mtbf(run: Run, **options: Any) -> float:
    """What an attempt that begins now takes for the time between interruptions, in seconds."""
    run.goes_on(mtbf="1h", **options)
    return float(run.decisions()[-1]["mtbf_s"])


def test_a_cadence_is_left_to_the_schedule(run: Run) -> None:
    assert run.goes_on(save_every="10steps") is None
    assert run.goes_on(save_every="never") is None
    assert run.decisions() == []


def test_what_it_begins_with_is_a_line_of_the_journal(run: Run) -> None:
    assert run.goes_on(mtbf="6h") is not None
    (line,) = run.decisions()
    assert (line["attempt"], line["step"], line["mtbf_s"]) == (1, 5, 6 * HOUR)
    assert line["interval_s"] > 0
    assert line["stall_s"] > 0


def test_each_attempt_that_was_killed_shortens_the_time_between_interruptions(run: Run) -> None:
    seen = [mtbf(run) for _ in range(5)]
    assert seen[0] == HOUR
    assert all(later < earlier for earlier, later in itertools.pairwise(seen))


@pytest.mark.parametrize(
    "stop",
    [
        {"reason": "preempted", "exit_code": 75, "signal": "SIGTERM"},
        {"reason": "preempted", "exit_code": 75, "signal": "SIGUSR1"},
        {},
    ],
    ids=["SIGTERM", "SIGUSR1", "killed"],
)
def test_what_takes_a_machine_away_is_an_interruption(stop: dict[str, Any], run: Run) -> None:
    run.lived(60, **stop)
    assert mtbf(run) < HOUR


@pytest.mark.parametrize(
    "stop",
    [
        {"reason": "target reached", "exit_code": 0},
        {"reason": "interrupted", "exit_code": 130, "signal": "SIGINT"},
        {"reason": "preempted", "exit_code": 75, "signal": "max_runtime"},
        {"reason": "error", "exit_code": 65},
    ],
    ids=["end", "user", "max_runtime", "diverged"],
)
def test_what_the_run_or_its_user_ends_is_none_and_its_time_up_counts(stop: dict[str, Any], run: Run) -> None:
    run.lived(60, **stop)
    assert mtbf(run) == HOUR + 60


def test_what_saves_cost_in_the_attempts_before_is_known_from_their_decisions(run: Run) -> None:
    run.lived(60)
    for cost in (0.5, 0.5, "much"):
        run.note("2026-03-01T01:00:30.000000Z", "decide", step=1, cost_s=cost, save_s=2.0, interval_s=1)
    assert run.goes_on(mtbf="1h") is not None
    assert run.decisions()[-1]["stall_s"] == 0.5


# While it trains.


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def training(run: Run, clock: Clock) -> Callable[..., tuple[AutoSave, SaveTimes]]:
    """Begins to train, at second 0."""

    def begin(*, mtbf_s: float = HOUR, overhead: float = 0.5) -> tuple[AutoSave, SaveTimes]:
        saves, began = SaveTimes(clock=clock), clock.now
        interval = AutoInterval(mtbf_s=mtbf_s, overhead=overhead)
        journal = Journal(run.directory)
        auto = AutoSave(interval, saves, journal, 0, lambda: clock.now - began, run.warnings.append, clock)
        return auto, saves

    return begin


def save(auto: AutoSave, saves: SaveTimes, took: SaveTime) -> None:
    """A save that has come to its commit."""
    saves.begin()
    auto.saved()
    saves.done(took)


def test_nothing_is_due_before_the_interval_is_over_and_then_it_is_until_somebody_saves(
    run: Run, clock: Clock, training: Any
) -> None:
    auto, saves = training()
    interval = run.decisions()[0]["interval_s"]
    clock.now += interval - 1
    assert not auto.due(10)
    clock.now += 2
    assert auto.due(11)
    assert auto.due(12)
    save(auto, saves, SaveTime(seconds=1.0, stall_s=1.0))
    assert not auto.due(12)


def test_the_interval_begins_when_the_first_chunk_is_trained_in_which_the_program_is_compiled(
    run: Run, clock: Clock, training: Any
) -> None:
    auto, _ = training()
    interval = run.decisions()[0]["interval_s"]
    clock.now += interval
    auto.chunk(1, interval, saving=False)
    assert not auto.due(1)
    clock.now += interval - 1
    auto.chunk(100, interval - 1, saving=False)
    assert not auto.due(101)
    # No later chunk begins it anew.
    clock.now += 2
    auto.chunk(1, 2.0, saving=False)
    assert auto.due(102)


def test_a_save_for_another_reason_begins_the_interval_anew(run: Run, clock: Clock, training: Any) -> None:
    auto, _ = training()
    interval = run.decisions()[0]["interval_s"]
    clock.now += interval - 1
    auto.saved()
    clock.now += 2
    assert not auto.due(10)
    clock.now += interval
    assert auto.due(11)


def test_nothing_is_due_while_a_save_is_under_way(clock: Clock, training: Any) -> None:
    auto, saves = training()
    saves.begin()
    clock.now += 10 * HOUR
    assert not auto.due(10)
    saves.lost()
    assert auto.due(11)


def test_each_save_is_learned_from_once_and_told(run: Run, clock: Clock, training: Any) -> None:
    auto, saves = training()
    save(auto, saves, SaveTime(seconds=3.0, stall_s=0.25, verify_s=1.0))
    clock.now += 60
    for step in (20, 21):
        auto.due(step)
    first, second = run.decisions()
    assert (first["step"], second["step"]) == (0, 20)
    assert (second["stall_s"], second["cost_s"], second["save_s"]) == (0.25, 0.25, 4.0)
    assert second["mtbf_s"] == HOUR + 60
    assert second["interval_s"] == pytest.approx(daly(0.25, HOUR + 60))


def test_it_adapts_both_ways(run: Run, clock: Clock, training: Any) -> None:
    auto, saves = training(overhead=0.9)
    intervals = []
    for stall in (*[1.0] * 9, *[4.0] * 9, *[0.25] * 9):
        save(auto, saves, SaveTime(seconds=stall, stall_s=stall))
        auto.due(1)
        intervals.append(run.decisions()[-1]["interval_s"])
    assert intervals[17] == pytest.approx(2 * intervals[8], rel=0.02)
    assert intervals[26] == pytest.approx(intervals[8] / 2, rel=0.02)


def test_saves_never_cost_more_than_they_may(run: Run, clock: Clock, training: Any) -> None:
    auto, saves = training(mtbf_s=60.0, overhead=0.03)
    save(auto, saves, SaveTime(seconds=3.0, stall_s=3.0))
    auto.due(1)
    interval = run.decisions()[-1]["interval_s"]
    assert 3.0 / (3.0 + interval) == pytest.approx(0.03)


def test_a_budget_that_costs_much_more_than_it_spares_is_warned_of_once(run: Run, clock: Clock, training: Any) -> None:
    auto, saves = training(mtbf_s=60.0, overhead=0.03)
    for _ in range(3):
        save(auto, saves, SaveTime(seconds=3.0, stall_s=3.0))
        auto.due(1)
    (line,) = run.warnings
    assert "save_overhead" in line
    assert "\n" not in line


def test_a_budget_that_does_no_harm_is_no_reason_to_warn(run: Run, clock: Clock, training: Any) -> None:
    auto, saves = training(mtbf_s=24 * HOUR, overhead=0.03)
    save(auto, saves, SaveTime(seconds=3.0, stall_s=3.0))
    auto.due(1)
    assert run.warnings == []


# What a save costs beside its stall.


def test_what_training_is_slower_beside_a_save_is_part_of_what_that_costs(
    run: Run, clock: Clock, training: Any
) -> None:
    auto, saves = training()
    auto.chunk(1, 30.0, saving=False)  # it compiled
    for _ in range(50):
        auto.chunk(100, 1.0, saving=False)
    save(auto, saves, SaveTime(seconds=2.0, stall_s=0.25))
    auto.chunk(100, 1.5, saving=True)
    auto.due(1)
    assert run.decisions()[-1]["cost_s"] == pytest.approx(0.75)


def test_the_drag_is_what_chunks_took_longer_than_usual_and_is_taken_once() -> None:
    drag = Drag()
    drag.chunk(1, 30.0, saving=False)
    drag.chunk(10, 1.0, saving=False)
    drag.chunk(10, 1.5, saving=True)
    drag.chunk(20, 2.25, saving=True)
    assert drag.taken() == pytest.approx(0.75)
    assert drag.taken() == 0


def test_a_save_that_made_nothing_slower_costs_nothing_and_no_less() -> None:
    drag = Drag()
    drag.chunk(1, 30.0, saving=False)
    drag.chunk(10, 1.0, saving=False)
    drag.chunk(10, 0.5, saving=True)
    assert drag.taken() == 0


def test_before_the_usual_pace_is_known_there_is_no_drag() -> None:
    drag = Drag()
    drag.chunk(1, 30.0, saving=True)
    drag.chunk(10, 1.0, saving=True)
    drag.chunk(0, 0.0, saving=False)
    assert drag.taken() == 0
