"""Finding the checkpoint to resume from, and making the run directory agree with it."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import re
from collections.abc import Callable

from trainer.checkpoint.folder import discard_unfinished
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.log import Cut, MetricLog
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.storage.files import Files

_SHORTAGE = (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that say something of the machine or its permissions, and nothing of the checkpoint."""


class Damaged(Exception):
    """A checkpoint whose content cannot be restored."""


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What a start found."""

    manifest: Manifest | None
    """The checkpoint resumed from; None when the run starts from the beginning."""
    quarantined: tuple[tuple[int, str], ...] = ()
    """Newer checkpoints that could not be used, each with the reason."""
    cut: Cut = dataclasses.field(default_factory=Cut)
    """What of the metric log was later than the checkpoint."""


def recover(
    directory: RunDirectory,
    log: MetricLog,
    restore: Callable[[Manifest], None],
    *,
    run: str | None,
    orphans: str,
    journal: Journal | None = None,
) -> Recovery:
    """Resumes from the newest usable checkpoint: restores it and cuts the log to what it vouches for.

    Nothing is moved before a usable one is found, so that a start that is refused can be tried again.

    Args:
      directory: the run directory.
      log: the metric log, which is cut.
      restore: loads the tensors of a checkpoint; raises `Damaged` when it cannot.
      run: the id of this run, which each checkpoint has to bear; None accepts any.
      orphans: the folder for what is put aside.
      journal: where it is noted, if anywhere.

    Raises:
      Unusable: checkpoints exist and none can be used, or the log is not what the checkpoint vouches for.
    """
    bad: list[tuple[int, str]] = []
    found: Manifest | None = None
    for step in directory.committed_steps():
        try:
            manifest = Manifest.load(directory, step)
            if run is not None and manifest.run != run:
                raise BadManifest(f"it belongs to the run {manifest.run}, not to {run}")
            restore(manifest)
        except OSError as error:
            if error.errno in _SHORTAGE:
                raise Unusable(f"checkpoint {step} cannot be read now: {error}; mend that, then run again") from error
            bad.append((step, str(error)))
        except (BadManifest, Damaged) as error:
            bad.append((step, str(error)))
        else:
            found = manifest
            break
    if bad and found is None:
        tried = "; ".join(f"step {step}: {reason}" for step, reason in bad)
        raise Unusable(
            f"no checkpoint in {directory.checkpoints} can be used ({tried}); they stay where they are: mend one, or "
            "start again in another run_dir"
        )
    cut = log.resume(found, orphans)
    for step, reason in bad:
        quarantine(directory, step, reason, orphans)
        if journal:
            journal.write("quarantine", step=step, reason=reason)
    removed = discard_unfinished(directory)
    if journal and removed:
        journal.write("prune", steps=removed, why="unfinished")
    return Recovery(found, tuple(bad), cut)


def free_path(files: Files, path: str) -> str:
    """`path`, or where something is there already, `path` with the first free number behind it."""
    candidates = itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if not files.exists(candidate))


def quarantine(directory: RunDirectory, step: int, reason: str, orphans: str) -> None:
    """Moves the checkpoint of `step` into the folder `orphans`, with the reason beside it."""
    files = directory.files
    files.make_directory(orphans)
    target = free_path(files, os.path.join(orphans, os.path.basename(directory.checkpoint(step))))
    files.rename(directory.checkpoint(step), target)
    files.write(os.path.join(target, "reason.txt"), reason.encode() + b"\n")
    files.sync_directory(target)
    files.sync_directory(orphans)
    files.sync_directory(directory.checkpoints)


def bound_orphans(directory: RunDirectory, keep: int) -> None:
    """Deletes what all but the newest `keep` attempts have put aside."""
    files = directory.files
    attempts = sorted(
        int(match[1]) for name in files.list(directory.orphans) if (match := re.fullmatch(r"attempt-(\d+)", name))
    )
    for attempt in attempts[: max(0, len(attempts) - keep)]:
        files.remove_tree(directory.orphans_of(attempt))
