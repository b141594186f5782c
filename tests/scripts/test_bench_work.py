"""scripts/bench.sh: all who take part do the same work, and what a sample of it tells."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "scripts"))

from bench import jobs, parts, startup
from bench.check import check
from bench.contender import Setting
from bench.jobs import Job
from bench.parts import PARTS, REFERENCE, Part, Row
from bench.workers import Failed, Workers

KERAS = ("run_n", "python_loop", "keras_fit", "orbit")
BY_NAME = {part.name: part for part in PARTS}


def silent(line: str) -> None:
    """Where no one looks at the progress."""


class TestCheck:
    ROWS = (
        Row(REFERENCE, "floor", "regression"),
        Row("ours arrays chunk", "ours", "regression"),
        Row("fit", "keras_fit", "regression"),
    )

    def checked(self, losses: dict[str, float], **options: Any) -> Any:
        part = Part("regression", "a line", self.ROWS, checked=True, **options)

        def perform(job: Job) -> dict[str, Any]:
            assert job.check
            loss = losses[job.options.get("jit") if job.options.get("jit") in losses else job.kind]
            if loss < 0:
                raise Failed("ImportError: it is not there")
            return {"loss": loss, "jit": "chunk"}

        return check(part, perform=perform, tell=silent)

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
        losses = {"floor": 2.0, "ours": 1.99, "keras_fit": 1.99}
        faults = self.checked(losses, others_below=1e-2).faults
        assert ["does other work" in fault and "ours" in fault for fault in faults] == [True, True]

    @pytest.mark.parametrize(("loss", "faults"), [(1.97, 0), (1.9, 1), (2.02, 1)])
    def test_another_optimizer_may_be_faster_and_not_slower(self, loss: float, faults: int) -> None:
        assert len(self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": loss}, others_below=3e-2).faults) == faults

    @pytest.mark.parametrize(
        ("part", "floor", "of_keras", "never_updated"),
        [("embedding", 2.277805, 2.230971, 2.302456), ("bytes", 4.236244, 4.214671, 5.508505)],
    )
    def test_who_never_updates_is_told_from_who_updates_otherwise(
        self, part: str, floor: float, of_keras: float, never_updated: float
    ) -> None:
        def faults(**losses: float) -> list[str]:
            def perform(job: Job) -> dict[str, Any]:
                return {"loss": losses.get(job.kind, of_keras if job.kind in KERAS else floor), "jit": "chunk"}

            return check(BY_NAME[part], perform=perform, tell=silent).faults

        assert faults() == []
        for kind in ("run_n", "orbit", "keras_fit"):
            assert faults(**{kind: never_updated}), kind
            if kind != "run_n":
                assert len(faults(**{kind: floor})) == len([row for row in BY_NAME[part].rows if row.kind == kind])
        assert faults(**dict.fromkeys(KERAS, never_updated))
        assert "run(n)" in faults(orbit=never_updated)[0]

    def test_who_fails_is_a_row_that_says_so_and_no_fault(self) -> None:
        found = self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": -1})
        assert found.faults == []
        assert found.rows["fit"].error == "ImportError: it is not there"

    def test_without_the_floor_nothing_can_be_compared(self) -> None:
        (fault,) = self.checked({"floor": -1, "ours": 2.0, "keras_fit": 2.0}).faults
        assert "floor" in fault

    def test_without_what_the_trainer_chooses_itself_no_target_can_be_told_of(self) -> None:
        (fault,) = self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": 2.0, "auto": -1}).faults
        assert fault == "regression: ours arrays auto failed: ImportError: it is not there"

    def test_what_the_trainer_chooses_itself_is_the_row_of_that_mode(self) -> None:
        found = self.checked({"floor": 2.0, "ours": 2.0, "keras_fit": 2.0})
        assert found.chosen == {parts.OURS: "ours arrays chunk"}


class TestSamples:
    def test_a_start_without_its_compilation_is_no_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = {"import": 2.0, "build": 0.1, "trace": 1.0, "first_chunk": 5.0}
        entry = {"first_step_s": 9.0, "start": start}
        done = subprocess.CompletedProcess([], 0, stdout="2.5\n")
        monkeypatch.setattr(startup.subprocess, "run", lambda *args, **options: done)
        monkeypatch.setattr(startup, "read_journal", lambda directory: [entry])
        with pytest.raises(KeyError, match="compile"):
            startup.measure(seconds=1.0, ready=lambda: None)
        start["compile"] = 0.4
        assert startup.measure(seconds=1.0, ready=lambda: None)["parts_s"] == pytest.approx(2.5 + 0.1 + 1.0 + 0.4)

    def test_a_save_holds_the_weights_three_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "peak_mb", lambda: 100.0)
        done = jobs.perform(Job("floor", "regression", {"jit": "none"}, 100, 0.0))
        weights = 17 * 4 / 1e6
        assert done["peak_and_weights_mb"] == pytest.approx(100 + weights, abs=1e-9)
        assert done["peak_and_save_mb"] == pytest.approx(100 + 3 * weights, abs=1e-9)

    def test_the_floor_takes_batches_of_a_stream_as_the_trainer_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from bench.floor import Floor
        from bench.ours import make_source
        from bench.workloads import workload

        from trainer.data.streams import StreamSource
        from trainer.run.feed import make_feed

        taken: list[str] = []
        for name in ("train_batches", "full_batches"):
            method = getattr(StreamSource, name)

            def noted(self: Any, *args: Any, name: str = name, method: Any = method, **options: Any) -> Any:
                taken.append(name)
                return method(self, *args, **options)

            monkeypatch.setattr(StreamSource, name, noted)
        feed = make_feed(make_source("regression", "tf.data", shuffle=False))
        feed.open(np.zeros(2, np.int32), 0, 0, lambda done, of: True)
        by_the_trainer = set(taken)
        taken.clear()
        with io.StringIO() as log:
            floor = Floor(Setting(workload("regression"), 100, False, log), source="tf.data", jit="none")
            assert floor.run(2).loss is not None
        assert set(taken) == by_the_trainer == {"full_batches"}

    def test_the_save_that_a_run_ends_with_is_none_of_its_steps(self) -> None:
        from bench.ours import Ours
        from bench.workloads import workload

        with io.StringIO() as log:
            ours = Ours(Setting(workload("regression"), 100, False, log), jit="none")
            run = ours.run(5)
        times = ours.details["times"]
        assert times["save"] > 0  # It begins with a look at the weights.
        assert run.seconds == pytest.approx(times["total"] - times["start"] - times["restore"] - times["save"])

    @pytest.mark.parametrize(("whose", "plain"), [("ours", True), ("ours compiled", False)])
    def test_an_update_that_is_not_compiled_uses_the_kernels_of_a_run(
        self, whose: str, plain: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from bench import adam

        from trainer.optim.kernels import is_without_xla

        said = []

        class Optimizer:
            def build(self, variables: list[Any]) -> None: ...
            def apply(self, gradients: list[Any], variables: list[Any]) -> None:
                said.append(is_without_xla())

        monkeypatch.setattr(adam, "_optimizer", lambda owner: Optimizer())
        monkeypatch.setitem(parts.SHAPES, "1 × 2", (1, 2))
        adam.measure(whose=whose, shape="1 × 2", seconds=0.001, ready=lambda: None)
        assert set(said) == {plain}


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
        began = time.monotonic()
        jobs = [Job(row.kind, row.workload, row.options, 2000, 0.0) for row in part.rows]
        told = workers.together(jobs, 0.05)
        passed = time.monotonic() - began
    assert not [answer for answer in told if isinstance(answer, Failed)]
    samples = [answer for answer in told if not isinstance(answer, Failed)]
    # The first step of a run of ours is part of its start.
    assert [sample["steps"] for sample in samples] == [2000 - (job.kind == "ours") for job in jobs]
    assert all(0 < sample["peak_mb"] < sample["peak_and_weights_mb"] for sample in samples)
    # If anyone's clock went on while it was stopped, they would need more.
    assert sum(sample["seconds"] for sample in samples) < passed
