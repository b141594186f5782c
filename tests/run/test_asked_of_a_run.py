"""What is asked of a run from outside changes when it saves and where it stops, and nothing else."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

import trainer
from trainer.checkpoint import tensors
from trainer.checkpoint.save_times import SaveTime
from trainer.checkpoint.saver import Save, Saved, Saver
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest
from trainer.process.signals import StopRequest
from trainer.run import trainer as trainer_module
from trainer.run.program import Advance, Program

pytestmark = pytest.mark.slow

Train = Callable[..., trainer.Result]

FLAGS: dict[str, Any] = {"train_for": 10, "log_every": 4, "save_every": 5, "keep_best": 0}
ONE_STEP_A_CHUNK = "0.000001s"


@pytest.fixture
def undisturbed(linear: Any, train: Train, tmp_path: pathlib.Path) -> bytes:
    """The log of a run of which nothing is asked."""
    train(linear(), folder="undisturbed", **FLAGS)
    return (tmp_path / "undisturbed" / "metrics.jsonl").read_bytes()


@pytest.fixture
def ask_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Has signals arrive while the step runs that is named; gives the options of the run."""
    steps = Program.run

    def options(step: int, *numbers: signal.Signals) -> dict[str, Any]:
        request, left = StopRequest(), list(numbers)

        def run(program: Program, until: int, closes: list[int]) -> Advance:
            advance = steps(program, until, closes)
            while until >= step and left:
                request.note(left.pop(0), None)
            return advance

        monkeypatch.setattr(Program, "run", run)
        return {"stop_request": request, "tick": ONE_STEP_A_CHUNK}

    return options


def lines(tmp_path: pathlib.Path, event: str) -> list[dict[str, Any]]:
    return [line for line in read_journal(RunDirectory(tmp_path / "run")) if line["event"] == event]


def log(tmp_path: pathlib.Path) -> bytes:
    return (tmp_path / "run" / "metrics.jsonl").read_bytes()


def test_a_request_to_save_saves_once_and_the_run_goes_on(
    linear: Any, train: Train, ask_at: Any, commits: list[Manifest], undisturbed: bytes, tmp_path: pathlib.Path
) -> None:
    commits.clear()
    result = train(linear(), **FLAGS, **ask_at(3, signal.SIGUSR2))
    assert (result.reason, result.step) == ("target reached", 10)
    told = [(manifest.step, list(manifest.reasons), manifest.transient) for manifest in commits]
    assert told == [(3, ["request"], True), (5, ["interval"], False), (10, ["interval", "final"], False)]
    assert log(tmp_path) == undisturbed
    assert [(line["signal"], line["step"]) for line in lines(tmp_path, "signal")] == [("SIGUSR2", 3)]


def test_a_request_at_a_step_that_is_saved_anyway_is_one_reason_more(
    linear: Any, train: Train, ask_at: Any, commits: list[Manifest], tmp_path: pathlib.Path
) -> None:
    train(linear(), **FLAGS, **ask_at(5, signal.SIGUSR2))
    assert [manifest.step for manifest in commits] == [5, 10]
    assert list(commits[0].reasons) == ["interval", "request"]
    assert not commits[0].transient


def test_a_stop_wins_over_a_request_to_save(linear: Any, train: Train, ask_at: Any, commits: list[Manifest]) -> None:
    result = train(linear(), **FLAGS, **ask_at(3, signal.SIGUSR2, signal.SIGTERM))
    assert (result.exit_code, result.step, result.saved) == (75, 3, True)
    assert [(manifest.step, list(manifest.reasons)) for manifest in commits] == [(3, ["signal", "request"])]


def test_the_end_of_the_time_stops_the_run_as_a_preemption_does(
    linear: Any, train: Train, commits: list[Manifest], undisturbed: bytes, tmp_path: pathlib.Path
) -> None:
    commits.clear()
    result = train(linear(), max_runtime="0.000001s", **FLAGS)
    # Also before the first step.
    assert (result.reason, result.exit_code, result.step, result.saved) == ("preempted", 75, 0, True)
    assert [(list(manifest.reasons), manifest.transient) for manifest in commits] == [(["runtime"], True)]
    assert [line["signal"] for line in lines(tmp_path, "signal")] == ["max_runtime"]
    assert train(linear(), **FLAGS).reason == "target reached"
    assert log(tmp_path) == undisturbed


def slow_saves_before(tmp_path: pathlib.Path, seconds: float) -> None:
    """Has the journal tell of saves that took so long."""
    directory = RunDirectory(tmp_path / "run")
    line = {**lines(tmp_path, "save")[-1], "write_s": seconds}
    with open(directory.journal, "a") as file:
        file.write(3 * (json.dumps(line) + "\n"))


def test_a_save_that_would_not_fit_into_the_grace_is_not_begun_and_the_newest_checkpoint_stands(
    linear: Any,
    train: Train,
    ask_at: Any,
    commits: list[Manifest],
    undisturbed: bytes,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(linear(), **FLAGS, **ask_at(5, signal.SIGTERM))
    slow_saves_before(tmp_path, 60.0)
    commits.clear()
    result = train(linear(), **FLAGS, **ask_at(8, signal.SIGTERM), grace="30s")
    assert (result.reason, result.exit_code, result.step, result.saved) == ("preempted", 75, 8, False)
    assert commits == []
    assert result.last is not None
    assert result.last.step == 5
    line = lines(tmp_path, "signal")[-1]
    assert (line["signal"], line["step"], line["saved"]) == ("SIGTERM", 8, False)
    assert line["needed_s"] >= 60 > 30 >= line["left_s"]
    stop = lines(tmp_path, "stop")[-1]
    assert (stop["reason"], stop["exit_code"], stop["step"], stop["saved"]) == ("preempted", 75, 8, False)
    (warning,) = [said for said in capsys.readouterr().err.splitlines() if "grace" in said]
    assert "step 8 is not saved" in warning
    assert "step 5 stays the newest checkpoint" in warning
    assert train(linear(), **FLAGS).reason == "target reached"
    assert log(tmp_path) == undisturbed


def test_one_that_fits_is_made_though_saves_are_slow(
    linear: Any, train: Train, ask_at: Any, commits: list[Manifest], tmp_path: pathlib.Path
) -> None:
    train(linear(), **FLAGS, **ask_at(5, signal.SIGTERM))
    slow_saves_before(tmp_path, 60.0)
    result = train(linear(), **FLAGS, **ask_at(8, signal.SIGTERM), grace="10m")
    assert (result.step, result.saved) == (8, True)


@pytest.mark.parametrize(("grace", "read_back"), [("50s", []), ("10m", [8])], ids=["no time to", "time to"])
def test_one_that_fits_and_its_reading_back_does_not_is_made_without_it(
    grace: str,
    read_back: list[int],
    linear: Any,
    train: Train,
    ask_at: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [SaveTime(seconds=1.0, stall_s=0.0, verify_s=60.0)]
    monkeypatch.setattr(trainer_module, "known_times", lambda directory: known)
    read: list[int] = []
    read_back_of = tensors.read_back

    def seen(prefix: str, *, step: int) -> None:
        read.append(step)
        read_back_of(prefix, step=step)

    monkeypatch.setattr(tensors, "read_back", seen)
    result = train(linear(), **FLAGS, **ask_at(8, signal.SIGTERM), grace=grace)
    assert (result.exit_code, result.step, result.saved) == (75, 8, True)
    assert read == read_back
    assert "saved" not in lines(tmp_path, "signal")[-1]


def test_a_save_in_flight_counts_until_it_is_committed(
    linear: Any,
    train: Train,
    ask_at: Any,
    commits: list[Manifest],
    undisturbed: bytes,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commits.clear()
    write = Saver.write

    def slowly(saver: Saver, save: Save) -> Saved:
        # It is on its way when the notice comes.
        time.sleep(1.0)
        return write(saver, save)

    train(linear(), **FLAGS, **ask_at(3, signal.SIGTERM))
    monkeypatch.setattr(Saver, "write", slowly)
    slow_saves_before(tmp_path, 10.0)
    # One save fits into the grace, two after each other do not.
    result = train(linear(), **FLAGS, **ask_at(6, signal.SIGTERM), grace="15s")
    assert (result.exit_code, result.step, result.saved) == (75, 6, False)
    # That in flight is waited for, and is the newest.
    assert result.last is not None
    assert result.last.step == 5
    monkeypatch.setattr(Saver, "write", write)
    assert train(linear(), **FLAGS).reason == "target reached"
    assert log(tmp_path) == undisturbed


def test_a_run_that_reaches_its_end_though_it_was_asked_to_stop_has_reached_it(
    linear: Any, train: Train, ask_at: Any, undisturbed: bytes, tmp_path: pathlib.Path
) -> None:
    result = train(linear(), **FLAGS, **ask_at(10, signal.SIGTERM))
    assert (result.reason, result.exit_code, result.saved) == ("target reached", 0, True)
    assert log(tmp_path) == undisturbed


def test_automatic_saves_are_told_with_their_reason_and_change_nothing_in_the_log(
    linear: Any,
    train: Train,
    commits: list[Manifest],
    undisturbed: bytes,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commits.clear()
    steps = Program.run

    def run(program: Program, until: int, closes: list[int]) -> Advance:
        time.sleep(0.25)
        return steps(program, until, closes)

    monkeypatch.setattr(Program, "run", run)
    flags = {**FLAGS, "save_every": "auto", "mtbf": "1s", "save_overhead": 0.9}
    train(linear(), **flags, tick=ONE_STEP_A_CHUNK)
    told = [(list(manifest.reasons), manifest.transient) for manifest in commits]
    assert told[:-1] == [(["auto"], True)] * (len(told) - 1)
    assert len(told) > 1
    assert told[-1][0][0] == "final"
    assert log(tmp_path) == undisturbed
    decisions = lines(tmp_path, "decide")
    assert len(decisions) == len(told)
    for line in decisions:
        assert {"interval_s", "stall_s", "mtbf_s"} <= line.keys()


def test_a_signal_is_heard_though_native_code_took_it_away_while_the_model_was_built(
    linear: Any, train: Train, commits: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    native = ctypes.CDLL(None)
    native.signal.restype, native.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    built: list[Any] = []

    @dataclasses.dataclass(frozen=True)
    class Distributed(linear):
        """Takes SIGTERM away, past Python, as who makes a strategy does."""

        def model(self, seed: Any) -> Any:
            native.signal(signal.SIGTERM, int(signal.SIG_IGN))
            built.append(seed)
            return super().model(seed)

    steps, before = Program.run, signal.getsignal(signal.SIGTERM)

    def run(program: Program, until: int, closes: list[int]) -> Advance:
        advance = steps(program, until, closes)
        if until == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance

    monkeypatch.setattr(Program, "run", run)
    result = train(Distributed(), **FLAGS, tick=ONE_STEP_A_CHUNK)
    assert built
    assert (result.reason, result.exit_code, result.step) == ("preempted", 75, 3)
    assert [manifest.step for manifest in commits] == [3]
    assert signal.getsignal(signal.SIGTERM) is before
