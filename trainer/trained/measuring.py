"""Measuring saved checkpoints on splits, as the run itself evaluates: with the same programs, seeds and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from trainer.checkpoint.recovery import Damaged
from trainer.data import Source
from trainer.errors import Unusable
from trainer.ledger.directory import STATE, RunDirectory
from trainer.ledger.evaluations import checkpoint_identity
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.ledger.record import Record
from trainer.run.evaluate import Evaluator
from trainer.run.experiment import Experiment
from trainer.run.pace import Pace
from trainer.run.records import metrics_and_counts
from trainer.trained.rounds import Gone
from trainer.trained.run import TrainedRun, open_run

_TICK = 0.5
"""Seconds between two looks whether to stop."""


class Measuring:
    """Measures checkpoints of a run. Where nothing is written, a trainer may be writing there.

    The model is made, and its programs are traced, once for all checkpoints between which no parameter of the run was
    changed.

    Args:
      directory: the run.
      choose: the splits of an experiment that are measured.
      interrupted: whether to stop.

    Attributes:
      run: the run as it was at the checkpoint that is open.
      sources: its splits.
    """

    run: TrainedRun
    sources: Mapping[str, Source]

    def __init__(
        self,
        directory: RunDirectory,
        choose: Callable[[Experiment], Mapping[str, Source]],
        *,
        interrupted: Callable[[], bool],
    ) -> None:
        self._directory = directory
        self._choose = choose
        self._interrupted = interrupted
        self._opened = False
        self._evaluators: dict[tuple[str, str], tuple[Evaluator, Pace]] = {}
        self._jit: dict[int, str] = {}

    def open(self, manifest: Manifest) -> bool:
        """Takes up the run as it was at `manifest`; returns whether with another model, and splits, than before.

        Raises:
          ConfigError: the experiment, or a split that is asked for, is not there.
          Unusable: the directory does not say what was trained.
        """
        run = self.run.at(manifest) if self._opened else open_run(self._directory, manifest)
        another = not self._opened or run.model is not self.run.model
        if another:
            # Nothing that was traced holds.
            self.sources, self._evaluators = self._choose(run.experiment), {}
        self.run, self._opened = run, True
        return another

    def load(self, manifest: Manifest) -> None:
        """Gives the model the weights of the checkpoint of `manifest`, and of no other.

        Raises:
          Gone: there is no such checkpoint any more.
          Damaged: it cannot be read.
        """
        step, identity = manifest.step, checkpoint_identity(manifest)
        index = os.path.join(self._directory.checkpoint(step), f"{STATE}.index")
        try:
            if self._directory.files.crc32(index) != identity:
                raise Unusable(
                    f"checkpoint {step} of {self._directory.path} cannot be used: {STATE}.index is not as it was "
                    "written, its crc32 is another; name another"
                )
            self.run.load(step)
        except (OSError, Unusable) as error:
            if not self._is_there(step, identity):
                raise Gone from error
            raise Damaged(str(error)) from error
        if not self._is_there(step, identity):
            # Then what was read may be the beginning of another one.
            raise Gone

    def build(self, manifest: Manifest, split: str) -> tuple[Evaluator, Pace]:
        """The program that evaluates the split as the attempt did that saved the checkpoint, traced once."""
        run, jit = self.run, self._jit_of(manifest.attempt)
        if (split, jit) not in self._evaluators:
            evaluator = Evaluator(
                run.experiment,
                run.model,
                self.sources[split],
                split=split,
                seed=run.info.seed,
                jit=jit == "chunk",
            )
            evaluator.build()
            self._evaluators[split, jit] = evaluator, Pace(_TICK)
        return self._evaluators[split, jit]

    def record(self, manifest: Manifest, split: str) -> Record | None:
        """The record of one evaluation with the weights that are loaded; None when it was interrupted.

        Raises:
          Unusable: the data cannot be read.
        """
        if self._interrupted():
            return None
        run = self.run
        evaluator, pace = self.build(manifest, split)
        measured = evaluator.run(pace, self._interrupted)
        if measured is None:
            return None
        metrics, nonfinite = metrics_and_counts(*measured, run.experiment)
        return Record(
            kind="eval",
            step=manifest.step,
            examples=manifest.examples,
            epoch=manifest.epoch,
            split=split,
            weights=run.weights,
            metrics=metrics,
            nonfinite=nonfinite,
        )

    def _jit_of(self, attempt: int) -> str:
        """How the programs of an attempt were compiled: as its flags say, else as the run began."""
        if attempt not in self._jit:
            starts = [entry for entry in read_journal(self._directory) if entry["event"] == "start"]
            asked = {entry["attempt"]: (entry.get("flags") or {}).get("jit") for entry in starts}
            self._jit = {number: jit for number, jit in asked.items() if jit in ("none", "chunk")}
            self._jit.setdefault(attempt, self.run.info.jit)
        return self._jit[attempt]

    def _is_there(self, step: int, identity: str) -> bool:
        try:
            manifest = Manifest.parse(self._directory.files.read(self._directory.manifest(step)))
            return checkpoint_identity(manifest) == identity
        except (OSError, BadManifest):
            return False
