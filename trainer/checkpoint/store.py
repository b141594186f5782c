"""The checkpoint store: checkpoints that agree with the metric log."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint import tensors
from trainer.checkpoint.recovery import Recovery, orphans_folder, recover, tidy
from trainer.checkpoint.retention import decide
from trainer.checkpoint.save_times import SaveTimes
from trainer.checkpoint.saver import Save, Saved, Saver
from trainer.checkpoint.snapshot import NoSnapshot, Snapshot
from trainer.checkpoint.writer import Writer
from trainer.errors import ConfigError
from trainer.ledger.journal import Journal, NoJournal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import (
    Manifest,
    checked_reasons,
    eval_relation,
    load_manifests,
    train_relation,
)
from trainer.storage.files import reading
from trainer.timeline.cadence import Progress

VERIFY_MODES = ("last", "all", "never")


class CheckpointStore:
    """Saves and resumes a `tf.train.Checkpoint` together with the metric log.

    A store that saves asynchronously is to be closed, best by `with`: what its writer could not write is raised by the
    next call, or by `close`.

    Args:
      checkpoint: everything that training changes. Variables that do not exist yet when `resume` is called cannot be
        restored: build the model and the optimizer's slots first.
      log: the metric log of the same run directory.
      keep_last: how many of the newest checkpoints stay; transient ones do not count.
      keeps_for_good: whether a checkpoint stays for good, given the progress of the last one that is not transient
        and its own; by default none does. `Schedule.keeps_for_good` is one.
      async_save: whether training goes on while a copy of the variables is written; else they are written in place.
      verify_saves: which checkpoints are read back: the `last` of this process, `all` before they are committed, or
        `never` one.
      max_shard: how many bytes a data file may have; None writes one file, of any size.
      on_commit: receives the manifest of each checkpoint that is known to be committed, in the thread of the caller.
      run: the run's id, which each checkpoint bears; None when the caller has none.
      journal: where saves and prunes are noted, if anywhere.
      guard: raises where the run directory is not the one any more; asked before a save writes to it.
      warn: receives what the user has to know, a line each; by default Python's warnings do.
      times: remembers how long saves take; by default it knows of none from before.

    Raises:
      ConfigError: a value that cannot be.
    """

    def __init__(
        self,
        checkpoint: tf.train.Checkpoint,
        log: MetricLog,
        *,
        keep_last: int = 3,
        keeps_for_good: Callable[[Progress, Progress], bool] = lambda before, now: False,
        async_save: bool = False,
        verify_saves: str = "last",
        max_shard: int | None = None,
        on_commit: Callable[[Manifest], None] | None = None,
        run: str | None = None,
        journal: Journal | None = None,
        guard: Callable[[], None] = lambda: None,
        warn: Callable[[str], None] = lambda line: warnings.warn(line, stacklevel=3),
        times: SaveTimes | None = None,
    ) -> None:
        if keep_last < 1:
            raise ConfigError(f"keep_last={keep_last} would delete the newest checkpoint; expected 1 or more")
        if verify_saves not in VERIFY_MODES:
            raise ConfigError(f"verify_saves={verify_saves} is no choice; expected one of {', '.join(VERIFY_MODES)}")
        self.directory = log.directory
        self.times = times or SaveTimes()
        self._checkpoint = checkpoint
        self._log = log
        self._keep_last = keep_last
        self._keeps_for_good = keeps_for_good
        self._async = async_save
        self._verify = verify_saves
        self._max_shard = max_shard
        self._on_commit = on_commit
        self._run = run
        self._journal = journal or NoJournal()
        self._saver = Saver(log, max_shard=max_shard, journal=self._journal, guard=guard)
        self._guard = guard
        self._warn = warn
        self._writer: Writer[Saved] | None = None
        self._snapshot: Snapshot | None = None
        self._manifests: dict[int, Manifest] = {}
        self._begun = self._prepared = False
        self._resumed_from: int | None = None
        self._saving: int | None = None
        self._unverified: int | None = None

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        try:
            self._collect(wait=True)
        except Exception as second:
            # The first error is the one to tell, and another one must not be lost.
            if str(second) != str(error):
                self._warn(f"what was being saved is lost as well: {second}")
        self._end_writer()

    @property
    def latest(self) -> Manifest | None:
        """The newest checkpoint's manifest, among those that are known to be committed."""
        return self._manifests[max(self._manifests)] if self._manifests else None

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        return self._writer is not None and self._writer.busy

    def has(self, step: int) -> bool:
        """Whether the checkpoint of `step` is committed or being written."""
        return step == self._saving or step in self._manifests

    def prepare(self) -> str | None:
        """Builds what asynchronous saves need, once every variable exists; otherwise the first save does it.

        Returns:
          Why the store has to save in place after all, if it has to.

        Raises:
          ConfigError: a variable cannot be cut into files as small as `max_shard`.
        """
        if self._prepared:
            return None
        if self._max_shard:
            tensors.check_shards(self._checkpoint, self._max_shard)
        self._begin()
        why = None
        if self._async:
            try:
                self._snapshot = Snapshot(self._checkpoint)
                self._writer = Writer()
            except NoSnapshot as error:
                why = f"checkpoints are saved in place, and training waits for each: {error}"
        self._prepared = True
        return why

    def resume(self) -> Progress:
        """Restores the newest usable checkpoint and cuts the log to it; progress 0 when there is no checkpoint.

        Raises:
          Unusable: there are checkpoints, and none can be used; or the log is not what they vouch for.
        """
        recovery = self.recover()
        for line in recovery.warnings():
            self._warn(line)
        return recovery.manifest.progress if recovery.manifest else Progress()

    def recover(self) -> Recovery:
        """As `resume`, and returns all that was found."""
        with reading(self.directory.path):
            orphans = orphans_folder(self.directory, self._journal.attempt)
            recovery = recover(
                self.directory, self._log, self._restore, run=self._run, orphans=orphans, journal=self._journal
            )
            self._manifests, damaged = load_manifests(self.directory)
            if recovery.manifest:
                # Whatever a second look says: it is restored.
                self._manifests[recovery.manifest.step] = recovery.manifest
            for step, reason in damaged.items():
                # An older one: not needed now, so it stays where it is.
                self._journal.write("fault", step=step, reason=reason)
            self._resumed_from = recovery.manifest.step if recovery.manifest else None
            self._begun = self.directory.files.exists(self.directory.checkpoints)
            # A kill between a commit and its deletions is made up for.
            self._tidy()
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
        last: bool = False,
    ) -> None:
        """Makes the log durable, then commits the checkpoint of `progress.step`, then deletes what need not stay.

        An asynchronous store has copied the variables when this returns, and does the rest while training goes on;
        where the save before is not done yet, it is waited for.

        Args:
          progress: where the run is.
          reasons: why, of the manifest's reasons.
          epoch: the epoch, where it is known.
          open_window: what the manifest says of the open window; by default the log's own.
          control: what a resume needs beyond the tensors, as JSON values.
          data: how the position in the data is resumed.
          best_steps: the checkpoints to keep because they are the best.
          last: whether the process is about to end, so that this checkpoint is the one to read back.

        Raises:
          Unwritable: a file of this save, or of the one before, could not be written; committed checkpoints are
            untouched.
        """
        reasons, step = checked_reasons(reasons), progress.step
        if self.has(step):
            raise ConfigError(f"step {step} is saved already; save each step once")
        if why := self.prepare():
            self._warn(why)
        started = time.monotonic()
        self._collect(wait=True)
        waited = time.monotonic()
        self.times.begin()
        if self._snapshot:
            self._snapshot.take()
        manifest = Manifest(
            step=step,
            examples=progress.examples,
            epoch=epoch,
            run=self._run,
            reasons=reasons,
            attempt=self._journal.attempt,
            parent=self.latest.step if self.latest else None,
            files=(),
            log=self._log.position,
            train=train_relation(self._log.last_train, step),
            open_window=self._log.window.to_json() if open_window is None else open_window,
            eval=eval_relation(self._log.last_evaluations, step),
            control={"cadence": {"seconds": progress.seconds}, **(control or {})},
            data=data or {},
        )
        self._start(
            manifest,
            best_steps,
            source=self._snapshot.checkpoint if self._snapshot else self._checkpoint,
            verify=self._verify == "all" or (last and self._verify == "last"),
            wait_s=waited - started,
            snapshot_s=time.monotonic() - waited,
        )

    def complete(
        self,
        *,
        reasons: Iterable[str],
        open_window: Mapping[str, Any],
        control: Mapping[str, Any],
        best_steps: Collection[int] = (),
    ) -> None:
        """Commits the newest checkpoint again, once what a signal had cut short at its step is made up for.

        Its files stay as they are; its manifest is replaced at once by one that counts the new records and adds the
        new reasons, so that it says what that of an undisturbed run says.

        Args:
          reasons: those that came to hold; the others are as for `save`.

        Raises:
          Unwritable: a file could not be written; the checkpoint is as it was.
        """
        started = time.monotonic()
        self._collect(wait=True)
        assert self.latest is not None
        step = self.latest.step
        manifest = dataclasses.replace(
            self.latest,
            reasons=checked_reasons(dict.fromkeys([*self.latest.reasons, *reasons])),
            log=self._log.position,
            train=train_relation(self._log.last_train, step),
            open_window=open_window,
            eval=eval_relation(self._log.last_evaluations, step),
            control=control,
        )
        self._start(manifest, best_steps, source=None, verify=False, wait_s=time.monotonic() - started)

    def poll(self) -> None:
        """Looks, without waiting, whether the save that is being written is done.

        Raises:
          Unwritable: the writer could not write.
        """
        self._collect(wait=False)

    def drain(self, *, verify: bool = True) -> None:
        """Waits for the save that is being written; and reads the last one back, where that is wanted and not done.

        Args:
          verify: whether there is time for the latter; else it is not made up for.

        Raises:
          Unwritable: the writer could not write, or what was written cannot be read.
        """
        self._collect(wait=True)
        if not verify:
            self._unverified = None
        if self._unverified is not None and self._verify == "last":
            tensors.read_back(self.directory.state_prefix(self._unverified), step=self._unverified)
            self._unverified = self._resumed_from = None
            self._tidy()

    def close(self) -> None:
        """Drains the store and ends its writer.

        Raises:
          Unwritable: as for `drain`.
        """
        try:
            self.drain()
        finally:
            self._end_writer()

    def _start(
        self,
        manifest: Manifest,
        best_steps: Collection[int],
        *,
        source: tf.train.Checkpoint | None,
        verify: bool,
        **seconds: float,
    ) -> None:
        """Decides which checkpoints stay once `manifest` is committed, and has it written."""
        decision = decide(
            manifest,
            self._manifests,
            keep_last=self._keep_last,
            best_steps=best_steps,
            # Until a newer one has been read back it is the last that is known to be good.
            resumed_from=self._resumed_from if self._verify == "last" and not verify else None,
            keeps_for_good=self._keeps_for_good,
        )
        background = self._writer is not None and source is not None
        save = Save(decision=decision, source=source, verify=verify, background=background, **seconds)
        if self._writer and save.background:
            self._saving = manifest.step
            self._writer.start(lambda: self._saver.write(save))
        else:
            self._merge(self._saver.write(save))

    def _collect(self, *, wait: bool) -> None:
        """Takes in what the writer has done."""
        if self._writer is None:
            return
        try:
            saved = self._writer.collect(wait=wait)
        except Exception:
            self._saving = None
            self.times.lost()
            raise
        if saved:
            self._merge(saved)

    def _merge(self, saved: Saved) -> None:
        self._saving = None
        self._manifests[saved.manifest.step] = saved.manifest
        if saved.took:
            self.times.done(saved.took)
        for step in saved.deleted:
            del self._manifests[step]
        self._unverified = None if saved.verified else saved.manifest.step
        if saved.verified and saved.manifest.step != self._resumed_from:
            self._resumed_from = None
        if self._on_commit:
            self._on_commit(saved.manifest)

    def _begin(self) -> None:
        """Makes the folder of the checkpoints, once: one that is missing later was taken away."""
        if not self._begun:
            self.directory.files.make_directory(self.directory.checkpoints)
            self._begun = True

    def _tidy(self) -> None:
        for step in tidy(self.directory, self._manifests, journal=self._journal, guard=self._guard):
            del self._manifests[step]

    def _end_writer(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = self._snapshot = None
            self._prepared = False

    def _restore(self, manifest: Manifest) -> None:
        tensors.restore(self._checkpoint, self.directory.state_prefix(manifest.step), step=manifest.step)
