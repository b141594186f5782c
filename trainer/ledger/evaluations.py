"""`evaluations.jsonl`: evaluations made later, or beside a running trainer. The run itself never reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainer.ledger.directory import STATE, RunDirectory
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.ledger.record import Record, compact_json
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import facts_in_force, read_segments
from trainer.storage.files import writing


class Subject(NamedTuple):
    """What is evaluated once: some weights, on some data."""

    step: int
    checkpoint: str
    """Which one of that step, as `checkpoint_identity` tells: a step can be trained again, to other weights."""
    split: str
    weights: str
    """`raw` or `ema`."""
    fingerprint: str
    """That of the split's data."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One line: an evaluation, and of what it is one, as `Subject` says it."""

    record: Record
    checkpoint: str
    fingerprint: str

    @property
    def subject(self) -> Subject:
        """What was evaluated."""
        record = self.record
        return Subject(record.step, self.checkpoint, record.split or "", record.weights or "", self.fingerprint)

    def to_json(self) -> dict[str, Any]:
        """The evaluation as the object that is written: the record's keys, then its own."""
        return {**self.record.to_json(), "checkpoint": self.checkpoint, "fingerprint": self.fingerprint}

    def line(self) -> bytes:
        """The evaluation as its line, newline included."""
        return compact_json(self.to_json()).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes | str) -> Evaluation:
        """The evaluation of one line.

        Raises:
          ValueError: the line is not JSON, or no evaluation.
        """
        record, value = Record.parse(line), json.loads(line)
        own = [value.get(name) for name in ("checkpoint", "fingerprint")]
        texts = [record.split, record.weights, *own]
        if record.kind != "eval" or not all(isinstance(text, str) for text in texts):
            raise ValueError("not an evaluation of a checkpoint")
        if not all(map(_is_number, [record.epoch, *record.metrics.values()])):
            raise ValueError("a metric of it is no number")
        return cls(record, *own)


def checkpoint_identity(manifest: Manifest) -> str:
    """What tells a checkpoint from another one of the same step: the CRC-32 of its index, eight hex digits.

    The index holds the checksum of every tensor.

    Raises:
      BadManifest: it names no index.
    """
    for file in manifest.files:
        if file.name == f"{STATE}.index":
            return file.crc32
    raise BadManifest(f"its manifest names no {STATE}.index")


def read_evaluations(directory: RunDirectory) -> list[Evaluation]:
    """Every whole line, in order; one that a kill has torn is passed over."""
    if not directory.files.exists(directory.evaluations):
        return []
    found = []
    for line in directory.files.read(directory.evaluations).splitlines():
        try:
            found.append(Evaluation.parse(line))
        except ValueError:
            continue
    return found


class Grouped(NamedTuple):
    """What was evaluated later, by what it says of the checkpoints that are there."""

    of: Mapping[int, Mapping[str, Evaluation]]
    """By step and split, the newest one on the data that counts."""
    other_data: Sequence[Evaluation]
    """Those of checkpoints that are there, on other data."""
    gone: int
    """How many are of no checkpoint that is there and whole."""
    lines: int
    """How many there are."""


def group_evaluations(directory: RunDirectory, manifests: Mapping[int, Manifest], info: RunInfo | None) -> Grouped:
    """The evaluations that were made later, each with the checkpoint that it is of.

    Of each split one data counts, so that what is compared is comparable: that of the run where it is in force now, and
    of a split that the run does not evaluate that of the newest line.

    Args:
      directory: the run's.
      manifests: those of the checkpoints that are there, by step.
      info: what identifies the run; None beside someone's own loop.

    Raises:
      OSError: the evaluations cannot be read.
      Unusable: the newest manifest garbles the segments.
    """
    identities = {}
    for step, manifest in manifests.items():
        with contextlib.suppress(BadManifest):  # Without an index it is no checkpoint.
            identities[step] = checkpoint_identity(manifest)
    made = read_evaluations(directory)
    there = [one for one in made if identities.get(one.record.step) == one.checkpoint]
    counts = {one.subject.split: one.fingerprint for one in there}
    if info is not None and manifests:
        data = facts_in_force(info, read_segments(manifests[max(manifests)])).data
        own = {split: known.get("fingerprint") for split, known in data.items() if isinstance(known, Mapping)}
        counts = {split: own.get(split) or newest for split, newest in counts.items()}
    of: dict[int, dict[str, Evaluation]] = {}
    other = []
    for one in there:
        if one.fingerprint == counts[one.subject.split]:
            of.setdefault(one.record.step, {})[one.subject.split] = one
        else:
            other.append(one)
    return Grouped(of, other, len(made) - len(there), len(made))


def append_evaluation(directory: RunDirectory, evaluation: Evaluation) -> None:
    """Adds a line, durably; ends one before it that a kill has torn.

    Raises:
      Unwritable: it cannot be written.
    """
    files, path = directory.files, directory.evaluations
    with writing(path):
        torn = files.exists(path) and files.read_tail(path, 1) not in (b"", b"\n")
    files.append(path, b"\n" * torn + evaluation.line())
    files.sync(path)
    # Each time: whoever made the file may have been killed before its name was durable.
    files.sync_directory(directory.path)


def _is_number(value: Any) -> bool:
    """Whether a value is one that a record may have: a finite number, or None."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
