"""How fast a run went and how long its saves held it up, as its journal tells."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.views.page.series import Curve

_TIMED = frozenset({"plan", "save", "evaluate", "decide", "signal", "stop"})


class Stretch(NamedTuple):
    """Steps (start, end] that one attempt made without a known pause."""

    start: int
    end: int
    seconds: float
    first: bool
    """Whether it is the attempt's first: the step was still to be traced and compiled."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """What the journal tells of a run's speed."""

    stretches: tuple[Stretch, ...]
    """In the order of time: steps that were lost and made again are there twice."""
    stalls: Curve
    """For how many seconds training stood still for the save of a step, by step."""


@dataclasses.dataclass
class _Stop:
    """A step at which an attempt was seen: when it came there, and when it went on."""

    step: int
    came: float
    left: float


def read_pace(directory: RunDirectory) -> Pace:
    """Reads the journal, which a trainer may be writing."""
    entries = read_journal(directory)
    stretches: list[Stretch] = []
    for number in sorted({entry["attempt"] for entry in entries}):
        # A rewind bears the number of the attempt before it, and is no part of it.
        own = [entry for entry in entries if entry["attempt"] == number and entry["event"] in _TIMED | {"resume"}]
        stretches += _stretches(own)
    stalls = {
        entry["step"]: entry["stall_s"]
        for entry in entries
        if entry["event"] == "save" and entry["step"] is not None and "stall_s" in entry
    }
    steps = sorted(stalls)
    return Pace(tuple(stretches), Curve(np.array(steps, float), np.array([stalls[step] for step in steps], float)))


def _stretches(entries: Iterable[Mapping[str, Any]]) -> list[Stretch]:
    """The stretches between the stops of one attempt, evaluations and stalls left out."""
    stops: dict[int, _Stop] = {}
    origin = 0
    for entry in entries:
        if entry["event"] == "resume":
            origin = entry["step"] or 0
        # The plan is noted when the state is restored: from here on it trains.
        step = origin if entry["event"] == "plan" else entry.get("step")
        if entry["event"] == "resume" or step is None:
            continue
        came, left = _when(entry)
        known = stops.setdefault(step, _Stop(step, came, left))
        known.came, known.left = min(known.came, came), max(known.left, left)
    ordered = [stops[step] for step in sorted(stops) if step >= origin]
    return [
        Stretch(before.step, after.step, after.came - before.left, first=before is ordered[0])
        for before, after in itertools.pairwise(ordered)
        if after.came > before.left
    ]


def _when(entry: Mapping[str, Any]) -> tuple[float, float]:
    """When training came to the step of a line of the journal, and when it went on; seconds since 1970."""
    time = datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp()
    if entry["event"] == "evaluate":
        return time - _seconds(entry, "seconds"), time
    if entry["event"] == "save":
        # Noted once it is committed, while training may have gone on long before.
        spent = sum(_seconds(entry, name) for name in ("wait_s", "snapshot_s", "write_s", "commit_s"))
        stall = _seconds(entry, "stall_s")
        came = time - max(spent, stall)
        return came, came + stall
    return time, time


def _seconds(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name, 0.0)
    return float(value) if isinstance(value, int | float) else 0.0
