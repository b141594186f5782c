"""The course of a run, walked again by its flags: which records it writes and which checkpoints it saves.

The walk computes nothing that training computes. It takes the cadences, and what was measured from the records that are
there; so it says of each record whether it is the one that is due, and of each step whether it is to be saved.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer.data.sources import INDEXED, Source
from trainer.decide.decisions import Decisions
from trainer.errors import ConfigError
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment, data_origin, facts_in_force
from trainer.proof.legs import Leg
from trainer.run.assembly import schedule_and_decisions
from trainer.run.config import Config
from trainer.timeline.cadence import Progress
from trainer.timeline.duration import EXAMPLE, SECOND
from trainer.timeline.schedule import EVALUATION, FLUSH, Due, Schedule

_CLOSES = 1024
"""Windows that are foreseen at a time."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A leg, with what says when something is due in it, and what its records decide."""

    leg: Leg
    config: Config
    schedule: Schedule
    decisions: Decisions
    """As at the beginning of a run: whoever folds a stage restores those of the one before."""
    splits: tuple[str, ...]
    """Those that are evaluated, in their order."""
    changed: frozenset[str]
    """The splits whose data is another than in the stage before."""
    stream: bool
    """Whether the examples of a step are known only once it is done."""

    def comparable(self, metric: str) -> bool:
        """Whether values of `metric` are of the same data in the stage before."""
        return metric.partition("/")[0] not in self.changed

    @property
    def clock(self) -> str | None:
        """The flag that has a clock decide what is in the log, with its value; None for none."""
        flags = ("train_for", *(("log_every", "eval_every") if self.config.clock_in_log else ()))
        named = (flag for flag in flags if self.schedule.cadences[flag].has(SECOND))
        return next((f"{flag}={self.schedule.cadences[flag]}" for flag in named), None)

    @property
    def counts_examples(self) -> bool:
        """Whether something falls due by the number of examples."""
        flags = ("train_for", "log_every", "eval_every", "save_every")
        return any(grid.axis == EXAMPLE for flag in flags for grid in self.schedule.grids(flag))


class _Known(Source):
    """Training data of which only the facts are known."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.mode, self.shuffle, self.last = facts["mode"], facts["shuffle"], facts["last"]
        self.batch_size, self.examples = facts["batch_size"], facts["examples"]
        self.fingerprint = facts["fingerprint"]


def stages_of(legs: Sequence[Leg], info: RunInfo, segments: Sequence[Segment]) -> tuple[Stage, ...]:
    """The stages of a run, one for each leg.

    Args:
      legs: those of the run.
      info: what `run.json` says.
      segments: those of the run.

    Raises:
      ConfigError: the flags of a leg are none.
      KeyError: the facts about the data lack something.
    """
    stages: list[Stage] = []
    before: Mapping[str, Any] = info.data
    for leg in legs:
        begun = [segment for segment in segments if segment.step <= leg.start < leg.end]
        data = facts_in_force(info, begun).data
        splits = {split: _Known(facts) for split, facts in data.items() if split != "train"}
        config = leg.config(info.epoch_examples)
        schedule, decisions = schedule_and_decisions(config, _Known(data["train"]), splits)
        stages.append(
            Stage(
                leg=leg,
                config=config,
                schedule=schedule.anchored(data_origin(begun).examples),
                decisions=decisions,
                splits=() if config.eval_every == "never" else tuple(splits),
                changed=frozenset(split for split in data if data[split] != before.get(split)),
                stream=data["train"]["mode"] != INDEXED,
            )
        )
        before = data
    return tuple(stages)


class Differs(Exception):
    """The run is not what its flags make it: the first difference, in words."""


class _OutOfRecords(Exception):
    """The log ends here, before the run did or while it goes on."""


class Course:
    """Walks through a run.

    Args:
      stages: those of the run.
      records: those of its log, in order.
      checkpoints: the manifests that are there, by step.
      ended: the steps at which a stream had come to its end.

    Attributes:
      saves: by step, the reasons of the run's own course for which it is saved.
      saved_at: by step, the progress then.
      reached: the last step at which all that is due was found.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        records: Sequence[Record],
        checkpoints: Mapping[int, Manifest],
        *,
        ended: Collection[int] = (),
    ) -> None:
        self.saves: dict[int, tuple[str, ...]] = {}
        self.saved_at: dict[int, Progress] = {}
        self.reached = -1
        self._stages = stages
        self._stage = stages[0]
        self._records = records
        self._met = 0
        self._checkpoints = checkpoints
        self._newest = max(checkpoints, default=-1)
        self._ended = frozenset(ended)
        self._cuts = sorted({*checkpoints, *self._ended})
        self._examples = {record.step: record.examples for record in records}
        self._examples |= {step: manifest.examples for step, manifest in checkpoints.items()}
        self._now = self._before = Progress()
        self._window_start = 0
        self._evaluated_at: int | None = None
        self._pending: frozenset[str] = frozenset()

    def walk(self) -> None:
        """Goes from the beginning to where the log ends.

        Raises:
          Differs: a record or a checkpoint is not what is due.
        """
        first = self._stages[0]
        self._pending = frozenset({EVALUATION} if first.config.eval_at_start and first.splits else ())
        try:
            before: Decisions | None = None
            for stage in self._stages:
                self._stage = stage
                if before is not None:
                    stage.decisions.restore(before.to_json(), self._now, stage.comparable)
                self._walk_stage()
                before = stage.decisions
        except _OutOfRecords:
            return
        except ConfigError as error:
            raise Differs(str(error)) from error
        if self._met < len(self._records):
            raise Differs(f"{self._told(self._met)} is there, where nothing more is due")

    def _walk_stage(self) -> None:
        schedule, leg = self._stage.schedule, self._stage.leg
        self._before = self._now
        stop = False
        if self._pending:
            stop = self._boundary(self._due())
        while self._now.step < leg.end:
            if stop:
                raise Differs(f"the run comes to its end at step {self._now.step}, and goes on")
            following = bisect.bisect_right(self._cuts, self._now.step)
            until = min([leg.end, *self._cuts[following : following + 1]])
            chunk = schedule.next_chunk(
                self._now, pending=self._pending, max_steps=until - self._now.step, max_closes=_CLOSES
            )
            for step in chunk.closes:
                self._close_window(step, chunk.closed_by(step))
            self._now = self._at(chunk.until)
            due = self._due()
            if chunk.boundary or due.anything:
                stop = self._boundary(due)
            else:
                self._before, self._pending = self._now, due.pending
                self._look_at_checkpoint()
            if EVALUATION not in self._pending:
                self.reached = self._now.step

    def _boundary(self, due: Due) -> bool:
        """What happens at a boundary, in the order of the loop; returns whether the run ends there."""
        stage, step = self._stage, self._now.step
        while True:
            if due.log and self._window_start != step:
                self._close_window(step, due.closed_by)
            evaluated = due.evaluate and self._evaluate()
            verdict = stage.decisions.at(step)
            if verdict.stop and not due.stop:
                due = stage.schedule.at_end(due)
            elif verdict.reasons and stage.config.reconcile == FLUSH and self._window_start != step:
                due = dataclasses.replace(due, log=True, closed_by="save")
            else:
                break
        self._before = self._now
        self._pending = due.pending | ({EVALUATION} if due.evaluate and not evaluated else frozenset())
        if reasons := (*due.save, *verdict.reasons):
            self.saves[step] = tuple(dict.fromkeys((*self.saves.get(step, ()), *reasons)))
            self.saved_at[step] = self._now
        self._look_at_checkpoint()
        return due.stop

    def _due(self) -> Due:
        stage = self._stage
        ended = self._now.step in self._ended or stage.decisions.stopped
        return stage.schedule.due(self._before, self._now, pending=self._pending, ended=ended)

    def _at(self, step: int) -> Progress:
        progress = self._stage.schedule.progress(self._now, step)
        known = self._examples.get(step)
        if not self._stage.stream or known is None or known == progress.examples:
            return progress
        return dataclasses.replace(progress, examples=known)

    def _close_window(self, step: int, closed_by: str | None) -> None:
        told = f"the window ({self._window_start}, {step}]" + (f", closed by {closed_by}" if closed_by else "")
        record = self._next(step, told)
        if (record.kind, record.window, record.closed_by) != ("train", (self._window_start, step), closed_by):
            raise self._another(told)
        self._take(record)
        self._window_start = step

    def _evaluate(self) -> bool:
        """Meets an evaluation of every split, once a step; returns whether it is there, as it is but for a signal."""
        step, stage = self._now.step, self._stage
        if self._evaluated_at == step:
            return True
        if step == stage.leg.end and stage is not self._stages[-1]:
            # A signal may have ended the leg before the evaluation was done: then the next one begins with it.
            following = self._records[self._met] if self._met < len(self._records) else None
            if following is None or (following.kind, following.step) != ("eval", step):
                return False
        for split in stage.splits:
            told = f"the evaluation of {split} at step {step}"
            record = self._next(step, told, evaluation=True)
            weights = "ema" if stage.config.ema else "raw"
            if (record.kind, record.step, record.split, record.weights) != ("eval", step, split, weights):
                raise self._another(f"{told} with {weights} weights")
            self._take(record)
        self._evaluated_at = step
        return True

    def _next(self, step: int, told: str, *, evaluation: bool = False) -> Record:
        """The record that is due now."""
        if self._met < len(self._records):
            return self._records[self._met]
        newest = self._checkpoints.get(self._newest)
        cut_short = evaluation and step == self._newest and EVALUATION in _pending(newest)
        if step <= self._newest and not cut_short:
            raise Differs(f"{told} is due and in no record")
        raise _OutOfRecords

    def _take(self, record: Record) -> None:
        self._stage.decisions.fold(record)
        self._met += 1

    def _look_at_checkpoint(self) -> None:
        """Compares the checkpoint of this step, if there is one, with what it has to count by now."""
        manifest = self._checkpoints.get(self._now.step)
        if manifest is None or EVALUATION in self._pending or EVALUATION in _pending(manifest):
            return
        if manifest.log.records != self._met:
            raise Differs(f"checkpoint {manifest.step} counts {manifest.log.records} records, and {self._met} are due")
        if _pending(manifest) != self._pending:
            told = (", ".join(sorted(pending)) or "nothing" for pending in (_pending(manifest), self._pending))
            raise Differs("checkpoint {} has {} pending, where {} is".format(manifest.step, *told))

    def _another(self, told: str) -> Differs:
        return Differs(f"{told} is due, and {self._told(self._met)} is there")

    def _told(self, index: int) -> str:
        record = self._records[index]
        name = f"record {index + 1}"
        if record.window:
            closed_by = f", closed by {record.closed_by}" if record.closed_by else ""
            return "{}, the window ({}, {}]{},".format(name, *record.window, closed_by)
        return f"{name}, the evaluation of {record.split} at step {record.step} with {record.weights} weights,"


def decided(
    stages: Sequence[Stage], records: Sequence[Record], borders: Sequence[int], places: Iterable[tuple[int, int]]
) -> Iterator[Decisions]:
    """What is decided at each of some places, the decisions themselves: look at them before the next is asked for.

    Args:
      stages: those of the run.
      records: those of its log.
      borders: for each stage how many records there were when it began.
      places: steps with how many records there were then, in order.
    """
    met, number = 0, 0
    decisions = stages[0].decisions
    for step, count in places:
        while number + 1 < len(stages) and (step > stages[number].leg.end or count > borders[number + 1]):
            for record in records[met : borders[number + 1]]:
                decisions.fold(record)
            met = borders[number + 1]
            known, start = decisions.to_json(), stages[number + 1].leg.start
            last = Progress(records[met - 1].step, records[met - 1].examples) if met else Progress()
            now = stages[number].schedule.progress(last, start)
            number += 1
            decisions = stages[number].decisions
            decisions.restore(known, now, stages[number].comparable)
        for record in records[met:count]:
            decisions.fold(record)
        met = max(met, count)
        yield decisions


def _pending(manifest: Manifest | None) -> frozenset[str]:
    return frozenset(manifest.control.get("pending", ())) if manifest else frozenset()
