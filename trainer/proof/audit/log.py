"""The checks `log` and `windows`: the log is what was written, and tells each step once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

from trainer.data.sources import INDEXED
from trainer.ledger.log import first_bad_record
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment, data_origin, facts_in_force
from trainer.proof.audit.evidence import Evidence, Findings, counted, title
from trainer.timeline.stepping import Stepping


def log(evidence: Evidence) -> Findings:
    """Every line is as this program writes it, and every manifest vouches for what is there."""
    canonical = True
    for number, line in enumerate(evidence.lines, 1):
        try:
            whole = Record.parse(line).line() == line
        except ValueError:
            whole = False
        if not whole:
            canonical = False
            yield f"record {number} is no record as this program writes it"
    digest, count, size = hashlib.sha256(), 0, 0
    before: Manifest | None = None
    for step, manifest in evidence.manifests.items():
        position = manifest.log
        if before and (position.records, position.bytes) < (before.log.records, before.log.bytes):
            records = counted(position.records, "record")
            yield f"checkpoint {step} counts {records}, and the older one of step {before.step} more"
            continue
        before = manifest
        while count < len(evidence.lines) and size + len(evidence.lines[count]) <= position.bytes:
            digest.update(evidence.lines[count])
            size += len(evidence.lines[count])
            count += 1
        if size != position.bytes or digest.hexdigest() != position.sha256:
            # What is already told of a record by itself is not told again.
            where = first_bad_record(evidence.directory) if canonical else "see above"
            yield f"metrics.jsonl is not what checkpoint {step} vouches for: {where}"
            return ""
        if count != position.records:
            yield f"checkpoint {step} counts {position.records} records in what it vouches for, where {count} are"
    told = counted(len(evidence.manifests), "checkpoint")
    return f"{counted(len(evidence.lines), 'record')}, {count:,} of them vouched for by {told}"


def windows(evidence: Evidence) -> Findings:
    """Each step is in one window, in order; examples and epochs are what so many steps make."""
    end, before = 0, None
    ends = [0]
    evaluated: set[tuple[int, str | None]] = set()
    for number, record in enumerate(evidence.records, 1):
        if before and record.step < before.step:
            yield f"record {number}, {title(record)}, comes after that of step {before.step}"
        if record.window:
            yield from _window(number, record, end)
            end = record.window[1]
        elif (record.step, record.split) in evaluated:
            yield f"record {number} is {title(record)} once more"
        evaluated.add((record.step, None if record.window else record.split))
        ends.append(end)
        before = record
    for step, manifest in evidence.manifests.items():
        closed = ends[min(manifest.log.records, len(ends) - 1)]
        window = manifest.open_window
        # A loop of one's own need not put every step into a window.
        steps = (step - closed,) if evidence.info else (step - closed, 0)
        if window["from"] != closed or window["steps"] not in steps:
            yield (
                f"checkpoint {step} has a window open since step {window['from']} with {window['steps']} steps; by the "
                f"log it is open since step {closed}, with {step - closed}"
            )
    yield from _positions(evidence)
    count = sum(record.window is not None for record in evidence.records)
    return f"{counted(count, 'window')}, each step up to {end:,} in one of them"


def _window(number: int, record: Record, end: int) -> Iterator[str]:
    """What is wrong with a window, where the one before it ended at `end`."""
    assert record.window is not None
    start, stop = record.window
    if start > end:
        yield f"the steps {end + 1} to {start} are in no record: record {number} is {title(record)}"
    elif start < end:
        yield f"the steps {start + 1} to {min(stop, end)} are in two records: record {number} is {title(record)}"
    if stop <= start or record.step != stop:
        yield f"record {number} is {title(record)}, and of step {record.step}"


@dataclasses.dataclass(frozen=True, order=True)
class _Position:
    """Where something says that the run was."""

    step: int
    examples: int
    epoch: float | None = dataclasses.field(compare=False)
    who: str = dataclasses.field(compare=False)


def _positions(evidence: Evidence) -> Iterator[str]:
    """What is wrong with the examples and epochs of records and checkpoints."""
    positions = [
        _Position(record.step, record.examples, record.epoch, f"record {number}, {title(record)},")
        for number, record in enumerate(evidence.records, 1)
    ]
    positions += [
        _Position(step, manifest.examples, manifest.epoch, f"checkpoint {step}")
        for step, manifest in evidence.manifests.items()
    ]
    positions.sort(key=lambda position: position.step)
    before: _Position | None = None
    for position in positions:
        if before and (
            position.examples < before.examples
            or (position.step == before.step) != (position.examples == before.examples)
        ):
            yield f"{position.who} is at {position.examples} examples, and {before.who} at {before.examples}"
            return
        before = position
    if evidence.info is not None:
        yield from _counted(positions, evidence, evidence.info)


def _counted(positions: list[_Position], evidence: Evidence, info: RunInfo) -> Iterator[str]:
    """Where the examples or the epoch is not what so many steps make, as far as that follows from the run alone."""
    takings = _takings(info, evidence.segments)
    at = (0, 0)
    legs = iter(evidence.legs)
    leg = next(legs)
    for position in positions:
        while len(takings) > 1 and takings[1][0] < position.step:
            at = _advanced(takings[0][1], at, takings[1][0])
            del takings[0]
        at = _advanced(takings[0][1], at, position.step)
        if takings[0][1] is None:
            at = (position.step, position.examples)
        elif position.examples != at[1]:
            yield f"{position.who} is at {position.examples} examples, where step {position.step} makes {at[1]}"
            return
        while leg.end < position.step:
            leg = next(legs)
        length = leg.flags.get("epoch_examples") or info.epoch_examples
        epoch = position.examples / length if length else None
        if leg.noted and position.epoch != epoch:
            yield f"{position.who} is in epoch {position.epoch}, where {position.examples} examples make {epoch}"
            return


def _takings(info: RunInfo, segments: tuple[Segment, ...]) -> list[tuple[int, Stepping | None]]:
    """How many examples a step takes, and from which step on; None for a stream, whose batches may be short."""
    found: list[tuple[int, Stepping | None]] = []
    for count in range(len(segments) + 1):
        known = facts_in_force(info, segments[:count]).data["train"]
        stepping = None
        if known["mode"] == INDEXED:
            origin = data_origin(segments[:count]).examples
            stepping = Stepping(known["batch_size"], known["examples"], known["last"], origin)
        found.append((segments[count - 1].step if count else 0, stepping))
    return found


def _advanced(stepping: Stepping | None, at: tuple[int, int], step: int) -> tuple[int, int]:
    """The step and the examples at `step`; for a stream they stay what they are known to be."""
    if stepping is None or step <= at[0]:
        return at
    return step, stepping.advance(at[1], step - at[0])
