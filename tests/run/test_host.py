"""What a run takes of the process that it lives in, and gives back: a command's own, and that of a library's caller."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import trainer
from trainer.errors import Diverged
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.process import watchdog
from trainer.process.signals import StopRequest
from trainer.process.watchdog import Watchdog
from trainer.run.config import make_config
from trainer.run.evaluate import Evaluator
from trainer.run.host import Host, guest, own_process
from trainer.run.program import Advance, Program
from trainer.run.timing import Times

TAKEN = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

Train = Callable[..., trainer.Result]


def handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in TAKEN}


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which a watchdog would have ended this process."""
    codes: list[int] = []
    monkeypatch.setattr(watchdog, "exit_at_once", codes.append)
    return codes


def test_the_process_of_a_command_is_watched_and_its_signals_are_taken_until_it_is_over() -> None:
    before = handlers()
    with own_process() as host:
        assert all(handlers()[number] != before[number] for number in TAKEN)
        assert "watchdog" in threads()
        os.kill(os.getpid(), signal.SIGTERM)
        assert host.request.signal is signal.SIGTERM
    assert handlers() == before
    assert "watchdog" not in threads()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not tell")
def test_the_clock_of_a_command_counts_from_the_birth_of_its_process() -> None:
    began = time.monotonic()
    with own_process() as host:
        # This process has imported things before.
        assert host.times.age > time.monotonic() - began
        assert host.times.to_json()["start"] > time.monotonic() - began
    with guest(make_config({}, {}), None) as host:
        assert host.times.age <= time.monotonic() - began


def test_the_process_of_a_caller_is_watched_only_for_what_hangs() -> None:
    before = handlers()
    with guest(make_config({}, {}), None):
        assert all(handlers()[number] != before[number] for number in TAKEN)
        assert "watchdog" not in threads()
    with guest(make_config({"hang_timeout": "1h"}, {}), None):
        assert "watchdog" in threads()
    assert "watchdog" not in threads()
    assert handlers() == before


def test_who_asks_by_a_request_of_their_own_keeps_the_signals() -> None:
    before, request = handlers(), StopRequest()
    with guest(make_config({}, {}), request) as host:
        assert host.request is request
        assert handlers() == before


def test_the_limits_are_those_of_the_flags() -> None:
    with guest(make_config({}, {}), StopRequest()) as host:
        host.set_limits(make_config({}, {}))
        assert (host.watchdog.grace_s, host.watchdog.hang_s) == (10.0, None)
        host.set_limits(make_config({"grace": "2m", "hang_timeout": "1h30m", "max_runtime": "1h"}, {}))
        assert (host.watchdog.grace_s, host.watchdog.hang_s) == (120.0, 5400.0)
        assert not host.request
        host.set_limits(make_config({"max_runtime": "0.000001s"}, {}))
        time.sleep(0.001)
        assert (bool(host.request), host.request.cause) == (True, "max_runtime")


def test_the_end_of_a_runs_time_is_no_request_any_more_when_the_run_is_over() -> None:
    config, request = make_config({"max_runtime": "0.000001s"}, {}), StopRequest()
    with guest(config, request) as host:
        host.set_limits(config)
        time.sleep(0.001)
        assert request
    # Who made it asks for the next run too.
    assert not request
    with contextlib.suppress(Diverged), guest(config, request) as host:
        host.set_limits(config)
        request.note(signal.SIGTERM, None)
        raise Diverged
    assert (bool(request), request.cause) == (True, "SIGTERM")


# A library call.


@pytest.mark.slow
def test_a_call_takes_the_signals_while_it_runs_and_gives_them_back(linear: Any, train: Train) -> None:
    before, seen = handlers(), []
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        mine = handlers()
        result = train(linear(), train_for=2, log_every=1, on_record=lambda record: seen.append(handlers()))
        assert result.reason == "target reached"
        assert handlers() == mine
    finally:
        signal.signal(signal.SIGUSR2, before[signal.SIGUSR2])
    assert len(seen) == 2
    assert all(inside[number] != mine[number] for inside in seen for number in TAKEN)


@pytest.mark.slow
def test_a_signal_to_the_process_of_a_call_stops_the_run_and_reaches_the_callers_own_handler(
    linear: Any, train: Train
) -> None:
    before, heard = handlers(), []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

    def asks(record: Any) -> None:
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        result = train(linear(), train_for=9, log_every=1, save_every=1, on_record=asks, tick="0.000001s")
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    assert (result.reason, result.exit_code, result.saved) == ("preempted", 75, True)
    assert result.step < 9
    assert heard == [signal.SIGTERM]


@pytest.mark.slow
def test_a_call_that_fails_gives_the_signals_back_too(linear: Any, train: Train) -> None:
    before = handlers()
    with pytest.raises(Diverged):
        train(linear(learning_rate=1e30), train_for=9)
    assert handlers() == before


@pytest.mark.slow
def test_a_call_from_another_thread_touches_no_handler(linear: Any, train: Train) -> None:
    before, seen = handlers(), []
    results: list[trainer.Result] = []

    def work() -> None:
        results.append(
            train(
                linear(), train_for=2, log_every=1, on_record=lambda record: seen.append(handlers()), hang_timeout="1h"
            )
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].reason == "target reached"
    assert seen == [before] * 2
    assert handlers() == before


@pytest.mark.slow
def test_the_end_of_the_grace_ends_no_process_of_a_caller(
    linear: Any, train: Train, ends: list[int], tmp_path: pathlib.Path
) -> None:
    request = StopRequest()

    def asks(record: Any) -> None:
        if record.step == 3:
            request.note(signal.SIGTERM, None)
            # The grace is over by far, and the watchdog looks more often.
            time.sleep(0.4)

    options = {"grace": "0.000001s", "hang_timeout": "1h", "tick": "0.000001s"}
    result = train(linear(), train_for=9, log_every=1, save_every=1, on_record=asks, stop_request=request, **options)
    assert (result.reason, result.exit_code) == ("preempted", 75)
    assert ends == []
    (stop,) = [line for line in read_journal(RunDirectory(tmp_path / "run")) if line["event"] == "stop"]
    assert "unfinished" not in stop


@pytest.mark.slow
def test_chunks_and_evaluations_are_watched_and_each_call_of_an_evaluation_is_a_sign_of_life(
    linear: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Recorded(Watchdog):
        @contextlib.contextmanager
        def chunk(self) -> Iterator[None]:
            seen.append("watch")
            with super().chunk():
                yield
            seen.append("rest")

        def beat(self) -> None:
            seen.append("beat")
            super().beat()

    @dataclasses.dataclass(frozen=True)
    class Evaluated(linear):
        def eval_data(self) -> dict[str, trainer.data.Source]:
            return {"validation": self.source()}

    trains, evaluates = Program.run, Evaluator.run

    def train_seen(program: Program, until: int, closes: list[int]) -> Advance:
        seen.append("train")
        return trains(program, until, closes)

    def evaluate_seen(evaluator: Evaluator, pace: Any, interrupted: Callable[[], bool]) -> Any:
        seen.append("evaluate")
        return evaluates(evaluator, pace, interrupted)

    monkeypatch.setattr(Program, "run", train_seen)
    monkeypatch.setattr(Evaluator, "run", evaluate_seen)
    request = StopRequest()
    # Ten examples in batches of four, each batch a call.
    options = {"train_for": 1, "save_every": "never", "tick": "0.000001s", "jit": "none", "progress": "never"}
    trainer.Trainer(Evaluated(), run_dir=str(tmp_path / "run"), **options).run(
        Host(request, Recorded(request, owner=False), Times())
    )
    assert seen == ["watch", "beat", "train", "rest", "watch", "beat", "evaluate", "beat", "beat", "beat", "rest"]
