"""Where a repeated run puts its results: nowhere. Each is compared with what the run left."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer.checkpoint.listing import tensors_to_write
from trainer.checkpoint.save_times import SaveTimes
from trainer.checkpoint.tensors import DAMAGE, first_line
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import MetricLog, log_lines
from trainer.ledger.manifest import RUN_REASONS, Manifest, eval_relation, train_relation
from trainer.ledger.record import Record, compact_json
from trainer.process.signals import StopRequest
from trainer.proof.compare import (
    RecordDifference,
    Sides,
    TensorDifference,
    first_difference,
    first_value_difference,
    is_compared,
    record_difference,
    tensors_in,
)
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import EVALUATION

_SECTIONS = ("step", "examples", "epoch", "train", "open_window", "eval")
_DECIDED = ("modes", "early_stop", "save_if", "pending", "segments", "ended")
"""What of a manifest's `control` follows from the run alone: seconds and the events' bytes do not."""
_OF_DATA = ("mode", "fingerprint")


class Until(StopRequest):
    """Asks to stop when the boundary of the last step is over, or when someone else asks.

    Args:
      asked: whether someone does.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        super().__init__()
        self._asked = asked

    def __bool__(self) -> bool:
        return self.signal is not None or self._asked()

    def reach(self) -> None:
        """The boundary is over."""
        self.signal = signal.SIGTERM


class ComparedLog(MetricLog):
    """Compares each record with that of the run, and keeps none.

    Args:
      directory: the run's.
      start: the checkpoint that is gone on from; None at the beginning.
      sides: what is compared with what.
      comparable: whether the log follows from the run alone; otherwise no record is compared.
    """

    def __init__(
        self, directory: RunDirectory, start: Manifest | None, sides: Sides, *, comparable: bool = True
    ) -> None:
        super().__init__(directory)
        self._sides = sides
        self.comparable = comparable
        self._lines = log_lines(directory, start.log.bytes if start else 0)
        if start:
            self._records = self.durable = start.log.records
            self._bytes = start.log.bytes
            self._recall(start)
        self.difference: RecordDifference | None = None
        """The first record that differs."""
        self.agreed: int | None = None
        """The step of the last record before that."""
        self.compared = 0

    def append(self, records: Sequence[Record]) -> None:
        """Compares `records` with the next ones of the run, where it has them."""
        for record in records:
            self._records += 1
            expected = next(self._lines, None)
            # What comes after the end of the log, the run had not come to.
            if expected is None:
                continue
            self._bytes += len(expected) + 1
            if self.difference or not self.comparable:
                continue
            self.compared += 1
            self.difference = record_difference(self._records, expected, record.line().rstrip(b"\n"), self._sides)
            if self.difference is None:
                self.agreed = record.step
        self._note(records)

    def sync(self) -> None:
        """There is nothing to make durable."""
        self.durable = self._records


@dataclasses.dataclass
class ComparingStore:
    """Compares the state of one step with its checkpoint, where the run would save it."""

    checkpoint: tf.train.Checkpoint
    """Everything that training changes."""
    log: ComparedLog
    start: Manifest | None
    """The checkpoint that is gone on from."""
    end: int
    """The step that is gone to."""
    target: Manifest | None
    """Its checkpoint; None where there is none, as between two legs."""
    prefix: str
    """Of its files; or where the state is to be written, where there is none."""
    until: Until
    sides: Sides
    made: Manifest | None = None
    """What the manifest of that step would say."""
    tensor: TensorDifference | None = None
    manifest: str | None = None
    """The first value in which the manifests differ."""
    damage: str | None = None
    """Why the checkpoint cannot be read."""
    compared: int = 0
    """How many tensors were compared."""
    seconds: float = 0.0
    """That it took."""
    busy: bool = False
    times: SaveTimes = dataclasses.field(default_factory=SaveTimes)

    @property
    def latest(self) -> Manifest | None:
        """The checkpoint that is gone on from."""
        return self.start

    def has(self, step: int) -> bool:
        """Whether the step is behind us. Asked at a boundary when all but the save is over, which makes it the last."""
        if step >= self.end:
            self.until.reach()
        return self.made is not None or (self.start is not None and step == self.start.step)

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
        """Compares where this is the last step, and does nothing before."""
        step = progress.step
        if step < self.end:
            return
        self.made = Manifest(
            step=step,
            examples=progress.examples,
            epoch=epoch,
            run=None,
            reasons=tuple(reasons),
            attempt=0,
            parent=None,
            files=(),
            log=self.log.position,
            train=train_relation(self.log.last_train, step),
            open_window=open_window or {},
            eval=eval_relation(self.log.last_evaluations, step),
            control={"cadence": {"seconds": progress.seconds}, **(control or {})},
            data=data or {},
        )
        if self.target is None:
            self.checkpoint.write(self.prefix)
        else:
            self._compare(self.made, self.target)

    def complete(
        self,
        *,
        reasons: Iterable[str],
        open_window: Mapping[str, Any],
        control: Mapping[str, Any],
        best_steps: Collection[int] = (),
    ) -> None:
        """What was made up for at the first step is in the records."""

    def poll(self) -> None:
        """Nothing is being written."""

    def drain(self, *, verify: bool = True) -> None:
        """Nothing is being written."""

    def _compare(self, made: Manifest, target: Manifest) -> None:
        began = time.monotonic()
        try:
            self._compare_tensors(target)
        except DAMAGE as error:
            self.damage = first_line(error)
        if self.log.comparable:
            self.manifest = first_value_difference(*_comparable(target, made), self.sides)
        self.seconds = time.monotonic() - began

    def _compare_tensors(self, target: Manifest) -> None:
        saved = tensors_in(self.prefix)
        here = {key: tensor.numpy for key, tensor in tensors_to_write(self.checkpoint).items() if is_compared(key)}
        if not (target.open_window["steps"] and self.log.comparable):
            # The manifest has the last word: a completed checkpoint may have closed the window that its file holds.
            for tensors in (saved, here):
                tensors.pop("window/.ATTRIBUTES/VARIABLE_VALUE", None)
        self.compared = len(here)
        self.tensor = first_difference(saved, here, self.sides)


class NoEvents:
    """TensorBoard's view is not written."""

    position: Mapping[str, Any] = {}

    def add(self, records: Sequence[Record]) -> None:
        """Shows nothing."""

    def flush(self) -> None:
        """Has nothing to write."""


class NoGuard:
    """Nothing of the run directory is written, so that it need not be ours."""

    def check(self) -> None:
        """Finds nothing wrong."""


def _comparable(target: Manifest, made: Manifest) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two manifests say that follows from the run alone, as far as the first says anything of it."""
    expected, actual = (json.loads(compact_json(manifest.to_json())) for manifest in (target, made))
    cut_short = EVALUATION in expected["control"].get("pending", ())
    sections = [name for name in _SECTIONS if not (cut_short and name == "eval")]
    decided = [name for name in _DECIDED if name in expected["control"] and not cut_short]
    sides = []
    for side in (expected, actual):
        sides.append(
            {
                **{name: side[name] for name in sections},
                # A signal may have asked as well, and stops the repetition.
                "reasons": sorted(RUN_REASONS.intersection(side["reasons"])),
                "control": {name: side["control"].get(name) for name in decided} | {"best": _ranked(side, expected)},
                "data": {name: side["data"].get(name) for name in _OF_DATA},
                **({} if cut_short else {"log": {"records": side["log"]["records"]}}),
            }
        )
    return sides[0], sides[1]


def _ranked(side: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The rankings of a manifest, with what the other one tells of a candidate: an older version told less."""
    names = {name for ranking in told["control"].get("best", {}).values() for entry in ranking for name in entry}
    return {
        metric: [{name: value for name, value in entry.items() if name in names} for entry in ranking]
        for metric, ranking in side["control"].get("best", {}).items()
    }
