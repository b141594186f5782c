"""Runs for the audit to look at: how they are made, and how they are forged so that every checksum is right again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.manifest import LogPosition, Manifest, eval_relation, train_relation
from trainer.ledger.record import Record
from trainer.process.signals import StopRequest
from trainer.run.program import Advance, Program
from trainer.views.tensorboard import EventWriter

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


def checkpoints(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """The folders of the checkpoints, oldest first."""
    directory = RunDirectory(folder)
    return {step: pathlib.Path(directory.checkpoint(step)) for step in reversed(directory.committed_steps())}


def forge_manifest(folder: pathlib.Path, step: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest of a step, and gives it the checksum that belongs to it."""
    path = checkpoints(folder)[step] / "manifest.json"
    value = json.loads(path.read_bytes())
    del value["crc32"]
    change(value)
    path.write_bytes(Manifest.parse(json.dumps(value).encode()).encode())


def forge_records(folder: pathlib.Path, change: Callable[[list[Record]], list[Record]]) -> None:
    """Changes the log, and everything that vouches for it or repeats it: only what the run would be is not asked."""
    directory = RunDirectory(folder)
    before = read_records(directory)
    after = change(list(before))
    pathlib.Path(directory.metrics).write_bytes(b"".join(record.line() for record in after))
    for step in checkpoints(folder):
        manifest = Manifest.load(directory, step)
        own = manifest.log.records
        # As many records later as the change has brought before.
        moved = next((index for index, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), own)
        count = own + (len(after) - len(before) if moved < own else 0)
        path = pathlib.Path(directory.manifest(step))
        path.write_bytes(_vouching(manifest, after[:count]).encode())
    events = pathlib.Path(directory.events)
    shutil.rmtree(events)
    writer = EventWriter(events, 1, -1)
    writer.add(after)
    writer.close()


def _vouching(manifest: Manifest, records: list[Record]) -> Manifest:
    data = b"".join(record.line() for record in records)
    position = LogPosition(len(records), len(data), hashlib.sha256(data).hexdigest())
    trained = [record for record in records if record.window]
    closed = trained[-1].step if trained else 0
    evaluated = {record.split or "": record for record in records if record.split}
    return dataclasses.replace(
        manifest,
        log=position,
        train=train_relation(trained[-1], manifest.step) if trained else None,
        eval=eval_relation(evaluated, manifest.step),
        open_window={**manifest.open_window, "from": closed, "steps": manifest.step - closed},
    )


def flip(path: pathlib.Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
