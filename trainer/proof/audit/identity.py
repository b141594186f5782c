"""The check `identity`: it is one run, and each checkpoint is of it."""

from __future__ import annotations

import itertools

from trainer.errors import Unusable
from trainer.ledger.segments import Segment, facts_in_force, read_segments
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, counted


def identity(evidence: Evidence) -> Findings:
    """`run.json` is as it was written, each checkpoint bears its id, and the segments tell one story."""
    info = evidence.info
    if evidence.info_damage:
        yield evidence.info_damage
    elif info is None:
        for step, manifest in evidence.manifests.items():
            if manifest.run is not None:
                yield f"there is no run.json, and checkpoint {step} is of the run {manifest.run}"
        raise NotChecked("there is no run.json, as beside a loop of one's own")
    known: dict[int, tuple[Segment, ...]] = {}
    for step, manifest in evidence.manifests.items():
        try:
            known[step] = read_segments(manifest)
        except Unusable as error:
            yield str(error)
            continue
        yield from _in_order(step, known[step])
        if info is None:
            continue
        if manifest.run != info.run_id:
            yield f"checkpoint {step} belongs to the run {manifest.run}, and this is the run {info.run_id}"
        data = facts_in_force(info, known[step]).data.get("train", {})
        for fact in ("mode", "fingerprint"):
            if manifest.data.get(fact) != data.get(fact):
                yield (
                    f"checkpoint {step} was trained on data of {fact} {manifest.data.get(fact)}, and the run on "
                    f"{data.get(fact)}"
                )
    for (step, before), (later, now) in itertools.pairwise(known.items()):
        if now[: len(before)] != before:
            yield f"the segments of checkpoint {later} do not continue those of checkpoint {step}"
    count = len(evidence.segments)
    told = f", {counted(count, 'segment')} after the first" if count else ""
    return f"run {info.run_id if info else '?'}, {counted(len(known), 'checkpoint')}{told}"


def _in_order(step: int, segments: tuple[Segment, ...]) -> Findings:
    """Each begins where the one before it had come to, or later, and none after the checkpoint."""
    at = (0, 0)
    for segment in segments:
        if (segment.step, segment.examples) < at or segment.step > step:
            yield f"in checkpoint {step} segment {segment.segment} begins at step {segment.step}, which it cannot"
        at = (segment.step, segment.examples)
    return ""
