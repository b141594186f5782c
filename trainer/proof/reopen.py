"""A run put together again as it was: its experiment, its flags, its state at a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from trainer.checkpoint import tensors
from trainer.checkpoint.selection import fingerprint
from trainer.errors import ConfigError, TrainerError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment
from trainer.proof.legs import Leg
from trainer.run.assembly import Assembly, assemble
from trainer.run.config import CHANGES, Config
from trainer.run.identity import another_machine, fixed_flags
from trainer.run.initial import load_weights
from trainer.run.segments import Continuation, continue_run
from trainer.timeline.cadence import Cadence
from trainer.timeline.duration import SECOND
from trainer.trained.run import experiment_of


class NotReplayable(Exception):
    """A part of a run that cannot be trained again here, for a reason that says nothing against the run."""


@dataclasses.dataclass(frozen=True)
class Reopened:
    """A run as it was in one leg, built and traced; `begin` gives it a state."""

    directory: RunDirectory
    info: RunInfo
    """What `run.json` says."""
    facts: RunInfo
    """What identifies the run in this leg."""
    config: Config
    parts: Assembly
    machine: str | None
    """How this machine differs from the run's; None where it is of the same kind."""

    def begin(self, start: Manifest | None, prefix: str | None, segments: Sequence[Segment]) -> Continuation:
        """Gives it the state of a checkpoint, or that of the run's beginning; returns how the run went on from there.

        Args:
          start: the checkpoint's manifest; None for the beginning.
          prefix: of the files to read.
          segments: those that the run had gone through after that, which have to come out again.

        Raises:
          Damaged: the checkpoint cannot be restored.
          NotReplayable: what the run began with is gone; or the experiment, or its data, is another now.
        """
        if start is None:
            self._from_the_beginning()
        else:
            assert prefix is not None
            tensors.restore(self.parts.state.checkpoint(), prefix, step=start.step)
            self.parts.state.restored()
        try:
            going_on = continue_run(
                self.info, self.parts.info, self.parts.experiment, self.directory, resumed=start, allowed=CHANGES
            )
        except ConfigError as error:
            raise NotReplayable(str(error)) from error
        if [segment.to_json() for segment in going_on.segments] != [segment.to_json() for segment in segments]:
            changes = "; ".join(change.text for change in going_on.changes) or "a segment does not begin again"
            raise NotReplayable(f"the experiment is not what it was then: {changes}; bring back its code and its data")
        return going_on

    def _from_the_beginning(self) -> None:
        source = self.info.init_from
        if source is None:
            return
        try:
            same = fingerprint(source["prefix"]) == source["fingerprint"]
        except Unusable:
            same = False
        if not same:
            raise NotReplayable(f"the run began with the weights in {source['prefix']}, which are gone or others now")
        load_weights(self.parts.state, source, strict=False)


def reopen(directory: RunDirectory, info: RunInfo, facts: RunInfo, config: Config) -> Reopened:
    """Builds and traces a run as it was in one leg, in its first state.

    Args:
      directory: the run's.
      info: what `run.json` says.
      facts: what identifies the run in that leg.
      config: that of the leg, as `config_of` makes it.

    Raises:
      ConfigError: the experiment cannot be imported or made.
      NotReplayable: its code fails.
    """
    # Threads can be set once a process.
    config, threads = dataclasses.replace(config, threads=0), config.threads
    experiment = experiment_of(facts)
    try:
        parts = assemble(experiment, config, name=info.experiment, known=info)
    except TrainerError:
        raise
    except Exception as error:  # It is the user's code, of another day.
        raise NotReplayable(f"{info.experiment} fails: {type(error).__name__}: {tensors.first_line(error)}") from error
    parts = dataclasses.replace(
        parts, info=dataclasses.replace(parts.info, init_from=info.init_from, fixed=fixed_flags(config))
    )
    # What the leg was told of how to compile holds for it, whatever held when the run began.
    then = dataclasses.replace(info, jit=parts.info.jit, deterministic=parts.info.deterministic)
    machine = another_machine(then, parts.info) or _other_threads(threads)
    return Reopened(directory, info, facts, config, parts, machine)


def _other_threads(then: int) -> str | None:
    """What is to be said where TensorFlow has other threads here than the leg had."""
    now = tf.config.threading.get_inter_op_parallelism_threads()
    return None if then == now else f"threads={then} then, and {now} now, which may change the last bits"


def config_of(leg: Leg, info: RunInfo, *, end: int | None) -> Config:
    """The configuration of a leg, for a repetition.

    Args:
      leg: whose flags count.
      info: what identifies the run then.
      end: the step at which the run came to its end, if it did.

    Raises:
      ConfigError: the flags are none.
    """
    # An epoch is what it was, also on longer data.
    config = leg.config(info.epoch_examples)
    return dataclasses.replace(
        config,
        train_for=_without_clock(config, end),
        seed=info.seed,
        deterministic=str(info.deterministic).lower(),
        # What is the process' own affair, and touches no bit.
        run_dir=None,
        profile=None,
        dry_run=False,
        resume="auto",
        progress="never",
        allow_change=None,
        init_from=None,
        init_from_strict=False,
    )


def _without_clock(config: Config, end: int | None) -> str | None:
    """The target without seconds, which are others in a repetition: the step at which they were over, where known."""
    if config.train_for is None:
        return None
    target = Cadence.parse(config.train_for)
    if not target.has(SECOND):
        return config.train_for
    counted = [duration for duration in target.durations if duration.unit != SECOND]
    if end is None and counted:
        return ",".join(map(str, counted))
    # Where it did not end there is nothing for the target to do.
    return f"{end or 2**61}steps"
