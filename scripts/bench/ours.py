"""This trainer, as a user calls it; the clock is its own journal."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

import trainer
from bench.contender import Contender, Run, Setting
from bench.workload import Model
from bench.workloads import workload
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import RESTORE, SAVE, START, TOTAL, read_journal
from trainer.ledger.log import read_records
from trainer.ledger.run_info import RunInfo


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
      save: as the flag `save_every`. The time of saves counts where there are any but the last.
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
        self._saves = save != "never"
        self._flags = {
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
            result = trainer.Trainer(self._experiment, run_dir=place, train_for=steps, **self._flags).run()
            directory = RunDirectory(result.run_dir)
            journal = read_journal(directory)
            records = [record for record in read_records(directory) if record.kind == "train"]
            info = RunInfo.load(directory)
        assert info is not None
        began = next(entry["step"] for entry in journal if entry["event"] == "times")
        seconds = next(entry["seconds"] for entry in reversed(journal) if entry["event"] == "stop")
        self.details = {"jit": info.jit, "times": seconds}
        taken = seconds[TOTAL] - seconds[START] - seconds[RESTORE] - (0 if self._saves else seconds[SAVE])
        losses = [loss for record in records if (loss := record.metrics["loss"]) is not None]
        if not losses:
            return Run(steps - began, taken, None, None)
        return Run(steps - began, taken, sum(losses) / len(losses), losses[-1])
