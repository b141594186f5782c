"""What an explanation is asked for: a checkpoint, a metric, and the train record that belongs to it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Collection, Sequence

from trainer.checkpoint.selection import choose
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import STATE, RunDirectory
from trainer.ledger.log import log_lines
from trainer.ledger.manifest import Manifest, load_manifests
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment, read_segments

_TRIES = 10
"""How often the newest checkpoint is taken again where retention was faster."""
_STARTS = 2
"""How many checkpoints are kept to begin with: the second for when the first is damaged."""


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
    prefix: str
    """Of a copy of the checkpoint's files, which no retention deletes."""
    starts: Sequence[tuple[Manifest, str]]
    """The newest checkpoints at or before the window, newest first, with the prefixes of their copies."""
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


def ask(
    directory: RunDirectory, folder: str, *, step: int | None, metric: str, split: str | None, from_start: bool
) -> Question:
    """What is to be explained, looked up in the run directory.

    Args:
      directory: the run's, which a trainer may be writing.
      folder: an empty folder, where the checkpoints that are needed stay.
      step: of which checkpoint; None for the newest.
      metric: its name in the train records.
      split: which evaluation; None for the experiment's own.
      from_start: whether to train from the run's beginning on.

    Raises:
      ConfigError: the record does not have the metric.
      Unusable: there is no such checkpoint, or no train record belongs to it.
    """
    info = RunInfo.load(directory)
    if info is None:
        raise Unusable(f"{directory.path} has no run.json, so that its experiment is not known; name another run")
    manifest, prefix = _chosen(directory, step, folder)
    if manifest.train is None:
        raise Unusable(
            f"checkpoint {manifest.step} of {directory.path} was saved before the first train record, so there is "
            "nothing to explain; name a later one with --step"
        )
    window = tuple(manifest.train["window"])
    trained = _records_ending(directory, window)
    record = trained.get(window[1])
    if record is None or record.window != window:
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
    before = trained.get(window[0])
    examples = 0 if window[0] == 0 else before.examples if before else None
    starts = [] if from_start else _starts(directory, window[0], folder)
    return Question(directory, info, manifest, metric, record, logged, examples, prefix, starts, split, from_start)


def _chosen(directory: RunDirectory, step: int | None, folder: str) -> tuple[Manifest, str]:
    """The checkpoint that is asked for, with the prefix of a copy of it."""
    for _ in range(_TRIES):
        manifest = choose(directory, "latest" if step is None else str(step)).manifest
        assert manifest is not None
        if prefix := _held(directory, manifest, folder):
            return manifest, prefix
    raise Unusable(
        f"the checkpoints of {directory.path} are deleted faster than they can be read; run the same command again, or "
        "name one that is kept with --step"
    )


def _starts(directory: RunDirectory, step: int, folder: str) -> list[tuple[Manifest, str]]:
    """The newest checkpoints at or before a step, newest first, with the prefixes of copies."""
    earlier = [manifest for known, manifest in load_manifests(directory)[0].items() if known <= step]
    held = ((manifest, _held(directory, manifest, folder)) for manifest in reversed(earlier[-_STARTS:]))
    return [(manifest, prefix) for manifest, prefix in held if prefix]


def _held(directory: RunDirectory, manifest: Manifest, folder: str) -> str | None:
    """The prefix of a copy of a checkpoint, which takes no room where both are on one disk; None when it is gone."""
    own = os.path.join(folder, os.path.basename(directory.checkpoint(manifest.step)))
    os.makedirs(own, exist_ok=True)
    for file in manifest.files:
        source, target = os.path.join(directory.checkpoint(manifest.step), file.name), os.path.join(own, file.name)
        if os.path.exists(target):
            continue
        try:
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
        except FileNotFoundError:
            return None
    return os.path.join(own, STATE)


def _records_ending(directory: RunDirectory, steps: Collection[int]) -> dict[int, Record]:
    """The train records that end at these steps; what else is in the log is not kept."""
    marks = [b'"kind":"train","step":%d,' % step for step in steps]
    try:
        found = [Record.parse(line) for line in log_lines(directory) if any(mark in line for mark in marks)]
    except ValueError as error:
        raise Unusable(
            f"the log of {directory.path} is damaged ({error}); python -m trainer.audit {directory.path} tells where"
        ) from error
    return {record.step: record for record in found}
