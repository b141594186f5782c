"""scripts/bench.sh: who takes turns, what is promised, and what the tables and the file say of it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

sys.path.append(str(pathlib.Path(__file__).parents[2] / "scripts"))

from bench import jobs, parts
from bench.contender import Run, timed
from bench.jobs import Job
from bench.parts import PARTS, Figure, Part, Row
from bench.rounds import Measured, measure, rotated
from bench.rounds_json import as_json, write
from bench.table import figure_table, target_table
from bench.targets import TARGETS, Target, Value, Verdict, verdicts
from bench.workers import ROOT, Failed

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


def lines_of(table: Table, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


class TestRounds:
    """Without processes: what is asked of them, and what becomes of their answers."""

    @staticmethod
    def measured(part: Part, answer: Callable[[Job], Any], **options: Any) -> tuple[dict[str, Measured], list[Any]]:
        """What the rounds find out, and for whom they asked at a time, each with the steps, and the moment."""
        asked: list[Any] = []

        def perform(jobs: Sequence[Job], moment_s: float | None) -> list[Any]:
            asked.append(({job.options["name"]: job.steps for job in jobs}, moment_s))
            return [answer(job) for job in jobs]

        rows = [dataclasses.replace(row, options={"name": row.name}) for row in part.rows]
        part = dataclasses.replace(part, rows=rows)
        return measure(part, seconds=1, perform=perform, tell=silent, **options), asked

    def test_another_row_begins_each_round(self) -> None:
        assert [[row.name for row in rotated(ROWS, by)] for by in range(4)] == [
            ["a", "b", "c"],
            ["b", "c", "a"],
            ["c", "a", "b"],
            ["a", "b", "c"],
        ]

    def test_the_rows_of_a_round_take_turns_once_it_is_known_how_many_steps_fit(self) -> None:
        us = {"a": 10.0, "b": 20.0, "c": 40.0}
        found, asked = self.measured(part_of(), lambda job: sample(us=us[job.options["name"]]), rounds=2)
        steps = {"a": 100_000, "b": 50_000, "c": 25_000}
        assert asked == [*(({name: None}, 0.1) for name in "abc"), (steps, 0.1), (steps, 0.1)]
        assert [list(names) for names, _ in asked[3:]] == [["a", "b", "c"], ["b", "c", "a"]]
        assert {name: len(found[name].samples) for name in found} == {"a": 2, "b": 2, "c": 2}

    def test_where_a_row_says_how_many_steps_it_trains_so_many(self) -> None:
        rows = [dataclasses.replace(ROWS[0], steps=300), dataclasses.replace(ROWS[1], steps=600)]
        _, asked = self.measured(part_of(*rows, moment_s=2), lambda job: sample(), rounds=1)
        assert asked == [({"a": 300, "b": 600}, 2)]

    def test_rows_that_take_no_turns_come_one_after_the_other(self) -> None:
        rows = [dataclasses.replace(row, steps=100) for row in ROWS]
        _, asked = self.measured(part_of(*rows, moment_s=None), lambda job: sample(), rounds=2)
        assert [list(names) for names, _ in asked] == [["a"], ["b"], ["c"], ["b"], ["c"], ["a"]]

    @pytest.mark.parametrize("round_of_failure", [0, 1, 2])
    def test_a_row_that_fails_is_not_tried_again_and_the_others_go_on(self, round_of_failure: int) -> None:
        tried = []

        def answer(job: Job) -> Any:
            if job.options["name"] == "b":
                tried.append(job)
                if len(tried) > round_of_failure:
                    return Failed("ConfigError: no such mode", "all of it")
            return sample()

        found, _ = self.measured(part_of(), answer, rounds=3)
        assert len(tried) == round_of_failure + 1
        assert (found["b"].error, found["b"].details) == ("ConfigError: no such mode", "all of it")
        assert [len(found[name].samples) for name in "ac"] == [3, 3]

    def test_a_row_that_failed_the_check_is_not_measured(self) -> None:
        known = {"a": Measured(error="it failed")}
        found, asked = self.measured(part_of(*ROWS[:2]), lambda job: sample(), rounds=1, among=known)
        assert found["a"].samples == []
        assert [list(names) for names, _ in asked] == [["b"], ["b"]]


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
        done = timed(run, 2.0)
        assert done.steps % 100 == 0
        assert done.seconds >= 1.4
        assert done.steps == 100 or done.seconds <= 3.0


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
        assert lines_of(target_table(found))[-1].endswith("MISSED")
        assert as_json({}, {}, found)["targets"][0]["met"] is False

    @pytest.mark.parametrize(("bound", "at_least", "met"), [(2, True, True), (2, False, True), (2.1, True, False)])
    def test_a_bound_itself_is_met(self, bound: float, at_least: bool, met: bool) -> None:
        target = dataclasses.replace(self.PROMISE, bound=bound, at_least=at_least)
        assert Verdict(target, (2.0,)).met is met

    def test_of_several_the_fastest_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        best = dataclasses.replace(self.PROMISE, over=Value(("b", "c", "d")))
        monkeypatch.setattr("bench.targets.TARGETS", (best,))
        rows = {"a": measured(10, 10), "b": measured(60, 10), "c": measured(30, 30), "d": measured(99)}
        assert verdicts({"digits": rows}, {})[0].ratio == pytest.approx(3.0)
        # Nobody knows the fastest where one of them failed, or was not asked for.
        (verdict,) = verdicts({"digits": rows | {"d": Measured(error="failed")}}, {})
        assert (verdict.met, verdict.error) == (False, "d: failed")

    def test_the_fastest_of_some_is_not_that_of_all(self) -> None:
        (target,) = [target for target in TARGETS if target.part == "mlp10m" and target.name == "best of fit ÷ ours"]
        rows = {name: measured(50) for name in ("ours arrays none", *target.over.rows)}
        chosen = {"mlp10m": {parts.OURS: "ours arrays none"}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bench.targets.TARGETS", (target,))
            assert [verdict.met for verdict in verdicts({"mlp10m": rows}, chosen)] == [True]
            del rows[parts.FIT_COMPILED]
            assert verdicts({"mlp10m": rows}, chosen) == []

    def test_a_target_whose_row_failed_is_not_met_and_says_why(self) -> None:
        rows = {"a": measured(10), "b": Measured([sample()], error="ImportError: no Keras")}
        (verdict,) = verdicts({"digits": rows}, {})
        assert not verdict.met
        assert "b ÷ a: b: ImportError: no Keras" in lines_of(target_table([verdict]))[-1]
        assert lines_of(target_table([verdict]))[-1].endswith("MISSED")

    def test_nothing_is_said_of_rows_that_were_not_asked_for(self) -> None:
        assert verdicts({"digits": {"a": measured(10)}}, {}) == []
        assert verdicts({"regression": {"a": measured(10), "b": measured(10)}}, {}) == []

    def test_a_choice_stands_for_its_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen = dataclasses.replace(self.PROMISE, under=Value((parts.OURS,)))
        monkeypatch.setattr("bench.targets.TARGETS", (chosen,))
        rows = {"ours arrays chunk": measured(5), "b": measured(20)}
        (verdict,) = verdicts({"digits": rows}, {"digits": {parts.OURS: "ours arrays chunk"}})
        assert verdict.ratio == pytest.approx(4.0)


PROMISED = {
    **{
        (workload, f"ours {mode} ÷ floor"): ("≤", 1.03)
        for workload in ("regression", "digits", "mlp10m", "embedding", "bytes")
        for mode in ("arrays chunk", "arrays step", "arrays none", "tf.data step", "tf.data none")
    },
    ("digits", "Orbit ÷ ours"): ("≥", 3),
    ("digits", "fit 100 steps at once ÷ ours"): ("≥", 3),
    ("digits", "fit ÷ ours"): ("≥", 12),
    ("digits", "Python loop ÷ ours"): ("≥", 8),
    ("digits", "Orbit ÷ ours on tf.data"): ("≥", 1.1),
    ("digits", "best run(n) by hand ÷ ours on tf.data"): ("≥", 1),
    ("mlp10m", "best of fit ÷ ours"): ("≥", 1),
    ("embedding", "best of fit ÷ ours"): ("≥", 2),
    ("logging", "digits log every step ÷ never"): ("≤", 1.25),
    ("logging", "digits log every 100 ÷ never"): ("≤", 1.02),
    ("logging", "mlp10m log every step ÷ never"): ("≤", 1.01),
    ("saves", "neither ÷ logs and saves"): ("≥", 0.97),
    ("saves", "memory ÷ (that of fit + the weights)"): ("≤", 1),
    ("saves", "memory ÷ (that of fit + what a save holds)"): ("≤", 1),
    ("adam", "Keras ÷ ours on 100 × 100k"): ("≥", 3),
    ("adam", "ours 1000 × 1k ÷ 1 × 1M"): ("≤", 1),
    ("adam", "ours 100 × 100k ÷ 1 × 10M"): ("≤", 1),
    ("adam", "ours compiled 1000 × 1k ÷ 1 × 1M"): ("≤", 1),
    ("adam", "ours compiled 100 × 100k ÷ 1 × 10M"): ("≤", 1),
    ("flatness", f"{parts.MANY_STEPS} ÷ {parts.FEW_STEPS}"): ("≤", 1.02),
    ("flatness", f"{parts.MANY_RECORDS} ÷ {parts.FEW_RECORDS}"): ("≤", 1.02),
    ("flatness", f"{parts.KEEP_30} ÷ {parts.KEEP_3}"): ("≤", 1.02),
    ("startup", "first step ÷ (import TensorFlow + build + trace + compile)"): ("≤", 1.1),
}


def test_the_bounds_are_those_that_are_promised() -> None:
    assert {(one.part, one.name): ("≥" if one.at_least else "≤", one.bound) for one in TARGETS} == PROMISED


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.part}: {target.name}")
def test_ours_stands_where_a_larger_number_is_worse(target: Target) -> None:
    (worse,) = (target.under if target.at_least else target.over).rows
    logging = tuple(f"{what} log every" for what in ("digits", "mlp10m"))
    assert worse.startswith(("ours", *logging, parts.MANY_STEPS, parts.MANY_RECORDS, parts.KEEP_30, parts.COMMAND))


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


@pytest.mark.parametrize("who", ["ours", "ours compiled"])
def test_many_small_variables_may_cost_no_more_than_one_that_is_as_large(who: str) -> None:
    cost = {"100 × 100k": 30.0, "1 × 10M": 31.0, "1000 × 1k": 5.0, "1 × 1M": 3.0}
    rows = {f"{who} {shape}": measured(ms, figure="ms_per_apply") for shape, ms in cost.items()}
    told = {verdict.target.name: verdict.met for verdict in verdicts({"adam": rows}, {})}
    wanted = {f"{who} 1000 × 1k ÷ 1 × 1M": False, f"{who} 100 × 100k ÷ 1 × 10M": True}
    assert {name: told[name] for name in wanted} == wanted


def test_memory_is_compared_with_the_weights_and_with_all_that_a_save_holds() -> None:
    # Adam's: 40 MB of weights, and as much of either moment.
    fit = sample(peak_and_weights_mb=340.0, peak_and_save_mb=420.0)
    rows = {parts.SAVING: Measured([sample() | {"peak_mb": 400.0}]), parts.FIT: Measured([fit])}
    told = {verdict.target.name: verdict.met for verdict in verdicts({"saves": rows}, {})}
    assert told["memory ÷ (that of fit + the weights)"] is False
    assert told["memory ÷ (that of fit + what a save holds)"] is True


class TestTable:
    @pytest.mark.parametrize("width", [100, 120, 140])
    def test_no_line_is_wider_than_asked_for_and_nothing_is_cut_off(self, width: int) -> None:
        rows = {}
        for part in PARTS:
            figures = {figure.key: 123_456.789 for figure in part.figures}
            rows[part.name] = {row.name: Measured([sample(1e6, **figures)] * 3) for row in part.rows}
        rows["digits"][parts.ORBIT] = Measured(error="ConfigError: " + "a very long reason " * 20 + "at its end")
        told = [Verdict(target, (12.345, 12.345)) for target in TARGETS]
        for table in (figure_table(PARTS, rows, {}), target_table(told)):
            lines = lines_of(table, width)
            assert max(map(len, lines)) <= width
            assert "…" not in "".join(lines)
        assert "at its end" in " ".join(" ".join(lines_of(figure_table(PARTS, rows, {}), width)).split())

    def test_a_row_shows_its_median_its_spread_and_how_it_is_to_ours(self) -> None:
        rows = {"a": measured(30, 10, 20), "b": measured(60, 40, 50)}
        table = figure_table([part_of(*ROWS[:2])], {"regression": rows}, {"regression": {parts.OURS: "a"}})
        lines = [" ".join(line.split()) for line in lines_of(table)]
        assert "a * 20 µs a step 10 – 30 1.00" in lines
        assert "b 50 µs a step 40 – 60 2.50" in lines

    def test_parts_are_sections_of_one_table_and_each_figure_has_its_unit(self) -> None:
        figures = (Figure("us_per_step", "µs a step", "time"), Figure("peak_mb", "MB", "most memory"))
        made = [part_of(*ROWS[:1]), Part("saves", "and memory", ROWS[:1], figures)]
        table = figure_table(made, {"regression": {"a": measured(10)}, "saves": {"a": measured(20)}}, {})
        lines = [" ".join(line.split()) for line in lines_of(table)]
        assert [line for line in lines if line.startswith("workload")] == ["workload who figure from – to ÷ ours"]
        assert (
            lines.index("regression a line") < lines.index("a 10 µs a step 10 – 10") < lines.index("saves and memory")
        )
        assert lines[-2:] == ["a: time 20 µs a step 20 – 20", "a: most memory 300 MB 300 – 300"]

    def test_a_loss_that_is_no_number_is_null_in_json(self, tmp_path: pathlib.Path) -> None:
        bad = Measured([{**sample(), "loss": loss} for loss in (math.nan, math.inf)], loss=-math.inf)
        mixed = Measured([{**sample(), "loss": loss} for loss in (0.5, None)])
        write(tmp_path / "b.json", as_json({"digits": {"bad": bad, "mixed": mixed}}, {}, []))

        def refuse(name: str) -> None:
            raise AssertionError(name)

        read = json.loads((tmp_path / "b.json").read_text(), parse_constant=refuse)
        rows = read["parts"]["digits"]["rows"]
        assert rows["bad"]["first_loss"] is None
        assert [taken["loss"] for taken in rows["bad"]["rounds"]] == [None, None]
        assert rows["bad"]["figures"]["us_per_step"]["median"] == 10.0
        assert "loss" not in rows["mixed"]["figures"]
