"""`assert_resumes_exactly`: it passes where a resume is exact, and where not it says what differs first."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import tempfile
import threading
from typing import Any

import pytest
import zoo

import trainer
from experiments.digits import Digits
from trainer.errors import ConfigError, Diverged
from trainer.testing import SET_HERE, assert_resumes_exactly

QUICK: dict[str, Any] = {"jit": "none", "async_save": False}


@dataclasses.dataclass(frozen=True)
class Locked(zoo.Unevaluated):
    """Has a field that cannot be copied."""

    lock: Any = dataclasses.field(default_factory=threading.Lock)


class Diverging(zoo.Unevaluated):
    """Its loss is not finite from the first step."""

    def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
        return self.scaled(model, batch, seed, float("nan"))


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder in which temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_healthy_experiment_passes_and_the_report_says_what_was_compared(temporary: pathlib.Path) -> None:
    report = assert_resumes_exactly(zoo.Healthy(), steps=5, **QUICK)
    assert report.cuts == (0, 1, 2)
    assert report.checkpoints == (1, 2, 3, 4, 5)
    assert (report.steps, report.records) == (5, 4)  # (0, 3], (3, 5], and an evaluation after step 3 and at the end
    assert report.tensors == 8  # two weights, two moments and what the run itself counts
    assert report.run_dir is None
    assert list(temporary.glob("trainer-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [zoo.Adversaries, zoo.Streamed])
def test_own_train_step_and_saved_position_in_a_stream_pass(kind: type) -> None:
    assert_resumes_exactly(kind, steps=4, cuts=[2], **QUICK)


@pytest.mark.slow
def test_compiled_digits_pass_with_other_options_of_the_trainer() -> None:
    options = {"jit": "chunk", "reconcile": "flush", "eval_every": "never", "log_every": 3}
    assert assert_resumes_exactly(Digits(hidden=8), steps=6, cuts=[4], **options).records == 3


@pytest.mark.slow
def test_saves_that_wait_for_log_steps_are_proved_too() -> None:
    assert assert_resumes_exactly(zoo.Unevaluated(), steps=4, cuts=[2], reconcile="align", **QUICK).checkpoints == (
        2,
        4,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cuts", "message"),
    [
        (
            zoo.Unsaved,
            [2],
            r"resumed from step 2, .* first at step 3: tensor model/kernel \[\d\] is \S+ undisturbed, \S+ resumed"
            r" .*; record 1 \(train, window \(0, 3\]\): metrics\.loss is \S+ undisturbed, \S+ resumed; something",
        ),
        (zoo.HostCounter, [2], r"resumed from step 2, .* first at step 3: tensor model/kernel"),
        (
            zoo.BestSoFar,
            [2],
            r"resumed from step 2, .* first at step 3: record 1 .*: metrics\.best_so_far is \S+ undisturbed, \S+ res",
        ),
        (zoo.Unseeded, [2], r"resumed from step 2, .* first at step 3: tensor model/kernel"),
        (zoo.GlobalData, [0], r"started again from the beginning, the run ends with an error: .*data"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_planted_fault_is_named_with_step_tensor_and_record(kind: type, cuts: list[int], message: str) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_resumes_exactly(kind(), steps=4, cuts=cuts, **QUICK)
    assert re.search(message, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_runs_are_kept_where_a_folder_is_given(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "proof"
    report = assert_resumes_exactly(zoo.Unevaluated(), steps=2, cuts=[1], run_dir=folder, **QUICK)
    assert report.run_dir == str(folder)
    assert sorted(os.listdir(folder)) == ["cut-0000000001", "undisturbed"]
    logs = {path: (folder / path / "metrics.jsonl").read_bytes() for path in os.listdir(folder)}
    assert len(set(logs.values())) == 1
    with pytest.raises(ConfigError, match="not an empty folder"):
        assert_resumes_exactly(zoo.Unevaluated(), run_dir=folder)


@pytest.mark.slow
def test_run_that_fails_undisturbed_is_no_failed_proof() -> None:
    with pytest.raises(Diverged):
        assert_resumes_exactly(Diverging(), steps=2, cuts=[1], **QUICK)


@pytest.mark.slow
def test_cut_without_a_checkpoint_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no checkpoint of step 2: .* saved 3, 4"):
        assert_resumes_exactly(zoo.Unevaluated(), steps=4, cuts=[2], reconcile="align", log_every=3, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experiment": 3}, "int is no experiment"),
        ({"steps": 1}, "steps=1 is too few"),
        ({"cuts": []}, r"cuts=\[\] cannot be; expected steps from 0 to 11"),
        ({"cuts": [12]}, r"cuts=\[12\] cannot be"),
        ({"cuts": [-1, 3]}, "cannot be"),
        ({"save_every": 3, "run_dir": "x", "train_for": "9steps"}, "the proof sets save_every, train_for by itself"),
        ({"experiment": Locked()}, "the field lock of Locked cannot be copied"),
        ({"jitt": "none"}, "no option 'jitt'"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        assert_resumes_exactly(**{"experiment": zoo.Unevaluated(), **arguments})
    assert "\n" not in str(raised.value)


def test_what_the_proof_sets_is_said_in_public() -> None:
    assert "train_for" in SET_HERE
