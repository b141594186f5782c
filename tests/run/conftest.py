"""What the tests of a run share: an experiment so small that a test spends its time on what it holds."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.checkpoint.saver import Save, Saved, Saver
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest
from trainer.process.signals import StopRequest
from trainer.run.program import Advance, Program, Row
from trainer.run.state import TrainState

FEATURES = 3
ONE_STEP_A_CHUNK = "0.000001s"


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


@pytest.fixture(scope="session")
def linear() -> type[Linear]:
    """The experiment, to be made or to be derived from."""
    return Linear


@dataclasses.dataclass
class Machinery:
    """A program with its state, as a run puts them together."""

    state: TrainState
    program: Program

    def variables(self) -> dict[str, tf.Variable]:
        """Everything that training changes, by name."""
        found = {"step": self.state.step, "examples": self.state.examples, "window": self.state.window}
        for name, part in {"model": self.state.model, **self.state.optimizers()}.items():
            found |= {f"{name}/{index}": variable for index, variable in enumerate(part.variables)}
        return found

    def bits(self) -> dict[str, bytes]:
        """The bytes of everything that training changes."""
        return {name: variable.numpy().tobytes() for name, variable in self.variables().items()}

    def run(self, *cuts: int, closes: Sequence[int] = ()) -> list[Row]:
        """Trains in chunks that end at `cuts`; returns the windows that closed, and last the open one."""
        rows: list[Row] = []
        for start, until in itertools.pairwise((int(self.state.step.numpy()), *cuts)):
            advance = self.program.run(until, [step for step in closes if start < step <= until])
            assert advance.problem is None
            rows += advance.rows
        return [*rows, advance.open]


@pytest.fixture(scope="session")
def machinery() -> Callable[..., Machinery]:
    """Builds the program of an experiment."""

    def build(experiment: trainer.Experiment, *, jit: str = "none", seed: int = 17) -> Machinery:
        state = TrainState(experiment, seed)
        return Machinery(state, Program(experiment, state, experiment.train_data(), seed=seed, jit=jit))

    return build


@pytest.fixture(scope="module")
def rewound(machinery: Callable[..., Machinery]) -> Callable[..., Machinery]:
    """As `machinery`, but what was built once is built no more: it is put back to where it began."""
    built: dict[Any, tuple[Machinery, dict[str, np.ndarray]]] = {}

    def lend(experiment: trainer.Experiment, **options: Any) -> Machinery:
        key = (experiment, *sorted(options.items()))
        if key not in built:
            machine = machinery(experiment, **options)
            built[key] = machine, {name: variable.numpy() for name, variable in machine.variables().items()}
        machine, start = built[key]
        for name, variable in machine.variables().items():
            variable.assign(start[name])
        machine.program.begin(trainer.data.run_seed(options.get("seed", 17)))
        return machine

    return lend


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
    write = Saver.write

    def noted(saver: Saver, save: Save) -> Saved:
        saved = write(saver, save)
        if save.source is not None:
            seen.append(saved.manifest)
        return saved

    monkeypatch.setattr(Saver, "write", noted)
    return seen


@pytest.fixture
def course(manifests: Callable[..., dict[int, Manifest]]) -> Callable[[str], dict[int, Any]]:
    """Reads what of the manifests follows from the run alone: nothing of attempts, clocks and signals."""

    def read(folder: str) -> dict[int, Any]:
        found = {}
        for step, manifest in manifests(folder).items():
            if not manifest.transient:
                value = manifest.to_json()
                value["reasons"] = [reason for reason in value["reasons"] if reason != "signal"]
                value["control"] = {
                    name: part for name, part in value["control"].items() if name not in ("cadence", "events")
                }
                found[step] = {name: part for name, part in value.items() if name not in ("attempt", "run", "parent")}
        return found

    return read


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], dict[str, Any]]:
    """Has a signal arrive while the step runs that is named; gives the options of the run."""
    train = Program.run

    def options(step: int) -> dict[str, Any]:
        request = StopRequest()

        def run(program: Program, until: int, closes: list[int]) -> Advance:
            advance = train(program, until, closes)
            if until >= step and not request:
                request.note(signal.SIGTERM, None)
            return advance

        monkeypatch.setattr(Program, "run", run)
        return {"stop_request": request, "tick": ONE_STEP_A_CHUNK}

    return options
