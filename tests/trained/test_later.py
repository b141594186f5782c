"""Evaluations made later: the run's own bits, none twice, and nothing else that changes."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.checkpoint.recovery import Damaged
from trainer.errors import ConfigError, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, read_evaluations
from trainer.ledger.log import read_records
from trainer.ledger.manifest import Manifest
from trainer.trained.later import LaterEvaluation
from trainer.trained.rounds import Gone

pytestmark = pytest.mark.slow  # Each trains, and evaluates what it has trained.

Train = Callable[..., trainer.Result]


def points(count: int, seed: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=[count, 4]).astype(np.float32)
    return {"x": x, "y": (x.sum(axis=1) > 0).astype(np.int32)}


class Perceptron(tf.Module):
    def __init__(self, width: int, seed: Any) -> None:
        super().__init__()
        self.hidden = tf.Variable(tf.random.stateless_normal([4, width], seed, alg="philox"))
        self.out = tf.Variable(tf.random.stateless_normal([width, 2], seed, alg="philox"))

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        return tf.nn.relu(x @ self.hidden) @ self.out


@dataclasses.dataclass(frozen=True)
class Sides(trainer.Experiment):
    """Which side of a plane a point is on; an evaluation draws noise, and sums up."""

    width: int = 8
    scale: float = trainer.field(1.0, on_resume="warn")
    streamed: bool = False

    traced: ClassVar[list[float]] = []
    """The scale of each evaluation that was traced."""

    def model(self, seed: Any) -> Any:
        return Perceptron(self.width, seed)

    def optimizer(self) -> Any:
        return trainer.optim.Adam(0.05)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays(points(64, 1), batch_size=8)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        data = points(50, 2)
        if self.streamed:
            return {"validation": trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(data), batch_size=8)}
        return {"validation": trainer.data.arrays(data, batch_size=8)}

    def test_data(self) -> Mapping[str, trainer.data.Source]:
        return {"test": trainer.data.arrays(points(30, 3), batch_size=16)}

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        if not training:
            self.traced.append(self.scale)
        logits = tf.cast(model(batch["x"], training=training), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits)
        noise = tf.random.stateless_uniform(tf.shape(losses), seed, alg="philox")
        right = tf.argmax(logits, axis=-1, output_type=tf.int32) == batch["y"]
        return trainer.Loss(self.scale * losses, {"accuracy": right, "noise": noise * losses})

    def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
        return {"perplexity": float(np.exp(means["loss"]))}


@dataclasses.dataclass(frozen=True)
class Guest(Sides):
    """The same with a model of Keras, whose moments and dropout know training from evaluation."""

    def model(self, seed: Any) -> Any:
        layers = [
            keras.layers.Dense(self.width),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
        return keras.Sequential([keras.Input([4]), *layers])


class Later:
    """Later evaluations of one run, as one process makes them; what it tells is kept."""

    def __init__(self, directory: RunDirectory, *splits: str, **options: Any) -> None:
        self.directory = directory
        self.told: list[tuple[Evaluation, bool]] = []
        self.warnings: list[str] = []
        options = {"guard": lambda: None, "interrupted": lambda: False, **options}
        self.evaluation = LaterEvaluation(
            directory, splits, tell=lambda *told: self.told.append(told), warn=self.warnings.append, **options
        )

    def __call__(self, *steps: int) -> list[tuple[Evaluation, bool]]:
        """Evaluates the checkpoints of these steps, by default all; returns what it told of them."""
        begin = len(self.told)
        for step in steps or sorted(self.directory.committed_steps()):
            assert self.evaluation.evaluate(Manifest.load(self.directory, step))
        return self.told[begin:]


OPTIONS: dict[str, Any] = {
    "train_for": "12steps",
    "eval_every": "4steps",
    "save_every": "4steps",
    "log_every": "never",
    "keep_last": 9,
    "monitor": "validation/loss",
}


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    trainer.Trainer(Sides(), run_dir=str(path), progress="never", jit="none", **OPTIONS).run()
    return path


@pytest.fixture
def run(trained: pathlib.Path, directory: RunDirectory) -> RunDirectory:
    """A finished run with checkpoints at 4, 8 and 12."""
    shutil.copytree(trained, directory.path)
    return directory


def content(directory: RunDirectory) -> dict[str, bytes]:
    files = (path for path in pathlib.Path(directory.path).rglob("*") if path.is_file())
    return {path.name: path.read_bytes() for path in files if path.name != "evaluations.jsonl"}


@pytest.mark.parametrize(
    ("experiment", "options"),
    [
        (Sides(), {}),
        (Sides(), {"jit": "chunk"}),
        (Sides(width=5), {"ema": 0.9, "seed": 3}),
        (Sides(streamed=True), {}),
        (Guest(), {}),
        (Guest(), {"ema": 0.9}),
        (Guest(), {"precision": "mixed_bfloat16"}),
    ],
    ids=["graph", "xla", "ema", "stream", "keras", "keras ema", "keras bfloat16"],
)
def test_an_evaluation_made_later_has_the_bits_of_the_runs_own(
    experiment: Any, options: Mapping[str, Any], train: Train, directory: RunDirectory
) -> None:
    train(experiment, **OPTIONS, **options)
    own = [record.line() for record in read_records(directory) if record.kind == "eval"]
    before = content(directory)
    told = Later(directory, "validation")()
    assert [evaluation.record.line() for evaluation, _ in told] == own
    assert len(own) == 3
    assert [evaluation.line() for evaluation, _ in told] == [line.line() for line in read_evaluations(directory)]
    # And it has touched nothing else.
    assert content(directory) == before


def test_by_default_every_split_is_evaluated_those_of_the_run_and_those_that_only_this_looks_at(
    run: RunDirectory,
) -> None:
    assert [evaluation.record.split for evaluation, _ in Later(run)(12)] == ["validation", "test"]
    assert [evaluation.record.split for evaluation, _ in Later(run, "test")(8)] == ["test"]


def test_nothing_is_evaluated_twice(run: RunDirectory) -> None:
    first = Later(run, "test")()
    assert [made for _, made in first] == [True] * 3
    before = pathlib.Path(run.evaluations).read_bytes()
    traced = len(Sides.traced)
    # Not by another process, nor by the same one.
    later = Later(run, "test")
    assert later() == later() == [(evaluation, False) for evaluation, _ in first]
    assert pathlib.Path(run.evaluations).read_bytes() == before
    assert len(Sides.traced) == traced
    # What is new is.
    assert [made for _, made in Later(run)(12)] == [True, False]


def test_a_step_that_is_trained_again_to_other_weights_is_evaluated_again(train: Train, run: RunDirectory) -> None:
    first = Later(run, "test")(12)
    shutil.rmtree(run.checkpoint(12))
    shutil.rmtree(run.checkpoint(8))
    train(Sides(), **OPTIONS, clip_norm=0.001)
    second = Later(run, "test")(12)
    assert [made for _, made in second] == [True]
    assert first[0][0].record.metrics != second[0][0].record.metrics


def test_other_data_is_evaluated_and_warned_of(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    later = Later(run)
    later(12)
    assert later.warnings == []
    other = {"validation": trainer.data.arrays(points(20, 4), batch_size=8)}
    monkeypatch.setattr(Sides, "eval_data", lambda self: other)
    later = Later(run)
    assert [(evaluation.record.split, made) for evaluation, made in later(8, 12)][2:] == [
        ("validation", True),
        ("test", False),
    ]
    assert len(later.warnings) == 1
    assert "'validation' is other data" in later.warnings[0]


def test_the_model_is_made_and_traced_once_for_checkpoints_of_the_same_segment(
    train: Train, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Sides(), **{**OPTIONS, "train_for": "8steps"})
    train(Sides(scale=2.0), **OPTIONS)
    models: list[float] = []
    make = Sides.model
    monkeypatch.setattr(Sides, "model", lambda self, seed: (models.append(self.scale), make(self, seed))[1])
    Sides.traced.clear()
    told = Later(directory, "validation")()
    assert models == [1.0, 2.0]
    assert Sides.traced == [1.0, 2.0]
    own = [record.line() for record in read_records(directory) if record.kind == "eval"]
    assert [evaluation.record.line() for evaluation, _ in told] == own


def test_an_evaluation_that_is_interrupted_counts_for_nothing(run: RunDirectory) -> None:
    later = Later(run, interrupted=lambda: True)
    assert not later.evaluation.evaluate(Manifest.load(run, 12))
    asked: list[bool] = []

    def in_the_middle_of_the_second() -> bool:
        asked.append(True)
        return len(read_evaluations(run)) == 1 and len(asked) > 4

    later = Later(run, interrupted=in_the_middle_of_the_second)
    assert not later.evaluation.evaluate(Manifest.load(run, 12))
    assert [evaluation.record.split for evaluation in read_evaluations(run)] == ["validation"]
    assert [made for _, made in Later(run)(12)] == [False, True]


def test_a_directory_that_is_not_ours_any_more_is_not_written_to(run: RunDirectory) -> None:
    def refuse() -> None:
        raise Unwritable("it was replaced")

    with pytest.raises(Unwritable):
        Later(run, guard=refuse)(12)
    assert read_evaluations(run) == []


def flip(path: str, position: int) -> None:
    data = bytearray(pathlib.Path(path).read_bytes())
    data[position] ^= 1
    pathlib.Path(path).write_bytes(data)


@pytest.mark.parametrize(("file", "position"), [("index", 0), ("index", -1), ("data-00000-of-00001", -900)])
def test_a_checkpoint_that_is_damaged_is_not_evaluated(file: str, position: int, run: RunDirectory) -> None:
    manifest = Manifest.load(run, 8)
    reader = tf.train.load_checkpoint(run.state_prefix(8))
    kernel = reader.get_tensor("model/hidden/.ATTRIBUTES/VARIABLE_VALUE").tobytes()
    path = f"{run.state_prefix(8)}.{file}"
    flip(path, pathlib.Path(path).read_bytes().index(kernel) if file.startswith("data") else position)
    later = Later(run, "test")
    with pytest.raises(Damaged, match="checkpoint 8 of"):
        later.evaluation.evaluate(manifest)
    assert read_evaluations(run) == []
    # And the next one is evaluated as if there had been none.
    assert later(12)[0][0] == Later(run, "test")(12)[0][0]


def test_the_files_of_another_checkpoint_are_not_taken_for_those_of_this_one(run: RunDirectory) -> None:
    for path in pathlib.Path(run.checkpoint(12)).glob("state.*"):
        shutil.copy(path, run.checkpoint(8))
    with pytest.raises(Damaged, match="checkpoint 8 of"):
        Later(run, "test").evaluation.evaluate(Manifest.load(run, 8))


def test_a_checkpoint_that_was_removed_or_replaced_is_gone(run: RunDirectory) -> None:
    manifest = Manifest.load(run, 8)
    shutil.rmtree(run.checkpoint(8))
    with pytest.raises(Gone):
        Later(run).evaluation.evaluate(manifest)
    shutil.copytree(run.checkpoint(12), run.checkpoint(8))
    with pytest.raises(Gone):
        Later(run).evaluation.evaluate(manifest)
    assert read_evaluations(run) == []


def test_a_checkpoint_that_is_removed_while_it_is_read_is_gone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.load(run, 8)
    read = tf.train.Checkpoint.read

    def remove_and_read(checkpoint: Any, prefix: str) -> Any:
        status = read(checkpoint, prefix)
        shutil.rmtree(run.checkpoint(8))
        return status

    monkeypatch.setattr(tf.train.Checkpoint, "read", remove_and_read)
    with pytest.raises(Gone):
        Later(run).evaluation.evaluate(manifest)
    assert read_evaluations(run) == []


@pytest.mark.parametrize(
    ("eval_data", "test_data", "asked", "message"),
    [
        ({"validation": 0}, {"test": 0}, ["tst", "test"], "split=tst is unknown; the splits of Sides are validation, "),
        ({"validation": 0}, {"validation": 0}, [], r"'validation' in eval_data\(\) and in test_data\(\)"),
        ({}, {}, [], r"has nothing to evaluate on; write eval_data\(\) or test_data\(\)"),
        ({}, {"train": 0}, [], r"test_data\(\) names a split 'train'"),
        ({}, [1], [], r"test_data\(\) returned list; expected sources"),
        ({"validation": 1}, {}, [], r"eval_data\(\) returned dict; expected sources"),
    ],
)
def test_splits_that_cannot_be_are_refused_in_one_line(
    eval_data: Any,
    test_data: Any,
    asked: list[str],
    message: str,
    run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def method(splits: Any) -> Callable[[Any], Any]:
        source = trainer.data.arrays(points(20, 4), batch_size=8)
        return lambda self: (
            {name: value or source for name, value in splits.items()} if isinstance(splits, dict) else splits
        )

    monkeypatch.setattr(Sides, "eval_data", method(eval_data))
    monkeypatch.setattr(Sides, "test_data", method(test_data))
    with pytest.raises(ConfigError, match=message) as caught:
        Later(run, *asked)(12)
    assert "\n" not in str(caught.value)
