"""The journal: one line an event, append-only, and readable whatever a kill left of it."""

from __future__ import annotations

import datetime
import json
import pathlib

import pytest

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, last_attempt, last_stop, read_journal, save_seconds

NOON = datetime.datetime(2024, 5, 6, 12, 0, 0, 250_000, tzinfo=datetime.timezone.utc)


def journal_in(path: pathlib.Path) -> Journal:
    return Journal(RunDirectory(path), now=lambda: NOON)


def test_a_line_has_time_attempt_event_and_then_the_details(tmp_path: pathlib.Path) -> None:
    journal_in(tmp_path).write("save", step=500, reasons=["interval"], stall_s=0.25)
    assert (tmp_path / "journal.jsonl").read_bytes() == (
        b'{"time":"2024-05-06T12:00:00.250000Z","attempt":1,"event":"save",'
        b'"step":500,"reasons":["interval"],"stall_s":0.25}\n'
    )


def test_the_wall_clock_is_utc(tmp_path: pathlib.Path) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    Journal(RunDirectory(tmp_path)).write("start")
    after = datetime.datetime.now(datetime.timezone.utc)
    (entry,) = read_journal(RunDirectory(tmp_path))
    assert entry["time"].endswith("Z")
    assert before <= datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")) <= after


def test_attempts_are_numbered_from_1_and_lines_stay(tmp_path: pathlib.Path) -> None:
    for attempt in (1, 2, 3):
        journal = journal_in(tmp_path)
        assert journal.attempt == attempt
        journal.write("start")
        journal.write("stop", exit_code=0)
    entries = read_journal(RunDirectory(tmp_path))
    assert [entry["attempt"] for entry in entries] == [1, 1, 2, 2, 3, 3]
    assert last_attempt(RunDirectory(tmp_path)) == 3


def test_before_the_first_attempt_there_is_nothing(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    assert read_journal(directory) == []
    assert last_attempt(directory) == 0


@pytest.mark.parametrize(
    "torn", [b'{"time":"2024-05-06T12:00:00Z","attempt":2,"ev', b"{", b'{"time":"\xc3', b"\x00" * 40]
)
def test_a_line_torn_by_a_kill_harms_no_other(tmp_path: pathlib.Path, torn: bytes) -> None:
    journal_in(tmp_path).write("start")
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    directory = RunDirectory(tmp_path)
    assert [entry["event"] for entry in read_journal(directory)] == ["start"]
    journal = journal_in(tmp_path)
    journal.write("resume", step=7)
    assert path.read_bytes().startswith(whole + torn)  # never cut
    entries = read_journal(directory)
    assert [(entry["attempt"], entry["event"]) for entry in entries] == [(1, "start"), (2, "resume")]


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal_in(tmp_path).write("start")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    journal = journal_in(tmp_path)
    journal.write("start")
    assert [entry["attempt"] for entry in read_journal(RunDirectory(tmp_path))] == [1, 2]


def test_attempts_are_not_confused_by_a_very_long_line(tmp_path: pathlib.Path) -> None:
    journal_in(tmp_path).write("fault", message="x" * 200_000)
    assert journal_in(tmp_path).attempt == 2


def test_attempts_go_on_after_a_very_long_journal(tmp_path: pathlib.Path) -> None:
    line = (
        json.dumps({"time": "2026-01-02T03:04:05.678901Z", "attempt": 7, "event": "save", "step": 1}).encode() + b"\n"
    )
    (tmp_path / "journal.jsonl").write_bytes(line * 20_000)
    assert journal_in(tmp_path).attempt == 8


def test_lines_between_attempts_can_bear_the_number_of_the_last_one(tmp_path: pathlib.Path) -> None:
    journal_in(tmp_path).write("start")
    directory = RunDirectory(tmp_path)
    Journal(directory, attempt=last_attempt(directory)).write("rewind", step=7, orphans="orphans/attempt-0001-rewind")
    assert [entry["attempt"] for entry in read_journal(directory)] == [1, 1]
    assert journal_in(tmp_path).attempt == 2


@pytest.mark.parametrize("line", [b"[]", b"7", b"null", b"{}", b'{"attempt":"two"}', b'"text"'])
def test_lines_that_are_no_entries_are_passed_over(tmp_path: pathlib.Path, line: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(line + b"\n")
    assert read_journal(RunDirectory(tmp_path)) == []
    assert journal_in(tmp_path).attempt == 1


@pytest.mark.parametrize("event", ["resume", "save", "evaluate"])
@pytest.mark.parametrize("details", [{}, {"step": None}, {"step": "8"}])
def test_a_line_of_which_no_one_knows_the_step_is_passed_over(
    tmp_path: pathlib.Path, event: str, details: dict[str, object]
) -> None:
    journal = journal_in(tmp_path)
    journal.write(event, **details)
    assert read_journal(RunDirectory(tmp_path)) == []
    journal.write("stop", step=None)  # An attempt can end before it has come to one.
    assert len(read_journal(RunDirectory(tmp_path))) == 1


def test_a_line_that_is_nested_too_deeply_is_passed_over(tmp_path: pathlib.Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"[" * 100_000 + b"]" * 100_000 + b"\n")
    journal_in(tmp_path).write("start")
    assert [entry["event"] for entry in read_journal(RunDirectory(tmp_path))] == ["start"]


def test_only_the_end_of_the_last_attempt_is_its_stop(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    assert last_stop(directory) is None
    journal = Journal(directory)
    journal.write("start", host="vm")
    assert last_stop(directory) is None
    journal.write("stop", reason="target reached", exit_code=0, step=9, saved=True)
    assert (last_stop(directory) or {})["reason"] == "target reached"
    journal.write("rewind", step=5, from_step=9, moved=[9], cut_bytes=0, orphans="orphans/x", done=True)
    assert last_stop(directory)
    Journal(directory).write("start", host="vm")
    assert last_stop(directory) is None


@pytest.mark.parametrize("torn", ['{"time":"2026', "5\n", "null\n", "\0\0"])
def test_a_torn_line_behind_a_stop_is_of_another_attempt(torn: str, tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    Journal(directory).write("stop", reason="target reached", exit_code=0, step=9, saved=True)
    with open(directory.journal, "a") as file:
        file.write(torn)
    assert last_stop(directory) is None


@pytest.mark.parametrize("lacking", ["step", "seconds"])
def test_a_line_of_times_that_lacks_what_readers_count_on_is_passed_over(tmp_path: pathlib.Path, lacking: str) -> None:
    journal = journal_in(tmp_path)
    whole = {"step": 7, "seconds": {"total": 1.0}}
    journal.write("times", **whole)
    journal.write("times", **{name: value for name, value in whole.items() if name != lacking})
    assert len(read_journal(RunDirectory(tmp_path))) == 1


def test_a_line_whose_time_says_nothing_of_the_zone_is_none(tmp_path):
    journal_in(tmp_path).write("save", step=5)
    path = RunDirectory(tmp_path).journal
    with open(path, "a") as file:
        file.write('{"time":"0001-01-01T00:00:00","attempt":1,"event":"save","step":9}\n')
    assert [entry["step"] for entry in read_journal(RunDirectory(tmp_path))] == [5]


@pytest.mark.parametrize("garbled", ["2", float("nan"), -1.0, 1e300, 10**400])
def test_what_no_save_takes_is_no_time(garbled):
    with pytest.raises((TypeError, ValueError)):
        save_seconds({"write_s": garbled, "commit_s": 1.0})
