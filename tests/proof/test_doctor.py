"""The doctor as a whole: the healthy come out clean, and findings come in their order."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import tensorflow as tf
import zoo

import trainer
from experiments.digits import Digits
from trainer.proof import doctor, jit
from trainer.proof.build import Built, build
from trainer.proof.doctor import Diagnosis, examine
from trainer.proof.findings import KINDS, Finding
from trainer.proof.options import cadences
from trainer.proof.traces import examine_traces
from trainer.testing import assert_resumes_exactly


class Guest(zoo.Healthy):
    """A Keras model with a Keras optimizer."""

    def model(self, seed: Any) -> Any:
        import keras

        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input([zoo.FEATURES]),
                layers.Dense(4),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(1),
            ]
        )

    def optimizer(self) -> Any:
        import keras

        return keras.optimizers.Adam(0.01)

    def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(per_example=tf.square(model(batch["x"], training=training)[:, 0] - batch["y"]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures no longer than it takes."""
    monkeypatch.setattr(jit, "_SECONDS", 0.01)


def examined(kind: type, folder: pathlib.Path, **options: Any) -> Diagnosis:
    return examine(kind, steps=3, options={"async_save": False, **options}, folder=str(folder))


@pytest.mark.slow
def test_healthy_experiment_comes_out_clean(tmp_path: pathlib.Path) -> None:
    diagnosis = examined(zoo.Healthy, tmp_path, jit="none")
    assert diagnosis.to_json()["ok"] is True
    assert diagnosis.findings == ()
    assert diagnosis.warnings == ()
    assert diagnosis.jit["recommended"] in jit.MODES


@pytest.mark.slow
def test_digits_come_out_clean(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling it in each mode takes longer than all the rest, and finds nothing.
    monkeypatch.setattr(doctor, "measure_modes", lambda *arguments: {"recommended": "none"})
    diagnosis = examined(Digits, tmp_path, jit="none")
    assert diagnosis.findings == ()
    assert diagnosis.warnings == ()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "chunk"])
def test_traces_of_digits_are_clean_compiled_or_not(mode: str) -> None:
    built = build(Digits, {**cadences(3, (1,)), "jit": mode})
    assert isinstance(built, Built)
    assert list(examine_traces(built, Digits())) == []


@pytest.mark.slow
def test_keras_guest_comes_out_clean() -> None:
    built = build(Guest, cadences(3, (1,)))
    assert isinstance(built, Built)
    assert list(examine_traces(built, Guest())) == []
    assert assert_resumes_exactly(Guest, steps=3, cuts=[1], jit="none").records


@pytest.mark.slow
def test_findings_come_in_their_order_once_and_as_scripts_expect_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = [Finding("host", "calls", "mend"), Finding("unsaved", "a variable", "mend")]
    runs = [Finding("resume", "differs", "look"), Finding("host", "calls", "mend")]
    monkeypatch.setattr(doctor, "examine_traces", lambda built, fresh: traces)
    monkeypatch.setattr(doctor, "examine_runs", lambda *arguments, **options: runs)
    monkeypatch.setattr(doctor, "measure_modes", lambda *arguments: {"recommended": "none"})
    assert examined(zoo.Printing, tmp_path).to_json() == {
        "ok": False,
        "findings": [
            {"kind": "unsaved", "what": "a variable", "fix": "mend"},
            {"kind": "host", "what": "calls", "fix": "mend"},
            {"kind": "resume", "what": "differs", "fix": "look"},
        ],
        "jit": {"recommended": "none"},
    }
    [warning] = examined(zoo.Printing, tmp_path).warnings
    assert "prints in every step" in warning


def test_experiment_that_cannot_be_built_has_one_finding_and_no_measurements(tmp_path: pathlib.Path) -> None:
    diagnosis = examined(zoo.Broken, tmp_path)
    assert [finding.kind for finding in diagnosis.findings] == ["build"]
    assert diagnosis.jit == {}
    assert list(tmp_path.iterdir()) == []


def test_every_kind_has_its_place() -> None:
    assert len(set(KINDS)) == len(KINDS)
