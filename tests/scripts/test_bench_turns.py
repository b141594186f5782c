"""scripts/bench.sh: processes that take turns, and a clock that stands still for those that are stopped."""

from __future__ import annotations

import itertools
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "scripts"))

from bench import clock
from bench.child import Child, _once
from bench.turns import take_turns

Perform = Callable[[Callable[[], None]], dict[str, Any]]
MOMENT_S = 0.05


def turns(*jobs: Perform, moment_s: float | None = MOMENT_S, at_once: int = 2) -> list[dict[str, Any]]:
    """The answers of jobs that take turns."""

    def beginning(job: Perform) -> Callable[[], Child]:
        return lambda: Child(job, longest_s=60)

    return [
        child.answer() for child in take_turns([beginning(job) for job in jobs], moment_s=moment_s, at_once=at_once)
    ]


def writing(place: pathlib.Path, name: str, seconds: float) -> Perform:
    """A job that writes its name again and again, for so long by its own clock, to a file that all write to."""

    def perform(ready: Callable[[], None]) -> dict[str, Any]:
        file = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, name.lower().encode())
        ready()
        began, real = clock.now(), time.monotonic()
        while clock.now() - began < seconds:
            os.write(file, name.encode())
        return {"own": clock.now() - began, "real": time.monotonic() - real}

    return perform


@pytest.mark.slow
class TestTurns:
    def test_each_runs_for_moments_while_the_others_are_stopped(self, tmp_path: pathlib.Path) -> None:
        told = turns(*(writing(tmp_path / "all", name, 10 * MOMENT_S) for name in "ABC"))
        text = (tmp_path / "all").read_text()
        # Nobody's clock starts before all are so far.
        assert sorted(text[:3]) == ["a", "b", "c"]
        order = [name for name, _ in itertools.groupby(text[3:])]
        assert all(order.count(name) > 1 for name in "ABC")
        # While it was stopped, a whole moment of each of the others at least, its own time stood still.
        assert all(one["real"] - one["own"] > 2 * MOMENT_S for one in told)

    def test_who_is_to_end_first_is_not_interrupted(self, tmp_path: pathlib.Path) -> None:
        turns(*(writing(tmp_path / "all", name, 3 * MOMENT_S) for name in "AB"), moment_s=None)
        assert sorted(name for name, _ in itertools.groupby((tmp_path / "all").read_text()[2:])) == ["A", "B"]

    @pytest.mark.parametrize("at_once", [1, 2])
    def test_no_more_than_so_many_are_on_their_way_to_the_start(self, at_once: int, tmp_path: pathlib.Path) -> None:
        def perform(ready: Callable[[], None]) -> dict[str, Any]:
            here = tmp_path / str(os.getpid())
            here.touch()
            time.sleep(MOMENT_S)
            found = len(list(tmp_path.iterdir()))
            here.unlink()
            ready()
            return {"found": found}

        assert max(one["found"] for one in turns(*[perform] * 4, at_once=at_once)) <= at_once

    def test_answers_come_in_the_order_of_the_jobs(self) -> None:
        def answering(number: int) -> Perform:
            def perform(ready: Callable[[], None]) -> dict[str, Any]:
                time.sleep(MOMENT_S * (3 - number))
                ready()
                return {"number": number}

            return perform

        assert [one["number"] for one in turns(*map(answering, range(4)))] == [0, 1, 2, 3]

    def test_who_is_ready_again_is_not_stopped_for_it(self) -> None:
        acts: list[bool] = []
        ready = _once(lambda: acts.append(True))
        ready()
        ready()
        assert acts == [True]

    def test_who_never_is_ready_answers(self) -> None:
        assert turns(lambda ready: {"well": True}) == [{"well": True}]

    @pytest.mark.parametrize("late", [False, True])
    def test_who_is_killed_is_a_failure_and_the_others_go_on(self, late: bool) -> None:
        def killed(ready: Callable[[], None]) -> dict[str, Any]:
            os.write(1, b"nearly done")
            if late:
                ready()
            os.kill(os.getpid(), signal.SIGKILL)
            return {}

        def well(ready: Callable[[], None]) -> dict[str, Any]:
            ready()
            return {"well": True}

        failure = {"error": "it was ended by SIGKILL", "details": "nearly done"}
        assert turns(killed, well, killed) == [failure, {"well": True}, failure]

    def test_who_is_killed_while_it_says_where_its_clock_starts_is_a_failure(self) -> None:
        def killed(ready: Callable[[], None]) -> dict[str, Any]:
            kill = os.kill
            os.kill = lambda process, number: kill(process, signal.SIGKILL)  # In this process alone.
            ready()
            return {}

        assert turns(killed) == [{"error": "it was ended by SIGKILL", "details": ""}]

    def test_a_clock_does_not_go_back_where_a_stop_is_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def watching(ready: Callable[[], None]) -> dict[str, Any]:
            ready()
            last, back, began = clock.now(), 0.0, time.monotonic()
            while time.monotonic() - began < 8 * MOMENT_S:
                now = clock.now()
                last, back = now, max(back, last - now)
            return {"back": back}

        def late(process: int, number: int) -> None:
            time.sleep(MOMENT_S if number == signal.SIGSTOP else 0.0)
            kill(process, number)

        kill = os.kill
        monkeypatch.setattr(os, "kill", late)
        # A signal takes some microseconds to arrive, and may the other way be as much faster.
        assert all(told["back"] < MOMENT_S / 2 for told in turns(watching, watching))

    @pytest.mark.parametrize("late", [False, True])
    def test_who_takes_too_long_is_ended(self, late: bool) -> None:
        def perform(ready: Callable[[], None]) -> dict[str, Any]:
            if late:
                ready()
            time.sleep(60)
            return {}

        begin = [lambda: Child(perform, longest_s=1), lambda: Child(perform, longest_s=1)]
        told = [child.answer() for child in take_turns(begin, moment_s=MOMENT_S, at_once=2)]
        assert [one["error"] for one in told] == ["it was ended by SIGALRM"] * 2

    def test_who_fails_otherwise_tells_of_it_and_ends(self) -> None:
        (told,) = turns(lambda ready: {"not": object()})
        assert told["error"] == "it ended with exit code 1"
        assert "TypeError: Object of type object is not JSON serializable" in told["details"]


class TestClock:
    def test_what_is_counted_has_not_passed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, stopped = [100.0], clock.shared()
        monkeypatch.setattr(clock, "_real", lambda: now[0])
        monkeypatch.setattr(clock, "_stopped_s", None)
        assert clock.now() == 100.0
        clock.follow(stopped)
        stopped.value += 7.5
        now[0] = 110.0
        assert clock.now() == 102.5

    def test_a_stop_between_the_two_looks_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stopped = clock.shared()

        def stopped_just_now() -> float:
            stopped.value = 7.5
            return 107.5

        monkeypatch.setattr(clock, "_real", stopped_just_now)
        monkeypatch.setattr(clock, "_stopped_s", stopped)
        assert clock.now() == 100.0
