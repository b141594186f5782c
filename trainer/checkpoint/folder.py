"""The folder of one checkpoint: how it is begun, committed, moved and taken away.

A folder with a manifest is a checkpoint. One with the mark of the unfinished, which is the name that a manifest is
written under before it is renamed, is ours and none yet, or none any more: only such a folder is ever deleted. No step
of this relies on renaming folders, appending or truncating, so that an object store can follow it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from trainer.ledger.directory import MANIFEST, STATE, UNFINISHED, RunDirectory
from trainer.ledger.manifest import Manifest, StateFile
from trainer.storage.files import writing
from trainer.storage.paths import free_path

# What this program and TensorFlow leave in a checkpoint's folder, whole or not; anything else is not ours to delete.
_STATE_FILE = re.compile(rf"{STATE}\.(index|data-\d+-of-\d+)")
_OURS = re.compile(rf"{_STATE_FILE.pattern}(\.tempstate\d+)?")
_OUR_FOLDERS = re.compile(rf"{STATE}_temp|_temp")


def begin(directory: RunDirectory, step: int) -> str | None:
    """Makes the folder for the checkpoint of `step`, marked as unfinished.

    Returns:
      Where what was in its way has been moved, if anything that is not ours was.

    Raises:
      Unwritable: it cannot be made, as when the run directory has been removed.
    """
    files, folder = directory.files, directory.checkpoint(step)
    with writing(folder):
        moved = None
        if files.exists(directory.unfinished(step)):
            delete(directory, step)
        elif files.list(folder):
            moved = free_path(files, f"{folder}.foreign")
            move(directory, step, moved)
        # Not those above it: a run directory that somebody took away must not come back as half of one.
        files.make_directory(folder, parents=False)
        files.write(directory.unfinished(step), b"")
        files.sync_directory(folder)
        return moved


def describe_files(directory: RunDirectory, step: int) -> tuple[StateFile, ...]:
    """Makes the files that TensorFlow wrote for `step` durable, and says what they are."""
    files, folder = directory.files, directory.checkpoint(step)
    with writing(folder):
        described = []
        for name in files.list(folder):
            if not _STATE_FILE.fullmatch(name):
                continue
            path = os.path.join(folder, name)
            files.sync(path)
            described.append(StateFile(name, files.size(path), files.crc32(path)))
        files.sync_directory(folder)
        return tuple(described)


def commit(directory: RunDirectory, manifest: Manifest) -> None:
    """Commits the checkpoint whose files are durable: from here on it exists, or says what `manifest` says."""
    files, step = directory.files, manifest.step
    files.write(directory.unfinished(step), manifest.encode())
    files.rename(directory.unfinished(step), directory.manifest(step))
    files.sync_directory(directory.checkpoint(step))


def point_state_file(directory: RunDirectory, steps: Iterable[int]) -> None:
    """Writes TensorFlow's own state file, so that `tf.train.latest_checkpoint` finds the newest of `steps`."""
    paths = [os.path.join(os.path.basename(directory.checkpoint(step)), STATE) for step in sorted(steps)]
    if not paths:
        return
    lines = [f'model_checkpoint_path: "{paths[-1]}"', *(f'all_model_checkpoint_paths: "{path}"' for path in paths)]
    directory.files.replace(directory.state_file, "\n".join(lines).encode() + b"\n")


def delete(directory: RunDirectory, step: int) -> None:
    """Deletes the checkpoint of `step`: first its manifest turns into the mark, so that a kill leaves no torn one.

    A file that is not ours stays, and the folder with it.
    """
    files, folder = directory.files, directory.checkpoint(step)
    with writing(folder):
        if files.exists(directory.manifest(step)):
            files.rename(directory.manifest(step), directory.unfinished(step))
        # Also where a process that was killed here has renamed it: no crash may bring it back without its files.
        files.sync_directory(folder)
        for name in files.list(folder):
            path = os.path.join(folder, name)
            if _OUR_FOLDERS.fullmatch(name):
                files.remove_tree(path)
            elif _OURS.fullmatch(name):
                files.remove(path)
        # The mark goes last: a kill before leaves a folder that is known as ours.
        files.sync_directory(folder)
        files.remove(directory.unfinished(step))
        if not files.list(folder):
            files.remove_directory(folder)


def discard_unfinished(directory: RunDirectory) -> tuple[list[int], list[int]]:
    """Deletes what a kill left of checkpoints that were never committed, or were about to be deleted.

    Returns:
      The steps of what it deleted; and those of folders that nothing marks as ours, which stay.
    """
    deleted, foreign = [], []
    committed = set(directory.committed_steps())
    for step in directory.step_folders():
        if step in committed:
            continue
        if directory.files.exists(directory.unfinished(step)) or not directory.files.list(directory.checkpoint(step)):
            delete(directory, step)
            deleted.append(step)
        else:
            foreign.append(step)
    return deleted, foreign


def put_aside(directory: RunDirectory, step: int, target: str, reason: str) -> None:
    """Moves what the folder of `step` holds to the folder `target`, with the reason beside it."""
    directory.files.make_directory(target)
    directory.files.write(os.path.join(target, "reason.txt"), reason.encode() + b"\n")
    move(directory, step, target)


def move(directory: RunDirectory, step: int, target: str) -> None:
    """Moves what the folder of `step` holds to the folder `target`, the manifest last.

    A kill on the way leaves a checkpoint that lacks files, which the next start puts aside as damaged.
    """
    files, folder = directory.files, directory.checkpoint(step)
    files.make_directory(target)
    names = files.list(folder)
    last = [name for name in (UNFINISHED, MANIFEST) if name in names]
    for moved in ([name for name in names if name not in last], last):
        for name in moved:
            files.rename(os.path.join(folder, name), os.path.join(target, name))
        # The others durably before what says whose they are: nor may a crash leave them without it.
        files.sync_directory(target)
        files.sync_directory(folder)
    files.remove_directory(folder)
    files.sync_directory(directory.checkpoints)
