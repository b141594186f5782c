"""scripts/bench.sh: who takes turns, what is compared, what is promised, and what the tables say of it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "scripts"))

from bench import __main__ as command
from bench import jobs, parts, server
from bench.check import check
from bench.contender import Run, timed
from bench.jobs import Job
from bench.parts import PARTS, REFERENCE, Part, Row
from bench.rounds import Measured, interleaved, measure
from bench.table import WIDTH, as_json, part_table, target_table
from bench.targets import TARGETS, Target, Value, Verdict, verdicts
from bench.workers import ROOT, Failed, Workers

ROWS = [Row(name, "ours", "regression") for name in ("a", "b", "c")]
BY_NAME = {part.name: part for part in PARTS}


def part_of(*rows: Row, **options: Any) -> Part:
    return Part("regression", "a line", rows or ROWS, checked=True, **options)


def sample(us: float = 10.0, **figures: float) -> dict[str, Any]:
    return {"us_per_step": us, "steps": 100, "seconds": us * 1e-4, "loss": 0.1, "peak_mb": 300.0, **figures}


def measured(*us: float, figure: str = "us_per_step") -> Measured:
    return Measured([{**sample(), figure: value} for value in us])


def silent(line: str) -> None:
    """Where no one looks at the progress."""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Job], dict[str, Any]]], list[Job]]:
    """Has the command line work with jobs that `perform` does, and returns those that it asks for."""

    def replace(perform: Callable[[Job], dict[str, Any]]) -> list[Job]:
        asked: list[Job] = []

        class Fake:
            def __init__(self, python: str) -> None: ...
            def __enter__(self) -> Fake:
                return self

            def __exit__(self, *error: object) -> None: ...
            def ready(self) -> dict[str, Any]:
                return {"import_s": 2.0}

            def perform(self, job: Job) -> dict[str, Any]:
                asked.append(job)
                return perform(job)

        monkeypatch.setattr(command, "Workers", Fake)
        monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
        return asked

    return replace


def well(job: Job) -> dict[str, Any]:
    return {"loss": 0.5, "jit": "none"} if job.check else sample()


class TestRounds:
    def test_each_row_takes_its_turn_once_a_round_and_another_one_begins(self) -> None:
        order = [(number, row.name) for number, row in interleaved(ROWS, 4)]
        assert [name for number, name in order if number == 0] == ["a", "b", "c"]
        assert [name for number, name in order if number == 1] == ["b", "c", "a"]
        assert [name for number, name in order if number == 3] == ["a", "b", "c"]
        assert all(sorted(name for at, name in order if at == number) == ["a", "b", "c"] for number in range(4))

    def test_a_row_that_fails_is_not_tried_again_and_the_others_go_on(self) -> None:
        tried = []

        def perform(job: Job) -> dict[str, Any]:
            tried.append(job.options["name"])
            if job.options["name"] == "b":
                raise Failed("ConfigError: no such mode", "all of it")
            return sample()

        rows = [dataclasses.replace(row, options={"name": row.name}) for row in ROWS]
        found = measure(part_of(*rows), rounds=3, seconds=1, perform=perform, tell=silent)
        assert tried.count("b") == 1
        assert (found["b"].error, found["b"].details) == ("ConfigError: no such mode", "all of it")
        assert [len(found[name].samples) for name in "abc"] == [3, 0, 3]

    def test_a_row_that_failed_the_check_is_not_measured(self) -> None:
        known = {"a": Measured(error="it failed")}
        found = measure(part_of(*ROWS[:1]), rounds=2, seconds=1, perform=well, tell=silent, among=known)
        assert found["a"].samples == []

    def test_a_later_round_knows_how_long_a_step_takes(self) -> None:
        asked = []

        def perform(job: Job) -> dict[str, Any]:
            asked.append(job.expected)
            return sample(us=[40.0, 10.0, 20.0][len(asked) - 1])

        measure(part_of(*ROWS[:1]), rounds=3, seconds=1, perform=perform, tell=silent)
        assert asked == [None, pytest.approx(40e-6), pytest.approx(25e-6)]


class TestTimed:
    @staticmethod
    def contender(us: float) -> tuple[list[int], Callable[[int], Run]]:
        asked: list[int] = []

        def run(steps: int) -> Run:
            asked.append(steps)
            return Run(steps, steps * us * 1e-6, None, None)

        return asked, run

    @pytest.mark.parametrize("us", [3.0, 70.0, 900.0, 60_000.0])
    def test_a_run_takes_about_the_time_asked_for_in_whole_hundreds_of_steps(self, us: float) -> None:
        _, run = self.contender(us)
        done = timed(run, 2.0, None)
        assert done.steps % 100 == 0
        assert done.seconds >= 1.4
        assert done.steps == 100 or done.seconds <= 3.0

    def test_who_is_known_to_take_so_long_runs_once(self) -> None:
        asked, run = self.contender(100)
        assert timed(run, 2.0, 100e-6).steps == 20_000
        assert asked == [20_000]


class TestCheck:
    ROWS = (
        Row(REFERENCE, "floor", "regression"),
        Row("ours arrays chunk", "ours", "regression"),
        Row("fit", "keras_fit", "regression"),
    )

    def checked(self, losses: dict[str, float], **options: Any) -> Any:
        def perform(job: Job) -> dict[str, Any]:
            assert job.check
            loss = losses[job.kind]
            if loss < 0:
                raise Failed("ImportError: it is not there")
            return {"loss": loss, "jit": "chunk"}

        return check(part_of(*self.ROWS, **options), perform=perform, tell=silent)

    def test_equal_losses_are_no_fault(self) -> None:
        found = self.checked({"floor": 2.0, "ours": 2.0001, "keras_fit": 1.9999})
        assert found.faults == []
        assert found.rows["fit"].loss == 1.9999

    def test_who_does_other_work_is_named(self) -> None:
        found = self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": 2.001})
        (fault,) = found.faults
        assert fault.startswith("regression: fit does other work")
        assert "2.001" in fault

    def test_a_loss_that_is_no_number_is_a_fault(self) -> None:
        assert len(self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": float("nan")}).faults) == 1

    def test_what_is_known_of_another_optimizer_excuses_it_alone(self) -> None:
        losses = {"floor": 2.0, "ours": 2.01, "keras_fit": 2.01}
        faults = self.checked(losses, tolerance_of_others=1e-2).faults
        assert ["does other work" in fault and "ours" in fault for fault in faults] == [True, True]

    def test_who_fails_is_a_row_that_says_so_and_no_fault(self) -> None:
        found = self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": -1})
        assert found.faults == []
        assert found.rows["fit"].error == "ImportError: it is not there"

    def test_without_the_floor_nothing_can_be_compared(self) -> None:
        (fault,) = self.checked({"floor": -1, "ours": 2.0, "keras_fit": 2.0}).faults
        assert "floor" in fault

    def test_what_the_trainer_chooses_itself_is_the_row_of_that_mode(self) -> None:
        found = self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": 2.0})
        assert found.chosen == {parts.OURS: "ours arrays chunk"}


class TestTargets:
    PROMISE = Target("digits", "b ÷ a", Value(("b",)), Value(("a",)), 3, at_least=True)

    @pytest.fixture(autouse=True)
    def _one_target(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.targets.TARGETS", (self.PROMISE,))

    def test_the_median_of_the_ratios_counts_and_not_the_ratio_of_the_medians(self) -> None:
        # A slow moment hits both who take turns then.
        rows = {"a": measured(10, 100, 10), "b": measured(31, 320, 20)}
        (verdict,) = verdicts({"digits": rows}, {})
        assert verdict.ratios == pytest.approx((3.1, 3.2, 2.0))
        assert verdict.ratio == pytest.approx(3.1)
        assert verdict.met

    def test_a_missed_target_says_so(self) -> None:
        found = verdicts({"digits": {"a": measured(10), "b": measured(29)}}, {})
        assert not found[0].met
        assert target_table(found)[-1].endswith("MISSED")
        assert as_json({}, {}, found)["targets"][0]["met"] is False

    @pytest.mark.parametrize(("bound", "at_least", "met"), [(2, True, True), (2, False, True), (2.1, True, False)])
    def test_a_bound_itself_is_met(self, bound: float, at_least: bool, met: bool) -> None:
        target = dataclasses.replace(self.PROMISE, bound=bound, at_least=at_least)
        assert Verdict(target, (2.0,)).met is met

    def test_of_several_the_fastest_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        best = dataclasses.replace(self.PROMISE, over=Value(("b", "c", "d")))
        monkeypatch.setattr("bench.targets.TARGETS", (best,))
        rows = {"a": measured(10, 10), "b": measured(60, 10), "c": measured(30, 30), "d": Measured(error="failed")}
        assert verdicts({"digits": rows}, {})[0].ratio == pytest.approx(3.0)

    def test_a_target_whose_row_failed_is_not_met_and_says_why(self) -> None:
        rows = {"a": measured(10), "b": Measured([sample()], error="ImportError: no Keras")}
        (verdict,) = verdicts({"digits": rows}, {})
        assert not verdict.met
        assert "MISSED: b: ImportError: no Keras" in target_table([verdict])[-1]

    def test_nothing_is_said_of_rows_that_were_not_asked_for(self) -> None:
        assert verdicts({"digits": {"a": measured(10)}}, {}) == []
        assert verdicts({"regression": {"a": measured(10), "b": measured(10)}}, {}) == []

    def test_a_choice_stands_for_its_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen = dataclasses.replace(self.PROMISE, under=Value((parts.OURS,)))
        monkeypatch.setattr("bench.targets.TARGETS", (chosen,))
        rows = {"ours arrays chunk": measured(5), "b": measured(20)}
        (verdict,) = verdicts({"digits": rows}, {"digits": {parts.OURS: "ours arrays chunk"}})
        assert verdict.ratio == pytest.approx(4.0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.part}: {target.name}")
def test_a_target_is_about_rows_that_there_are(target: Target) -> None:
    names = {row.name for row in BY_NAME[target.part].rows} | {parts.OURS, parts.OURS_TF_DATA}
    for value in (target.over, target.under):
        assert names & {*value.rows}, value
        # Of the modes of Keras a part may have some.
        assert {*value.rows} <= names or len(value.rows) > 1


def test_every_row_is_of_a_kind_that_there_is() -> None:
    for part in PARTS:
        assert len({row.name for row in part.rows}) == len(part.rows)
        for row in part.rows:
            module, _, _ = jobs.KINDS[row.kind].partition(":")
            assert (ROOT / "scripts" / f"{module.replace('.', '/')}.py").exists()


class TestTable:
    @pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
    def test_no_line_is_wider_than_a_screen(self, part: Part) -> None:
        figures = dict.fromkeys(part.figures, 123_456.789)
        rows = {row.name: Measured([sample(1e6, **figures)] * 3, loss=2.123456) for row in part.rows}
        rows[part.rows[-1].name] = Measured(error="ConfigError: " + "a very long reason " * 20)
        lines = part_table(part, rows, {})
        assert max(map(len, lines)) <= WIDTH
        assert "failed: ConfigError" in lines[-1]

    def test_the_targets_fit_too(self) -> None:
        told = [Verdict(target, (12.345, 12.345)) for target in TARGETS]
        assert max(map(len, target_table(told))) <= WIDTH

    def test_a_row_shows_its_median_its_spread_and_how_it_is_to_ours(self) -> None:
        rows = {"a": measured(30, 10, 20), "b": measured(60, 40, 50)}
        lines = part_table(part_of(*ROWS[:2]), rows, {parts.OURS: "a"})
        assert lines[2].split()[:6] == ["a", "*", "20", "10", "30", "1.00"]
        assert lines[3].split()[:5] == ["b", "50", "40", "60", "2.50"]


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--workload=digit"], "--workload=digit is unknown"),
            (["--contender=theirs"], "--contender=theirs: no row begins so"),
            (["--rounds=0"], "--rounds=0: expected 1 or more"),
            (["--seconds=-1"], "--seconds=-1: expected a time"),
            (["--seconds=nan"], "--seconds=nan: expected a time"),
            (["--json=/nowhere/at/all.json"], "--json=/nowhere/at/all.json: expected a file"),
            (["digits"], "unrecognized arguments: digits"),
        ],
    )
    def test_what_cannot_be_is_refused_in_one_line(
        self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        told = capsys.readouterr().err
        assert ended.value.code == 64
        assert says in told
        assert told.count("\n") == 1

    def test_help_and_the_tables_need_no_tensorflow(self) -> None:
        blocked = "import sys; sys.modules['tensorflow'] = None; from bench.__main__ import main; main(['--help'])"
        env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
        done = subprocess.run([sys.executable, "-c", blocked], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "--contender" in done.stdout

    def test_only_what_is_asked_for_is_measured(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = workers(well)
        arguments = ["--workload=regression,startup", "--contender=fit,Orbit", "--rounds=2", "--seconds=0.5"]
        assert command.main([*arguments, f"--json={tmp_path / 'b.json'}"]) == 0
        assert {job.workload for job in asked} == {"regression"}
        assert [job.kind for job in asked if not job.check].count("orbit") == 2
        assert {job.kind for job in asked if not job.check} == {"keras_fit", "orbit"}
        written = json.loads((tmp_path / "b.json").read_text())
        assert written["rounds"] == 2
        assert written["machine"]["import_s"] == 2.0
        assert len(written["parts"]["regression"]["rows"]["fit"]["rounds"]) == 2
        assert "regression: linear regression" in capsys.readouterr().out

    def test_other_work_ends_it_before_any_round(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = workers(lambda job: {"loss": 0.5 if job.kind == "floor" else 0.6, "jit": "none"})
        assert command.main(["--workload=regression", f"--json={tmp_path / 'b.json'}"]) == 1
        assert all(job.check for job in asked)
        assert "error: regression: Orbit does other work" in capsys.readouterr().err
        assert not (tmp_path / "b.json").exists()

    def test_a_failure_is_a_row_and_the_exit_code(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def perform(job: Job) -> dict[str, Any]:
            if job.kind == "orbit":
                raise Failed("ModuleNotFoundError: No module named 'orbit'")
            return well(job)

        workers(perform)
        assert command.main(["--workload=digits", "--rounds=1", f"--json={tmp_path / 'b.json'}"]) == 1
        told = capsys.readouterr().out
        assert "Orbit  failed: ModuleNotFoundError: No module named 'orbit'" in told
        assert "MISSED: Orbit: ModuleNotFoundError" in told

    def test_an_interrupt_is_one_line(self, workers: Any, capsys: pytest.CaptureFixture[str]) -> None:
        def perform(job: Job) -> dict[str, Any]:
            raise KeyboardInterrupt

        workers(perform)
        assert command.main(["--workload=adam"]) == 130
        assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


class TestServer:
    JOB = dataclasses.asdict(Job("ours", "regression", {}, None, 1.0, None))

    def test_a_job_answers_from_a_process_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "perform", lambda job: {"process": os.getpid()})
        assert server._forked(self.JOB)["sample"]["process"] != os.getpid()

    def test_what_fails_is_told_in_one_line_with_its_details(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def perform(job: Job) -> dict[str, Any]:
            raise ValueError("it is wrong\nand has a long story")

        monkeypatch.setattr(jobs, "perform", perform)
        answer = server._forked(self.JOB)
        assert answer["error"] == "ValueError: it is wrong"
        assert "long story" in answer["details"]

    def test_a_killed_job_is_a_failure_and_what_it_said_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def perform(job: Job) -> dict[str, Any]:
            os.write(1, b"nearly done")
            os.kill(os.getpid(), signal.SIGKILL)
            return {}

        monkeypatch.setattr(jobs, "perform", perform)
        assert server._forked(self.JOB) == {"error": "it was ended by SIGKILL", "details": "nearly done"}


@pytest.mark.slow
def test_all_who_need_no_installation_train_the_same() -> None:
    wanted = {REFERENCE, "floor tf.data none", "ours arrays none", "ours tf.data none", *parts.HAND_WRITTEN[:1]}
    wanted |= {parts.PYTHON_LOOP, parts.FIT, parts.FIT_100}
    whole = BY_NAME["regression"]
    part = dataclasses.replace(whole, rows=[row for row in whole.rows if row.name in wanted])
    assert len(part.rows) == len(wanted)
    with Workers() as workers:
        assert workers.ready()["versions"]["tensorflow"]
        found = check(part, perform=workers.perform, tell=silent)
        assert {name: row.error for name, row in found.rows.items() if row.error} == {}
        assert found.faults == []
        done = workers.perform(Job("floor", "regression", {"jit": "none"}, 100, 0.0, None))
    assert done["steps"] == 100
    assert 0 < done["peak_mb"] < done["peak_and_weights_mb"]
