"""What manifests say of retention: which checkpoints stay, and which of them for good."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from trainer.ledger.manifest import Manifest
from trainer.proof.audit.evidence import Evidence
from trainer.proof.course import Course, Stage, stages_of
from trainer.timeline.cadence import Progress
from trainer.timeline.duration import EXAMPLE


def retention(evidence: Evidence, course: Course, best: Mapping[int, Collection[int]]) -> Iterator[str]:
    """What `kept` and `for_good` of the manifests are, and should not be.

    Somebody may take a checkpoint away while nobody trains. So what an attempt keeps is computed from what it said
    before; of the first one that it saved it is known only that nothing stays that had gone.

    Args:
      evidence: what was read.
      course: the run's, walked.
      best: by step of a checkpoint, the steps that stayed then because they were the best.
    """
    stages = stages_of(evidence.stretches, evidence.needs_info(), evidence.segments)
    resumed = {entry["step"] for entry in evidence.entries if entry["event"] == "resume"}
    for_good = {step: _for_good(step, course, stages, resumed) for step in course.saves}
    # Where it does not follow, it is what the manifest says, if that is there.
    believed = {
        step: evidence.manifests[step].for_good if known is None and step in evidence.manifests else known
        for step, known in for_good.items()
    }
    before: Manifest | None = None
    for step, manifest in evidence.manifests.items():
        if step > course.reached:
            return
        known = for_good.get(step, False)
        if "segments" in manifest.control and known is not None and manifest.for_good != known:
            yield f"checkpoint {step} says for_good is {manifest.for_good}, and by keep_every it is {known}"
        if manifest.kept is not None and (before is None or before.kept is not None):
            yield from _kept(evidence, manifest, before, course, best.get(step, ()), believed, resumed)
        before = manifest


def _kept(
    evidence: Evidence,
    manifest: Manifest,
    before: Manifest | None,
    course: Course,
    best: Collection[int],
    for_good: Mapping[int, bool | None],
    resumed: Collection[int],
) -> Iterator[str]:
    step, told, start = manifest.step, set(manifest.kept or ()), before.step if before else -1
    there = {*((before.kept or ()) if before else ()), *(saved for saved in course.saves if start < saved <= step)}
    if gone := sorted(told - there):
        yield f"checkpoint {step} says that step {gone[0]} stays, which was not there to be kept"
        return
    maker = next((leg for leg in evidence.stretches if leg.start < step <= leg.end), None)
    if maker is None or manifest.attempt != maker.attempt or step in resumed:
        return
    if before is not None and before.attempt != maker.attempt:
        return
    if before is None and (maker.start or 0 in resumed):
        return
    keep_last = maker.flags.get("keep_last")
    if type(keep_last) is not int:
        return  # An older version may not have noted it.
    last = sorted(there, reverse=True)[:keep_last]
    due = {other for other in there if other in last or other in best or for_good.get(other)}
    unknown = {other for other in there if for_good.get(other) is None}
    if (told ^ due) - unknown:
        yield f"checkpoint {step} says that {sorted(told)} stay, and by its flags {sorted(due)} do"


def _for_good(step: int, course: Course, stages: tuple[Stage, ...], resumed: Collection[int]) -> bool | None:
    """Whether `keep_every` keeps the checkpoint of a step that the run's own course saved; None where that is unknown.

    It follows from the one of the course that was there before: in the first checkpoint after a resume only where that
    is the one resumed from.
    """
    stage = next((stage for stage in stages if stage.leg.start < step <= stage.leg.end), None)
    if stage is None or step in resumed:
        return None
    if stage.stream and any(grid.axis == EXAMPLE for grid in stage.schedule.grids("keep_every")):
        return None  # A batch of which nobody has noted the length may have been short.
    earlier = max((other for other in course.saves if stage.leg.start <= other < step), default=None)
    if earlier is None and (stage.leg.start or 0 in resumed):
        return None
    before = Progress() if earlier is None else course.saved_at[earlier]
    return stage.schedule.keeps_for_good(before, course.saved_at[step])
