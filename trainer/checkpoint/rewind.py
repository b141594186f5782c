"""Rewinding a run: an older checkpoint becomes the newest, and what is later is put aside."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from trainer.checkpoint import folder
from trainer.checkpoint.selection import choose
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, last_attempt, read_journal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import Manifest, load_manifests
from trainer.storage.paths import free_path


@dataclasses.dataclass(frozen=True)
class Rewind:
    """What a rewind puts aside. The journal has it twice: when it begins, and when it is done."""

    step: int
    """The checkpoint that becomes the newest."""
    from_step: int
    """The checkpoint that was the newest."""
    moved: tuple[int, ...]
    """The checkpoints that are put aside, oldest first."""
    cut_bytes: int
    """How much of the metric log is put aside."""
    orphans: str | None
    """The folder where all that is, within the run directory; None when there is nothing to put aside."""

    def to_json(self) -> dict[str, Any]:
        """What the journal and scripts are told of it."""
        return {**dataclasses.asdict(self), "moved": list(self.moved)}


def rewind(directory: RunDirectory, step: int) -> tuple[Rewind, Manifest]:
    """Makes the checkpoint of `step` the newest one; the caller holds the lock.

    Later checkpoints and records go to `orphans/`, the newest checkpoint first and the records last: whenever this is
    killed, the newest checkpoint that is left finds its records. Called again, it goes on where it was killed. Nothing
    is moved unless every byte of the checkpoint and of its records is as it was written.

    It is no attempt: its lines in the journal bear the number of the last one.

    Returns:
      What was put aside, and the manifest of `step`.

    Raises:
      Unusable: there is no such checkpoint, or it or its records are damaged; nothing has been moved.
      Unwritable: a file cannot be moved or written.
    """
    log = MetricLog(directory)
    manifest = _verified(directory, step, log)
    journal = Journal(directory, attempt=last_attempt(directory))
    begun = _interrupted(directory, manifest, journal.attempt)
    plan = begun or _plan(directory, manifest, journal.attempt)
    if plan.orphans is None:
        return plan, manifest
    if not begun:
        # Which folder is being filled has to be known to whoever finds this half done.
        journal.write("rewind", **plan.to_json(), done=False)
        journal.sync()
    # A kill may have come between its commit and the sync of that; from here on it is the one to go back to.
    directory.files.sync_directory(directory.checkpoint(step))
    orphans = os.path.join(directory.path, plan.orphans)
    for later in sorted(set(plan.moved).intersection(directory.step_folders()), reverse=True):
        target = os.path.join(orphans, os.path.basename(directory.checkpoint(later)))
        folder.put_aside(directory, later, target, f"rewound to step {step}")
    log.cut(orphans)
    folder.point_state_file(directory, load_manifests(directory)[0])
    journal.write("rewind", **plan.to_json(), done=True)
    journal.sync()
    return plan, manifest


def _verified(directory: RunDirectory, step: int, log: MetricLog) -> Manifest:
    """The manifest of `step`, once its files and its records are known to be as they were written; `log` ends there.

    Raises:
      Unusable: they are not, or there is no such checkpoint.
    """
    try:
        manifest = choose(directory, str(step)).manifest
        assert manifest is not None  # It is of a run directory.
        for file in manifest.files:
            if directory.files.crc32(os.path.join(directory.checkpoint(step), file.name)) != file.crc32:
                raise Unusable(
                    f"checkpoint {step} of {directory.path} cannot be used: {file.name} is not as it was written, its "
                    "crc32 is another; nothing has been moved: mend it, or name another step"
                )
        log.verify(manifest)
    except OSError as error:
        raise Unusable(
            f"checkpoint {step} of {directory.path} cannot be read ({error}); nothing has been moved: mend that, then "
            "run the same command again"
        ) from error
    return manifest


def _plan(directory: RunDirectory, manifest: Manifest, attempt: int) -> Rewind:
    """What is later than the checkpoint of `manifest`, and a new folder for it."""
    files, committed = directory.files, directory.committed_steps()
    moved = tuple(sorted(step for step in committed if step > manifest.step))
    size = files.size(directory.metrics) if files.exists(directory.metrics) else 0
    cut_bytes = size - manifest.log.bytes
    orphans = None
    if moved or cut_bytes:
        path = free_path(files, f"{directory.orphans_of(attempt)}-rewind")
        orphans = os.path.relpath(path, directory.path)
    return Rewind(manifest.step, committed[0], moved, cut_bytes, orphans)


def _interrupted(directory: RunDirectory, manifest: Manifest, attempt: int) -> Rewind | None:
    """The same rewind, where it was begun after the last attempt and killed before it was done."""
    rewinds = [entry for entry in read_journal(directory) if entry.get("event") == "rewind"]
    match rewinds[-1:]:
        case [
            {
                "attempt": noted,
                "step": step,
                "from_step": int(from_step),
                "moved": [*moved],
                "cut_bytes": int(cut_bytes),
                "orphans": str(orphans),
                "done": False,
            }
        ] if (noted, step) == (attempt, manifest.step):
            # A checkpoint that somebody has put there since is later too.
            later = [other for other in directory.committed_steps() if other > step]
            return Rewind(step, from_step, tuple(sorted({*moved, *later})), cut_bytes, orphans)
    return None
