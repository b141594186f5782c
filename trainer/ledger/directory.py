"""Where things are in a run directory."""

from __future__ import annotations

import os
import re

from trainer.errors import Unusable
from trainer.storage.files import Files
from trainer.storage.schemes import open_files

FORMAT = 1
"""The version of the run directory's format, in `run.json` and in each manifest."""

MANIFEST = "manifest.json"
UNFINISHED = f"{MANIFEST}.tmp"
"""Where a manifest is written before it is renamed into place: without a manifest beside it, it marks what is ours and
not whole."""
STATE = "state"

_STEP_NAME = re.compile(r"step-(\d{10}|[1-9]\d{10,})")


class RunDirectory:
    """The paths of one run directory, on the local disk or, as `ram://…`, where TensorFlow can reach it."""

    def __init__(self, path: str | os.PathLike[str], files: Files | None = None) -> None:
        self.path = os.fspath(path)
        self.files = files or open_files(self.path)
        self.run_info = self._join("run.json")
        self.flags = self._join("flags.txt")
        self.metrics = self._join("metrics.jsonl")
        self.journal = self._join("journal.jsonl")
        self.evaluations = self._join("evaluations.jsonl")
        self.checkpoints = self._join("checkpoints")
        self.state_file = self._join("checkpoints", "checkpoint")
        self.events = self._join("events")
        self.orphans = self._join("orphans")
        self.profile = self._join("profile")
        self.explanations = self._join("explain")
        self.lock = self._join("lock")

    def checkpoint(self, step: int) -> str:
        """The folder of the checkpoint of `step`."""
        return os.path.join(self.checkpoints, f"step-{step:010d}")

    def state_prefix(self, step: int) -> str:
        """The prefix of the TensorFlow checkpoint of `step`."""
        return os.path.join(self.checkpoint(step), STATE)

    def manifest(self, step: int) -> str:
        """The file that commits the checkpoint of `step`."""
        return os.path.join(self.checkpoint(step), MANIFEST)

    def orphans_of(self, attempt: int) -> str:
        """The folder for what attempt number `attempt` puts aside."""
        return os.path.join(self.orphans, f"attempt-{attempt:04d}")

    def unfinished(self, step: int) -> str:
        """The file that marks the folder of `step` as ours while it is no checkpoint yet, or no more."""
        return os.path.join(self.checkpoint(step), UNFINISHED)

    def step_folders(self) -> list[int]:
        """The steps that have a checkpoint folder, committed or not, newest first."""
        matches = (_STEP_NAME.fullmatch(name) for name in self.files.list(self.checkpoints))
        steps = sorted((int(match.group(1)) for match in matches if match), reverse=True)
        return [step for step in steps if self.files.is_directory(self.checkpoint(step))]

    def committed_steps(self) -> list[int]:
        """The steps whose checkpoint has a manifest, newest first."""
        return [step for step in self.step_folders() if self.files.exists(self.manifest(step))]

    def _join(self, *names: str) -> str:
        return os.path.join(self.path, *names)


def check_folder(path: str) -> None:
    """Refuses what is no folder, before anything is made in it.

    Raises:
      Unusable: it is not there, or a file.
    """
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else "does not exist"
        raise Unusable(f"{path or repr(path)} {what}; expected a run directory, such as runs/digits")


def check_run_directory(path: str, *marks: str) -> None:
    """Refuses what is no run directory, before anything is made in it.

    Args:
      path: what is looked at.
      marks: the names of files and folders of which a run directory has at least one.

    Raises:
      Unusable: it is not there, a file, or a folder without any of these.
    """
    check_folder(path)
    if not any(os.path.exists(os.path.join(path, mark)) for mark in marks):
        raise no_run_directory(path, f"no {' and no '.join(marks)}")


def no_run_directory(path: str, lacks: str) -> Unusable:
    """The error that a folder is no run directory; it lacks such as `no run.json`."""
    return Unusable(f"{path} is no run directory: it has {lacks}; expected the run_dir of a training command")
