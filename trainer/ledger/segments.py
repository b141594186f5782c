"""Segments: the stretches of a run between which its parameters, its data or its seed were changed.

`run.json` is segment 0 and never changes. Every later one travels in the manifests, under `control.segments`, from the
first checkpoint that is saved in it: a change that was killed before that never happened.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.errors import Unusable
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo

KINDS = PARAMETERS, DATA, EVAL_DATA, BATCH_SIZE, SEED = ("parameters", "data", "eval_data", "batch_size", "seed")
"""What a segment may say has changed: `data` is the training data, `eval_data` that of the splits."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a run: where it begins, what changed there, and the facts that hold from there on."""

    segment: int
    """Its number, from 1: `run.json` is segment 0."""
    step: int
    """The step that it was resumed from: the first one trained in it is the next."""
    examples: int
    """The examples consumed by then."""
    changed: tuple[str, ...]
    """Of `KINDS`, in their order."""
    parameters: Mapping[str, Any]
    data: Mapping[str, Any]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The segment as the object that a manifest holds."""
        return {**dataclasses.asdict(self), "changed": list(self.changed), "parameters": plain(self.parameters)}

    @classmethod
    def parse(cls, value: Any) -> Segment:
        """The segment that `to_json` wrote.

        Raises:
          ValueError: it lacks or garbles something.
        """
        try:
            segment = cls(**{item.name: value[item.name] for item in dataclasses.fields(cls)})
            counts = (segment.segment, segment.step, segment.examples)
            if any(type(count) is not int or count < 0 for count in counts) or type(segment.seed) is not int:
                raise ValueError(f"segment, step, examples and seed are {(*counts, segment.seed)}; expected integers")
            if not isinstance(segment.parameters, dict) or not isinstance(segment.data, dict):
                raise ValueError("parameters or data is no object")
            return dataclasses.replace(segment, changed=tuple(map(str, segment.changed)))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it lacks or garbles {error}") from error


@dataclasses.dataclass(frozen=True)
class DataOrigin:
    """Where the passes over the training data that is in use began.

    The position in it is `examples` consumed so far minus this one's, and its order is drawn for `segment`.
    """

    segment: int = 0
    examples: int = 0


def data_origin(segments: Sequence[Segment]) -> DataOrigin:
    """Where the passes began: at the last change of the training data or of the seed, else at the run's beginning."""
    for segment in reversed(segments):
        if {DATA, SEED}.intersection(segment.changed):
            return DataOrigin(segment.segment, segment.examples)
    return DataOrigin()


def read_segments(manifest: Manifest | None) -> tuple[Segment, ...]:
    """The segments up to a checkpoint, segment 0 aside; none without one.

    Raises:
      Unusable: they are not what this version writes.
    """
    if manifest is None:
        return ()
    try:
        segments = tuple(map(Segment.parse, _listed(manifest.control.get("segments", ()))))
        if [segment.segment for segment in segments] != list(range(1, len(segments) + 1)):
            raise ValueError("they are not numbered from 1")
        return segments
    except ValueError as error:
        raise Unusable(
            f"the manifest of step {manifest.step} has segments that cannot be read ({error}); "
            "put the original back, or rewind to an older checkpoint"
        ) from error


def facts_in_force(info: RunInfo, segments: Sequence[Segment]) -> RunInfo:
    """What identifies the run in its last segment."""
    if not segments:
        return info
    last = segments[-1]
    return dataclasses.replace(info, parameters=last.parameters, data=last.data, seed=last.seed)


def plain(value: Any) -> Any:
    """A JSON value in which `inf` and `nan`, which JSON does not know, are text: the same ones are then equal."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Iterable[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError("they are no list")
    return value
