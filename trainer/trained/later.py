"""Evaluations made later, or beside a running trainer: of saved checkpoints, and of no influence on the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.data import Source
from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, Subject, append_evaluation, checkpoint_identity, read_evaluations
from trainer.ledger.manifest import Manifest
from trainer.run.experiment import Experiment
from trainer.run.splits import EVAL_DATA, TEST_DATA, splits_of
from trainer.trained.measuring import Measuring


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
        self._guard = guard
        self._tell = tell
        self._warn = warn
        self._measuring = Measuring(directory, lambda experiment: _chosen(experiment, splits), interrupted=interrupted)
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
        self._open(manifest)
        identity, weights = checkpoint_identity(manifest), self._measuring.run.weights
        subjects = [
            Subject(manifest.step, identity, split, weights, source.fingerprint)
            for split, source in self._measuring.sources.items()
        ]
        if not all(subject in self._known for subject in subjects):
            self._measuring.load(manifest)
        for subject in subjects:
            made = subject not in self._known
            if made:
                record = self._measuring.record(manifest, subject.split)
                if record is None:
                    return False
                evaluation = Evaluation(record, subject.checkpoint, subject.fingerprint)
                self._guard()
                append_evaluation(self._directory, evaluation)
                self._known[subject] = evaluation
            self._tell(self._known[subject], made)
        return True

    def _open(self, manifest: Manifest) -> None:
        """Takes up the run as it was at `manifest`, and warns of splits that are other data now."""
        if not self._measuring.open(manifest):
            return
        for split, source in self._measuring.sources.items():
            known = self._measuring.run.info.data.get(split)
            if known is not None and known.get("fingerprint") != source.fingerprint:
                self._warn(
                    f"the split {split!r} is other data now ({source.fingerprint}) than in the run "
                    f"({known.get('fingerprint')})"
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
