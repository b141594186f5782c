"""How a run goes on: in the segment that it was in, or in a new one, where what was asked for has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from trainer.checkpoint.recovery import readable_now
from trainer.data import fold_in, run_seed
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import EVAL_DATA, DataOrigin, Segment, data_origin, read_segments
from trainer.run.experiment import Experiment
from trainer.run.identity import Change, check_identity

# "segm" in ASCII, folded into the run's seed: the passes over data that is taken up later have orders of their own.
SEGMENT_STREAM = 0x7365676D


@dataclasses.dataclass(frozen=True)
class Continuation:
    """How a run goes on from the checkpoint that it is resumed from."""

    segments: tuple[Segment, ...] = ()
    """All so far, `run.json` aside; the one that begins here is the last."""
    changes: tuple[Change, ...] = ()
    """What begins a segment here; none where the last one goes on."""
    warnings: tuple[str, ...] = ()

    @property
    def origin(self) -> DataOrigin:
        """Where the passes over the training data began."""
        return data_origin(self.segments)

    @property
    def line(self) -> str | None:
        """What is to be said of a segment that begins here."""
        if not self.changes:
            return None
        segment = self.segments[-1]
        changes = "; ".join(change.text for change in self.changes)
        return f"segment {segment.segment} begins at step {segment.step}: {changes}"

    def note(self, journal: Journal) -> None:
        """Notes the segment that begins here, if one does."""
        if self.changes:
            begun, diff = self.segments[-1], [change.to_json() for change in self.changes]
            where = {"step": begun.step, "examples": begun.examples}
            journal.write("segment", segment=begun.segment, **where, changed=list(begun.changed), diff=diff)

    def comparable(self, metric: str) -> bool:
        """Whether values of `metric`, such as `validation/loss`, are of the same data before and after this."""
        split = metric.partition("/")[0]
        return not any(change.kind == EVAL_DATA and change.name == split for change in self.changes)


def continue_run(
    known: RunInfo,
    asked: RunInfo,
    experiment: Experiment,
    directory: RunDirectory,
    *,
    resumed: Manifest | None,
    allowed: Collection[str],
) -> Continuation:
    """Compares what is asked for with the run as it was at a checkpoint, and begins a segment where it is to change.

    Args:
      known: what `run.json` says.
      asked: what the experiment and the flags say now.
      experiment: whose fields have rules for a change.
      directory: the run directory, for the messages.
      resumed: the checkpoint to go on from, whose segments are the run's; None at the beginning.
      allowed: what `allow_change` names.

    Raises:
      ConfigError: it is another run, or differs in what is not allowed to change.
      Unusable: the checkpoint's segments cannot be read.
    """
    segments = read_segments(resumed)
    found = check_identity(known, asked, experiment, directory, segments=segments, allowed=allowed)
    if found.changes:
        begun = Segment(
            segment=len(segments) + 1,
            step=resumed.step if resumed else 0,
            examples=resumed.examples if resumed else 0,
            changed=found.changed,
            parameters=asked.parameters,
            data=asked.data,
            seed=asked.seed,
        )
        segments = (*segments, begun)
    return Continuation(segments, found.changes, found.warnings)


def newest_manifest(directory: RunDirectory, run: str) -> Manifest | None:
    """The newest manifest of this run that can be read: the one that a resume will most likely go on from.

    What else is there is passed over here in silence, and judged aloud by the recovery.

    Raises:
      Unusable: the machine cannot read one now.
    """
    for step in directory.committed_steps():
        try:
            with readable_now(step):
                manifest = Manifest.load(directory, step)
        except (OSError, BadManifest):
            continue
        if manifest.run == run:
            return manifest
    return None


def order_seed(seed: int, origin: DataOrigin) -> np.ndarray:
    """The seed of the order of the training data, int32 [2]: the run's own, or that of a later segment."""
    own = run_seed(seed)
    return np.asarray(fold_in(own, SEGMENT_STREAM, origin.segment)) if origin.segment else own
