"""One save, from the log's sync to the journal's line, in the order that makes it safe."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable

import tensorflow as tf

from trainer.checkpoint import folder, tensors
from trainer.checkpoint.retention import Decision
from trainer.checkpoint.save_times import SaveTime
from trainer.errors import Unwritable
from trainer.ledger.journal import Journal, NoJournal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import Manifest, StateFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Save:
    """All that has to be known of one save, decided before it begins."""

    decision: Decision
    """The manifest, without the files where these are yet to be written; and what stays once it is committed."""
    source: tf.train.Checkpoint | None
    """What to write; None where the files are there and only the manifest is new."""
    verify: bool
    """Whether to read the files back before the commit."""
    background: bool
    """Whether training goes on meanwhile."""
    wait_s: float
    """How long training has stood still for the save before this one."""
    snapshot_s: float = 0.0
    """How long it has stood still for the copy of the variables."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A save that is done."""

    manifest: Manifest
    deleted: tuple[int, ...]
    verified: bool
    """Whether its tensors are known to be readable."""
    took: SaveTime | None
    """How long it took; None where only the manifest was new."""


class Saver:
    """Carries out saves. It has no state of its own, so that it may do so in another thread.

    Args:
      log: the metric log of the run directory.
      max_shard: how many bytes a data file may have; None writes one file, of any size.
      journal: where saves and prunes are noted.
      guard: raises when what is at the run directory's path is not the run directory any more. It is asked before
        each operation that another run's directory would suffer from.
    """

    def __init__(
        self, log: MetricLog, *, max_shard: int | None, journal: Journal | NoJournal, guard: Callable[[], None]
    ) -> None:
        self._log = log
        self._directory = log.directory
        self._max_shard = max_shard
        self._journal = journal
        self._guard = guard

    def write(self, save: Save) -> Saved:
        """Makes the records durable and writes the files, then commits, then deletes what need not stay.

        Raises:
          Unwritable: a file could not be written, or not be read back.
        """
        started = time.monotonic()
        manifest, step = save.decision.manifest, save.decision.manifest.step
        self._log.sync()
        self._guard()
        verify_s = None
        if save.source is not None:
            files, verify_s = self._write_files(save.source, step, verify=save.verify)
            manifest = dataclasses.replace(manifest, files=files)
        written = time.monotonic()
        # TensorFlow may have taken its time, and makes the folders that it writes to.
        self._guard()
        folder.commit(self._directory, manifest)
        committed = time.monotonic()
        self._guard()
        folder.point_state_file(self._directory, save.decision.stay)
        for other in save.decision.delete:
            self._guard()
            folder.delete(self._directory, other)
        stall = save.wait_s + save.snapshot_s + (0.0 if save.background else time.monotonic() - started)
        self._guard()
        self._journal.write(
            "save",
            step=step,
            reasons=list(manifest.reasons),
            stall_s=round(stall, 6),
            wait_s=round(save.wait_s, 6),
            snapshot_s=round(save.snapshot_s, 6),
            write_s=round(written - started, 6),
            commit_s=round(committed - written, 6),
            bytes=manifest.size,
        )
        if save.decision.delete:
            self._journal.write("prune", steps=list(save.decision.delete), why="retention")
        seconds = save.snapshot_s + committed - started - (verify_s or 0.0)
        took = None if save.source is None else SaveTime(seconds, stall, verify_s)
        # Where only the manifest is new, the tensors are those that were resumed from.
        return Saved(manifest, save.decision.delete, save.verify or save.source is None, took)

    def _write_files(
        self, source: tf.train.Checkpoint, step: int, *, verify: bool
    ) -> tuple[tuple[StateFile, ...], float | None]:
        """Writes the tensors, durably, into a folder that is marked as unfinished.

        Returns:
          Its files, and how many seconds it took to read them back, where that was to be done.
        """
        if moved := folder.begin(self._directory, step):
            self._journal.write(
                "quarantine", step=step, reason=f"its folder held files that are not ours: now in {moved}"
            )
        prefix = self._directory.state_prefix(step)
        try:
            tensors.write(source, prefix, step=step, max_shard=self._max_shard)
            files = folder.describe_files(self._directory, step)
            written = time.monotonic()
            if verify:
                tensors.read_back(prefix, step=step)
        except Unwritable:
            # Where the disk is full, what is of no use makes room for the line in the journal that says so.
            with contextlib.suppress(Unwritable):
                self._guard()
                folder.delete(self._directory, step)
            raise
        return files, time.monotonic() - written if verify else None
