"""The check `journal`: the attempts follow one another, and what they noted fits what is there."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, counted

_AFTER_A_KILL = frozenset({"start", "rewind"})
_AFTER_A_FULL_DISK = frozenset({"fault", "stop"})
"""What can follow a line that is no entry: who comes after a kill, or who tells that it could not be written."""


def journal(evidence: Evidence) -> Findings:
    """Attempts without gaps, resumes from what was saved, saves of the bytes that are there; kills alone tear lines."""
    if not evidence.journal:
        evidence.needs_info()
        yield "there is no journal, which every attempt writes to"
        return ""
    torn = yield from _torn(evidence)
    yield from _attempts(evidence)
    yield from _saves(evidence)
    yield from _segments(evidence)
    attempts = len({entry["attempt"] for entry in evidence.entries})
    told = f", {torn} torn" if torn else ""
    return f"{counted(len(evidence.journal), 'line')}{told}, {counted(attempts, 'attempt')}"


def _torn(evidence: Evidence) -> Generator[str, None, int]:
    """The lines that are none, and that nothing can have torn; returns how many others are torn."""
    torn = 0
    following: Mapping[str, Any] | None = None
    bad = []
    for line in reversed(evidence.journal):
        if line.entry is not None:
            following = line.entry
        elif following is None or following["event"] in _AFTER_A_KILL | _AFTER_A_FULL_DISK:
            torn += 1
        else:
            bad.append(line.number)
    for number in reversed(bad):
        yield f"line {number} of the journal is none that this program writes"
    return torn


def _attempts(evidence: Evidence) -> Iterator[str]:
    """Attempts that are missing, out of order, or that went on from what nobody saved."""
    newest = 0
    saved: set[int] = set(evidence.manifests)
    unheard = False
    for line in evidence.journal:
        if line.entry is None:
            unheard = True  # A save may have been in it.
            continue
        event, attempt, step = line.entry["event"], line.entry["attempt"], line.entry.get("step")
        if attempt < newest:
            yield f"line {line.number} of the journal is of attempt {attempt}, after those of attempt {newest}"
        elif attempt > newest + 1:
            yield f"the journal has attempt {attempt} after attempt {newest}"
        elif attempt > newest and event != "start" and not unheard:
            yield f"line {line.number} of the journal begins attempt {attempt} with {event}"
        newest = max(newest, attempt)
        if event == "save":
            saved.add(line.entry["step"])
        elif event == "resume" and step not in saved and not unheard and not _unnoted(evidence, attempt):
            yield f"attempt {attempt} resumed from step {step}, which no attempt before it saved"


def _unnoted(evidence: Evidence, attempt: int) -> bool:
    """Whether the attempt before was killed, so that its last save may have no line."""
    return not any(entry["event"] == "stop" and entry["attempt"] == attempt - 1 for entry in evidence.entries)


def _saves(evidence: Evidence) -> Iterator[str]:
    """Checkpoints whose save was noted otherwise, or should have been noted and was not."""
    noted = {(entry["attempt"], entry["step"]): entry for entry in evidence.entries if entry["event"] == "save"}
    last = {entry["attempt"]: entry for entry in evidence.entries if entry["event"] != "rewind"}
    for step, manifest in evidence.manifests.items():
        entry = noted.get((manifest.attempt, step))
        if manifest.attempt not in last:
            yield f"checkpoint {step} was saved by attempt {manifest.attempt}, which the journal does not know"
        elif entry is None and _ended(last[manifest.attempt]):
            yield f"checkpoint {step} was saved by attempt {manifest.attempt}, which did not note it"
        elif entry is not None and entry.get("bytes") != manifest.size:
            yield f"checkpoint {step} has {manifest.size} bytes, and was noted with {entry.get('bytes')}"


def _ended(entry: Mapping[str, Any]) -> bool:
    """Whether an attempt that said this last had nothing left to note."""
    return entry["event"] == "stop" and entry.get("reason") != "error"


def _segments(evidence: Evidence) -> Iterator[str]:
    """Segments that began and were not noted."""
    try:
        segments = evidence.segments
    except NotChecked:
        return
    noted = {
        (entry.get("segment"), entry.get("step"), tuple(entry.get("changed", ())))
        for entry in evidence.entries
        if entry["event"] == "segment"
    }
    for segment in segments:
        if (segment.segment, segment.step, segment.changed) not in noted:
            yield f"segment {segment.segment} began at step {segment.step}, and the journal does not say so"
