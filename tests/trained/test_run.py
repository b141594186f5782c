"""A trained run: its experiment as the directory tells it, and the weights that its evaluations are made with."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest
from trainer.trained.run import open_run

pytestmark = pytest.mark.slow  # Each trains a run.

Train = Callable[..., trainer.Result]
FLAGS: dict[str, Any] = {"train_for": "6steps", "save_every": "2steps", "keep_last": 9}


class Point(tf.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.where = tf.Variable(tf.zeros([width]))


@dataclasses.dataclass(frozen=True)
class Search(trainer.Experiment):
    """Goes to a point."""

    width: int = 2
    target: float = trainer.field(1.0, on_resume="warn")
    limit: float | None = trainer.field(None, on_resume="warn")
    names: tuple[str, ...] = ("a", "b")

    def model(self, seed: Any) -> Point:
        return Point(self.width)

    def optimizer(self) -> Any:
        return trainer.optim.SGD(0.25)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays({"x": np.ones([8, 1], np.float32)}, batch_size=4)

    def loss(self, model: Point, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(tf.reduce_sum((model.where - self.target * batch["x"]) ** 2, axis=1))


@dataclasses.dataclass(frozen=True)
class Derived(Search):
    """Has a field that follows from the others, which nobody can give."""

    double: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "double", 2 * self.width)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    trainer.Trainer(Search(), run_dir=str(path), progress="never", jit="none", **FLAGS).run()
    return path


@pytest.fixture
def run_dir(trained: pathlib.Path, directory: RunDirectory) -> RunDirectory:
    """A finished run with checkpoints at 2, 4 and 6."""
    shutil.copytree(trained, directory.path)
    return directory


def saved(directory: RunDirectory, step: int, part: str = "model") -> np.ndarray:
    reader = tf.train.load_checkpoint(directory.state_prefix(step))
    value: np.ndarray = reader.get_tensor(f"{part}/where/.ATTRIBUTES/VARIABLE_VALUE")
    return value


def test_the_experiment_is_made_with_the_runs_parameters(train: Train, directory: RunDirectory) -> None:
    made = Search(width=3, target=-0.1, limit=math.inf, names=("c",))
    train(made, **FLAGS, seed=5)
    run = open_run(directory, Manifest.load(directory, 6))
    assert run.experiment == made
    assert (run.info.seed, run.weights) == (5, "raw")


def test_a_field_that_follows_from_others_is_not_given(train: Train, directory: RunDirectory) -> None:
    train(Derived(width=3), **FLAGS)
    assert open_run(directory, Manifest.load(directory, 6)).experiment == Derived(width=3)


@pytest.mark.parametrize(("ema", "part"), [(0.0, "model"), (0.5, "ema")])
def test_the_weights_are_those_that_evaluations_are_made_with(
    ema: float, part: str, train: Train, directory: RunDirectory
) -> None:
    train(Search(), **FLAGS, ema=ema)
    run = open_run(directory, Manifest.load(directory, 6))
    assert run.weights == ("ema" if ema else "raw")
    for step in (6, 2):
        run.load(step)
        assert run.model.where.numpy().tolist() == saved(directory, step, part).tolist()
    assert saved(directory, 2).tolist() != saved(directory, 6).tolist()


def test_a_segment_with_other_parameters_is_another_experiment_and_the_same_one_is_not_made_again(
    train: Train, directory: RunDirectory
) -> None:
    train(Search(limit=math.nan), **{**FLAGS, "train_for": "4steps"})
    train(Search(limit=math.nan, target=3.0), **FLAGS)
    first, second, third = (Manifest.load(directory, step) for step in (2, 4, 6))
    run = open_run(directory, first)
    assert run.at(second).model is run.model
    later = run.at(third)
    assert (run.experiment.target, later.experiment.target) == (1.0, 3.0)
    assert later.model is not run.model
    assert later.at(third).model is later.model
    assert open_run(directory, third).experiment.target == 3.0


def test_code_that_makes_another_model_is_told_from_damage(
    run_dir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.load(run_dir, 6)

    class More(Point):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.more = tf.Variable(1.0)

    monkeypatch.setattr(Search, "model", lambda self, seed: More(self.width))
    with pytest.raises(Unusable, match="another model than the experiment makes") as caught:
        open_run(run_dir, manifest).load(6)
    assert "\n" not in str(caught.value)
    assert "numpy" not in str(caught.value)

    monkeypatch.setattr(Search, "model", lambda self, seed: Point(7))
    with pytest.raises(Unusable, match=r"checkpoint 6 of .*") as caught:
        open_run(run_dir, manifest).load(6)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_are_one_line(run_dir: RunDirectory) -> None:
    run = open_run(run_dir, Manifest.load(run_dir, 6))
    pathlib.Path(f"{run_dir.state_prefix(6)}.index").unlink()
    with pytest.raises(Unusable, match=r"checkpoint 6 of .* cannot be read") as caught:
        run.load(6)
    assert "\n" not in str(caught.value)


def test_what_was_trained_has_to_be_known(run_dir: RunDirectory) -> None:
    manifest = Manifest.load(run_dir, 6)
    path = pathlib.Path(run_dir.run_info)
    path.write_text(path.read_text().replace(":Search", ":Lost").partition(',\n "crc32"')[0] + "}")
    with pytest.raises(ConfigError, match="Lost"):
        open_run(run_dir, manifest)
    path.unlink()
    with pytest.raises(Unusable, match=r"has no run\.json"):
        open_run(run_dir, manifest)


@pytest.mark.parametrize("flags", [None, "--threads=many\n", "garbage"])
def test_flags_that_are_not_there_are_not_needed(flags: str | None, run_dir: RunDirectory) -> None:
    path = pathlib.Path(run_dir.flags)
    path.unlink() if flags is None else path.write_text(flags)
    assert open_run(run_dir, Manifest.load(run_dir, 6)).experiment == Search()


def test_a_field_that_the_experiment_has_no_more_is_not_said_to_be_asked_for(run_dir: RunDirectory) -> None:
    path = pathlib.Path(run_dir.run_info)
    written = path.read_text().replace('"width": 2', '"units": 8').partition(',\n "crc32"')[0]
    path.write_text(written + "}")
    with pytest.raises(ConfigError, match="was trained with units=8, and Search has no such field now") as caught:
        open_run(run_dir, Manifest.load(run_dir, 6))
    assert "set=" not in str(caught.value)
