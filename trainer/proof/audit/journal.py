"""The check `journal`: the attempts follow one another, and what they noted fits what is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from trainer.ledger.flagfile import as_text, read_flags
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, came_to_its_end, counted
from trainer.run.config import Config

_AFTER_A_KILL = frozenset({"start", "rewind"})
_AFTER_A_FULL_DISK = frozenset({"fault", "stop"})
"""What can follow a line that is no entry: who comes after a kill, or who tells that it could not be written."""


def journal(evidence: Evidence) -> Findings:
    """Attempts without gaps, resumes from what was saved, saves as they are there, flags as they were last given.

    Kills alone tear lines. Times are left alone: a clock may be set back.
    """
    if not evidence.journal:
        evidence.needs_info()
        yield "there is no journal, which every attempt writes to"
        return ""
    torn = yield from _torn(evidence)
    yield from _attempts(evidence)
    yield from _saves(evidence)
    yield from _reasons(evidence)
    yield from _stops(evidence)
    yield from _evaluations(evidence)
    yield from _segments(evidence)
    yield from _flags(evidence)
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
    noted: set[tuple[int, int]] = set()
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
            if (attempt, line.entry["step"]) in noted:
                yield f"line {line.number} of the journal notes once more that attempt {attempt} saved step {step}"
            noted.add((attempt, line.entry["step"]))
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
        elif entry is None and came_to_its_end(last[manifest.attempt]):
            yield f"checkpoint {step} was saved by attempt {manifest.attempt}, which did not note it"
        elif entry is not None and entry.get("bytes") != manifest.size:
            yield f"checkpoint {step} has {manifest.size} bytes, and was noted with {entry.get('bytes')}"


def _reasons(evidence: Evidence) -> Iterator[str]:
    """Checkpoints that were noted for other reasons than they tell."""
    resumed = {entry["step"] for entry in evidence.entries if entry["event"] == "resume"}
    noted: dict[int, Mapping[str, Any]] = {}
    for entry in evidence.entries:
        manifest = evidence.manifests.get(entry["step"]) if entry["event"] == "save" else None
        if manifest is not None and entry["attempt"] >= manifest.attempt:
            noted[manifest.step] = entry
    for step, entry in noted.items():
        told, known = list(entry.get("reasons") or ()), list(evidence.manifests[step].reasons)
        # Who resumed from it may have added some, and been killed before that was noted.
        completed = step in resumed and known[: len(told)] == told
        if told != known and not completed:
            yield f"checkpoint {step} was saved for {', '.join(known)}, and noted for {', '.join(told) or 'nothing'}"


def _stops(evidence: Evidence) -> Iterator[str]:
    """Attempts that came to their end elsewhere than where they saved last, or say so."""
    torn = any(line.entry is None for line in evidence.journal)  # A save may have been in it.
    last: dict[int, int] = {}
    for entry in () if torn else evidence.entries:
        event, attempt, step = entry["event"], entry["attempt"], entry.get("step")
        if event in ("resume", "save"):
            last[attempt] = entry["step"]
        elif came_to_its_end(entry) and "saved" in entry:
            known = last.get(attempt)
            if entry["saved"] is not (step == known):
                told = "saved" if entry["saved"] else "not saved"
                yield f"attempt {attempt} stopped at step {step}, which is {told}, and its last checkpoint is {known}"


def _evaluations(evidence: Evidence) -> Iterator[str]:
    """Evaluations of attempts that came to their end, and did not note them though they noted others."""
    noted = {(entry["attempt"], entry["step"]) for entry in evidence.entries if entry["event"] == "evaluate"}
    attempts, steps = {attempt for attempt, _ in noted}, {step for _, step in noted}
    last = {entry["attempt"]: entry for entry in evidence.entries if entry["event"] != "rewind"}
    try:
        records = [record for record in evidence.records if record.split and record.step not in steps]
        stretches = evidence.stretches
    except NotChecked:
        return
    for leg in stretches:
        # At its end it may have been another attempt that evaluated.
        for record in records if leg.attempt in attempts and came_to_its_end(last[leg.attempt]) else ():
            if leg.start < record.step < leg.end:
                yield f"attempt {leg.attempt} evaluated step {record.step}, and did not note it"


def _flags(evidence: Evidence) -> Iterator[str]:
    """Flags in `flags.txt` that the last attempt did not note."""
    started = [entry for entry in evidence.entries if entry["event"] == "start"]
    texts = read_flags(evidence.directory)
    known = started[-1].get("flags") if started else None
    # Whoever comes to its plan has written them.
    planned = {entry["attempt"] for entry in evidence.entries if entry["event"] == "plan"}
    if not texts or not isinstance(known, Mapping) or started[-1]["attempt"] not in planned:
        return
    known = {**known, "resume": "auto"}
    for item in dataclasses.fields(Config):
        name = item.name
        if name not in known or name == "run_dir":  # The folder may have been moved.
            continue
        told, noted = texts.get(name), None if known[name] is None else as_text(known[name])
        if told != noted and len((noted or "").splitlines()) <= 1:
            yield f"flags.txt says {name} is {told}, and attempt {started[-1]['attempt']} began with {noted}"


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
