"""How long the next save will take, as the last ones did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint.save_times import SaveTime, SaveTimes, known_times
from trainer.checkpoint.store import CheckpointStore
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog
from trainer.timeline.cadence import Progress


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_before_anything_is_known_a_save_is_taken_to_need_no_time(clock: Clock) -> None:
    times = SaveTimes(clock=clock)
    assert (times.needed(), times.to_read_back(), times.left(), times.last, times.count) == (0, 0, 0, None, 0)
    times.begin()
    clock.now += 5
    assert (times.needed(), times.left()) == (0, 0)


def test_a_save_is_taken_to_need_as_long_as_the_last_ones_and_one_that_was_held_up_says_nothing(clock: Clock) -> None:
    times = SaveTimes([SaveTime(2.0, 0.1), SaveTime(500.0, 0.1)], clock)
    assert times.needed() == 2.0
    times.done(SaveTime(3.0, 0.1))
    assert times.needed() == 3.0
    times.done(SaveTime(4.0, 0.1))
    assert times.needed() == 4.0


def test_what_took_long_once_is_forgotten_in_the_end(clock: Clock) -> None:
    times = SaveTimes([SaveTime(50.0, 0.1)], clock)
    for _ in range(10):
        times.done(SaveTime(1.0, 0.1))
    assert times.needed() == 1.0


def test_the_save_under_way_has_to_come_to_its_end_first(clock: Clock) -> None:
    times = SaveTimes([SaveTime(4.0, 0.1)], clock)
    times.begin()
    assert times.under_way
    assert (times.left(), times.needed()) == (4.0, 8.0)
    clock.now += 3
    assert (times.left(), times.needed()) == (1.0, 5.0)
    # It is late; that is no credit.
    clock.now += 30
    assert (times.left(), times.needed()) == (0.0, 4.0)


@pytest.mark.parametrize("committed", [True, False])
def test_a_save_that_is_done_or_lost_is_waited_for_no_more(committed: bool, clock: Clock) -> None:
    times = SaveTimes([SaveTime(4.0, 0.1)], clock)
    times.begin()
    if committed:
        times.done(SaveTime(3.0, 0.2))
    else:
        times.lost()
    assert not times.under_way
    assert (times.left(), times.needed()) == (0.0, 3.0 if committed else 4.0)
    assert (times.count, times.last) == ((1, SaveTime(3.0, 0.2)) if committed else (0, SaveTime(4.0, 0.1)))


def test_reading_back_takes_its_time_too(clock: Clock) -> None:
    times = SaveTimes([SaveTime(4.0, 0.1)], clock)
    # Nobody knows how long: as long as the writing.
    assert times.to_read_back() == 4.0
    times.done(SaveTime(4.0, 0.1, verify_s=1.0))
    assert (times.needed(), times.to_read_back()) == (4.0, 1.0)


# What the journal tells of the saves before.


def write_journal(directory: RunDirectory, *lines: dict[str, Any]) -> None:
    directory.files.make_directory(directory.path)
    with open(directory.journal, "a") as file:
        for line in lines:
            file.write(json.dumps({"time": "2026-03-01T12:00:00Z", "attempt": 1, **line}) + "\n")


def test_a_run_without_a_journal_knows_of_no_saves(tmp_path: Path) -> None:
    assert known_times(RunDirectory(tmp_path / "run")) == []


def test_the_saves_of_the_attempts_before_are_known_oldest_first(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    write_journal(
        directory,
        {"event": "save", "step": 1, "stall_s": 0.5, "snapshot_s": 0.25, "write_s": 2.0, "commit_s": 1.0},
        {"event": "times", "step": 1, "seconds": {"total": 99}},
        {"event": "save", "step": 2, "stall_s": 0.125, "snapshot_s": 0.0, "write_s": 4.0, "commit_s": 0.0},
    )
    assert known_times(directory) == [SaveTime(3.25, 0.5), SaveTime(4.0, 0.125)]


@pytest.mark.parametrize(
    "garbled", [{"write_s": "long"}, {"write_s": [1]}, {"write_s": None}, {"stall_s": "long"}, {"stall_s": None}]
)
def test_a_line_that_garbles_how_long_a_save_took_is_as_good_as_none(garbled: dict[str, Any], tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    good = {"event": "save", "step": 1, "stall_s": 0.5, "write_s": 2.0}
    write_journal(directory, good, {**good, "write_s": 50.0, **garbled}, good)
    assert known_times(directory) == [SaveTime(2.0, 0.5)] * 2


def test_what_a_store_measures_is_what_its_journal_tells(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    directory = RunDirectory(tmp_path / "run")
    directory.files.make_directory(directory.path)
    times = SaveTimes()
    with CheckpointStore(
        tf.train.Checkpoint(value=tf.Variable(1.0)),
        MetricLog(directory),
        async_save=True,
        verify_saves="last",
        journal=Journal(directory),
        times=times,
    ) as store:
        store.save(Progress(1, 1), reasons=["interval"])
        assert times.under_way
        store.drain()
        assert (times.under_way, times.count) == (False, 1)
        assert times.last is not None
        assert times.last.verify_s is None
        store.save(Progress(2, 2), reasons=["final"], last=True)
        store.drain()
        assert times.last.verify_s is not None
    told = known_times(directory)
    # The line rounds, and does not know how long its own commit's last moment was.
    assert [one.stall_s for one in told] == pytest.approx([one.stall_s for one in times._last], abs=1e-5)
    assert [one.seconds for one in told] == pytest.approx(
        [one.seconds + (one.verify_s or 0.0) for one in times._last], abs=1e-4
    )
