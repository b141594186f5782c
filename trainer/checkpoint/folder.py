"""The folder of one checkpoint: how it is committed, and how it is taken away."""

from __future__ import annotations

import os
import re

from trainer.ledger.directory import MANIFEST, STATE, RunDirectory
from trainer.ledger.manifest import Manifest, StateFile

# What this program and TensorFlow leave in a checkpoint's folder, whole or not; anything else is not ours to delete.
_OURS = re.compile(rf"{STATE}\.(index|data-\d+-of-\d+)(\.tempstate\d+)?|{re.escape(MANIFEST)}(\.tmp)?")
_OUR_FOLDERS = re.compile(rf"{STATE}_temp|_temp")


def describe_files(directory: RunDirectory, step: int) -> tuple[StateFile, ...]:
    """Makes the files that TensorFlow wrote for `step` durable, and says what they are."""
    files, folder = directory.files, directory.checkpoint(step)
    described = []
    for name in files.list(folder):
        if not name.startswith(f"{STATE}."):
            continue
        path = os.path.join(folder, name)
        files.sync(path)
        described.append(StateFile(name, files.size(path), files.crc32(path)))
    files.sync_directory(folder)
    return tuple(described)


def commit(directory: RunDirectory, manifest: Manifest) -> None:
    """Commits the checkpoint whose files are durable: from here on it exists."""
    directory.files.commit(directory.manifest(manifest.step), manifest.encode())


def point_state_file(directory: RunDirectory, steps: list[int]) -> None:
    """Writes TensorFlow's own state file, so that `tf.train.latest_checkpoint` finds the newest of `steps`."""
    if not steps:
        return
    paths = [os.path.relpath(directory.state_prefix(step), directory.checkpoints) for step in sorted(steps)]
    lines = [f'model_checkpoint_path: "{paths[-1]}"', *(f'all_model_checkpoint_paths: "{path}"' for path in paths)]
    directory.files.replace(directory.state_file, "\n".join(lines).encode() + b"\n")


def delete(directory: RunDirectory, step: int) -> bool:
    """Deletes the checkpoint of `step`: first its manifest, so that a kill leaves no checkpoint that is not whole.

    A file that is not ours stays, and the folder with it.

    Returns:
      Whether there was anything of ours.
    """
    files, folder = directory.files, directory.checkpoint(step)
    before = files.list(folder)
    files.remove(directory.manifest(step))
    files.sync_directory(folder)
    for name in files.list(folder):
        path = os.path.join(folder, name)
        if _OUR_FOLDERS.fullmatch(name):
            files.remove_tree(path)
        elif _OURS.fullmatch(name):
            files.remove(path)
    left = files.list(folder)
    if not left:
        files.remove_directory(folder)
    return left != before or not left


def discard_unfinished(directory: RunDirectory) -> list[int]:
    """Deletes what a kill left of checkpoints that were never committed; returns the steps of what it deleted."""
    committed = set(directory.committed_steps())
    unfinished = [step for step in directory.step_folders() if step not in committed]
    return [step for step in unfinished if delete(directory, step)]
