"""The attempts of a run: how far each came, how it ended, what was lost, and how much of the time was worth it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import InUse
from trainer.ledger.directory import RunDirectory
from trainer.process.lock import locked
from trainer.views.attempts import goodput, read_attempts

BEGIN = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)


class Run:
    """A journal and logs that are written by hand. Times are seconds after the begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = RunDirectory(path)
        self.attempt = 0

    def event(self, seconds: float, event: str, /, **details: Any) -> None:
        time = (BEGIN + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = {"time": time, "attempt": self.attempt, "event": event, **details}
        with open(self.directory.journal, "a") as file:
            file.write(json.dumps(line) + "\n")

    def start(
        self, seconds: float, *, resume: int | None = None, host: str = "vm", ready: float = 0, **more: Any
    ) -> None:
        """A new attempt, which begins to train `ready` seconds later."""
        self.attempt += 1
        self.event(seconds, "start", host=host, pid=1, **more)
        self.event(seconds + ready, "plan", lines=[])
        if resume is not None:
            self.event(seconds + ready, "resume", step=resume, cut_bytes=0)

    def save(self, seconds: float, step: int, stall: float = 0.0) -> None:
        self.event(seconds, "save", step=step, reasons=["interval"], stall_s=stall)

    def stop(self, at: float, step: int, reason: str = "target reached", code: int = 0, **more: Any) -> None:
        self.event(at, "stop", reason=reason, exit_code=code, step=step, saved=True, **more)

    def times(self, seconds: float, step: int, *, trained: float, restored: float = 0, **more: Any) -> None:
        """The attempt tells that of its time so far it has trained for so long."""
        parts = {"restore": restored, "step": trained, "total": seconds}
        self.event(seconds, "times", step=step, **more, seconds=parts)

    def rewind(self, seconds: float, step: int, orphans: str | None = None) -> None:
        """Noted as the command does, by its intent and its end."""
        orphans = orphans or f"orphans/attempt-{self.attempt:04d}-rewind"
        for done in (False, True):
            self.event(seconds, "rewind", step=step, orphans=orphans, done=done)

    def records(self, *steps: int, path: str = "metrics.jsonl") -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(
                {"kind": "train", "step": step, "examples": step, "epoch": None, "window": [0, step], "metrics": {}}
            )
            for step in steps
        ]
        file.write_text("".join(f"{line}\n" for line in lines))

    def told(self, latest: int | None, now: float = 1e6) -> list[dict[str, Any]]:
        clock = BEGIN + datetime.timedelta(seconds=now)
        return [attempt.to_json() for attempt in read_attempts(self.directory, latest=latest, now=clock)]

    def goodput(self, latest: int | None, now: float = 1e6) -> float | None:
        clock = BEGIN + datetime.timedelta(seconds=now)
        return goodput(read_attempts(self.directory, latest=latest, now=clock))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_an_attempt_is_told_with_the_keys_of_the_contract_in_their_order(run: Run) -> None:
    run.start(0)
    run.stop(10, 500)
    assert run.told(500) == [
        {
            "attempt": 1,
            "reason": "target reached",
            "exit_code": 0,
            "from_step": 0,
            "to_step": 500,
            "steps_lost": 0,
            "host": "vm",
            "cause": None,
            "seconds": 10.0,
            "recover_s": None,
            "first_step_s": None,
            "restore_s": None,
            "times": None,
        }
    ]
    assert list(run.told(500)[0]) == [
        *("attempt", "reason", "exit_code", "from_step", "to_step", "steps_lost"),
        *("host", "cause", "seconds", "recover_s", "first_step_s", "restore_s", "times"),
    ]


def test_there_are_no_attempts_and_no_goodput_without_a_journal(run: Run) -> None:
    assert run.told(None) == []
    assert run.goodput(None) is None


def test_an_attempt_that_ends_without_a_word_and_without_the_lock_was_killed(run: Run) -> None:
    run.start(0)
    run.save(5, 100)
    run.records(100, 170)
    (attempt,) = run.told(100)
    assert (attempt["reason"], attempt["exit_code"]) == ("killed", None)
    assert (attempt["to_step"], attempt["steps_lost"]) == (170, 70)


def test_a_lock_file_that_nobody_holds_does_not_make_an_attempt_run(run: Run) -> None:
    with locked(run.directory.lock):
        pass
    run.start(0)
    assert run.told(None)[0]["reason"] == "killed"


def test_an_attempt_without_an_end_runs_while_its_lock_is_held_which_stays_so(run: Run) -> None:
    since = datetime.datetime.now(datetime.timezone.utc) - BEGIN
    with locked(run.directory.lock):
        run.start(since.total_seconds() + 1)
        run.records(40)
        (attempt,) = run.told(None)
        assert (attempt["reason"], attempt["exit_code"]) == ("running", None)
        assert (attempt["to_step"], attempt["steps_lost"]) == (40, 0)
        with pytest.raises(InUse), locked(run.directory.lock):
            pass
    assert run.told(None)[0]["reason"] == "killed"


def test_the_lock_can_be_taken_after_it_was_looked_at(run: Run) -> None:
    Path(run.directory.lock).touch()
    run.start(0)
    assert run.told(None)[0]["reason"] == "killed"
    with locked(run.directory.lock):
        pass


def test_a_successor_that_holds_the_lock_already_does_not_bring_a_killed_attempt_back(run: Run) -> None:
    run.start(0)  # long before the lock is taken
    with locked(run.directory.lock):
        assert run.told(None)[0]["reason"] == "killed"


def test_an_attempt_that_said_how_it_ended_does_not_run_though_it_still_holds_the_lock(run: Run) -> None:
    since = (datetime.datetime.now(datetime.timezone.utc) - BEGIN).total_seconds() + 1
    with locked(run.directory.lock):
        run.start(since)
        run.stop(since + 10, 300, "preempted", 75)
        run.records(300, 340)
        (attempt,) = run.told(300)
    assert (attempt["reason"], attempt["exit_code"]) == ("preempted", 75)
    assert attempt["steps_lost"] == 40


def test_a_killed_attempt_lost_the_steps_between_its_last_record_and_where_the_next_began(run: Run) -> None:
    run.start(0)
    run.save(5, 100)
    run.start(20, resume=100)
    run.records(170, path="orphans/attempt-0002/metrics.jsonl")  # what the second attempt cut
    run.records(100, 300)
    run.stop(40, 300)
    first, second = run.told(300)
    assert (first["reason"], first["from_step"], first["to_step"], first["steps_lost"]) == ("killed", 0, 170, 70)
    assert (second["from_step"], second["to_step"], second["steps_lost"]) == (100, 300, 0)


def test_a_quarantined_checkpoint_costs_the_attempt_that_wrote_it(run: Run) -> None:
    run.start(0)
    run.save(5, 100)
    run.save(10, 200)
    run.stop(10, 200, "preempted", 75)
    run.start(20)
    run.event(20, "quarantine", step=200, reason="torn")
    run.event(20, "resume", step=100)
    run.stop(30, 300)
    first, second = run.told(300)
    assert first["steps_lost"] == 100
    assert (second["from_step"], second["to_step"]) == (100, 300)


def test_the_step_of_a_quarantined_checkpoint_is_not_one_that_its_finder_reached(run: Run) -> None:
    run.start(0, resume=100)
    run.event(1, "quarantine", step=900, reason="torn")
    assert run.told(100)[0]["to_step"] == 100


def test_an_attempt_that_ended_before_it_trained_has_no_steps_and_lost_none(run: Run) -> None:
    run.start(0)
    run.save(5, 100)
    run.attempt = 2
    run.event(10, "start", host="vm", pid=2)
    run.event(10, "fault", step=50, reason="an old checkpoint is damaged")
    run.event(11, "fault", error="Unusable", message="nothing to resume from")
    run.event(11, "stop", reason="error", exit_code=66, saved=False)
    first, second = read_attempts(run.directory, latest=100)
    assert (second.from_step, second.to_step, second.steps_lost) == (None, None, 0)
    assert (second.reason, second.fault, second.exit_code) == ("error", "Unusable", 66)
    assert (first.to_step, first.steps_lost) == (100, 0)


def test_records_go_to_the_last_attempt_that_trained(run: Run) -> None:
    run.start(0)
    run.save(5, 100)
    run.records(100, 170)
    run.attempt = 2
    run.event(10, "start", host="vm", pid=2)  # killed before it cut the log
    first, second = run.told(100)
    assert (first["to_step"], first["steps_lost"]) == (170, 70)
    assert second["from_step"] is None


def test_torn_lines_of_the_journal_and_the_log_are_ignored(run: Run) -> None:
    run.start(0)
    run.save(5, 100)
    run.records(100, 150)
    with open(run.directory.metrics, "a") as file:
        file.write('{"kind":"train","step":160,"examples":1,"epoch":null,"window":[0,160],"metrics":{}}')
    with open(run.directory.journal, "a") as file:
        file.write('{"time":"2026-03-01T12:00:06Z","attempt":1,"event":"sa')
    (attempt,) = run.told(100)
    assert attempt["to_step"] == 150


def test_the_host_of_each_attempt_is_known(run: Run) -> None:
    run.start(0, host="spot-1")
    run.stop(1, 10)
    run.start(2, resume=10, host="spot-2")
    run.stop(3, 20)
    assert [attempt.host for attempt in read_attempts(run.directory, latest=20)] == ["spot-1", "spot-2"]


def test_a_rewind_costs_each_attempt_its_own_steps_beyond_and_is_no_attempt(run: Run) -> None:
    run.start(0)
    run.save(10, 300)
    run.start(20, resume=300)
    run.stop(40, 500)
    run.rewind(1000, 100)
    run.records(100)
    run.records(300, 320, 540, path="orphans/attempt-0002-rewind/metrics.jsonl")
    first, second = run.told(100)
    assert (first["from_step"], first["to_step"], first["steps_lost"]) == (0, 300, 200)
    assert (second["from_step"], second["to_step"], second["steps_lost"]) == (300, 540, 240)
    assert (second["reason"], second["exit_code"]) == ("target reached", 0)


def test_what_a_rewind_cost_stays_lost_when_the_run_goes_on(run: Run) -> None:
    run.start(0)
    run.records(570, path="orphans/attempt-0001-rewind/metrics.jsonl")
    run.records(250, path="orphans/attempt-0001-rewind-2/metrics.jsonl")
    run.rewind(1000, 200)
    run.rewind(1001, 100, "orphans/attempt-0001-rewind-2")
    run.start(2000, resume=100)
    run.records(100, 900)
    run.stop(2020, 900)
    first, second = run.told(900)
    assert (first["to_step"], first["steps_lost"]) == (570, 470)
    assert (second["to_step"], second["steps_lost"]) == (900, 0)


def test_a_rewind_is_no_sign_of_life_and_its_time_is_no_attempt_s(run: Run) -> None:
    run.start(0)
    run.save(10, 100)
    run.save(20, 200)
    run.stop(20, 200)
    run.rewind(90_000, 100)
    (attempt,) = read_attempts(run.directory, latest=100)
    assert (attempt.seconds, attempt.useful_seconds) == (20, 10)


def test_a_rewind_in_a_directory_without_attempts_makes_none(run: Run) -> None:
    run.rewind(0, 100)
    assert run.told(100) == []


# Goodput: seconds that made steps which count, of all seconds of all attempts.


def test_starting_up_is_not_good(run: Run) -> None:
    run.start(0, ready=2)
    run.stop(10, 500)
    assert run.goodput(500) == pytest.approx(0.8)


def test_a_stall_for_a_save_is_not_good(run: Run) -> None:
    run.start(0)
    run.save(5, 250, stall=0.5)
    run.save(10, 500, stall=0.5)
    run.stop(10, 500)
    assert run.goodput(500) == pytest.approx(0.9)


def test_what_was_trained_after_the_checkpoint_that_was_resumed_from_is_not_good(run: Run) -> None:
    run.start(0)
    run.save(6, 100)
    run.event(10, "evaluate", step=160)
    run.start(1000, resume=100)
    run.stop(1010, 200)
    # The pause in between is no attempt's time.
    assert run.goodput(200) == pytest.approx((6 + 10) / (10 + 10))


def test_what_an_older_checkpoint_undoes_is_not_good_either(run: Run) -> None:
    run.start(0)
    run.save(4, 100)
    run.save(10, 200)
    run.stop(10, 200, "preempted", 75)
    run.start(20, resume=200)
    run.save(30, 300)
    run.stop(30, 300, "preempted", 75)
    run.start(40, resume=100)  # both later ones were damaged
    run.stop(50, 200)
    assert run.goodput(200) == pytest.approx((4 + 0 + 10) / 30, abs=1e-4)


def test_how_long_a_killed_attempt_lived_is_estimated_by_its_pace(run: Run) -> None:
    run.start(0)
    run.save(10, 100)
    run.records(100, 200)  # twice as far as its last line in the journal
    assert run.goodput(100) == pytest.approx(0.5)


def test_a_running_attempt_counts_up_to_now(run: Run) -> None:
    since = (datetime.datetime.now(datetime.timezone.utc) - BEGIN).total_seconds() + 1
    with locked(run.directory.lock):
        run.start(since, ready=5)
        assert run.goodput(None, now=since + 20) == pytest.approx(0.75)


def test_goodput_is_a_share(run: Run) -> None:
    run.start(10)
    run.save(5, 100, stall=100.0)  # a clock that went back, and a stall that cannot be
    run.stop(20, 200)
    share = run.goodput(200)
    assert share is not None
    assert 0 <= share <= 1


def test_evaluating_is_not_good(run: Run) -> None:
    run.start(0)
    run.event(9, "evaluate", step=500, splits=["validation"], seconds=3)
    run.stop(10, 500)
    assert run.goodput(500) == pytest.approx(0.7)


def test_an_attempt_that_told_where_its_time_went_is_taken_at_its_word(run: Run) -> None:
    run.start(0)
    run.times(2, 1, trained=0)
    run.stop(10, 500, seconds={"step": 6, "data_wait": 1, "total": 10})
    assert run.goodput(500) == pytest.approx(0.6)
    (attempt,) = run.told(500)
    assert (attempt["times"]["step"], attempt["times"]["data_wait"], attempt["times"]["save"]) == (6, 1, 0)


def test_of_a_killed_attempt_what_it_had_trained_at_the_step_that_was_resumed_from_is_good(run: Run) -> None:
    run.start(0)
    run.times(2, 1, trained=0)
    run.times(6, 300, trained=3)
    run.times(10, 500, trained=6)
    run.start(10, resume=300)
    run.times(11, 301, trained=0)
    run.stop(20, 500, seconds={"step": 8, "total": 10})
    assert run.goodput(500) == pytest.approx((3 + 8) / 20)
    assert [attempt["times"]["step"] for attempt in run.told(500)] == [6, 8]


def test_a_running_attempt_has_trained_since_its_last_line_as_far_as_anyone_knows(run: Run) -> None:
    since = (datetime.datetime.now(datetime.timezone.utc) - BEGIN).total_seconds() + 1
    with locked(run.directory.lock):
        run.start(since)
        run.times(since + 4, 1, trained=0)
        assert run.goodput(None, now=since + 16) == pytest.approx(0.75)


def test_the_pace_of_a_killed_attempt_is_not_that_of_its_first_step(run: Run) -> None:
    run.start(0)
    run.times(30, 1, trained=0)  # it compiled
    run.records(500)
    assert read_attempts(run.directory, latest=0)[0].seconds == 30
    run.times(40, 101, trained=10)
    assert read_attempts(run.directory, latest=0)[0].seconds == pytest.approx(40 + 39.9)


def test_a_line_that_garbles_where_the_time_went_is_as_good_as_none(run: Run) -> None:
    run.start(0)
    run.event(5, "times", step=100, seconds="long")
    run.event(6, "evaluate", step=100, splits=[], seconds="long")
    run.stop(10, 500, seconds={"step": "all"})
    assert run.told(500)[0]["times"] is None
    assert run.goodput(500) == 1


def test_an_attempt_that_failed_between_its_plan_and_its_first_step_is_told(run: Run) -> None:
    run.start(0)
    run.event(1, "fault", error="Unusable", message="the stream ends")
    run.event(1, "stop", reason="error", exit_code=66, step=None, saved=False, seconds={"start": 1, "total": 1})
    (attempt,) = run.told(None)
    assert (attempt["to_step"], attempt["times"]["start"]) == (0, 1)


# What ended an attempt.


def test_the_cause_is_the_signal_or_the_error_and_what_it_said(run: Run) -> None:
    run.start(0)
    run.event(1, "signal", signal="SIGTERM", step=10)
    run.stop(2, 10, "preempted", 75)
    run.start(3, resume=10)
    run.event(4, "fault", error="Diverged", message="the loss is not finite at step 12")
    run.event(4, "stop", reason="error", exit_code=65, step=12, saved=False)
    run.start(5, resume=10)
    run.event(6, "signal", signal="SIGTERM", step=20)  # and killed before it could save
    run.start(7, resume=10)
    run.event(8, "signal", signal="None", step=20)  # asked for by a program
    run.stop(9, 20, "preempted", 75)
    assert [attempt["cause"] for attempt in run.told(20)] == [
        "SIGTERM",
        "Diverged: the loss is not finite at step 12",
        "SIGTERM",
        None,
    ]
    assert [attempt["reason"] for attempt in run.told(20)][2] == "killed"


def test_the_end_of_the_time_that_a_process_may_run_is_a_cause(run: Run) -> None:
    run.start(0)
    run.event(1, "signal", signal="max_runtime", step=10)
    run.stop(2, 10, "preempted", 75)
    assert run.told(10)[0]["cause"] == "max_runtime"


def test_a_request_to_save_ends_nothing_and_is_no_cause(run: Run) -> None:
    run.start(0)
    run.event(1, "signal", signal="SIGUSR2", step=10)
    run.stop(2, 20)
    run.start(3, resume=20)
    run.event(4, "signal", signal="SIGUSR2", step=30)
    run.event(5, "signal", signal="SIGTERM", step=40)
    run.stop(6, 40, "preempted", 75)
    run.start(7, resume=40)
    run.event(8, "signal", signal="SIGTERM", step=50)
    run.event(8, "signal", signal="SIGUSR2", step=50)
    run.stop(9, 50, "preempted", 75)
    assert [attempt["cause"] for attempt in run.told(50)] == [None, "SIGTERM", "SIGTERM"]


def test_a_chunk_that_hung_is_a_cause_with_what_it_said(run: Run) -> None:
    run.start(0)
    run.event(9, "fault", error="HangTimeout", message="a chunk did not return", stacks={"MainThread": "here"})
    run.event(9, "stop", reason="hung", exit_code=75, step=10, saved=False, unfinished=True, seconds={"total": 9})
    (attempt,) = run.told(5)
    assert (attempt["reason"], attempt["exit_code"]) == ("hung", 75)
    assert attempt["cause"] == "HangTimeout: a chunk did not return"
    assert (attempt["to_step"], attempt["steps_lost"]) == (10, 5)


# From the start of the process to its first step.


def test_what_a_process_lived_before_its_first_line_counts(run: Run) -> None:
    run.start(100, age_s=6)
    run.stop(104, 500)
    (attempt,) = run.told(500)
    assert attempt["seconds"] == 10
    assert run.goodput(500) == pytest.approx(0.4)


@pytest.mark.parametrize("age", ["old", None, [3], -5, float("nan"), float("inf"), {}])
def test_an_age_that_no_process_can_have_is_as_good_as_none(age: Any, run: Run) -> None:
    run.start(100, age_s=age)
    run.stop(104, 500)
    assert run.told(500)[0]["seconds"] == 4


def test_each_attempt_tells_when_its_first_step_was_done_and_how_long_it_restored(run: Run) -> None:
    run.start(0, age_s=2)
    run.times(3, 1, trained=0, first_step_s=5.25, start={"import": 3, "first_chunk": 1})
    run.times(9, 100, trained=5)
    run.start(20, resume=100, age_s=2)
    run.times(24, 101, trained=0, restored=1.5, first_step_s=6.5, start={"import": 3})
    run.stop(30, 200, seconds={"restore": 1.5, "step": 4, "total": 12})
    run.start(40, resume=200)  # killed before its first step
    told = run.told(200)
    assert [attempt["first_step_s"] for attempt in told] == [5.25, 6.5, None]
    assert [attempt["restore_s"] for attempt in told] == [0, 1.5, None]


@pytest.mark.parametrize("garbled", ["soon", None, [1]])
def test_a_line_that_garbles_when_the_first_step_was_done_is_as_good_as_none(garbled: Any, run: Run) -> None:
    run.start(0)
    run.times(3, 1, trained=0, first_step_s=garbled)
    run.stop(4, 10)
    assert run.told(10)[0]["first_step_s"] is None


def test_the_time_to_recover_counts_from_where_it_ended_to_the_wall_clock_not_to_an_age(run: Run) -> None:
    run.start(0, age_s=5)
    run.times(2, 1, trained=0)
    run.stop(10, 100, "preempted", 75)
    run.start(40, resume=100, age_s=5)
    run.times(45, 101, trained=0)
    run.stop(60, 200)
    assert recoveries(run, 200) == [None, 35]


# The time to recover.


def recoveries(run: Run, latest: int) -> list[float | None]:
    return [attempt["recover_s"] for attempt in run.told(latest)]


def test_it_takes_from_the_last_sign_of_life_to_the_first_step_of_the_next_attempt(run: Run) -> None:
    run.start(0)
    run.times(2, 1, trained=0)
    run.stop(10, 100, "preempted", 75)
    run.start(40, resume=100)
    run.times(45, 101, trained=0)
    run.stop(60, 200)
    assert recoveries(run, 200) == [None, 35]


def test_steps_that_were_lost_have_to_be_done_again_first(run: Run) -> None:
    run.start(0)
    run.times(1, 1, trained=0)
    run.times(10, 200, trained=9)
    run.start(30, resume=100)
    run.times(31, 101, trained=0)
    run.times(51, 301, trained=20)  # step 201 half way
    run.stop(60, 400)
    assert recoveries(run, 400) == [None, pytest.approx(41 - 10)]


def test_an_attempt_that_never_came_so_far_has_not_recovered_and_the_next_counts_from_the_interruption(
    run: Run,
) -> None:
    run.start(0)
    run.times(1, 1, trained=0)
    run.times(10, 200, trained=9)
    run.start(30, resume=100)
    run.times(31, 101, trained=0)
    run.attempt = 3
    run.event(35, "start", host="vm", pid=3)
    run.start(40, resume=100)
    run.times(41, 101, trained=0)
    run.times(51, 201, trained=10)
    run.stop(60, 400)
    assert recoveries(run, 400) == [None, None, None, 41]


def test_going_on_after_an_end_or_a_rewind_is_no_recovery(run: Run) -> None:
    run.start(0)
    run.stop(10, 100)
    run.start(1000, resume=100)  # a larger target
    run.stop(1010, 200, "preempted", 75)
    run.rewind(2000, 100)
    run.start(3000, resume=100)
    run.stop(3010, 300, "preempted", 75)
    run.start(3020, resume=300)
    run.times(3021, 301, trained=0)
    run.stop(3030, 400)
    assert recoveries(run, 400) == [None, None, None, 11]


def test_without_lines_of_its_first_steps_an_attempt_is_taken_to_have_gone_at_one_pace(run: Run) -> None:
    run.start(0)
    run.stop(10, 100, "preempted", 75)
    run.start(20, resume=100, ready=2)
    run.save(32, 200)
    run.stop(32, 200)
    assert recoveries(run, 200) == [None, pytest.approx(12.1)]


def test_a_killed_attempt_that_its_records_show_to_have_been_further_had_recovered(run: Run) -> None:
    run.start(0)
    run.stop(10, 100, "preempted", 75)
    run.start(20, resume=100)
    run.records(150)
    assert recoveries(run, 100) == [None, pytest.approx(10)]


def test_lines_from_before_the_first_step_say_nothing_of_the_pace(run: Run) -> None:
    run.start(0)
    run.event(1, "decide", step=0, interval_s=169.0, stall_s=1.0, mtbf_s=14400.0, rule="guess")
    run.times(5, 1, trained=0)
    run.times(6, 1001, trained=1)
    run.records(2001)
    (attempt,) = run.told(None)
    assert attempt["seconds"] == pytest.approx(7)


def test_an_age_that_no_process_has_is_none(run: Run) -> None:
    run.start(10, age_s=10**400)
    run.stop(20, 100)
    (attempt,) = run.told(None)
    assert attempt["seconds"] == 10


def test_a_running_attempt_has_recovered_once_its_journal_says_so(run: Run) -> None:
    since = (datetime.datetime.now(datetime.timezone.utc) - BEGIN).total_seconds() + 1
    run.start(since - 20)
    run.stop(since - 10, 100, "preempted", 75)
    with locked(run.directory.lock):
        run.start(since, resume=100)
        assert recoveries(run, 100) == [None, None]
        run.times(since + 5, 101, trained=0)
        assert recoveries(run, 100) == [None, pytest.approx(15)]
