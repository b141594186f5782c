"""The checks `reevaluate` and `replay`: what was measured and trained comes out again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import tensorflow as tf

from trainer.checkpoint.recovery import Damaged
from trainer.checkpoint.tensors import first_line
from trainer.errors import TrainerError
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, Tell, counted
from trainer.proof.compare import TOLERANCE, Sides, first_value_difference
from trainer.proof.replay import Replay
from trainer.run import machine
from trainer.run.identity import another_machine
from trainer.run.splits import splits_of
from trainer.trained.measuring import Measuring
from trainer.trained.rounds import Gone


class _Doing:
    """What is being done, told again whenever someone asks whether to go on."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._line = ""

    def begin(self, line: str) -> None:
        """Something else is being done."""
        self._line = line
        self._tell(line)

    def look(self) -> bool:
        """Whether to stop: never, as what `tell` raises ends it all."""
        self._tell(self._line)
        return False


def reevaluate(evidence: Evidence, tell: Tell) -> Findings:
    """Every evaluation that the run made of a checkpoint that is there, made again with its weights."""
    info = evidence.needs_info()
    exact = {step: _evaluated(manifest) for step, manifest in evidence.manifests.items()}
    if not any(exact.values()):
        raise NotChecked("no checkpoint that is there was evaluated at its own step")
    doing = _Doing(tell)
    measuring = Measuring(evidence.directory, splits_of, interrupted=doing.look)
    made, evaluated, other = 0, 0, None
    for step, splits in exact.items():
        if not splits:
            continue
        manifest = evidence.manifests[step]
        doing.begin(f"evaluating checkpoint {step:,} again")
        try:
            failure = _taken_up(measuring, manifest)
        except Gone:
            continue  # Retention has deleted it since.
        if failure:
            yield f"checkpoint {step} cannot be evaluated again: {failure}"
            continue
        evaluated += 1
        other = other or _other_machine(info)
        sides = Sides("recorded", "evaluated again", TOLERANCE if other else 0.0)
        for split, metrics in splits.items():
            try:
                failure = _again(measuring, manifest, split, metrics, sides)
            except tf.errors.OpError as error:
                failure = f"it fails: {first_line(error)}"
            made += 1
            if failure:
                yield f"checkpoint {step}, {split}: {failure}"
    within = f", each within {TOLERANCE:g}: {other}" if other else ", the same to the last bit"
    if not evaluated:
        raise NotChecked("the checkpoints were deleted meanwhile, as newer ones are there")
    return f"{counted(made, 'evaluation')} of {counted(evaluated, 'checkpoint')}{within}"


def replay(evidence: Evidence, tell: Tell, *, newest: int | None = None, from_start: bool = False) -> Findings:
    """The run trained again from each checkpoint to the next.

    Args:
      evidence: what was read.
      tell: receives what is being done.
      newest: how many of the stretches, the last ones; None for all.
      from_start: whether also from the run's beginning to the first checkpoint that is there.
    """
    info = evidence.needs_info()
    checkpoints: list[Manifest | None] = [*([None] if from_start else []), *evidence.manifests.values()]
    if newest is not None:
        checkpoints = checkpoints[-1 - newest :]
    if len(checkpoints) < 2:
        raise NotChecked("there are no two checkpoints to train between; --from_start trains from step 0")
    doing = _Doing(tell)
    again = Replay(
        evidence.directory,
        info,
        interrupted=doing.look,
        tell=lambda step, end: doing.begin(f"training again: step {step:,} of {end:,}"),
    )
    stretches, steps, records, tensors = 0, 0, 0, 0
    other = None
    try:
        for (start, target), stretch in zip(itertools.pairwise(checkpoints), again.stretches(checkpoints), strict=True):
            if not stretch.ok:
                if any(manifest and _is_gone(evidence, manifest) for manifest in (start, target)):
                    continue  # Retention has deleted it meanwhile.
                if target is not None and "segments" not in target.control:
                    raise NotChecked("the run is of a version that did not note when parameters changed")
                yield stretch.describe()
            stretches, steps = stretches + 1, steps + stretch.end - stretch.start
            records, tensors = records + stretch.records, tensors + stretch.tensors
            other = other or stretch.machine
    finally:
        again.close()
    if not stretches:
        raise NotChecked("the checkpoints were deleted meanwhile, as newer ones are there")
    within = f" within {TOLERANCE:g}: {other}" if other else " to the last bit"
    return (
        f"{counted(steps, 'step')} of {stretches:,} stretch{'' if stretches == 1 else 'es'}: "
        f"{counted(records, 'record')} and {counted(tensors, 'tensor')} are the same{within}"
    )


def _evaluated(manifest: Manifest) -> dict[str, Mapping[str, object]]:
    """The metrics by split that were measured at the very step of a checkpoint."""
    return {split: known["metrics"] for split, known in manifest.eval.items() if known["step"] == manifest.step}


def _taken_up(measuring: Measuring, manifest: Manifest) -> str | None:
    """Opens a checkpoint; returns why that cannot be.

    Raises:
      Gone: there is no such checkpoint any more.
    """
    try:
        measuring.open(manifest)
        measuring.load(manifest)
    except Gone:
        raise
    except (Damaged, TrainerError) as error:
        return str(error)
    except Exception as error:  # It is the user's code, of another day.
        return f"the experiment fails: {type(error).__name__}: {first_line(error)}"
    return None


def _again(
    measuring: Measuring, manifest: Manifest, split: str, metrics: Mapping[str, object], sides: Sides
) -> str | None:
    """What is wrong with one evaluation."""
    if split not in measuring.sources:
        return "the experiment has no such split any more"
    known = measuring.run.info.data.get(split, {}).get("fingerprint")
    now = measuring.sources[split].fingerprint
    if known != now:
        return f"it is other data now ({now}) than in the run ({known})"
    try:
        measuring.build(manifest, split)
    except TrainerError as error:
        return str(error)
    except Exception as error:  # It is the user's code, of another day.
        return f"it fails: {type(error).__name__}: {first_line(error)}"
    record = measuring.record(manifest, split)
    assert record is not None
    return first_value_difference(metrics, record.metrics, sides)


def _other_machine(info: RunInfo) -> str | None:
    """How this machine differs from the run's."""
    here = dataclasses.replace(
        info, machine=machine.describe_machine(), versions=machine.versions(), threads=machine.thread_counts()
    )
    return another_machine(info, here)


def _is_gone(evidence: Evidence, manifest: Manifest) -> bool:
    return not evidence.directory.files.exists(evidence.directory.manifest(manifest.step))
