"""What the tests of a run share: an experiment so small that a test spends its time on what it holds."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.checkpoint.store import CheckpointStore
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest
from trainer.run.program import Program
from trainer.run.state import TrainState

FEATURES = 3


class Plane(tf.Module):
    """y = x · kernel + bias."""

    def __init__(self, seed: Any, dtype: str) -> None:
        super().__init__()
        normal = tf.random.stateless_normal([FEATURES], seed, alg="philox")
        self.kernel = tf.Variable(tf.cast(normal, dtype), name="kernel")
        self.bias = tf.Variable(tf.zeros([], dtype), name="bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matvec(x, self.kernel) + self.bias


@dataclasses.dataclass(frozen=True)
class Linear(trainer.Experiment):
    """Fits a plane by least squares; each step tells which examples it saw, position by position."""

    examples: int = 10
    batch_size: int = 4
    shuffle: bool = False
    last: str = "wrap"
    weighted: bool = False
    dtype: str = "float32"
    learning_rate: float = trainer.field(0.125, on_resume="warn")
    comment: str = trainer.field("none", on_resume="free")

    def arrays(self) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(3)
        x = generator.uniform(-1, 1, [self.examples, FEATURES])
        return {
            "x": x.astype(self.dtype),
            "y": (x @ np.arange(1, FEATURES + 1) - 1 + generator.normal(0, 0.5, self.examples)).astype(self.dtype),
            "weight": generator.uniform(0.5, 2, self.examples).astype(self.dtype),
            "index": np.arange(self.examples),
        }

    def source(self, **options: Any) -> trainer.data.Source:
        options = {"batch_size": self.batch_size, "shuffle": self.shuffle, "last": self.last, **options}
        return trainer.data.arrays(self.arrays(), **options)

    def model(self, seed: Any) -> Plane:
        return Plane(seed, self.dtype)

    def optimizer(self) -> Any:
        return trainer.optim.SGD(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        return self.source()

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {}

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        error = model(batch["x"]) - batch["y"]
        return trainer.Loss(
            per_example=tf.square(error),
            # "order" in column p: the example at position p of the batch, once the mean is multiplied by the weights.
            metrics={"absolute": tf.abs(error), "order": tf.linalg.diag(batch["index"])},
            weights=batch["weight"] if self.weighted else None,
        )


@pytest.fixture
def linear() -> type[Linear]:
    """The experiment, to be made or to be derived from."""
    return Linear


@dataclasses.dataclass
class Machinery:
    """A program with its state, as a run puts them together."""

    state: TrainState
    program: Program

    def bits(self) -> dict[str, bytes]:
        """Every variable of the state, by its name in a checkpoint."""
        found = {"step": self.state.step, "examples": self.state.examples, "window": self.state.window}
        for part in (self.state.model, *self.state.optimizers().values()):
            found |= {f"{type(part).__name__}/{index}": value for index, value in enumerate(part.variables)}
        return {name: variable.numpy().tobytes() for name, variable in found.items()}


@pytest.fixture
def machinery() -> Callable[..., Machinery]:
    """Builds the program of an experiment."""

    def build(experiment: trainer.Experiment, *, jit: bool = False, seed: int = 17) -> Machinery:
        state = TrainState(experiment, seed)
        return Machinery(state, Program(experiment, state, experiment.train_data(), seed=seed, jit=jit))

    return build


@pytest.fixture
def train(tmp_path: pathlib.Path) -> Callable[..., trainer.Result]:
    """Trains in the test's own folder, silently and without waiting for XLA."""

    def run(experiment: trainer.Experiment, *, folder: str = "run", **options: Any) -> trainer.Result:
        on_record = options.pop("on_record", None)
        stop_request = options.pop("stop_request", None)
        options = {"run_dir": str(tmp_path / folder), "progress": "never", "jit": "none", **options}
        return trainer.Trainer(experiment, on_record=on_record, stop_request=stop_request, **options).run()

    return run


@pytest.fixture
def manifests(tmp_path: pathlib.Path) -> Callable[..., dict[int, Manifest]]:
    """Reads the manifests of the committed checkpoints, by step."""

    def read(folder: str = "run") -> dict[int, Manifest]:
        directory = RunDirectory(tmp_path / folder)
        return {step: Manifest.load(directory, step) for step in sorted(directory.committed_steps())}

    return read


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
    """Every manifest that is committed while the test runs, in order, whether or not its checkpoint is kept."""
    seen: list[Manifest] = []
    save = CheckpointStore.save

    def noted(store: CheckpointStore, *arguments: Any, **options: Any) -> Manifest:
        seen.append(save(store, *arguments, **options))
        return seen[-1]

    monkeypatch.setattr(CheckpointStore, "save", noted)
    return seen
