"""The metric log: `metrics.jsonl`, whose bytes are a function of the run alone."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import LogPosition, Manifest, load_manifests
from trainer.ledger.record import Record, plain_number
from trainer.ledger.train_records import TrainRecords
from trainer.ledger.window import Window
from trainer.timeline.cadence import Progress


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a resume took from the end of the log."""

    bytes: int = 0
    last_step: int | None = None
    """The step of the last whole record among it: how far the attempt before is known to have come."""


class MetricLog:
    """Writes the metric log and vouches for its prefix.

    It also keeps what a checkpoint has to know: the newest train record, the newest evaluation of each split, and, for
    a loop that averages in Python (`add`, `close`), the open window.

    Args:
      run_dir: the run directory; it is made when the first record is written.
      epoch_examples: examples an epoch, for the records that `close` makes; None leaves their epoch open.
    """

    def __init__(self, run_dir: str | os.PathLike[str] | RunDirectory, *, epoch_examples: int | None = None) -> None:
        self.directory = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
        self._epoch_examples = epoch_examples
        self._records = 0
        self._bytes = 0
        self._digest = hashlib.sha256()
        self.durable = 0
        """How many of the records a crash of the machine cannot take any more."""
        self._named = False
        self._syncing = threading.Lock()
        self.last_train: Record | None = None
        self.last_evaluations: dict[str, Record] = {}
        self.window = Window()

    @property
    def position(self) -> LogPosition:
        """How far the log is written."""
        return LogPosition(self._records, self._bytes, self._digest.hexdigest())

    def append(self, records: Sequence[Record]) -> None:
        """Adds `records` with one write; durable after `sync`."""
        if not records:
            return
        data = _lines(records)
        if not self._bytes:
            self.directory.files.make_directory(self.directory.path)
        try:
            self.directory.files.append(self.directory.metrics, data)
        except Unwritable:
            # A caller who makes room and goes on must not find half of it in the middle of the log.
            with contextlib.suppress(Unwritable):
                self.directory.files.truncate(self.directory.metrics, self._bytes)
            raise
        self._bytes += len(data)
        self._digest.update(data)
        # Last: whoever syncs meanwhile may count only what is in the file.
        self._records += len(records)
        self._note(records)

    def sync(self) -> None:
        """Makes every record durable. Another thread than the one that appends may call it."""
        with self._syncing:
            records = self._records
            if records == self.durable:
                return
            self.directory.files.sync(self.directory.metrics)
            if not self._named:
                # Its name is made durable once.
                self.directory.files.sync_directory(self.directory.path)
                self._named = True
            self.durable = records

    def add(self, metrics: Mapping[str, Any], *, weight: float = 1.0) -> None:
        """Adds one step's metrics to the open window: means over a batch that weighs `weight`."""
        self.window.add(metrics, weight)

    def close(self, progress: Progress, *, learning_rate: Any = None, closed_by: str | None = None) -> Record:
        """Closes the open window at `progress` and appends its record."""
        record = Record(
            kind="train",
            step=progress.step,
            examples=progress.examples,
            epoch=progress.examples / self._epoch_examples if self._epoch_examples else None,
            metrics=self.window.means(),
            window=(self.window.start, progress.step),
            learning_rate=plain_number(learning_rate),
            closed_by=closed_by,
            nonfinite=dict(self.window.nonfinite),
        )
        self.append([record])
        self.window = Window(start=progress.step)
        return record

    def verify(self, manifest: Manifest | None) -> None:
        """Goes back to where `manifest` vouches for the log, or to its beginning, and touches no file.

        Raises:
          Unusable: the log does not hold what the manifest says.
        """
        files, path = self.directory.files, self.directory.metrics
        vouched = manifest.log if manifest else LogPosition(0, 0, "")
        digest, size, records = hashlib.sha256(), 0, 0
        if vouched.bytes and files.exists(path):
            for block in files.blocks(path, stop=vouched.bytes):
                digest.update(block)
                size += len(block)
                records += block.count(b"\n")
        if manifest and (size != vouched.bytes or digest.hexdigest() != vouched.sha256):
            raise Unusable(
                f"{path} is not what checkpoint {manifest.step} vouches for: {first_bad_record(self.directory)}; "
                "put the original file back, or start again in another run_dir"
            )
        if manifest and records != vouched.records:
            raise Unusable(
                f"{path} is not what checkpoint {manifest.step} vouches for: {records} records are there, where its "
                f"manifest says {vouched.records}; put the original manifest back, or start again in another run_dir"
            )
        self._records = self.durable = vouched.records
        self._bytes, self._digest = size, digest
        if manifest:
            self._recall(manifest)

    def cut(self, orphans: str) -> Cut:
        """Puts into `orphans` what the file holds beyond what was verified."""
        files, path = self.directory.files, self.directory.metrics
        later = b"".join(files.blocks(path, start=self._bytes)) if files.exists(path) else b""
        if later:
            # First the copy, then the cut: a kill in between repeats both.
            files.make_directory(orphans)
            files.write(os.path.join(orphans, "metrics.jsonl"), later)
            files.sync_directory(orphans)
            files.truncate(path, self._bytes)
        return Cut(len(later), last_step(later))

    def _note(self, records: Sequence[Record]) -> None:
        if isinstance(records, TrainRecords):
            self.last_train = records[-1]
            return
        for record in records:
            if record.kind == "train":
                self.last_train = record
            else:
                self.last_evaluations[record.split or ""] = record

    def _recall(self, manifest: Manifest) -> None:
        """What `_note` knew when `manifest` was written."""
        self.window = Window.from_json(manifest.open_window)
        if manifest.train:
            start, end = manifest.train["window"]
            self.last_train = Record("train", end, 0, None, manifest.train["metrics"], window=(start, end))
        self.last_evaluations = {
            split: Record("eval", known["step"], 0, None, known["metrics"], split=split, weights=known.get("weights"))
            for split, known in manifest.eval.items()
        }


def _lines(records: Sequence[Record]) -> bytes:
    if isinstance(records, TrainRecords):
        return records.lines()
    return b"".join(record.line() for record in records)


def last_step(lines: bytes) -> int | None:
    """The step of the last whole record in a piece of a log; None when there is none."""
    for line in reversed(lines[: lines.rfind(b"\n") + 1].splitlines()):
        try:
            return Record.parse(line).step
        except ValueError:
            continue  # No record: the one before it is.
    return None


def log_lines(directory: RunDirectory, start: int = 0) -> Iterator[bytes]:
    """The whole lines of the log from byte `start` on, one after the other, without their ends."""
    if not directory.files.exists(directory.metrics):
        return
    rest = b""
    for block in directory.files.blocks(directory.metrics, start=start):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def read_records(directory: RunDirectory) -> list[Record]:
    """Every whole record of the log; an unterminated last line is ignored."""
    if not directory.files.exists(directory.metrics):
        return []
    data = directory.files.read(directory.metrics)
    return [Record.parse(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def first_bad_record(directory: RunDirectory) -> str:
    """Names the first record of the log that cannot be right, as closely as the manifests allow."""
    data = directory.files.read(directory.metrics) if directory.files.exists(directory.metrics) else b""
    verified = LogPosition(0, 0, "")
    suspect: LogPosition | None = None
    for manifest in load_manifests(directory)[0].values():
        position = manifest.log
        if len(data) < position.bytes or hashlib.sha256(data[: position.bytes]).hexdigest() != position.sha256:
            suspect = position
            break
        verified = position
    end = suspect.bytes if suspect else len(data)
    if len(data) < end:
        return f"it ends after {len(data)} bytes where {end} are vouched for"
    number, start = verified.records, verified.bytes
    while start < end:
        # Whole lines: an edit that changes a length moves the later ones across `end`.
        number, stop = number + 1, data.find(b"\n", start) + 1 or len(data)
        line = data[start:stop]
        try:
            whole = Record.parse(line).line() == line
        except ValueError:
            whole = False
        if not whole:
            return f"record {number} is no record as this program writes it"
        start = stop
    last = suspect.records if suspect else data.count(b"\n")
    if last == verified.records + 1:
        return f"record {last} was changed"
    return f"one of the records {verified.records + 1} to {last} was changed, added or removed"
