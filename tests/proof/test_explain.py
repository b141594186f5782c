"""Explanations: terms that add up, each of which is what another way to compute it gives."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import planes
import pytest
import tensorflow as tf
from forge import forge_manifest

import trainer
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.manifest import Manifest
from trainer.proof.explain import explain
from trainer.proof.question import ask
from trainer.proof.retrace import Interrupted
from trainer.proof.terms import NAMES, Explanation
from trainer.views.explanation import explanation_lines

pytestmark = pytest.mark.slow

Train = Callable[..., RunDirectory]


def explained(directory: RunDirectory, step: int | None = None, **options: Any) -> Explanation:
    options = {"metric": "loss", "split": None, "from_start": False, **options}
    with tempfile.TemporaryDirectory() as folder:
        return explain(ask(directory, folder, step=step, **options))


def values(explanation: Explanation) -> dict[str, float]:
    return {term.name: term.value for term in explanation.terms}


def add_up(explanation: Explanation) -> bool:
    total = sum(term.difference for term in explanation.terms)
    return explanation.terms[0].difference == 0 and bool(np.isclose(total, explanation.gap, rtol=1e-12, atol=1e-15))


@dataclasses.dataclass(frozen=True)
class ByHand:
    """The terms computed with NumPy, from the weights after each step."""

    experiment: planes.Noisy
    weights: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
    """Kernel, bias and mean after each step."""
    batches: dict[int, dict[str, np.ndarray]]

    def loss(self, batch: dict[str, np.ndarray], step: int, *, training: bool) -> np.ndarray:
        kernel, bias, mean = self.weights[step]
        x = batch["x"] - (batch["x"].mean(axis=0) if training else mean)
        return (x @ kernel + bias - batch["y"]) ** 2

    def mean(self, window: tuple[int, int], step_of: Callable[[int], int], *, training: bool) -> float:
        steps = range(window[0] + 1, window[1] + 1)
        losses = [self.loss(self.batches[step], step_of(step), training=training) for step in steps]
        return float(np.mean(np.concatenate(losses)))


@pytest.fixture
def by_hand(trained: Train) -> tuple[RunDirectory, ByHand]:
    """A run without dropout that keeps every checkpoint, and what its terms are by hand."""
    experiment = planes.Noisy(dropout=0.0)
    directory = trained(experiment, train_for=16, save_every=1, eval_every=4)
    weights = {}
    for step in range(1, 17):
        reader = tf.train.load_checkpoint(directory.state_prefix(step))
        weights[step] = tuple(
            reader.get_tensor(f"model/{name}/.ATTRIBUTES/VARIABLE_VALUE") for name in ("kernel", "bias", "mean")
        )
    source = experiment.train_data()
    seed = trainer.data.run_seed(17)
    batches = {
        step: {
            name: value.numpy()
            for name, value in source.train_batch(seed, tf.constant(4 * (step - 1), tf.int64)).values.items()
        }
        for step in range(1, 17)
    }
    return directory, ByHand(experiment, weights, batches)


def test_each_term_is_what_numpy_makes_of_the_saved_weights(by_hand: tuple[RunDirectory, ByHand]) -> None:
    directory, hand = by_hand
    explanation = explained(directory, 12)
    window = (5, 10)
    everything = hand.experiment.arrays()
    held_out = hand.loss(hand.experiment.arrays(seed=4, examples=9), 12, training=False)
    expected = {
        "logged": hand.mean(window, lambda step: step - 1, training=True),
        "own_update": hand.mean(window, lambda step: step, training=True),
        "motion": hand.mean(window, lambda step: 12, training=True),
        "mode": hand.mean(window, lambda step: 12, training=False),
        "sampling": float(np.mean(hand.loss(everything, 12, training=False))),
        "generalization": float(np.mean(held_out)),
    }
    assert values(explanation) == pytest.approx(expected, rel=1e-5)
    assert add_up(explanation)
    assert (explanation.window, explanation.open_steps, explanation.reproduced) == (window, (11, 12), True)
    assert explanation.replayed_from == 5
    # As a textbook has it, of a mean over n: s ÷ √n.
    *_, sampling, generalization = explanation.terms
    assert generalization.stderr == pytest.approx(held_out.std(ddof=1) / np.sqrt(9), rel=1e-4)
    on_window = [hand.loss(hand.batches[step], 12, training=False) for step in range(6, 11)]
    assert sampling.stderr == pytest.approx(np.concatenate(on_window).std(ddof=1) / np.sqrt(20), rel=1e-4)
    assert all(term.stderr is None for term in explanation.terms[:-2])


@pytest.mark.parametrize(
    ("experiment", "options", "without"),
    [
        (planes.Noisy(), {"jit": "chunk", "ema": 0.8, "accumulate": 2}, []),
        (planes.Noisy(last="short", weighted=True), {"reconcile": "flush"}, ["averaging"]),
        (planes.Noisy(data="stream"), {"reconcile": "align"}, ["averaging"]),
        (planes.OwnStep(), {}, ["own_update", "motion", "averaging"]),
        (planes.NoSplits(), {}, ["averaging", "generalization"]),
    ],
    ids=["ema, accumulate, compiled", "short, weighted, flush", "stream", "own step", "no split"],
)
def test_the_logged_value_comes_out_again_to_the_last_bit_and_all_adds_up(
    trained: Train, experiment: planes.Noisy, options: dict[str, Any], without: list[str]
) -> None:
    directory = trained(experiment, train_for=22, eval_every=11, **options)
    explanation = explained(directory)
    record = next(r for r in reversed(read_records(directory)) if r.window == explanation.window)
    assert explanation.terms[0].value == record.metrics["loss"]
    assert explanation.reproduced is True
    assert [term.name for term in explanation.terms] == [name for name in NAMES if name not in without]
    assert add_up(explanation)
    if explanation.split:
        assert explanation.split == "validation"
        assert explanation.terms[-1].value == Manifest.load(directory, 22).eval["validation"]["metrics"]["loss"]
        assert explanation.weights == ("ema" if "ema" in options else "raw")


def test_every_metric_of_a_record_can_be_explained_one_made_of_means_too(copy: RunDirectory) -> None:
    directory = copy
    root, loss = explained(directory, metric="root"), explained(directory)
    squares = {name: value**2 for name, value in values(root).items()}
    assert squares == pytest.approx(values(loss), rel=1e-6)
    assert all(term.stderr is None for term in root.terms)
    assert values(explained(directory, metric="absolute", split="other"))["generalization"] > 0
    with pytest.raises(ConfigError, match="metric=pair is not in the train records; they have loss, absolute, root"):
        explained(directory, metric="pair")
    with pytest.raises(ConfigError, match="split=third is unknown; the splits are other, validation"):
        explained(directory, split="third")
    with pytest.raises(Unusable, match="no checkpoint of step 7"):
        explained(directory, 7)


def test_without_a_checkpoint_before_the_window_the_log_has_the_last_word(copy: RunDirectory) -> None:
    directory = copy
    for step in directory.committed_steps():
        if step < 24:
            shutil.rmtree(directory.checkpoint(step))
    explanation = explained(directory)
    assert [term.name for term in explanation.terms] == ["logged", "motion", "mode", "sampling", "generalization"]
    assert explanation.terms[1].meaning.endswith("; with own update in it")
    assert (explanation.reproduced, explanation.replayed_from) == (None, None)
    assert "no checkpoint at or before step 20 is kept; --from_start trains from step 0" in explanation.notes[0]
    again = explained(directory, from_start=True)
    assert (again.reproduced, again.replayed_from) == (True, 0)
    # The weights of the checkpoint count, however the window was reached.
    assert values(again)["motion"] == values(explanation)["motion"]


def test_changed_flags_inside_the_window_are_told_and_before_it_no_matter(trained: Train) -> None:
    trained(planes.Noisy(), train_for=26, log_every=10, stop=12)
    directory = trained(planes.Noisy(learning_rate=0.2), train_for=26, log_every=7)
    after = explained(directory, 26)
    assert (after.window, after.reproduced) == ((21, 26), True)
    inside = explained(directory, 16)
    assert inside.window == (10, 14)
    assert [term.name for term in inside.terms] == ["logged", "sampling", "generalization"]
    assert "the flags were changed at step 12, inside the window" in inside.notes[0]


def test_data_that_was_changed_leaves_what_can_still_be_said(
    copy: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy
    arrays = planes.Noisy.arrays
    monkeypatch.setattr(planes.Noisy, "arrays", lambda self, seed=3, examples=None: arrays(self, seed + 1, examples))
    explanation = explained(directory)
    assert [term.name for term in explanation.terms] == ["logged", "sampling", "generalization"]
    assert "other data" in explanation.notes[0]
    assert any("the run recorded" in note for note in explanation.notes)
    assert add_up(explanation)


def test_a_window_that_does_not_come_out_again_is_told_and_its_updates_are_not(
    copy: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy
    loss = planes.Noisy.loss

    def other(self: Any, model: Any, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
        made = loss(self, model, batch, training=training, seed=seed)
        return dataclasses.replace(made, per_example=1.5 * made.per_example) if training else made

    monkeypatch.setattr(planes.Noisy, "loss", other)
    explanation = explained(directory)
    assert explanation.reproduced is False
    assert [term.name for term in explanation.terms] == ["logged", "motion", "mode", "sampling", "generalization"]
    assert any(note.startswith("trained again the window gives ") for note in explanation.notes)
    lines = explanation_lines(explanation.to_json(), directory.path, 100)
    assert lines[1].endswith("trained again from checkpoint 18: not reproduced")


def test_the_value_that_the_run_recorded_is_the_last_one(copy: RunDirectory) -> None:
    directory = copy
    value = Manifest.load(directory, 24).eval["validation"]["metrics"]["loss"]

    def nudged(manifest: dict[str, Any]) -> None:
        manifest["eval"]["validation"]["metrics"]["loss"] = value * (1 + 1e-9)

    forge_manifest(Path(directory.path), 24, nudged)
    assert explained(directory).terms[-1].value == value * (1 + 1e-9)


def test_steps_that_were_skipped_are_left_out_as_the_record_leaves_them_out(trained: Train) -> None:
    directory = trained(planes.Steep(), train_for=15, on_nonfinite="skip")
    explanation = explained(directory)
    record = next(r for r in reversed(read_records(directory)) if r.window == explanation.window)
    assert record.skipped > 0
    assert explanation.reproduced is True
    # Without updates to speak of, what the batches measure after them is what was logged.
    assert values(explanation)["own_update"] == pytest.approx(explanation.terms[0].value, rel=1e-5)
    assert values(explanation)["motion"] == pytest.approx(explanation.terms[0].value, rel=1e-5)


def test_a_mask_drawn_by_a_keras_layer_is_the_same_one_after_the_update(tmp_path: Path) -> None:
    directory = _keras_run(tmp_path)
    explanation = explained(directory, 8)
    assert explanation.reproduced is True
    # A learning rate of 0 changes nothing, so that what differs could only be another mask.
    assert values(explanation)["own_update"] == pytest.approx(explanation.terms[0].value, rel=1e-6)
    assert values(explanation)["motion"] == pytest.approx(explanation.terms[0].value, rel=1e-6)


def _keras_run(path: Path) -> RunDirectory:
    options = {"log_every": 4, "save_every": 4, "train_for": 8, "progress": "never", "jit": "none"}
    trainer.Trainer(planes.KerasDropout(), run_dir=str(path / "run"), **options).run()
    return RunDirectory(path / "run")


def test_a_checkpoint_before_the_first_record_and_one_that_is_not_finite_are_told(trained: Train) -> None:
    directory = trained(planes.Noisy(), train_for=16, save_every=2, log_every=5)
    with pytest.raises(Unusable, match=r"checkpoint 2 of .* was saved before the first train record"):
        explained(directory, 2)
    log = Path(directory.metrics)
    log.write_bytes(b"")
    with pytest.raises(Unusable, match=r"has no train record of the window \(0, 5\], which checkpoint 6 names"):
        explained(directory, 6)


def test_an_interrupted_explanation_says_so(copy: RunDirectory, tmp_path: Path) -> None:
    directory = copy
    question = ask(directory, str(tmp_path), step=None, metric="loss", split=None, from_start=True)
    calls: Iterator[int] = iter(range(100))
    with pytest.raises(Interrupted):
        explain(question, interrupted=lambda: next(calls) > 3)
