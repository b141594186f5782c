"""This trainer, as a user calls it, but for the tick of streams; the clock is its own journal."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

import trainer
from bench.contender import Contender, Run, Setting
from bench.workload import Model
from bench.workloads import workload
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import DATA_WAIT, RESTORE, SAVE, START, STEP, TOTAL, read_journal
from trainer.ledger.log import read_records
from trainer.ledger.run_info import RunInfo

_LOOK_S = 0.002
"""How often the journal is looked at."""


@dataclasses.dataclass(frozen=True)
class Bench(trainer.Experiment):
    """A workload as an experiment."""

    name: str
    source: str = "arrays"
    """`arrays`, or `tf.data` for a pipeline."""
    shuffle: bool = True
    sparse: str = "rows"

    def model(self, seed: Any) -> Model:
        return Model(workload(self.name))

    def optimizer(self) -> Any:
        return workload(self.name).optimizer(sparse=self.sparse)

    def train_data(self) -> trainer.data.Source:
        return make_source(self.name, self.source, shuffle=self.shuffle)

    def loss(self, model: Model, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        what = workload(self.name)
        loss, metric = what.measure(model(batch["x"]), batch["y"])
        return trainer.Loss(loss, {what.metric: metric})


def make_source(name: str, source: str, *, shuffle: bool) -> Any:
    """The examples of a workload as arrays, or as a pipeline whose position a checkpoint holds."""
    what = workload(name)
    arrays = what.arrays()
    if source == "arrays":
        return trainer.data.arrays(arrays, batch_size=what.batch_size, shuffle=shuffle)

    def make_dataset() -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices(arrays)
        return dataset.shuffle(len(arrays["x"])) if shuffle else dataset

    return trainer.data.stream(make_dataset, batch_size=what.batch_size)


class Ours(Contender):
    """`trainer.Trainer`: a run of its own for each number of steps.

    Args:
      setting: what and how.
      source: `arrays` or `tf.data`.
      jit: as the flag.
      log: as the flag `log_every`; by default what the setting says.
      save: as the flag `save_every`. The save that each run ends with does not count.
      sparse: which rows of an embedding Adam updates.
      flags: any other flags.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        source: str = "arrays",
        jit: str = "auto",
        log: str | None = None,
        save: str = "never",
        sparse: str = "rows",
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        self._experiment = Bench(setting.workload.name, source, setting.shuffle, sparse)
        # Where batches are waited for, TensorFlow tells the time: by a clock that does not stand still with the others.
        streams = source == "tf.data"
        self._mistimed = (STEP, DATA_WAIT) if streams else ()
        self._ready = setting.ready
        self._flags = {
            # A chunk that waits for batches ends by that clock.
            **({"tick": "1h"} if streams else {}),
            "jit": jit,
            "log_every": log or str(setting.every),
            "save_every": save,
            "eval_every": "never",
            "keep_best": 0,
            "progress": "never",
            **(flags or {}),
        }
        self.details = {}

    def warm_up(self) -> None:
        """Nothing: the first steps of a run are part of its start, which the journal tells apart."""

    def run(self, steps: int) -> Run:
        with tempfile.TemporaryDirectory(prefix="bench-run-") as place:
            directory = RunDirectory(place)
            with _once_begun(directory, self._ready):
                trainer.Trainer(self._experiment, run_dir=place, train_for=steps, **self._flags).run()
            journal = read_journal(directory)
            records = [record for record in read_records(directory) if record.kind == "train"]
            info = RunInfo.load(directory)
        began = _begun(journal)
        assert info is not None
        assert began is not None
        # The last of these lines is written in the save that the run ends with, after its look at the weights.
        seconds = next(entry["seconds"] for entry in reversed(journal) if entry["event"] == "times")
        times = {part: spent for part, spent in seconds.items() if part not in self._mistimed}
        self.details = {"jit": info.jit, "times": times}
        taken = seconds[TOTAL] - seconds[START] - seconds[RESTORE]
        if self._flags["save_every"] == "never":
            taken -= seconds[SAVE]
        losses = [loss for record in records if (loss := record.metrics["loss"]) is not None]
        if not losses:
            return Run(steps - began, taken, None, None)
        return Run(steps - began, taken, sum(losses) / len(losses), losses[-1])


@contextlib.contextmanager
def _once_begun(directory: RunDirectory, act: Callable[[], None]) -> Iterator[None]:
    """Does something as soon as the journal tells that the first step is trained, where the time of steps begins."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            if _begun(read_journal(directory)) is not None:
                act()
                return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _begun(journal: Sequence[Mapping[str, Any]]) -> int | None:
    """The step from which on the time of steps is counted; None where it is not there yet."""
    return next((entry["step"] for entry in journal if entry["event"] == "times"), None)
