"""What an audit looks at: everything in a run directory that is read once, as it is, damage included."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias

from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import BadManifest, Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment, read_segments
from trainer.proof.legs import Leg, join, stretches, typed_flags
from trainer.views.attempts import RUNNING, read_attempts

Findings: TypeAlias = Generator[str, None, str]
"""What a check is: it yields a line for each thing that does not hold, and returns what it has looked at."""


Tell: TypeAlias = Callable[[str], None]
"""Receives what is being done, again and again; what it raises ends the audit."""


class NotChecked(Exception):
    """A check that cannot be made here, for a reason that says nothing against the run."""


@dataclasses.dataclass(frozen=True)
class JournalLine:
    """A line of the journal."""

    number: int
    """From 1."""
    entry: Mapping[str, Any] | None
    """None where it is none that can be relied on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What was read. A run may be written meanwhile: the manifests are read first, then the log that they vouch for."""

    directory: RunDirectory
    info: RunInfo | None
    """None beside someone's own loop, and where it is damaged."""
    info_damage: str | None
    manifests: Mapping[int, Manifest]
    """Those that parse and are of their folder, by step, oldest first."""
    damaged: Mapping[int, str]
    """Why others are not among them."""
    lines: Sequence[bytes]
    """Those of the metric log that are whole, newline included."""
    journal: Sequence[JournalLine]
    flags: Mapping[str, Any]
    """Those of the last attempt, as `flags.txt` tells them."""
    alive: bool
    """Whether a trainer was writing it."""

    @property
    def newest(self) -> Manifest | None:
        """The manifest of the newest checkpoint."""
        return self.manifests[max(self.manifests)] if self.manifests else None

    @property
    def vouched(self) -> int:
        """How many records the newest checkpoint counts."""
        return self.newest.log.records if self.newest else 0

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """What the journal says, in order."""
        return [line.entry for line in self.journal if line.entry is not None]

    @functools.cached_property
    def records(self) -> Sequence[Record]:
        """The records of the log of which it is known what they have to be.

        A segment that has begun is known from its first checkpoint on: until then only what came before it.

        Raises:
          NotChecked: a line of the log is none; the check of the log names it.
        """
        known = {segment.segment for segment in self.segments}
        last = max((entry["attempt"] for entry in self.entries), default=0)
        unknown = any(
            entry["event"] == "segment" and entry["attempt"] == last and entry.get("segment") not in known
            for entry in self.entries
        )
        return self.all_records[: self.vouched] if unknown else self.all_records

    @functools.cached_property
    def all_records(self) -> Sequence[Record]:
        """The records of the log, in order.

        Raises:
          NotChecked: a line is none; the check of the log names it.
        """
        found = []
        for number, line in enumerate(self.lines, 1):
            try:
                found.append(Record.parse(line))
            except ValueError:
                raise NotChecked(f"record {number} of the log cannot be read") from None
        return found

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of the run up to its newest checkpoint.

        Raises:
          NotChecked: they cannot be read; the check of the identity says why.
        """
        try:
            return read_segments(self.newest)
        except Unusable:
            raise NotChecked("the segments in the newest manifest cannot be read") from None

    @property
    def end(self) -> int:
        """How far the run is known to have come: the step of its newest record or checkpoint."""
        return max((self.records[-1].step if self.records else 0, *self.manifests))

    @functools.cached_property
    def stretches(self) -> tuple[Leg, ...]:
        """What each attempt has made of the steps up to `end`."""
        return stretches(self.entries, self.flags, self.end)

    @functools.cached_property
    def legs(self) -> tuple[Leg, ...]:
        """The legs of the run up to `end`."""
        return join(self.stretches, borders=[segment.step for segment in self.segments])

    def needs_info(self) -> RunInfo:
        """What `run.json` says.

        Raises:
          NotChecked: there is none that can be read.
        """
        if self.info is None:
            raise NotChecked("run.json cannot be read" if self.info_damage else "there is no run.json")
        return self.info

    def needs_flags(self) -> tuple[Leg, ...]:
        """The legs, whose flags the journal has.

        Raises:
          NotChecked: it does not have them all.
        """
        for leg in self.legs:
            if not leg.noted:
                raise NotChecked(f"the journal does not have the flags of the steps {leg.start + 1} to {leg.end}")
        return self.legs


def read_evidence(directory: RunDirectory) -> Evidence:
    """Reads a run directory, which a trainer may be writing at the same time.

    Raises:
      OSError: a file of it cannot be read at all.
    """
    files = directory.files
    info, info_damage = None, None
    try:
        info = RunInfo.load(directory)
    except Unusable as error:
        info_damage = str(error)
    manifests, damaged = read_manifests(directory)
    data = files.read(directory.metrics) if files.exists(directory.metrics) else b""
    try:
        flags = typed_flags(read_flags(directory))
    except ValueError:
        flags = {}
    return Evidence(
        directory=directory,
        info=info,
        info_damage=info_damage,
        manifests=manifests,
        damaged=damaged,
        lines=data[: data.rfind(b"\n") + 1].splitlines(keepends=True),
        journal=_read_journal(directory),
        flags=flags,
        alive=any(attempt.reason == RUNNING for attempt in read_attempts(directory, latest=None)[-1:]),
    )


def read_manifests(directory: RunDirectory) -> tuple[dict[int, Manifest], dict[int, str]]:
    """The manifests that parse and are of their folder, oldest first; and what is wrong with the others.

    Unlike a resume this asks nothing of the files beside them, which have a check of their own.
    """
    manifests: dict[int, Manifest] = {}
    damaged: dict[int, str] = {}
    for step in reversed(directory.committed_steps()):
        try:
            manifest = Manifest.parse(directory.files.read(directory.manifest(step)))
            if manifest.step != step:
                raise BadManifest(f"its manifest is that of step {manifest.step}")
            manifests[step] = manifest
        except FileNotFoundError:
            continue  # Deleted since its folder was listed.
        except (OSError, ValueError) as error:
            damaged[step] = str(error)
    return manifests, damaged


def came_to_its_end(entry: Mapping[str, Any]) -> bool:
    """Whether this line ends an attempt that had nothing left to note: no error cut it short, nor the watchdog."""
    return entry["event"] == "stop" and entry.get("reason") != "error" and not entry.get("unfinished")


def counted(count: int, noun: str) -> str:
    """So many of something, in words.

    >>> counted(1, "record"), counted(1204, "record")
    ('1 record', '1,204 records')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def title(record: Record) -> str:
    """What a record is of, in words."""
    if record.window:
        closed_by = f", closed by {record.closed_by}" if record.closed_by else ""
        return "the window ({}, {}]".format(*record.window) + closed_by
    return f"the evaluation of {record.split} at step {record.step}"


def _read_journal(directory: RunDirectory) -> list[JournalLine]:
    """The lines of the journal, each with what readers take it for."""
    files = directory.files
    data = files.read(directory.journal) if files.exists(directory.journal) else b""
    entries = iter(read_journal(directory))
    entry = next(entries, None)
    lines = []
    for number, line in zip(itertools.count(1), data.splitlines(), strict=False):
        whole = entry is not None and _is(line, entry)
        lines.append(JournalLine(number, entry if whole else None))
        if whole:
            entry = next(entries, None)
    return lines


def _is(line: bytes, entry: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(line) == entry)
    except (ValueError, RecursionError):
        return False
