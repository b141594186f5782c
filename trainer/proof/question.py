"""What an explanation is asked for: a checkpoint, a metric, and the train record that belongs to it."""

from __future__ import annotations

import dataclasses

from trainer.checkpoint.selection import choose
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment, read_segments


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be explained."""

    directory: RunDirectory
    info: RunInfo
    checkpoint: Manifest
    metric: str
    record: Record
    """The train record that belongs to the checkpoint."""
    logged: float
    """The metric in it."""
    examples_before: int | None
    """The examples consumed before the window; None where the log does not say."""
    split: str | None
    """The split that is asked for; None for the experiment's own."""
    from_start: bool
    """Whether to train from the run's beginning on, whatever checkpoints are kept."""

    @property
    def window(self) -> tuple[int, int]:
        """(a, b]: the steps that the record averages."""
        assert self.record.window is not None
        return self.record.window

    def segments(self, step: int) -> list[Segment]:
        """Those that the run had gone through when it went on from `step`."""
        return [segment for segment in read_segments(self.checkpoint) if segment.step <= step]


def ask(directory: RunDirectory, *, step: int | None, metric: str, split: str | None, from_start: bool) -> Question:
    """What is to be explained, looked up in the run directory.

    Raises:
      ConfigError: the record does not have the metric.
      Unusable: there is no such checkpoint, or no train record belongs to it.
    """
    info = RunInfo.load(directory)
    if info is None:
        raise Unusable(f"{directory.path} has no run.json, so that its experiment is not known; name another run")
    manifest = choose(directory, "latest" if step is None else str(step)).manifest
    assert manifest is not None
    if manifest.train is None:
        raise Unusable(
            f"checkpoint {manifest.step} of {directory.path} was saved before the first train record, so there is "
            "nothing to explain; name a later one with --step"
        )
    window = tuple(manifest.train["window"])
    trained = {record.window: record for record in read_records(directory) if record.window}
    record = trained.get(window)
    if record is None:
        raise Unusable(
            f"the log of {directory.path} has no train record of the window ({window[0]}, {window[1]}], which "
            f"checkpoint {manifest.step} names; python -m trainer.audit {directory.path} tells what else is wrong"
        )
    if metric not in record.metrics:
        raise ConfigError(f"metric={metric} is not in the train records; they have {', '.join(record.metrics)}")
    logged = record.metrics[metric]
    if logged is None:
        raise Unusable(
            f"{metric} was not finite in the window ({window[0]}, {window[1]}], so there is no gap to explain; name "
            "another checkpoint with --step"
        )
    before = {end: record.examples for (_, end), record in trained.items()}
    examples = 0 if window[0] == 0 else before.get(window[0])
    return Question(directory, info, manifest, metric, record, logged, examples, split, from_start)
