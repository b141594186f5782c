"""The trainer: one call that trains, logs, saves and resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trainer.checkpoint.recovery import Recovery, bound_orphans
from trainer.checkpoint.save_times import SaveTimes, known_times
from trainer.checkpoint.store import CheckpointStore
from trainer.errors import EXIT_DONE, ConfigError, Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import write_flags
from trainer.ledger.journal import RESTORE, Journal
from trainer.ledger.log import MetricLog, read_records
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.process import workers
from trainer.process.lock import Lock, locked
from trainer.process.signals import StopRequest
from trainer.run.assembly import Assembly, assemble, compile_ahead
from trainer.run.auto_save import make_auto_save
from trainer.run.catalog import canonical_name, short_name
from trainer.run.config import Config, make_config
from trainer.run.ending import LastWords
from trainer.run.experiment import Experiment, parameters
from trainer.run.host import Host, guest
from trainer.run.identity import changed_flags, fixed_flags
from trainer.run.initial import find_source, load_weights
from trainer.run.loop import Loop, Stop
from trainer.run.outlets import Outlets
from trainer.run.planned import planned
from trainer.run.profile import Profile
from trainer.run.result import Result, result_of
from trainer.run.segments import Continuation, continue_run, newest_manifest
from trainer.run.timing import Times
from trainer.storage.files import reading
from trainer.timeline.cadence import Progress
from trainer.views.progress import Progress as ProgressView
from trainer.views.progress import make_progress
from trainer.views.tensorboard import EventWriter


class Trainer:
    """Trains an experiment in a run directory, and resumes what it finds there.

    Args:
      experiment: what to train.
      on_record: receives each record once it is durable. After a kill the records since the last checkpoint are made,
        and received, again: the same ones.
      stop_request: a request to stop that others set; by default signals do, when called from the main thread.
      **options: the fields of `Config`, which are the flags of the command line: `train_for="10epochs"`, ….

    Raises:
      ConfigError: an unknown option or a value that cannot be.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        on_record: Callable[[Record], None] | None = None,
        stop_request: StopRequest | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(experiment, Experiment):
            raise ConfigError(
                f"{type(experiment).__name__} is no experiment; expected a subclass of trainer.Experiment"
            )
        self._experiment = experiment
        self._name = canonical_name(type(experiment))
        self._on_record = on_record
        self._stop_request = stop_request
        self.config: Config = make_config(options, experiment.suggested_flags)
        self.directory = RunDirectory(self.config.run_dir or os.path.join("runs", short_name(type(experiment))))

    def run(self, host: Host | None = None) -> Result:
        """Trains until the target is reached or a signal asks to stop.

        Args:
          host: the process around the run, where that is a command's own; by default what a library call may have of
            it: its signals meanwhile, from the main thread.

        Returns:
          How it ended.

        Raises:
          ConfigError: flags, parameters or the experiment do not fit, or not with what the directory holds.
          Unusable: there are checkpoints, and none can be used.
          InUse: another process trains here.
          Unwritable: the log or a checkpoint could not be written.
          Diverged: a loss or a weight is not finite.
        """
        with reading(self.directory.path):
            self._check_directory()
            known = RunInfo.load(self.directory)
        view = make_progress(self.config.progress)
        if self.config.dry_run:
            parts, loaded = self._assemble(known, Times())
            going_on = self._identify(parts, known) if known else Continuation()
            _warn(going_on.warnings)
            lines = [*planned(parts, known or parts.info), *loaded, *([going_on.line] if going_on.line else [])]
            print("\n".join(lines))
            return result_of(self.directory, parts, Stop("dry run", EXIT_DONE), latest=None, now=Progress())
        with contextlib.ExitStack() as stack:
            host = host or stack.enter_context(guest(self.config, self._stop_request))
            host.set_limits(self.config)
            # A directory in use is refused at once; one that is not there yet is made when nothing else is wrong.
            exists = self.directory.files.exists(self.directory.path)
            lock = stack.enter_context(self._locked()) if exists else None
            parts, loaded = self._assemble(known, host.times)
            # Who makes a strategy, as an experiment may, has native code take the signals away.
            host.request.rearm()
            lock = lock or stack.enter_context(self._locked())
            known = RunInfo.load(self.directory)
            if known is not None:
                # Before anything is touched; and again by what the run really goes on from.
                self._identify(parts, known)
                self._compile(parts, known, host.times)
            else:
                self.directory.files.commit(self.directory.run_info, parts.info.encode())
            info = known or parts.info
            stack.callback(view.stop)
            return self._train(parts, info, [*planned(parts, info), *loaded], view, host, lock)

    def _assemble(self, known: RunInfo | None, times: Times) -> tuple[Assembly, list[str]]:
        """The parts, with the first weights where another checkpoint gives them; and the lines that tell of those."""
        # A source that is not there is refused before anything is built.
        find_source(self.config, known, self.directory)
        config = self.config
        if known is not None and config.epoch_examples is None:
            # Grids in epochs stay where they are, also on longer data.
            config = dataclasses.replace(config, epoch_examples=known.epoch_examples)
        parts = assemble(self._experiment, config, name=self._name, known=known, times=times)
        # Again: a run that goes on may have deleted that checkpoint since, and has a newer one.
        source = find_source(self.config, known, self.directory)
        info = dataclasses.replace(parts.info, init_from=source, fixed=fixed_flags(self.config))
        parts = dataclasses.replace(parts, info=info)
        if source is None or self.directory.committed_steps():
            return parts, [*parts.notes]
        return parts, [*parts.notes, *load_weights(parts.state, source, strict=self.config.init_from_strict)]

    def _train(
        self, parts: Assembly, info: RunInfo, plan: list[str], view: ProgressView, host: Host, lock: Lock
    ) -> Result:
        config, directory, times = self.config, self.directory, host.times
        loop: Loop | None = None

        def reached() -> tuple[int | None, int | None]:
            # As it is on the disk: of what is committed beside training the store knows only when it looks.
            return loop.progress.step if loop else None, max(directory.committed_steps(), default=None)

        with reading(directory.journal):
            journal = Journal(directory)
        words = LastWords(journal, lock, times, reached, over=host.watchdog.over)
        with contextlib.ExitStack() as data, words.of_faults(), contextlib.ExitStack() as stack:
            stack.enter_context(host.watchdog.saying(words.farewell))
            with reading(directory.flags):
                self._note_start(parts, journal, times)
            log = MetricLog(directory, epoch_examples=parts.schedule.epoch_examples)
            store = CheckpointStore(
                parts.state.checkpoint(),
                log,
                keep_last=config.keep_last,
                keeps_for_good=parts.schedule.keeps_for_good,
                async_save=config.async_save,
                verify_saves=config.verify_saves,
                max_shard=config.max_shard_bytes(),
                on_commit=lambda saved: view.message(f"saved step {saved.step} ({', '.join(saved.reasons)})"),
                run=info.run_id,
                journal=journal,
                guard=lock.check,
                warn=lambda line: _warn([line]),
                times=SaveTimes(known_times(directory)),
            )
            stack.enter_context(store)
            with times(RESTORE):
                recovery = store.recover()
            resumed = recovery.manifest
            going_on = self._continue(parts, info, resumed)
            parts = dataclasses.replace(parts, schedule=parts.schedule.anchored(going_on.origin.examples))
            bound_orphans(directory, config.orphans_keep)
            if resumed:
                cut = recovery.cut
                journal.write("resume", step=resumed.step, cut_bytes=cut.bytes, cut_step=cut.last_step)
            going_on.note(journal)
            journal.write("plan", lines=plan)
            with times.starting("prepare"):
                in_place = store.prepare()
            _warn([*going_on.warnings, *recovery.warnings(), *([in_place] if in_place else [])])
            view.start(
                step=resumed.step if resumed else 0,
                total_steps=parts.schedule.last_step(resumed.progress if resumed else Progress()),
                plan_lines=[*plan, *_resume_lines(recovery), *([going_on.line] if going_on.line else [])],
            )
            events = EventWriter(
                Path(directory.events),
                journal.attempt,
                resumed.step if resumed else -1,
                position=resumed.control.get("events") if resumed else None,
                earlier=lambda: read_records(directory),
            )
            stack.callback(events.close)
            profile = Profile(directory.profile, config.profile_steps())
            stack.callback(profile.close)
            outlets = Outlets(
                lock=lock,
                log=log,
                store=store,
                journal=journal,
                events=events,
                view=view,
                profile=profile,
                on_record=self._on_record,
                warn=lambda line: _warn([line]),
            )
            if resumed:
                parts.state.restored()
            # After the last words: what loads the data may not return.
            data.callback(parts.program.end)
            # Before the data is let go of, and with it its workers: who has them waits for the end of each.
            data.callback(workers.over)
            auto_save = make_auto_save(
                config,
                directory,
                journal,
                store.times,
                times,
                step=resumed.step if resumed else 0,
                warn=outlets.warn,
            )
            loop = Loop(parts, outlets, host, resumed=resumed, going_on=going_on, auto_save=auto_save)
            stop = loop.run()
            result = result_of(directory, parts, stop, latest=store.latest, now=loop.progress)
            words.stop(stop.reason, stop.exit_code, step=result.step, saved=result.saved)
            return result

    def _note_start(self, parts: Assembly, journal: Journal, times: Times) -> None:
        """Notes the attempt and its flags; warns of those that the attempt before had otherwise."""
        flags = {item.name: getattr(self.config, item.name) for item in dataclasses.fields(self.config)}
        flags = {"experiment": self._name, **flags, "run_dir": self.directory.path}
        journal.write(
            "start",
            host=socket.gethostname(),
            pid=os.getpid(),
            age_s=round(times.age, 3),
            flags=flags,
            versions=parts.info.versions,
        )
        _warn([*changed_flags(self.config, self.directory), *_unconnected(parts)])
        # Whoever goes on with this file is to resume, whatever this attempt was asked to find.
        write_flags(self.directory, {**flags, "resume": "auto"}, parameters(self._experiment))

    def _check_directory(self) -> None:
        """Refuses, before anything is made, a directory that cannot be what is asked for."""
        directory, files = self.directory, self.directory.files
        if "://" in directory.path:
            raise ConfigError(
                f"run_dir={directory.path} is not on this machine, where the lock and the event files have to be; "
                "expected a local folder"
            )
        if files.exists(directory.path) and not os.path.isdir(directory.path):
            raise ConfigError(f"run_dir={directory.path} is a file; expected a folder, or a path where one can be made")
        ours = files.exists(directory.run_info)
        checkpoints = directory.committed_steps()
        if not ours and (checkpoints or files.exists(directory.metrics)):
            raise ConfigError(
                f"run_dir={directory.path} holds a log or checkpoints, but no run.json that says of which run; "
                "choose another run_dir"
            )
        if self.config.resume == "never" and ours:
            raise ConfigError(f"resume=never, but {directory.path} holds a run already; choose another run_dir")
        if self.config.resume == "must" and not checkpoints:
            raise Unusable(
                f"resume=must, but {directory.path} holds no checkpoint; check run_dir, or use --resume=auto"
            )

    def _locked(self) -> contextlib.AbstractContextManager[Lock]:
        """The lock on the directory, which is made where it is missing."""
        try:
            self.directory.files.make_directory(self.directory.path)
        except Unwritable as error:
            raise ConfigError(f"run_dir={self.directory.path} cannot be made: {error}") from error
        if not os.access(self.directory.path, os.W_OK | os.X_OK):
            raise ConfigError(f"run_dir={self.directory.path} is not writable; choose another, or mend its permissions")
        return locked(self.directory.lock)

    def _identify(self, parts: Assembly, known: RunInfo) -> Continuation:
        """How the run in the directory would go on; refuses where that is not what is asked for."""
        return self._continue(parts, known, newest_manifest(self.directory, known.run_id))

    def _compile(self, parts: Assembly, known: RunInfo, times: Times) -> None:
        """Compiles ahead what is trained further; of a run that is at its target, nothing is."""
        resumed = newest_manifest(self.directory, known.run_id)
        if resumed is None or not parts.schedule.finished(resumed.progress):
            compile_ahead(parts.program, parts.evaluators, times)

    def _continue(self, parts: Assembly, known: RunInfo, resumed: Manifest | None) -> Continuation:
        allowed = self.config.allowed_changes()
        return continue_run(known, parts.info, self._experiment, self.directory, resumed=resumed, allowed=allowed)


def _warn(lines: Iterable[str]) -> None:
    """Says what the user has to know whatever the progress mode is."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


def _resume_lines(recovery: Recovery) -> list[str]:
    if recovery.manifest is None:
        return []
    cut = f", cutting {recovery.cut.bytes} bytes of later records" if recovery.cut.bytes else ""
    return [f"resume from step {recovery.manifest.step}{cut}"]


def _unconnected(parts: Assembly) -> list[str]:
    names = parts.program.unconnected
    return [f"these variables have no gradient and stay as they are: {', '.join(names)}"] if names else []
