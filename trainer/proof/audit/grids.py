"""The checks `grids` and `decisions`: what was logged, evaluated, saved and decided is what the flags make of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.decide.decisions import Decisions
from trainer.errors import ConfigError
from trainer.ledger.manifest import RUN_REASONS, Manifest
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, came_to_its_end, counted
from trainer.proof.audit.retention import retention
from trainer.proof.course import Course, Differs, Stage, decided, stages_of
from trainer.proof.legs import OF_THE_COURSE
from trainer.timeline.schedule import EVALUATION

_DECIDING = OF_THE_COURSE - {"log_every"}
"""The flags that say what is decided at an evaluation, and what else is due there."""


def grids(evidence: Evidence) -> Findings:
    """Records, evaluations and saves lie exactly where the cadences put them, and what is to stay stays."""
    stages = _stages(evidence)
    for stage in stages:
        if stage.clock:
            raise NotChecked(f"{stage.clock} has a clock decide what is in the log")
        if stage.stream and stage.counts_examples and _short_batches(stage, evidence):
            raise NotChecked("batches of the stream are short, and cadences count examples")
    course = Course(stages, evidence.records, evidence.manifests, ended=_ended(evidence))
    try:
        course.walk()
    except Differs as difference:
        yield str(difference)
    yield from _saves(evidence, course)
    yield from retention(evidence, course, _best_steps(evidence))
    records, saves = counted(len(evidence.records), "record"), counted(len(course.saves), "save")
    return f"{records} and {saves}, each where it is due, over {counted(len(stages), 'leg')}"


def decisions(evidence: Evidence) -> Findings:
    """What each manifest says was decided is what the records before it come to."""
    stages = _stages(evidence)
    try:
        for step, manifest, found in _decided(evidence, stages):
            for what, told, known in _compared(manifest.control, found.to_json()):
                yield f"checkpoint {step} says {what} is {told}, and by the records it is {known}"
            because = {"best", "condition"}.intersection(manifest.reasons)
            reasons = found.at(step).reasons
            if because != set(reasons):
                yield (
                    f"checkpoint {step} was saved for {_listed(manifest.reasons)}, and by the records for "
                    f"{_listed(reasons)} of best and condition"
                )
    except ConfigError as error:
        yield str(error)
    monitors = ", ".join(str(best.monitor) for best in stages[-1].decisions.rankings)
    return f"{counted(len(evidence.manifests), 'checkpoint')}, by {monitors}"


def _decided(evidence: Evidence, stages: Sequence[Stage]) -> Iterator[tuple[int, Manifest, Decisions]]:
    """Each checkpoint, with what is decided by the records that it counts."""
    borders = [0, *(_records_before(stage, evidence) for stage in stages[1:])]
    places = [(step, manifest.log.records) for step, manifest in evidence.manifests.items()]
    found = decided(stages, evidence.records, borders, places)
    for (step, manifest), decisions in zip(evidence.manifests.items(), found, strict=True):
        yield step, manifest, decisions


def _best_steps(evidence: Evidence) -> dict[int, frozenset[int]]:
    """By step of a checkpoint, those that were the best then; as far as there is a decision, of which a check tells."""
    best: dict[int, frozenset[int]] = {}
    try:
        for step, _, found in _decided(evidence, _stages(evidence)):
            best[step] = found.kept_steps
    except ConfigError:
        return best
    return best


def _stages(evidence: Evidence) -> tuple[Stage, ...]:
    info, legs = evidence.needs_info(), evidence.needs_flags()
    if (step := _made_up_for_otherwise(evidence)) is not None:
        raise NotChecked(f"what a signal cut short at step {step} was made up for with flags that decide otherwise")
    try:
        return stages_of(legs, info, evidence.segments)
    except ConfigError as error:
        raise NotChecked(f"the flags in the journal cannot be: {error}") from error


def _made_up_for_otherwise(evidence: Evidence) -> int | None:
    """The first step that one attempt trained and another evaluated, with flags that decide otherwise; None for none.

    What is known there comes from both; and where the other was killed soon, none of its steps is there to tell.
    """
    flags = {entry["attempt"]: entry.get("flags") for entry in evidence.entries if entry["event"] == "start"}
    resumed = {(entry["attempt"], entry["step"]) for entry in evidence.entries if entry["event"] == "resume"}
    late: set[int] = {
        entry["step"]
        for entry in evidence.entries
        if entry["event"] in ("evaluate", "save") and (entry["attempt"], entry["step"]) in resumed
    }
    for step in sorted(late):
        attempts = {
            entry["attempt"]
            for entry in evidence.entries
            if entry["event"] in ("evaluate", "save", "resume") and entry["step"] == step
        }
        known = [noted for attempt in sorted(attempts) if isinstance(noted := flags.get(attempt), dict)]
        if any(noted.get(name) != known[0].get(name) for noted in known for name in _DECIDING):
            return step
    return None


def _compared(told: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The parts of `control` that differ: what they are called, what the manifest says, what it should say."""
    for metric in {**known["best"], **told.get("best", {})}:
        rankings = known["best"].get(metric), told.get("best", {}).get(metric)
        if not _same_ranking(*rankings):
            yield f"the best by {metric}", _ranking(rankings[1]), _ranking(rankings[0])
    for name in ("modes", "early_stop", "save_if"):
        # An older version did not tell all of them.
        if name not in told and "segments" not in told:
            continue
        if told.get(name) != known.get(name):
            yield name, told.get(name), known.get(name)


def _same_ranking(known: Any, told: Any) -> bool:
    """Whether two rankings are the same, in what is told: an older version did not tell relations."""
    if known is None or told is None or len(known) != len(told):
        return False
    return all(
        here.get(name) == value for here, there in zip(known, told, strict=True) for name, value in there.items()
    )


def _ranking(ranking: Any) -> str:
    return ", ".join(f"step {known['step']} with {known['value']}" for known in ranking or ()) or "not there"


def _listed(reasons: Any) -> str:
    return " and ".join(reasons) or "none"


def _records_before(stage: Stage, evidence: Evidence) -> int:
    """How many records there were when a stage began."""
    records, start = evidence.records, stage.leg.start
    count = next((index for index, record in enumerate(records) if record.step > start), len(records))
    # What a signal had cut short was made up for in this stage.
    late = any(
        entry["event"] == "evaluate" and entry["step"] == start and entry["attempt"] >= stage.leg.attempt
        for entry in evidence.entries
    )
    while late and count and (records[count - 1].kind, records[count - 1].step) == ("eval", start):
        count -= 1
    return count


def _ended(evidence: Evidence) -> set[int]:
    """The steps at which a stream had come to its end."""
    saved = {step for step, manifest in evidence.manifests.items() if manifest.control.get("ended")}
    return saved | {
        entry["step"]
        for entry in evidence.entries
        if entry["event"] == "stop" and entry.get("reason") == "data ended" and entry.get("step") is not None
    }


def _short_batches(stage: Stage, evidence: Evidence) -> bool:
    stepping, leg = stage.schedule.stepping, stage.leg
    known = [(record.step, record.examples) for record in evidence.records if leg.start < record.step <= leg.end]
    return any(
        now[1] - before[1] != (now[0] - before[0]) * stepping.batch_size for before, now in itertools.pairwise(known)
    )


def _saves(evidence: Evidence, course: Course) -> Iterator[str]:
    """What of the saves is not as it is due, up to where the course has come."""
    for step, manifest in evidence.manifests.items():
        # Of one that a signal cut short it is decided only once the evaluation is made up for.
        if step <= course.reached and EVALUATION not in manifest.control.get("pending", ()):
            yield from _reasons(f"checkpoint {step} was saved", step, manifest.reasons, course)
    noted: dict[int, Mapping[str, Any]] = {}
    done: dict[int, int] = {}
    resumed = {entry["step"] for entry in evidence.entries if entry["event"] == "resume"}
    for entry in evidence.entries:
        event, attempt = entry["event"], entry["attempt"]
        if event == "save" or (came_to_its_end(entry) and entry.get("step") is not None):
            done[attempt] = max(entry["step"], done.get(attempt, 0))
        if event == "save" and any(
            leg.attempt == attempt and leg.start <= entry["step"] <= leg.end for leg in evidence.stretches
        ):
            noted[entry["step"]] = entry
    for step, entry in noted.items():
        if step <= course.reached and step not in evidence.manifests:
            yield from _reasons(f"by the journal step {step} was saved", step, tuple(entry.get("reasons", ())), course)
    for step, reasons in course.saves.items():
        if step > course.reached or step in evidence.manifests or step in noted or step in resumed:
            continue
        # The last one may still be written, or its line be lost in a crash: not so one that another came after.
        stretch = next((leg for leg in evidence.stretches if leg.start < step <= leg.end), evidence.stretches[0])
        if done.get(stretch.attempt, 0) > step:
            yield f"step {step} is to be saved for {_listed(reasons)}, and neither is there nor noted in the journal"


def _reasons(what: str, step: int, told: tuple[str, ...], course: Course) -> Iterator[str]:
    own = [reason for reason in told if reason in RUN_REASONS]
    due = course.saves.get(step, ())
    if set(own) != set(due):
        yield f"{what} for {_listed(own)}, where {_listed(due)} is due"
