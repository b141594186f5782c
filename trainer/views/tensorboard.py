"""TensorBoard's view of the metric log: event files, derived from the records and as exact as they are."""

from __future__ import annotations

import functools
import itertools
import operator
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer.ledger.record import Number, Record
from trainer.ledger.train_records import TrainRecords
from trainer.storage.files import writing
from trainer.views import event_file
from trainer.views.event_file import Event

# TensorBoard takes any file with "tfevents" in its name and reads a directory in the order of names. The number is the
# attempt's. Our suffix tells our files from those that a user's own tf.summary writer or profiler leaves beside them.
_NAME: Final = "events.out.tfevents.{number:010d}.trainer"
_PATTERN: Final = re.compile(r"events\.out\.tfevents\.(\d{10})\.trainer")


def scalars_of(record: Record) -> list[tuple[str, Number]]:
    """The `(tag, value)` that TensorBoard shows of `record`, each of them once for each step.

    Tags are `train/loss`, `validation/loss` and so on, `learning_rate` (`learning_rate/NAME` where there are several)
    and `epoch`. The last two belong to train records alone: an evaluation at the same step would write them twice.
    """
    return list(zip(*_tags_and_values(record), strict=True))


def _tags_and_values(record: Record) -> tuple[tuple[str, ...], list[Number]]:
    values = list(record.metrics.values())
    others: tuple[str, ...] = ()
    if record.kind == "train":
        rate = record.learning_rate
        if isinstance(rate, Mapping):
            others = tuple(f"learning_rate/{name}" for name in rate)
            values += rate.values()
        elif rate is not None:
            others = ("learning_rate",)
            values.append(rate)
        if record.epoch is not None:
            others = (*others, "epoch")
            values.append(record.epoch)
    return _tags(record.kind if record.kind == "train" else record.split, tuple(record.metrics), others), values


@functools.lru_cache(maxsize=256)
def _tags(group: str | None, metrics: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return (*(f"{group}/{name}" for name in metrics), *others)


_Shown = tuple[tuple[str, ...], Sequence[int], Sequence[Sequence[Number]] | npt.NDArray[np.float64]]
"""Tags, the steps of the records that show them, and their values, [steps, tags]."""


def _alike(records: Iterable[Record]) -> Iterator[_Shown]:
    """What neighbours that have the same tags show."""
    shown = ((record.step, *_tags_and_values(record)) for record in records)
    for tags, group in itertools.groupby(shown, operator.itemgetter(1)):
        steps, _, values = zip(*group, strict=True)
        yield tags, steps, values


def _columns(records: TrainRecords) -> Iterator[_Shown]:
    """As `_alike`: all of them have the same tags."""
    tags, _ = _tags_and_values(records[0])
    epochs = [] if records.epochs is None else [records.epochs]
    yield tags, records.steps, np.array([*records.metrics.values(), *records.learning_rates.values(), *epochs]).T


class EventWriter:
    """Writes the event file of one attempt.

    Every file starts with SessionLog.START, at the step after the one resumed from: TensorBoard then drops what earlier
    attempts wrote from that step on. It does so only from the second START of a directory on, so that the first attempt
    needs one too. (TensorBoard's newer loader goes by steps alone, tag by tag; the same files serve both.)

    That alone is not exact: a record *at* the step resumed from, which START leaves alone, may have been cut from the
    log. So a checkpoint keeps the `position` of the events at its commit, and a resume goes back to just there. Where
    that is not possible, because `events/` is missing or shorter, the writer compares what the directory shows with
    the log, and writes again from the first step that differs.

    Args:
      directory: `events/` of the run; made if it is missing.
      attempt: The attempt's number, from 1. It names the file.
      resume_step: The step resumed from, −1 for a fresh run.
      position: What `position` said when the checkpoint resumed from was saved; None when there is none.
      earlier: Reads all records of the log so far, in order; None to trust the directory.
      clock: Seconds since 1970, for the events' wall times.

    Raises:
      Unwritable: The directory or the file cannot be written. Likewise from the methods.
    """

    def __init__(
        self,
        directory: Path,
        attempt: int,
        resume_step: int,
        *,
        position: Mapping[str, Any] | None = None,
        earlier: Callable[[], Sequence[Record]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._path = str(directory)
        with writing(self._path):
            directory.mkdir(parents=True, exist_ok=True)
            start, missing = resume_step + 1, []
            if not _rewound(directory, position) and earlier is not None:
                records = earlier()
                start, index = _first_to_write(directory, records, resume_step)
                missing = list(records[index:])
            # The name sorts last whatever the directory holds: a file read out of order would purge the wrong steps.
            number = max([attempt, *(number + 1 for number, _ in _our_files(directory))])
            self._name = _NAME.format(number=number)
            self._file = (directory / self._name).open("xb")
            self._write(0, event_file.FILE_VERSION, event_file.VERSION_2)
            self._write(start, event_file.SESSION_LOG, event_file.SESSION_START)
        self.add(missing)
        self.flush()

    @property
    def position(self) -> dict[str, Any]:
        """How far the events are written: the file's name and its bytes, once they are flushed."""
        return {"file": self._name, "bytes": self._file.tell()}

    def _write(self, step: int, field: int, payload: bytes) -> None:
        self._file.write(event_file.encode_event(Event(self._clock(), step, field, payload)))

    def add(self, records: Iterable[Record]) -> None:
        """Buffers `records`; of `TrainRecords`, one of four scalars takes about 0.5 µs."""
        now = self._clock()
        with writing(self._path):
            for tags, steps, values in _columns(records) if isinstance(records, TrainRecords) else _alike(records):
                if tags:
                    self._file.write(event_file.encode_summaries(now, tags, steps, values))

    def flush(self) -> None:
        """Hands what is buffered to the operating system. There is no fsync: this is a view, and can be made again."""
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        with writing(self._path):
            self._file.close()


def rewind_events(
    directory: Path, step: int, *, position: Mapping[str, Any] | None, earlier: Callable[[], Sequence[Record]]
) -> None:
    """Makes the events end where the log does, which has been cut back to the checkpoint of `step`.

    Where there are none of ours, none are made.

    Args:
      directory: `events/` of the run.
      step: The step of that checkpoint.
      position: What `EventWriter.position` said when it was saved; None when there is none.
      earlier: Reads all records of the log, in order; called where the events cannot be cut.

    Raises:
      Unwritable: The directory or a file cannot be written.
    """
    with writing(str(directory)):
        if not _our_files(directory) or _rewound(directory, position):
            return
        records = earlier()
        if first_difference(directory, records) is None:
            return
    EventWriter(directory, 1, step, earlier=lambda: records).close()


def _rewound(directory: Path, position: Mapping[str, Any] | None) -> bool:
    """Cuts the events back to `position`; False where they do not reach it, and nothing is cut."""
    files = {path.name: (number, path) for number, path in _our_files(directory)}
    if not position or position["file"] not in files:
        return False
    number, path = files[position["file"]]
    if path.stat().st_size < position["bytes"]:
        return False
    for other, later in files.values():
        if other > number:
            later.unlink()
    with path.open("r+b") as file:
        file.truncate(position["bytes"])
    return True


def read_scalars(directory: Path, *, strict: bool = True) -> list[tuple[int, str, float]]:
    """The `(step, tag, value)` that TensorBoard shows of our files in `directory`, in the order written.

    Values are those of float32, NaN where a metric was not finite.

    TensorBoard's rule is applied: the second and every later SessionLog.START of the directory drops what has a step
    at or after its own. A torn last event of a file is left out.

    Args:
      directory: `events/` of a run; nothing is read from one that does not exist.
      strict: Whether damage (a CRC that does not match) raises. Otherwise it ends its file, as it does for TensorBoard.

    Raises:
      ValueError: `strict`, and a file is damaged; the message names it.
    """
    return [
        (event.step, tag, value)
        for event in _surviving(directory, strict=strict)
        for tag, value in event_file.decode_summary(event.payload)
    ]


def first_difference(directory: Path, records: Sequence[Record]) -> int | None:
    """The first step at which TensorBoard does not show exactly `records`; None if there is no such step.

    Args:
      directory: `events/` of a run.
      records: All records of its log, in order.
    """
    return compare_events(directory, records, strict=False)[0]


def compare_events(directory: Path, records: Sequence[Record], *, strict: bool) -> tuple[int | None, int]:
    """As `first_difference`; and how many summaries there are that TensorBoard shows.

    Raises:
      ValueError: `strict`, and a file is damaged; the message names it.
    """
    shown = _surviving(directory, strict=strict)
    return _difference(shown, list(_events_of(records))), len(shown)


def _our_files(directory: Path) -> list[tuple[int, Path]]:
    """Our event files, each with its number, in the order in which TensorBoard reads them."""
    if not directory.is_dir():
        return []
    matches = ((_PATTERN.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _surviving(directory: Path, *, strict: bool) -> list[Event]:
    """The summaries left by TensorBoard's rule, in the order written."""
    survivors: list[Event] = []
    starts = 0
    for _, path in _our_files(directory):
        for event in event_file.read_events(path, strict=strict):
            if event.field == event_file.SUMMARY:
                survivors.append(event)
            elif event.field == event_file.SESSION_LOG and event.payload == event_file.SESSION_START:
                starts += 1
                if starts > 1:
                    survivors = [earlier for earlier in survivors if earlier.step < event.step]
    return survivors


def _events_of(records: Iterable[Record]) -> Iterator[Event]:
    """The summaries that `records` make, but for the wall time."""
    for record in records:
        if payload := event_file.encode_summary(scalars_of(record)):
            yield Event(0.0, record.step, event_file.SUMMARY, payload)


def _difference(shown: Sequence[Event], expected: Sequence[Event]) -> int | None:
    """The smallest step at which the two, in order, are not the same; None if they are."""
    for ours, theirs in zip(shown, expected, strict=False):
        if (ours.step, ours.payload) != (theirs.step, theirs.payload):
            return min(ours.step, theirs.step)
    common = min(len(shown), len(expected))
    return min((event.step for event in (*shown[common:], *expected[common:])), default=None)


def _first_to_write(directory: Path, earlier: Sequence[Record], resume_step: int) -> tuple[int, int]:
    """The step from which a new file must tell the run, and the index of the first of `earlier` to write again."""
    shown = [event for event in _surviving(directory, strict=False) if event.step <= resume_step]
    step = _difference(shown, list(_events_of(earlier)))
    if step is None:
        return resume_step + 1, len(earlier)
    return step, next((index for index, record in enumerate(earlier) if record.step >= step), len(earlier))
