"""Training a run again from its own checkpoints, and comparing what comes out with what it left."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from trainer.checkpoint.recovery import Damaged
from trainer.checkpoint.tensors import first_line
from trainer.errors import ConfigError, Diverged, Unusable
from trainer.ledger.directory import STATE, RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.journal import NoJournal, read_journal
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment, facts_in_force, read_segments
from trainer.process.watchdog import Watchdog
from trainer.proof.compare import TOLERANCE, RecordDifference, Sides, TensorDifference
from trainer.proof.legs import Leg, join, stretches, typed_flags
from trainer.proof.reopen import NotReplayable, Reopened, config_of, reopen
from trainer.proof.replayed import ComparedLog, ComparingStore, NoEvents, NoGuard, Until
from trainer.run.host import Host
from trainer.run.loop import Loop
from trainer.run.outlets import Outlets
from trainer.run.profile import Profile
from trainer.run.segments import Continuation
from trainer.run.timing import Times
from trainer.views.progress import Silent

SAVED, REPLAYED = "saved", "replayed"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """What came of the steps from one checkpoint to the next one that is kept."""

    start: int
    end: int
    seconds: float = 0.0
    """That the steps took, building and comparing aside."""
    records: int = 0
    """How many were compared."""
    tensors: int = 0
    """How many were compared."""
    record: RecordDifference | None = None
    """The first that differs."""
    agreed: int | None = None
    """The step of the last record that does not, before that."""
    tensor: TensorDifference | None = None
    manifest: str | None = None
    """The first value in which what the manifest says differs."""
    machine: str | None = None
    """How this machine differs from the run's, so that numbers were compared within the tolerance."""
    failure: str | None = None
    """Why it could not be trained again."""

    @property
    def ok(self) -> bool:
        """Whether all is the same."""
        return not (self.record or self.tensor or self.manifest or self.failure)

    def after(self, log: ComparedLog, store: ComparingStore, *, seconds: float, machine: str | None) -> Stretch:
        """With what came of one more leg."""
        return dataclasses.replace(
            self,
            seconds=self.seconds + seconds,
            records=self.records + log.compared,
            tensors=store.compared,
            record=self.record or log.difference,
            agreed=self.agreed if self.record else log.agreed or self.agreed,
            tensor=store.tensor,
            manifest=store.manifest,
            machine=machine,
            failure=f"checkpoint {store.end} cannot be read: {store.damage}" if store.damage else None,
        )

    def describe(self) -> str:
        """The first thing that does not hold, in words."""
        where = f"from step {self.start} to {self.end}"
        if self.failure:
            return f"{where}: {self.failure}"
        found = [self.record.detail] if self.record else []
        if self.tensor:
            others = f", and {self.tensor.others} other tensors" if self.tensor.others else ""
            found.append(f"checkpoint {self.end}: {self.tensor.name} {self.tensor.detail}{others}")
        if self.manifest:
            found.append(f"checkpoint {self.end}: its manifest: {self.manifest}")
        if not found:
            return f"{where}: {self.records} records and {self.tensors} tensors are the same"
        first = (self.agreed if self.agreed is not None else self.start) + 1
        last = self.record.step if self.record and self.record.step is not None else self.end
        steps = f"at step {last}" if first >= last else f"in the steps {first} to {last}"
        return f"{where}: it diverges {steps}: {'; '.join(found)}"


@dataclasses.dataclass
class Replay:
    """Trains parts of a run again, in memory; touches nothing of the run directory.

    Args:
      directory: the run's, which a trainer may be writing.
      info: what its `run.json` says.
      interrupted: whether to stop.
      tell: receives the step that is reached and the one that is gone to, after each chunk.
      tolerance: how far apart numbers may be where this is another kind of machine.
    """

    directory: RunDirectory
    info: RunInfo
    interrupted: Callable[[], bool] = lambda: False
    tell: Callable[[int, int], None] = lambda step, end: None
    tolerance: float = TOLERANCE
    _built: Reopened | None = None
    _told: tuple[list[dict[str, Any]], dict[str, Any]] | None = None
    """What the journal and `flags.txt` say."""

    def stretches(self, checkpoints: Sequence[Manifest | None]) -> Iterator[Stretch]:
        """Trains from each checkpoint to the next, None standing for the run's beginning; ends when interrupted."""
        for start, target in itertools.pairwise(checkpoints):
            assert target is not None
            stretch = self._stretch(start, target)
            if stretch is None:
                return
            yield stretch

    def close(self) -> None:
        """Lets go of the data."""
        if self._built:
            self._built.parts.program.end()
            self._built = None

    def _stretch(self, start: Manifest | None, target: Manifest) -> Stretch | None:
        origin = start.step if start else 0
        try:
            return self._trained_again(start, target)
        except (ConfigError, NotReplayable, Unusable) as error:
            failure = f"it cannot be trained again here: {error}"
        except Damaged as error:
            failure = f"checkpoint {origin} cannot be restored: {error}"
        except Diverged as error:
            failure = f"it diverges, which it did not: {error}"
        except tf.errors.OpError as error:
            failure = f"a step fails, which it did not: {first_line(error)}"
        return Stretch(origin, target.step, failure=failure)

    def _trained_again(self, start: Manifest | None, target: Manifest) -> Stretch | None:
        """The steps between two checkpoints, leg by leg; None when it was interrupted."""
        origin = start.step if start else 0
        prefix = self.directory.state_prefix(origin) if start else None
        # A checkpoint of step 0 is that of an evaluation before the first step.
        legs = [leg for leg in self._legs(target) if leg.end > origin or target.step == 0]
        stretch = Stretch(origin, target.step)
        with tempfile.TemporaryDirectory(prefix="trainer-replay-") as folder:
            for number, leg in enumerate(legs):
                last = number == len(legs) - 1
                to = self.directory.state_prefix(target.step) if last else os.path.join(folder, str(number), STATE)
                segments = [segment for segment in read_segments(target) if segment.step <= max(leg.start, origin)]
                reopened = self._reopened(leg, segments, ended=last and "final" in target.reasons)
                going_on = reopened.begin(start, prefix, segments)
                log, store = self._outcome(reopened, start, leg, target if last else None, to)
                began = time.monotonic()
                step = self._train(reopened, going_on, log, store, target.step)
                seconds = time.monotonic() - began - store.seconds
                if store.made is None:
                    if self.interrupted():
                        return None
                    raise NotReplayable(f"it ends at step {step}, and not at {leg.end}")
                stretch = stretch.after(log, store, seconds=seconds, machine=reopened.machine)
                start, prefix = store.made, to
        return stretch

    def _legs(self, target: Manifest) -> Sequence[Leg]:
        """The legs to a checkpoint, by the journal as it was when the first ones were asked for."""
        if self._told is None:
            self._told = read_journal(self.directory), typed_flags(read_flags(self.directory))
        borders = [segment.step for segment in read_segments(target)]
        return join(stretches(*self._told, target.step), borders=borders)

    def _reopened(self, leg: Leg, segments: Sequence[Segment], *, ended: bool) -> Reopened:
        """The run as it was in a leg: that of the stretch before, where nothing was changed."""
        facts = facts_in_force(self.info, segments)
        config = config_of(leg, facts, end=leg.end if ended else None)
        if self._built is None or (self._built.config, self._built.facts) != (config, facts):
            self.close()
            self._built = reopen(self.directory, self.info, facts, config)
        return self._built

    def _outcome(
        self, reopened: Reopened, start: Manifest | None, leg: Leg, target: Manifest | None, prefix: str
    ) -> tuple[ComparedLog, ComparingStore]:
        sides = Sides(SAVED, REPLAYED, self.tolerance if reopened.machine else 0.0)
        log = ComparedLog(self.directory, start, sides, comparable=not self.info.clock_in_log)
        store = ComparingStore(
            checkpoint=reopened.parts.state.checkpoint(),
            log=log,
            start=start,
            end=leg.end,
            target=target,
            prefix=prefix,
            until=Until(self.interrupted),
            sides=sides,
        )
        return log, store

    def _train(
        self, reopened: Reopened, going_on: Continuation, log: ComparedLog, store: ComparingStore, end: int
    ) -> int:
        """Runs the loop of training itself to the end of a leg; returns the step that it came to."""
        parts = reopened.parts
        schedule = parts.schedule.anchored(going_on.origin.examples).marked([store.end])
        outlets = Outlets(
            lock=NoGuard(),
            log=log,
            store=store,
            journal=NoJournal(),
            events=NoEvents(),
            view=_Told(self.tell, end),
            profile=Profile("", None),
            on_record=None,
            warn=lambda line: None,
        )
        loop = Loop(
            # What one stretch has decided, the next one takes from its checkpoint.
            dataclasses.replace(parts, schedule=schedule, decisions=copy.deepcopy(parts.decisions)),
            outlets,
            Host(store.until, Watchdog(store.until, owner=False), Times()),
            resumed=store.start,
            going_on=going_on,
        )
        loop.run()
        return loop.progress.step


class _Told(Silent):
    """Tells how far the repetition is, and nothing else."""

    def __init__(self, tell: Callable[[int, int], None], end: int) -> None:
        self._tell = tell
        self._end = end

    def update(self, *, step: int, epoch: float | None, examples: int, next_save: str | None) -> None:
        self._tell(step, self._end)
