"""Which checkpoint is meant: the newest, the best, that before a plateau or of a step, or one of another program."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence

from trainer.decide.plateau import find_plateau
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import STATE, RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.ledger.run_info import RunInfo
from trainer.storage.files import Files
from trainer.storage.schemes import open_files

_STEP = re.compile(r"[0-9]+(_[0-9]+)*")
_SHOWN = 10
_LATEST, _BEST, _BEFORE_PLATEAU = _NAMED = ("latest", "best", "before-plateau")
_EXPECTED = "best, latest, before-plateau or a step such as 500"
_FORMS = (
    "RUN_DIR, RUN_DIR@best, RUN_DIR@latest, RUN_DIR@before-plateau, RUN_DIR@STEP or the prefix of a TensorFlow "
    "checkpoint"
)


@dataclasses.dataclass(frozen=True)
class Selected:
    """One checkpoint that was asked for."""

    prefix: str
    """What TensorFlow reads it by."""
    manifest: Manifest | None = None
    """None for a checkpoint that is not of a run directory."""
    run_dir: str | None = None
    skipped: tuple[tuple[int, str], ...] = ()
    """Newer checkpoints that were passed over because they cannot be used, each with the reason."""
    explanation: str | None = None
    """Why it was chosen, where its name does not say it."""
    newest: Manifest | None = None
    """The newest usable manifest of its run directory, where one of its checkpoints was chosen: it has the rankings."""

    @property
    def step(self) -> int | None:
        """Its step, where a manifest tells it."""
        return None if self.manifest is None else self.manifest.step

    def __str__(self) -> str:
        return self.prefix if self.run_dir is None else f"{self.run_dir} step {self.step}"


def choose(directory: RunDirectory, which: str) -> Selected:
    """The checkpoint of a run directory that `which` names: `latest`, `best`, `before-plateau` or a step.

    A checkpoint is judged by its manifest, as a resume does it, and by no byte of its tensors. The best one is the
    first of the ranking by the first monitored metric in the newest usable manifest. `before-plateau` is the newest one
    before the step at which, by the log, the smoothed train loss stopped improving; see `find_plateau`.

    Raises:
      ConfigError: `which` is none of the four.
      Unusable: there is no such checkpoint, or it cannot be used.
    """
    if which not in _NAMED and not _STEP.fullmatch(which):
        raise ConfigError(f"{which!r} names no checkpoint; expected {_EXPECTED}")
    steps = directory.committed_steps()
    if not steps:
        raise Unusable(f"{directory.path} has no checkpoint; train first, or name another directory")
    chosen = None if which in _NAMED else _of_step(directory, int(which), steps)
    latest = _latest(directory, steps)
    if which == _BEFORE_PLATEAU:
        chosen = _before_plateau(directory, steps)
    elif which == _BEST:
        chosen = _best(directory, latest, steps)
    return dataclasses.replace(chosen or latest, newest=latest.manifest)


def select(text: str, files: Files | None = None) -> Selected:
    """The checkpoint that a text such as `--init_from`'s names.

    What is there under the whole text comes first, so that paths may contain `@`: a TensorFlow checkpoint's prefix, the
    folder of one checkpoint, a run directory, or a directory with TensorFlow's state file, such as a
    `tf.train.CheckpointManager`'s, whose newest is meant. Else what follows the last `@` is `best`, `latest`,
    `before-plateau` or a step.

    Raises:
      ConfigError: the text is of none of these forms.
      Unusable: there is no such checkpoint, or it cannot be used.
    """
    if not text:
        raise ConfigError(f"no checkpoint is named; expected {_FORMS}")
    files = files or open_files(text)
    for prefix in (text, os.path.join(text, STATE)):
        if files.exists(f"{prefix}.index"):
            return Selected(prefix)
    if files.is_directory(text):
        directory = RunDirectory(text, files)
        if _is_run(directory):
            return choose(directory, "latest")
        return Selected(_newest_of_state_file(text, files))
    path, at, which = text.rpartition("@")
    if at and files.is_directory(path):
        directory = RunDirectory(path, files)
        if not _is_run(directory):
            raise Unusable(f"{path} is no run directory, so {which!r} says nothing there; expected {_FORMS}")
        if not which:
            raise ConfigError(f"{text} names no checkpoint behind the @; expected {_EXPECTED}")
        return choose(directory, which)
    raise Unusable(f"there is nothing at {text}; expected {_FORMS}, which is its path without .index")


def fingerprint(prefix: str, files: Files | None = None) -> str:
    """The CRC-32 of a TensorFlow checkpoint's index, eight hex digits.

    The index holds every tensor's name, shape and checksum: it is another one where a value is.

    Raises:
      Unusable: it cannot be read.
    """
    try:
        return (files or open_files(prefix)).crc32(f"{prefix}.index")
    except OSError as error:
        raise Unusable(
            f"{prefix}.index cannot be read: {error.strerror or error}; mend that, or name another"
        ) from error


def _of_step(directory: RunDirectory, step: int, steps: Sequence[int]) -> Selected:
    if step not in steps:
        raise Unusable(f"{directory.path} has no checkpoint of step {step}; {_there_are(steps)}")
    try:
        return _selected(directory, _load(directory, step, _run_of(directory)))
    except (OSError, ValueError) as error:
        raise Unusable(
            f"checkpoint {step} of {directory.path} cannot be used: {error}; {_there_are(steps)}, name another"
        ) from error


def _latest(directory: RunDirectory, steps: Sequence[int]) -> Selected:
    """The newest one of `steps`, which are newest first, that can be used."""
    run, bad = _run_of(directory), list[tuple[int, str]]()
    for step in steps:
        try:
            return _selected(directory, _load(directory, step, run), tuple(bad))
        except (OSError, ValueError) as error:
            bad.append((step, str(error)))
    tried = "; ".join(f"step {step}: {reason}" for step, reason in bad)
    raise Unusable(f"no checkpoint in {directory.checkpoints} can be used ({tried}); mend one, or name another")


def _best(directory: RunDirectory, latest: Selected, steps: Sequence[int]) -> Selected:
    """The first of the ranking by the first metric that the newest manifest has."""
    assert latest.manifest is not None
    try:
        ranking = next(iter(latest.manifest.rankings.values()), None)
    except BadManifest as error:
        raise Unusable(
            f"at step {latest.step} the best one of {directory.path} is not known: {error}; {_there_are(steps)}, "
            "name one"
        ) from error
    if not ranking:
        raise Unusable(f"{directory.path} has no best step yet; {_there_are(steps)}, name one")
    _, best = ranking[0]
    if best not in steps:
        raise Unusable(f"the best step {best} of {directory.path} is not kept; {_there_are(steps)}, name one")
    return dataclasses.replace(_of_step(directory, best, steps), skipped=latest.skipped)


def _before_plateau(directory: RunDirectory, steps: Sequence[int]) -> Selected:
    """The newest one before the smoothed train loss stopped improving; where it did not stop, the newest of all."""
    try:
        plateau = find_plateau(read_records(directory))
    except ValueError as error:
        raise Unusable(
            f"{directory.metrics} is no metric log ({error}), so before-plateau says nothing; {_there_are(steps)}, "
            "name one"
        ) from error
    except Unusable as error:
        raise Unusable(f"before-plateau says nothing in {directory.path}: {error}; {_there_are(steps)}") from error
    before = [step for step in steps if plateau.stopped is None or step < plateau.stopped]
    if not before:
        raise Unusable(
            f"{directory.path} keeps no checkpoint from before the plateau, its oldest is of step {steps[-1]}: "
            f"{plateau}; name a step, or train again with a --keep_every that keeps earlier ones"
        )
    chosen = _latest(directory, before)
    which = "newest checkpoint" if plateau.stopped is None else "newest checkpoint before that"
    return dataclasses.replace(chosen, explanation=f"{plateau}; step {chosen.step} is the {which}")


def _load(directory: RunDirectory, step: int, run: str | None) -> Manifest:
    """The manifest of `step`, where it is usable and of this run.

    Raises:
      OSError, ValueError: it is not.
    """
    manifest = Manifest.load(directory, step)
    if run is not None and manifest.run != run:
        raise ValueError(f"it belongs to the run {manifest.run}, not to {run}")
    return manifest


def _run_of(directory: RunDirectory) -> str | None:
    """The id of the run; None beside someone's own loop, which has none."""
    info = RunInfo.load(directory)
    return info.run_id if info else None


def _selected(directory: RunDirectory, manifest: Manifest, skipped: tuple[tuple[int, str], ...] = ()) -> Selected:
    return Selected(directory.state_prefix(manifest.step), manifest, directory.path, skipped)


def _is_run(directory: RunDirectory) -> bool:
    return directory.files.exists(directory.run_info) or directory.files.is_directory(directory.checkpoints)


def _newest_of_state_file(path: str, files: Files) -> str:
    """The prefix that TensorFlow's state file in the directory `path` calls the newest."""
    if not files.exists(os.path.join(path, "checkpoint")):
        raise Unusable(f"{path} holds no run and no TensorFlow checkpoint; expected {_FORMS}")
    import tensorflow as tf  # Only here, so that the commands that choose a step of a run start at once.

    try:
        state = tf.train.get_checkpoint_state(path)
    except ValueError:  # It names nothing.
        state = None
    if state is None:
        raise Unusable(
            f"{path}/checkpoint names no checkpoint; name one by its prefix, which is its path without .index"
        )
    prefix: str = state.model_checkpoint_path
    if not files.exists(f"{prefix}.index"):
        raise Unusable(f"{path}/checkpoint names {prefix}, which is not there; name one that is by its prefix")
    return prefix


def _there_are(steps: Sequence[int]) -> str:
    """Which steps there are; of many, the newest."""
    shown = ", ".join(map(str, sorted(steps[:_SHOWN])))
    more = f" and {len(steps) - _SHOWN} older" if len(steps) > _SHOWN else ""
    return f"there {'is step' if len(steps) == 1 else 'are the steps'} {shown}{more}"
