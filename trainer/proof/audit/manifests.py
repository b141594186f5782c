"""The check `manifests`: what a checkpoint says of the records and of the checkpoints before it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.ledger.manifest import Manifest, checked_reasons, eval_relation, train_relation
from trainer.ledger.record import Record
from trainer.proof.audit.evidence import Evidence, Findings, counted


def manifests(evidence: Evidence) -> Findings:
    """Relations are those of the log prefix; parent, reasons and what it keeps can be true."""
    records = evidence.records
    last_train: Record | None = None
    last_evaluations: dict[str, Record] = {}
    met = 0
    for step, manifest in evidence.manifests.items():
        for record in records[met : manifest.log.records]:
            if record.kind == "train":
                last_train = record
            else:
                last_evaluations[record.split or ""] = record
        met = max(met, manifest.log.records)
        yield from _relation(step, "train", manifest.train, train_relation(last_train, step))
        known = eval_relation(last_evaluations, step)
        for split in sorted({*known, *manifest.eval}):
            yield from _relation(step, split, manifest.eval.get(split), known.get(split))
        yield from _says(evidence, manifest)
    yield from _parents(evidence)
    yield from _seconds(evidence)
    yield from _lost(evidence)
    return f"{counted(len(evidence.manifests), 'checkpoint')}, each with the records and the parent that it names"


def _relation(step: int, what: str, told: Mapping[str, Any] | None, known: Mapping[str, Any] | None) -> Iterator[str]:
    if told is None or known is None:
        if told is not known:
            yield f"checkpoint {step} says {what} is {_brief(told)}, and by the log it is {_brief(known)}"
        return
    for name in {**known, **told}:
        if told.get(name) != known.get(name):
            yield (
                f"checkpoint {step} says {name} of {what} is {_brief(told.get(name))}, and by the log it is "
                f"{_brief(known.get(name))}"
            )


def _says(evidence: Evidence, manifest: Manifest) -> Iterator[str]:
    """What a manifest says of itself and cannot be true."""
    step, directory = manifest.step, evidence.directory
    try:
        checked_reasons(manifest.reasons)
    except ConfigError as error:
        yield f"checkpoint {step} was saved for what is no reason: {error}"
    try:
        told = json.loads(directory.files.read(directory.manifest(step)))
    except FileNotFoundError:
        return  # Retention has deleted it since.
    if told["transient"] != manifest.transient:
        reasons = ", ".join(manifest.reasons)
        yield f"checkpoint {step} says transient is {told['transient']}, and was saved for {reasons}"
    kept = manifest.kept
    if kept is None and "segments" in manifest.control:
        yield f"checkpoint {step} does not say which checkpoints stay"
    own = manifest.transient or (kept is not None and step in kept)
    if kept is not None and (list(kept) != sorted(set(kept)) or any(other > step for other in kept) or not own):
        yield f"checkpoint {step} says that {list(kept)} stay, which cannot be"
    parent = manifest.parent
    if parent is not None and (type(parent) is not int or not 0 <= parent < step):
        yield f"checkpoint {step} has the parent {parent}, which is not before it"


def _parents(evidence: Evidence) -> Iterator[str]:
    """The parents that are not the newest checkpoint that was committed before."""
    saved: dict[tuple[int, int], int | None] = {}
    newest: dict[int, int | None] = {}
    torn = {line.number for line in evidence.journal if line.entry is None}
    unsure: set[int] = set()
    for line in evidence.journal:
        if line.entry is None:
            continue
        event, attempt, step = line.entry["event"], line.entry["attempt"], line.entry.get("step")
        if line.number - 1 in torn:
            unsure.add(attempt)
        if event == "resume":
            newest[attempt] = step
        elif event == "start":
            newest.setdefault(attempt, None)
        elif event == "save" and step is not None:
            if newest.get(attempt) != step:  # Else it was completed.
                saved[attempt, step] = newest.get(attempt)
            newest[attempt] = step
    for step, manifest in evidence.manifests.items():
        attempt = manifest.attempt
        if attempt not in newest or attempt in unsure:
            continue
        # One that was not noted is the last that its attempt saved: a kill came in between.
        known = saved.get((attempt, step), newest[attempt])
        if manifest.parent != known and known != step:
            yield f"checkpoint {step} has the parent {manifest.parent}, and by the journal {known} came before it"


def _seconds(evidence: Evidence) -> Iterator[str]:
    """The checkpoints at which the run had taken less time than at one before, as its cadences count it."""
    if evidence.info is None:
        return  # What a loop of one's own calls seconds is its own affair.
    for (before, earlier), (step, later) in itertools.pairwise(evidence.manifests.items()):
        passed, seconds = earlier.progress.seconds, later.progress.seconds
        if seconds < passed:
            yield f"checkpoint {step} was saved after {seconds} s of the run, and checkpoint {before} after {passed} s"


def _lost(evidence: Evidence) -> Iterator[str]:
    """The checkpoints that the newest manifest keeps, that nobody has noted to be deleted, and that are gone."""
    newest = evidence.newest
    if newest is None or newest.kept is None:
        return
    there = {*evidence.manifests, *evidence.damaged}
    pruned = {
        step
        for entry in evidence.entries
        if entry["event"] == "prune" and isinstance(entry.get("steps"), list)
        for step in entry["steps"]
    }
    if not evidence.entries:
        return
    for step in newest.kept:
        if step not in there and step not in pruned:
            yield f"checkpoint {step}, which the newest one keeps, is gone, and the journal does not say why"


def _brief(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
