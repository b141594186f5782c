"""How an attempt ends is in its journal once, whoever notes it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import Diverged, InUse, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, read_journal
from trainer.process.lock import locked
from trainer.process.signals import INTERRUPTED, PREEMPTED
from trainer.process.watchdog import HUNG, Ending
from trainer.run.ending import LastWords
from trainer.run.timing import Times

PREEMPTION = Ending(PREEMPTED, 75, "what was under way did not end within grace=10s", cause="SIGTERM")
HANG = Ending(HUNG, 75, "a chunk did not return", stacks={"MainThread": "here\n"})


class Attempt:
    """An attempt at its end."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.directory = RunDirectory(path)
        self.directory.files.make_directory(self.directory.path)
        lock = stack.enter_context(locked(self.directory.lock))
        self.reached: tuple[int | None, int | None] = (7, 5)
        self.words = LastWords(Journal(self.directory), lock, Times(), lambda: self.reached)

    def lines(self, *names: str) -> list[dict[str, Any]]:
        """What the journal tells, but for the clock; of each line the `names`, or all of it."""
        without = ("time", "attempt", "seconds")
        lines = [{key: line[key] for key in line if key not in without} for line in read_journal(self.directory)]
        return [{name: line.get(name) for name in names} for line in lines] if names else lines


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    with contextlib.ExitStack() as stack:
        yield Attempt(tmp_path / "run", stack)


def test_an_end_tells_why_with_what_and_where_and_where_the_time_went(attempt: Attempt) -> None:
    attempt.words.stop("target reached", 0, step=7, saved=True)
    assert attempt.lines() == [{"event": "stop", "reason": "target reached", "exit_code": 0, "step": 7, "saved": True}]
    assert read_journal(attempt.directory)[0]["seconds"]["total"] >= 0


def test_what_the_watchdog_ends_is_told_as_unfinished_and_unsaved(
    attempt: Attempt, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt.words.farewell(PREEMPTION)
    signal, stop = attempt.lines()
    assert signal == {"event": "signal", "signal": "SIGTERM", "step": 7, "saved": False, "why": PREEMPTION.why}
    stop_expected = {"reason": "preempted", "exit_code": 75, "step": 7, "saved": False, "unfinished": True}
    assert stop == {"event": "stop", **stop_expected}
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"preempted: {PREEMPTION.why}; step 5 stays the newest checkpoint; run the same command again to go on"
    )


def test_an_interrupt_is_told_as_one(attempt: Attempt) -> None:
    attempt.words.farewell(Ending(INTERRUPTED, 130, "too late", cause="SIGINT"))
    assert attempt.lines("event", "signal", "reason", "exit_code") == [
        {"event": "signal", "signal": "SIGINT", "reason": None, "exit_code": None},
        {"event": "stop", "signal": None, "reason": "interrupted", "exit_code": 130},
    ]


def test_a_hang_is_a_fault_with_the_stacks_of_all_threads(attempt: Attempt) -> None:
    attempt.words.farewell(HANG)
    fault, stop = attempt.lines()
    assert fault == {"event": "fault", "error": "HangTimeout", "message": HANG.why, "stacks": {"MainThread": "here\n"}}
    assert (stop["reason"], stop["exit_code"], stop["unfinished"]) == ("hung", 75, True)


def test_a_state_that_is_saved_already_is_told_to_be(attempt: Attempt) -> None:
    attempt.reached = (5, 5)
    attempt.words.farewell(PREEMPTION)
    stop = attempt.lines()[-1]
    assert (stop["step"], stop["saved"], stop["unfinished"]) == (5, True, True)


def test_before_training_began_there_is_no_step_and_no_checkpoint(
    attempt: Attempt, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt.reached = (None, None)
    attempt.words.farewell(PREEMPTION)
    stop = attempt.lines()[-1]
    assert (stop["step"], stop["saved"]) == (None, False)
    assert "no checkpoint is there" in capfd.readouterr().err


@pytest.mark.parametrize("ending", [PREEMPTION, HANG])
def test_an_end_is_told_once_by_whoever_comes_first(ending: Ending, attempt: Attempt) -> None:
    attempt.words.stop("preempted", 75, step=7, saved=True)
    before = attempt.lines()
    attempt.words.farewell(ending)
    assert attempt.lines() == before


def test_what_comes_after_the_watchdog_tells_nothing_more(attempt: Attempt) -> None:
    attempt.words.farewell(PREEMPTION)
    before = attempt.lines()
    attempt.words.stop("preempted", 75, step=7, saved=True)
    with pytest.raises(Diverged), attempt.words.of_faults():
        raise Diverged("the loss is not finite")
    attempt.words.farewell(HANG)
    assert attempt.lines() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [(Diverged("so"), 65), (InUse("so"), 73), (ZeroDivisionError("so"), 1), (KeyboardInterrupt(), 130)],
)
def test_an_error_is_told_with_the_exit_code_that_it_brings_and_goes_on_its_way(
    error: BaseException, code: int, attempt: Attempt
) -> None:
    with pytest.raises(type(error)) as caught, attempt.words.of_faults():
        raise error
    assert caught.value is error
    fault, stop = attempt.lines()
    assert (fault["event"], fault["error"], fault["message"]) == ("fault", type(error).__name__, str(error))
    assert stop == {"event": "stop", "reason": "error", "exit_code": code, "step": 7, "saved": False}


@pytest.mark.parametrize("ending", [PREEMPTION, HANG])
def test_nothing_is_told_to_a_journal_that_is_not_ours_any_more(
    ending: Ending, attempt: Attempt, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.rename(tmp_path / "run", tmp_path / "elsewhere")
    (tmp_path / "run").mkdir()
    attempt.words.farewell(ending)
    assert os.listdir(tmp_path / "run") == []
    # The user hears of it all the same.
    assert ending.why in capfd.readouterr().err


@pytest.fixture
def full(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """An attempt whose disk is full."""

    def refuse(*words: object, **details: object) -> None:
        raise Unwritable("no room")

    monkeypatch.setattr(Journal, "write", refuse)
    return attempt


def test_a_disk_that_refuses_the_last_words_keeps_the_watchdog_from_nothing(
    full: Attempt, capfd: pytest.CaptureFixture[str]
) -> None:
    full.words.farewell(PREEMPTION)
    assert PREEMPTION.why in capfd.readouterr().err


def test_a_disk_that_refuses_to_be_told_of_the_end_is_told_of(full: Attempt) -> None:
    with pytest.raises(Unwritable, match="no room"):
        full.words.stop("target reached", 0, step=7, saved=True)


def test_a_disk_that_refuses_to_be_told_of_an_error_does_not_hide_it(full: Attempt) -> None:
    with pytest.raises(Diverged), full.words.of_faults():
        raise Diverged("the loss is not finite")
