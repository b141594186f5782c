"""Runs for proofs to look at: undisturbed, preempted and killed."""

from __future__ import annotations

import dataclasses
import pathlib
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.process.signals import StopRequest
from trainer.run.program import Advance, Program

EXAMPLES = 20


class Plane(tf.Module):
    """y = x · kernel."""

    def __init__(self, seed: Any) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([3], seed, alg="philox"), name="kernel")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matvec(x, self.kernel)


@dataclasses.dataclass(frozen=True)
class Slope(trainer.Experiment):
    """Fits a plane by least squares, with a learning rate that moves."""

    examples: int = trainer.field(EXAMPLES, on_resume="refuse")
    batch_size: int = 4
    rate: float = 0.05
    last: str = "wrap"
    stream: bool = False
    others: bool = False

    def model(self, seed: Any) -> Plane:
        return Plane(seed)

    def optimizer(self) -> Any:
        return trainer.optim.SGD(trainer.optim.warmup(10, trainer.optim.cosine(self.rate, 60)))

    def train_data(self) -> trainer.data.Source:
        arrays = points(self.examples, 3)
        if self.stream:
            dataset = tf.data.Dataset.from_tensor_slices(arrays)
            return trainer.data.stream(lambda: dataset, batch_size=self.batch_size)
        # To trace a shuffle takes the longest of all, and the audit does not look at the order.
        return trainer.data.arrays(arrays, batch_size=self.batch_size, last=self.last, shuffle=False)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        splits = {"validation": trainer.data.arrays(points(10, 4), batch_size=5)}
        return {**splits, "other": trainer.data.arrays(points(6, 5), batch_size=6)} if self.others else splits

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        error = model(batch["x"]) - batch["y"]
        return trainer.Loss(per_example=error**2, metrics={"absolute": tf.abs(error)})


@dataclasses.dataclass(frozen=True)
class Loose(Slope):
    """As that, and the learning rate may be another at any start, without a word."""

    rate: float = trainer.field(0.05, on_resume="free")


def points(count: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, [count, 3]).astype(np.float32)
    return {"x": x, "y": (x @ np.float32([1, 2, 3]) + generator.normal(0, 0.3, count)).astype(np.float32)}


class Killed(BaseException):
    """Stands for a kill: an error that no one handles, of which the journal then says nothing."""


def train(
    folder: pathlib.Path,
    experiment: trainer.Experiment | None = None,
    *,
    stop: int | None = None,
    kill: int | None = None,
    **options: Any,
) -> None:
    """Trains in `folder`; a signal comes in step `stop`, or a kill after step `kill`."""
    request, advance = StopRequest(), Program.run

    def run(program: Program, until: int, closes: list[int]) -> Advance:
        if kill is not None and until > kill:
            raise Killed
        done = advance(program, until, closes)
        if stop is not None and until >= stop and not request:
            request.note(signal.SIGTERM, None)
        return done

    cut = {"tick": "0.000001s"} if stop or kill else {}
    settings = {"run_dir": str(folder), "progress": "never", "jit": "none", **cut, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "run", run)
        try:
            trainer.Trainer(experiment or Slope(), stop_request=request, **settings).run()
        except Killed:
            # Who is killed says nothing.
            journal = folder / "journal.jsonl"
            lines = journal.read_bytes().splitlines(keepends=True)
            journal.write_bytes(b"".join(line for line in lines if b"Killed" not in line and b'"error"' not in line))
