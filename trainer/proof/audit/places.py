"""The checks `tensorboard`, `orphans` and `evaluations`: what stands beside the log and the checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.ledger.directory import MANIFEST, STATE, UNFINISHED, RunDirectory
from trainer.ledger.evaluations import Evaluation, Subject, checkpoint_identity
from trainer.ledger.manifest import BadManifest
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, counted
from trainer.views.tensorboard import compare_events

_OURS = frozenset(
    {
        *("run.json", "flags.txt", "metrics.jsonl", "journal.jsonl", "evaluations.jsonl", "evaluations.jsonl.lock"),
        *("checkpoints", "events", "orphans", "profile", "explain", "lock"),
        *("run.json.tmp", "flags.txt.tmp"),  # as a kill leaves them
    }
)
_STEP = re.compile(r"step-(\d{10}|[1-9]\d{10,})")
_ASIDE = re.compile(r"attempt-(\d+)(-rewind(-\d+)?)?")
_IN_CHECKPOINT = re.compile(rf"{STATE}\.(index|data-\d+-of-\d+)(\.tempstate\d+)?|{STATE}_temp|_temp")


def tensorboard(evidence: Evidence) -> Findings:
    """TensorBoard shows the records, and nothing else."""
    directory, records = Path(evidence.directory.events), evidence.all_records
    if not directory.is_dir():
        raise NotChecked("there is no events/, which the next attempt makes again from the log")
    try:
        step, shown = compare_events(directory, records, strict=True)
    except ValueError as error:
        yield f"an event file is damaged: {error}"
        step, shown = compare_events(directory, records, strict=False)
    if not shown and records:
        raise NotChecked("events/ holds no event file of the run, which the next attempt makes again from the log")
    later = records[evidence.vouched :]
    # Beyond the newest checkpoint the events of a run that was killed, or goes on, may not be written yet; and one that
    # goes on has written more of them since the log was read.
    excused = later[0].step if later else evidence.end if evidence.alive else None
    if step is not None and (excused is None or step < excused):
        yield f"TensorBoard does not show what the log says of step {step}"
    return f"{counted(shown, 'event')} of {counted(len(records), 'record')}"


def orphans(evidence: Evidence) -> Findings:
    """Everything in the run directory is accounted for; what is not ours is named."""
    directory = evidence.directory
    foreign = [name for name in directory.files.list(directory.path) if name not in _OURS]
    unfinished = 0
    for name in directory.files.list(directory.checkpoints):
        path = os.path.join(directory.checkpoints, name)
        if not _STEP.fullmatch(name):
            if name not in ("checkpoint", "checkpoint.tmp"):
                foreign.append(f"checkpoints/{name}")
            continue
        held = directory.files.list(path)
        if not {MANIFEST, UNFINISHED}.intersection(held):
            if held:
                yield f"checkpoints/{name} has neither a manifest nor the mark of the unfinished"
        else:
            unfinished += MANIFEST not in held
        foreign += [
            f"checkpoints/{name}/{inner}"
            for inner in held
            if inner not in (MANIFEST, UNFINISHED) and not _IN_CHECKPOINT.fullmatch(inner)
        ]
    aside = 0
    for name in directory.files.list(directory.orphans):
        if match := _ASIDE.fullmatch(name):
            aside += 1
            yield from _aside(evidence, name, int(match[1]), rewound=match[2] is not None)
        else:
            foreign.append(f"orphans/{name}")
    told = [f"{counted(aside, 'folder')} put aside"]
    if unfinished:
        told.append(f"{unfinished} unfinished")
    told.append(f"not ours: {', '.join(foreign)}" if foreign else "nothing that is not ours")
    return "; ".join(told)


def _aside(evidence: Evidence, name: str, attempt: int, *, rewound: bool) -> Iterator[str]:
    """What is wrong with a folder of what was put aside."""
    entries = evidence.entries
    if evidence.info is None and not entries:
        return  # Beside a loop of one's own nobody counts attempts.
    directory = evidence.directory
    path = os.path.join(directory.orphans, name)
    held = directory.files.list(path)
    if rewound:
        noted = [
            entry for entry in entries if entry["event"] == "rewind" and os.path.basename(entry["orphans"]) == name
        ]
        moved = {step for entry in noted for step in entry.get("moved", ())}
        if not noted:
            yield f"orphans/{name} is of a rewind that the journal does not know"
            return
    else:
        noted = [entry for entry in entries if entry["attempt"] == attempt and entry["event"] != "rewind"]
        moved = {entry["step"] for entry in noted if entry["event"] == "quarantine" and "step" in entry}
        if not noted:
            yield f"orphans/{name} is of an attempt that the journal does not know"
            return
    # An attempt that was killed in the midst of it has not told yet what it cut.
    cut = next((entry["cut_bytes"] for entry in noted if "cut_bytes" in entry), None)
    there = directory.files.size(os.path.join(path, "metrics.jsonl")) if "metrics.jsonl" in held else 0
    if cut is not None and there != cut and (held or not rewound):
        yield f"orphans/{name} holds {there} bytes of records, and {cut} were cut by the journal"
    finished = any(entry["event"] in ("resume", "plan") or entry.get("done") for entry in noted)
    for inner in held:
        match = _STEP.match(inner)
        if match and int(match[1]) not in moved and finished:
            yield f"orphans/{name}/{inner} was put aside, and the journal does not say so"


def evaluations(evidence: Evidence) -> Findings:
    """Each later evaluation is one, made once, and of a checkpoint that is there or gone."""
    directory = evidence.directory
    if not directory.files.exists(directory.evaluations):
        raise NotChecked("there are none: nobody has run trainer.evaluate")
    of = dict(_identities(evidence))
    known: dict[Subject, int] = {}
    count = torn = gone = 0
    for number, line in enumerate(directory.files.read(directory.evaluations).splitlines(keepends=True), 1):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            # The brace is the last that is written.
            if line.rstrip(b"\n").endswith(b"}"):
                yield f"line {number} of evaluations.jsonl is damaged"
            torn += 1
            continue
        try:
            evaluation = Evaluation.parse(line)
        except ValueError as error:
            yield f"line {number} of evaluations.jsonl is no evaluation: {error}"
            continue
        if line.endswith(b"\n") and evaluation.line() != line:
            yield f"line {number} of evaluations.jsonl is not as this program writes it"
        if (first := known.setdefault(evaluation.subject, number)) != number:
            yield f"line {number} of evaluations.jsonl evaluates once more what line {first} does"
        count += 1
        gone += of.get(evaluation.record.step) != evaluation.checkpoint
        if evaluation.record.step > evidence.end and not _rewound(evidence):
            yield f"line {number} of evaluations.jsonl is of step {evaluation.record.step}, which the run did not reach"
    told = counted(count, "evaluation")
    told += f", {gone:,} of checkpoints that are gone" if gone else ""
    return f"{told}, {torn:,} torn" if torn else told


def _identities(evidence: Evidence) -> Iterator[tuple[int, str]]:
    for step, manifest in evidence.manifests.items():
        try:
            yield step, checkpoint_identity(manifest)
        except BadManifest:
            continue  # The check of the files tells.


def _rewound(evidence: Evidence) -> bool:
    """Whether the run may have been further once."""
    return any(entry["event"] in ("rewind", "resume") for entry in evidence.entries) or not evidence.entries


def state_file(directory: RunDirectory, manifests: Mapping[int, Any], *, ended: bool) -> Iterator[str]:
    """What is wrong with TensorFlow's own state file.

    Args:
      directory: the run's.
      manifests: those of its checkpoints, by step.
      ended: whether the last attempt has come to its end, so that nothing is left to be written.
    """
    if not directory.files.exists(directory.state_file):
        if ended and manifests:
            yield "there is no checkpoints/checkpoint, so that TensorFlow finds no latest checkpoint"
        return
    text = directory.files.read(directory.state_file).decode(errors="replace")
    named = re.findall(r'^(model_checkpoint_path|all_model_checkpoint_paths): "(.*)"$', text, re.MULTILINE)
    latest = [path for key, path in named if key == "model_checkpoint_path"]
    if len(latest) != 1 or len(named) != len(text.splitlines()):
        yield "checkpoints/checkpoint is no state file of TensorFlow"
        return
    known = {os.path.join(os.path.basename(directory.checkpoint(step)), STATE): step for step in manifests}
    for _, path in named:
        if path not in known and not directory.files.exists(os.path.join(directory.checkpoints, f"{path}.index")):
            yield f"checkpoints/checkpoint names {path}, which is not there"
    if ended and manifests and latest[0] in known and known[latest[0]] != max(manifests):
        yield f"checkpoints/checkpoint says that the latest is {latest[0]}, and step {max(manifests)} is"
