"""Evaluations made later, or beside a running trainer: of saved checkpoints, and of no influence on the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from trainer.checkpoint.recovery import Damaged
from trainer.data import Source
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import STATE, RunDirectory
from trainer.ledger.evaluations import Evaluation, Subject, append_evaluation, checkpoint_identity, read_evaluations
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.ledger.record import Record
from trainer.run.evaluate import Evaluator
from trainer.run.experiment import Experiment
from trainer.run.pace import Pace
from trainer.run.records import metrics_and_counts
from trainer.run.splits import EVAL_DATA, TEST_DATA, splits_of
from trainer.trained.rounds import Gone
from trainer.trained.run import TrainedRun, open_run

_TICK = 0.5
"""Seconds between two looks whether to stop."""


class LaterEvaluation:
    """Evaluates saved checkpoints as the run itself does: with the same programs, seeds and weights.

    What was evaluated before is not evaluated again. The model is made, and its programs are traced, once for all
    checkpoints between which no parameter of the run was changed.

    Args:
      directory: the run.
      splits: the names of those to evaluate on; by default every one that there is.
      guard: asked before a line is written; raises where it is not ours to write.
      interrupted: whether to stop.
      tell: receives each evaluation once it is durable, and whether it was made now.
      warn: receives what the user has to know, a line each.

    Raises:
      OSError: the evaluations that there are cannot be read.
      Unwritable: they cannot be made durable.
    """

    def __init__(
        self,
        directory: RunDirectory,
        splits: Sequence[str] = (),
        *,
        guard: Callable[[], None],
        interrupted: Callable[[], bool],
        tell: Callable[[Evaluation, bool], None],
        warn: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._asked = splits
        self._guard = guard
        self._interrupted = interrupted
        self._tell = tell
        self._warn = warn
        self._run: TrainedRun | None = None
        self._sources: Mapping[str, Source] = {}
        self._evaluators: dict[str, tuple[Evaluator, Pace]] = {}
        if directory.files.exists(directory.evaluations):
            # A kill may have come between a line and its sync.
            directory.files.sync(directory.evaluations)
        self._known = {evaluation.subject: evaluation for evaluation in read_evaluations(directory)}

    def evaluate(self, manifest: Manifest) -> bool:
        """Evaluates the checkpoint of `manifest` on each split.

        Returns:
          Whether it came to the end. The evaluation that is interrupted counts for nothing.

        Raises:
          Gone: there is no such checkpoint any more.
          Damaged: it cannot be read.
          ConfigError: the experiment, or a split that is asked for, is not there.
          Unusable: the data cannot be read.
          Unwritable: the evaluation cannot be written.
        """
        run = self._run = self._opened(manifest)
        identity = checkpoint_identity(manifest)
        subjects = [
            Subject(manifest.step, identity, split, run.weights, source.fingerprint)
            for split, source in self._sources.items()
        ]
        if not all(subject in self._known for subject in subjects):
            self._load(run, manifest, identity)
        for subject in subjects:
            made = subject not in self._known
            if made:
                record = self._measured(run, manifest, subject.split)
                if record is None:
                    return False
                evaluation = Evaluation(record, subject.checkpoint, subject.fingerprint)
                self._guard()
                append_evaluation(self._directory, evaluation)
                self._known[subject] = evaluation
            self._tell(self._known[subject], made)
        return True

    def _opened(self, manifest: Manifest) -> TrainedRun:
        """The run as it was at `manifest`; with another model than before, nothing that was traced holds."""
        before = self._run
        run = open_run(self._directory, manifest) if before is None else before.at(manifest)
        if before is None or run.model is not before.model:
            self._sources, self._evaluators = _chosen(run.experiment, self._asked), {}
            for split, source in self._sources.items():
                known = run.info.data.get(split)
                if known is not None and known.get("fingerprint") != source.fingerprint:
                    self._warn(
                        f"the split {split!r} is other data now ({source.fingerprint}) than in the run "
                        f"({known.get('fingerprint')})"
                    )
        return run

    def _load(self, run: TrainedRun, manifest: Manifest, identity: str) -> None:
        """Gives the model the weights of the checkpoint that is known as `identity`, and of no other."""
        files, step = self._directory.files, manifest.step
        index = os.path.join(self._directory.checkpoint(step), f"{STATE}.index")
        try:
            if files.crc32(index) != identity:
                raise Unusable(
                    f"checkpoint {step} of {self._directory.path} cannot be used: {STATE}.index is not as it was "
                    "written, its crc32 is another; name another"
                )
            run.load(step)
        except (OSError, Unusable) as error:
            if not self._is_there(step, identity):
                raise Gone from error
            raise Damaged(str(error)) from error
        if not self._is_there(step, identity):
            # Then what was read may be the beginning of another one.
            raise Gone

    def _is_there(self, step: int, identity: str) -> bool:
        try:
            manifest = Manifest.parse(self._directory.files.read(self._directory.manifest(step)))
            return checkpoint_identity(manifest) == identity
        except (OSError, BadManifest):
            return False

    def _measured(self, run: TrainedRun, manifest: Manifest, split: str) -> Record | None:
        """The record of one evaluation with the weights that are loaded; None when it was interrupted."""
        if self._interrupted():
            return None
        if split not in self._evaluators:
            evaluator = Evaluator(
                run.experiment,
                run.model,
                self._sources[split],
                split=split,
                seed=run.info.seed,
                jit=run.info.jit == "chunk",
            )
            evaluator.build()
            self._evaluators[split] = evaluator, Pace(_TICK)
        evaluator, pace = self._evaluators[split]
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


def _chosen(experiment: Experiment, asked: Sequence[str]) -> dict[str, Source]:
    """The splits that are asked for, or all that there are: those of the run, and those that only this looks at.

    Raises:
      ConfigError: there is none, or none of a name; or what the experiment returned cannot be.
    """
    name = type(experiment).__name__
    found: dict[str, Source] = {}
    for method in (EVAL_DATA, TEST_DATA):
        splits = splits_of(experiment, method)
        if both := sorted(found.keys() & splits.keys()):
            raise ConfigError(f"{name} has the split {both[0]!r} in eval_data() and in test_data(); rename one")
        found.update(splits)
    if not found:
        raise ConfigError(
            f"{name} has nothing to evaluate on; write eval_data() or test_data(), as docs/contract.md says"
        )
    if unknown := [split for split in asked if split not in found]:
        raise ConfigError(f"split={','.join(unknown)} is unknown; the splits of {name} are {', '.join(found)}")
    return {split: source for split, source in found.items() if not asked or split in asked}
