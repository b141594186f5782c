"""The checkpoint store: checkpoints that agree with the metric log."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint import folder
from trainer.checkpoint.recovery import Damaged, Recovery, recover
from trainer.checkpoint.retention import kept_checkpoints
from trainer.errors import ConfigError, Unusable, Unwritable
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import (
    RUN_REASONS,
    TRANSIENT_REASONS,
    Manifest,
    eval_relation,
    load_manifests,
    train_relation,
)
from trainer.timeline.cadence import Progress

REASONS = RUN_REASONS | TRANSIENT_REASONS

# What TensorFlow raises for a damaged checkpoint: a flipped byte, a missing or a truncated file.
_DAMAGE = (tf.errors.OpError, IndexError, ValueError)
# What it raises when the machine is at fault, which says nothing of the checkpoint.
_SHORTAGE = (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError, tf.errors.AbortedError)


class CheckpointStore:
    """Saves and resumes a `tf.train.Checkpoint` together with the metric log.

    Args:
      checkpoint: everything that training changes. Variables that do not exist yet when `resume` is called cannot be
        restored: build the model and the optimizer's slots first.
      log: the metric log of the same run directory.
      keep_last: how many of the newest checkpoints stay; transient ones do not count.
      run: the run's id, which each checkpoint bears; None when the caller has none.
      journal: where saves and prunes are noted, if anywhere.
    """

    def __init__(
        self,
        checkpoint: tf.train.Checkpoint,
        log: MetricLog,
        *,
        keep_last: int = 3,
        run: str | None = None,
        journal: Journal | None = None,
    ) -> None:
        if keep_last < 1:
            raise ConfigError(f"keep_last={keep_last} would delete the newest checkpoint; expected 1 or more")
        self.directory = log.directory
        self._checkpoint = checkpoint
        self._log = log
        self._keep_last = keep_last
        self._run = run
        self._journal = journal
        self._manifests: dict[int, Manifest] = {}

    @property
    def latest(self) -> Manifest | None:
        """The newest checkpoint's manifest."""
        return self._manifests[max(self._manifests)] if self._manifests else None

    def resume(self) -> Progress:
        """Restores the newest usable checkpoint and cuts the log to it; progress 0 when there is no checkpoint.

        Raises:
          Unusable: there are checkpoints, and none can be used; or the log is not what they vouch for.
        """
        recovery = self.recover()
        for step, reason in recovery.quarantined:
            warnings.warn(f"checkpoint {step} was put aside: {reason}", stacklevel=2)
        return recovery.manifest.progress if recovery.manifest else Progress()

    def recover(self) -> Recovery:
        """As `resume`, and returns all that was found."""
        orphans = self.directory.orphans_of(self._journal.attempt) if self._journal else self._next_orphans()
        recovery = recover(
            self.directory,
            self._log,
            self._restore,
            run=self._run,
            orphans=orphans,
            journal=self._journal,
        )
        self._manifests, damaged = load_manifests(self.directory)
        for step, reason in damaged.items():
            # An older one: not needed now, so it stays where it is.
            if self._journal:
                self._journal.write("fault", step=step, reason=reason)
        kept = list(self._manifests)
        if self.latest and self.latest.kept is not None:
            # A kill between a commit and its deletions: they were decided with it, and are made up for.
            kept = list(kept_checkpoints(self._manifests.values(), keep_last=1, best_steps=self.latest.kept))
        folder.point_state_file(self.directory, kept)
        dropped = self._delete(self._manifests.keys() - set(kept))
        if dropped and self._journal:
            self._journal.write("prune", steps=dropped, why="retention")
        return recovery

    def save(
        self,
        progress: Progress,
        *,
        reasons: Iterable[str],
        epoch: float | None = None,
        open_window: Mapping[str, Any] | None = None,
        control: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        best_steps: Collection[int] = (),
    ) -> Manifest:
        """Makes the log durable, then commits the checkpoint of `progress.step`, then deletes what need not stay.

        Args:
          progress: where the run is.
          reasons: why, of the manifest's reasons.
          epoch: the epoch, where it is known.
          open_window: what the manifest says of the open window; by default the log's own.
          control: what a resume needs beyond the tensors, as JSON values.
          data: how the position in the data is resumed.
          best_steps: the checkpoints to keep because they are the best.

        Raises:
          Unwritable: a file could not be written; the checkpoints before it are untouched.
        """
        started = time.monotonic()
        reasons, step = _checked_reasons(reasons), progress.step
        if step in self._manifests:
            raise ConfigError(f"step {step} is saved already; save each step once")
        self._log.sync()
        self.directory.files.make_directory(self.directory.checkpoint(step))
        try:
            self._checkpoint.write(self.directory.state_prefix(step))
        except (tf.errors.OpError, OSError) as error:
            raise Unwritable(
                f"checkpoint {step} could not be written: {_first_line(error)}; free space or mend the permissions, "
                "then run the same command again"
            ) from error
        written = time.monotonic()
        manifest = Manifest(
            step=step,
            examples=progress.examples,
            epoch=epoch,
            run=self._run,
            reasons=reasons,
            attempt=self._journal.attempt if self._journal else 0,
            parent=self.latest.step if self.latest else None,
            files=folder.describe_files(self.directory, step),
            log=self._log.position,
            train=train_relation(self._log.last_train, step),
            open_window=self._log.window.to_json() if open_window is None else open_window,
            eval=eval_relation(self._log.last_evaluations, step),
            control={"cadence": {"seconds": progress.seconds}, **(control or {})},
            data=data or {},
        )
        return self._commit(manifest, started, written, best_steps)

    def complete(
        self,
        *,
        reasons: Iterable[str],
        open_window: Mapping[str, Any],
        control: Mapping[str, Any],
        best_steps: Collection[int] = (),
    ) -> Manifest:
        """Commits the newest checkpoint again, once what a signal had cut short at its step is made up for.

        Its files stay as they are; its manifest is replaced at once by one that counts the new records and adds the
        new reasons, so that it says what that of an undisturbed run says.

        Args:
          reasons: those that came to hold.
          open_window: as for `save`.
          control: as for `save`.
          best_steps: as for `save`.

        Raises:
          Unwritable: a file could not be written; the checkpoint is as it was.
        """
        started = time.monotonic()
        assert self.latest is not None
        step = self.latest.step
        self._log.sync()
        manifest = dataclasses.replace(
            self.latest,
            reasons=_checked_reasons(dict.fromkeys([*self.latest.reasons, *reasons])),
            log=self._log.position,
            train=train_relation(self._log.last_train, step),
            open_window=open_window,
            eval=eval_relation(self._log.last_evaluations, step),
            control=control,
        )
        return self._commit(manifest, started, started, best_steps)

    def _commit(self, manifest: Manifest, started: float, written: float, best_steps: Collection[int]) -> Manifest:
        """Commits `manifest`, and with it which checkpoints stay; then deletes the others."""
        all_of_them = {**self._manifests, manifest.step: manifest}
        kept = kept_checkpoints(all_of_them.values(), keep_last=self._keep_last, best_steps=best_steps)
        # Without the transient ones, so that the manifest does not tell of signals before it.
        stays = tuple(step for step in sorted(kept) if not all_of_them[step].transient)
        manifest = dataclasses.replace(manifest, kept=stays)
        folder.commit(self.directory, manifest)
        committed = time.monotonic()
        self._manifests[manifest.step] = manifest
        folder.point_state_file(self.directory, list(kept))
        dropped = self._delete(self._manifests.keys() - kept.keys())
        if self._journal:
            self._journal.write(
                "save",
                step=manifest.step,
                reasons=list(manifest.reasons),
                stall_s=round(time.monotonic() - started, 6),
                snapshot_s=0.0,
                write_s=round(written - started, 6),
                commit_s=round(committed - written, 6),
                bytes=manifest.size,
            )
            if dropped:
                self._journal.write("prune", steps=dropped, why="retention")
        return manifest

    def _next_orphans(self) -> str:
        """A folder for what a resume puts aside, where no journal counts the attempts."""
        folders = map(self.directory.orphans_of, itertools.count(1))
        return next(path for path in folders if not self.directory.files.exists(path))

    def _delete(self, steps: Collection[int]) -> list[int]:
        """Deletes checkpoints that no reason keeps; returns their steps in order."""
        dropped = sorted(steps)
        for step in dropped:
            folder.delete(self.directory, step)
            del self._manifests[step]
        return dropped

    def _restore(self, manifest: Manifest) -> None:
        """Loads every tensor of `manifest`'s checkpoint, and finds every variable in it.

        TensorFlow checks each tensor's CRC as it reads it.
        """
        try:
            self._checkpoint.read(self.directory.state_prefix(manifest.step)).assert_consumed()
        except _SHORTAGE as error:
            raise Unusable(
                f"checkpoint {manifest.step} cannot be read now: {_first_line(error)}; mend that, then run again"
            ) from error
        except _DAMAGE as error:
            raise Damaged(f"it does not restore: {_first_line(error)}") from error
        except AssertionError as error:
            reason = " ".join(str(error).split())
            raise Damaged(f"it holds other variables than the model and optimizer have: {reason}") from error


def _first_line(error: BaseException) -> str:
    """What an error says, without the names of the operations that TensorFlow puts around it."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:\w+\]", "", message).splitlines()[0]


def _checked_reasons(reasons: Iterable[str]) -> tuple[str, ...]:
    checked = tuple(reasons)
    if not checked or not REASONS.issuperset(checked):
        raise ConfigError(f"reasons={checked}; expected one or more of {', '.join(sorted(REASONS))}")
    return checked
