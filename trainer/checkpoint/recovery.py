"""Finding the checkpoint to resume from, and making the run directory agree with it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping

from trainer.checkpoint import folder
from trainer.checkpoint.retention import kept_checkpoints
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, NoJournal
from trainer.ledger.log import Cut, MetricLog
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.storage.paths import free_path

_SHORTAGE = (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETIMEDOUT)
"""Errors that say something of the machine or its permissions, and nothing of the checkpoint."""


_ORPHANS = re.compile(r"attempt-(\d+)(-rewind(-\d+)?)?")


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
    foreign: tuple[int, ...] = ()
    """Steps whose folders are neither checkpoints nor marked as ours: they stay as they are."""

    def warnings(self) -> list[str]:
        """What the user has to know of it, a line each."""
        aside = [f"checkpoint {step} was put aside: {reason}" for step, reason in self.quarantined]
        foreign = [f"the folder of step {step} has no manifest and is not ours: it stays" for step in self.foreign]
        return aside + foreign


def recover(
    directory: RunDirectory,
    log: MetricLog,
    restore: Callable[[Manifest], None],
    *,
    run: str | None,
    orphans: str,
    journal: Journal | NoJournal | None = None,
) -> Recovery:
    """Resumes from the newest usable checkpoint: restores it and cuts the log to what it vouches for.

    Nothing is moved before a usable one is found and the log is what it vouches for, so that a start that is refused
    can be tried again. Newer checkpoints go before newer records: whenever this is killed, the newest checkpoint that
    is left still finds its records.

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
    journal = journal or NoJournal()
    bad: list[tuple[int, str]] = []
    found: Manifest | None = None
    for step in directory.committed_steps():
        try:
            with readable_now(step):
                manifest = Manifest.load(directory, step)
                if run is not None and manifest.run != run:
                    raise BadManifest(f"it belongs to the run {manifest.run}, not to {run}")
                _check_index(directory, manifest)
                restore(manifest)
        except OSError as error:
            bad.append((step, f"{os.path.basename(error.filename or '')} cannot be read: {error.strerror or error}"))
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
    log.verify(found)
    # A kill may have come between what is there and the sync of it. What follows builds on it, and deletes others.
    if directory.files.exists(directory.checkpoints):
        directory.files.sync_directory(directory.path)
    if found:
        directory.files.sync_directory(directory.checkpoint(found.step))
    for step, reason in bad:
        quarantine(directory, step, reason, orphans)
        journal.write("quarantine", step=step, reason=reason)
    cut = log.cut(orphans)
    removed, foreign = folder.discard_unfinished(directory)
    if removed:
        journal.write("prune", steps=removed, why="unfinished")
    return Recovery(found, tuple(bad), cut, tuple(foreign))


def tidy(
    directory: RunDirectory,
    manifests: Mapping[int, Manifest],
    *,
    journal: Journal | NoJournal,
    guard: Callable[[], None],
) -> list[int]:
    """Deletes what the newest manifest decided to delete, and points TensorFlow's state file at what stays.

    Returns:
      The steps of what it deleted.
    """
    kept, latest = set(manifests), manifests[max(manifests)] if manifests else None
    if latest and latest.kept is not None:
        kept = set(kept_checkpoints(manifests.values(), keep_last=1, best_steps=latest.kept))
    guard()
    folder.point_state_file(directory, kept)
    dropped = sorted(manifests.keys() - kept)
    for step in dropped:
        guard()
        folder.delete(directory, step)
    if dropped:
        journal.write("prune", steps=dropped, why="retention")
    return dropped


def orphans_folder(directory: RunDirectory, attempt: int) -> str:
    """A folder for what a resume puts aside: the attempt's, or where no journal counts the attempts, a new one."""
    if attempt:
        return directory.orphans_of(attempt)
    folders = map(directory.orphans_of, itertools.count(1))
    return next(path for path in folders if not directory.files.exists(path))


@contextlib.contextmanager
def readable_now(step: int) -> Iterator[None]:
    """Tells a checkpoint that is damaged from one that this machine cannot read at the moment.

    Raises:
      Unusable: it is the machine that is at fault.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise Unusable(f"checkpoint {step} cannot be read now: {error}; mend that, then run again") from error
        raise


def _check_index(directory: RunDirectory, manifest: Manifest) -> None:
    """Checks the small files that say where each tensor is and what its CRC is; TensorFlow checks the tensors."""
    for file in manifest.files:
        path = os.path.join(directory.checkpoint(manifest.step), file.name)
        if file.name.endswith(".index") and directory.files.crc32(path) != file.crc32:
            raise BadManifest(f"{file.name} is not as it was written: its crc32 is another")


def quarantine(directory: RunDirectory, step: int, reason: str, orphans: str) -> None:
    """Moves the checkpoint of `step` into the folder `orphans`, with the reason beside it."""
    target = os.path.join(orphans, os.path.basename(directory.checkpoint(step)))
    folder.put_aside(directory, step, free_path(directory.files, target), reason)


def bound_orphans(directory: RunDirectory, keep: int) -> None:
    """Deletes what all but the newest `keep` attempts, or rewinds after them, have put aside."""
    files = directory.files
    found = ((_ORPHANS.fullmatch(name), name) for name in files.list(directory.orphans))
    folders = sorted((int(match[1]), name) for match, name in found if match)
    attempts = sorted({attempt for attempt, _ in folders})
    bound = attempts[: max(0, len(attempts) - keep)]
    for attempt, name in folders:
        if attempt in bound:
            files.remove_tree(os.path.join(directory.orphans, name))
