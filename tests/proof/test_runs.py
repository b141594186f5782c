"""What short runs show beyond the traces."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import zoo

import trainer
from trainer.proof.findings import Finding
from trainer.proof.runs import examine_runs

QUICK = {"jit": "none", "async_save": False}


class Raising(zoo.Unevaluated):
    """Calls Python that raises when it is run."""

    def fail(self) -> np.float32:
        raise RuntimeError("the sensor is gone")

    def loss(self, model: zoo.Plane, batch: dict[str, tf.Tensor], *, training: bool, seed: object) -> trainer.Loss:
        return self.scaled(model, batch, seed, tf.ensure_shape(tf.numpy_function(self.fail, [], tf.float32), []))


class WrongSummary(zoo.Unevaluated):
    """Its summary looks for a metric that there is not."""

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        return {"rate": means["rate"]}


def found(kind: type, folder: pathlib.Path, steps: int = 4) -> dict[str, Finding]:
    return {finding.kind: finding for finding in examine_runs(kind, steps=steps, options=QUICK, folder=str(folder))}


@pytest.mark.slow
def test_python_value_that_changes_while_the_run_goes_on_is_found(tmp_path: pathlib.Path) -> None:
    findings = found(zoo.HostCounter, tmp_path)
    assert set(findings) == {"python_state", "resume"}
    assert "experiment.counts[0] (0.0, then 4.0)" in findings["python_state"].what
    assert re.search(r"resumed from step 1, .* first at step 2: tensor model/kernel", findings["resume"].what)


@pytest.mark.slow
def test_evaluation_that_changes_the_state_is_found(tmp_path: pathlib.Path) -> None:
    findings = found(zoo.MutatingEvaluation, tmp_path)
    assert set(findings) == {"evaluation"}
    assert findings["evaluation"].what == "an evaluation changes the state: model/seen"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Raising, r"^it does not train: RuntimeError: the sensor is gone$"),
        (WrongSummary, r"summarize raises KeyError: 'rate' \(tests/proof/test_runs\.py:\d+\)"),
    ],
)
def test_experiment_that_raises_in_its_run_is_one_finding(kind: type, what: str, tmp_path: pathlib.Path) -> None:
    findings = found(kind, tmp_path, steps=2)
    assert set(findings) == {"train"}
    assert re.search(what, findings["train"].what), findings["train"].what
    assert "\n" not in findings["train"].what
