"""The attempts of a run, as its journal tells them: how far each came, how it ended, and what it was worth."""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal, utc_now
from trainer.ledger.log import last_step

RUNNING, KILLED = "running", "killed"

_TAIL_BYTES = 1 << 16
# The events whose step the attempt had reached itself; `quarantine`, `prune` and `fault` name the steps of others.
_REACHED = frozenset({"save", "evaluate", "decide", "signal", "stop"})


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process' life within the run."""

    attempt: int
    host: str | None
    reason: str
    """The one that it gave at its end; else `running` or `killed`."""
    fault: str | None
    """The name of the error that ended it, if one did."""
    exit_code: int | None
    """None while it runs, and when it was killed."""
    from_step: int | None
    """Where it began to train; None when it ended before."""
    to_step: int | None
    """The last step that it is known to have reached; a killed one may have come further."""
    steps_lost: int
    """How many of its steps, which are those after `from_step`, do not count any more: later attempts had to do them
    again, or will have to."""
    seconds: float
    """From its first line in the journal to its last sign of life."""
    useful_seconds: float
    """What of `seconds` made steps that count: not the start, no stall for a save, nothing that was lost."""

    def to_json(self) -> dict[str, Any]:
        """What scripts are told of it."""
        names = ("attempt", "reason", "exit_code", "from_step", "to_step", "steps_lost")
        return {name: getattr(self, name) for name in names}


def goodput(attempts: Sequence[Attempt]) -> float | None:
    """The share of the attempts' wall time that made steps which count; None when no time is known.

    As the journal knows it: an attempt begins when it is noted there, after TensorFlow's import.
    """
    seconds = sum(attempt.seconds for attempt in attempts)
    return round(sum(attempt.useful_seconds for attempt in attempts) / seconds, 4) if seconds else None


def read_attempts(
    directory: RunDirectory, *, latest: int | None, now: datetime.datetime | None = None
) -> list[Attempt]:
    """The attempts of a run in order.

    Args:
      directory: the run directory; a trainer may be writing it.
      latest: the step of the newest usable checkpoint.
      now: the wall clock, to which a running attempt is counted.
    """
    lives = _read_lives(directory)
    running = _is_running(directory, lives)
    if lives and not lives[-1].stop and not running:
        lives = _read_lives(directory)  # It may have come to its end between the two looks.
    attempts: list[Attempt] = []
    # Backwards: what follows an attempt decides what of it counts. Where none follows, that is the newest checkpoint.
    counts_to = None if running else latest or 0
    logs = [directory.metrics]
    for life in reversed(lives):
        alive = running and life is lives[-1]
        logs += [os.path.join(directory.path, folder, "metrics.jsonl") for folder in life.rewound]
        reached, lost = None, 0
        if life.origin is not None:
            reached = max(itertools.chain([life.origin], life.steps, _last_steps(directory, logs)))
            lost = 0 if counts_to is None else max(0, reached - max(life.origin, counts_to))
        seconds, useful = life.times(reached, counts_to, (now or utc_now()) if alive else None)
        stop = life.stop or {}
        attempts.append(
            Attempt(
                attempt=life.number,
                host=life.host,
                reason=stop.get("reason", RUNNING if alive else KILLED),
                fault=life.fault if stop.get("exit_code") else None,
                exit_code=stop.get("exit_code"),
                from_step=life.origin,
                to_step=reached,
                steps_lost=lost,
                seconds=seconds,
                useful_seconds=useful,
            )
        )
        if life.origin is not None:
            counts_to = life.origin if counts_to is None else min(counts_to, life.origin)
            logs = []
        logs.append(os.path.join(directory.orphans_of(life.number), "metrics.jsonl"))
    return attempts[::-1]


class _Life:
    """One attempt's lines of the journal.

    Args:
      number: the attempt's.
      entries: its lines, the first of which began it.
      rewound: the folders, within the run directory, into which its records went when the run was rewound.
    """

    def __init__(self, number: int, entries: Iterable[dict[str, Any]], rewound: Iterable[str]) -> None:
        self.number = number
        self.events = list(entries)
        self.rewound = list(rewound)
        self.host: str | None = self._first("start").get("host")
        faults = (entry.get("error") for entry in self.events if entry["event"] == "fault")
        self.fault: str | None = next(filter(None, faults), None)
        self.stop = self._first("stop")
        # The plan is noted when the checkpoint is restored: from here on it trains.
        self.began = self._first("plan")
        self.origin: int | None = self._first("resume").get("step", 0) if self.began else None
        self.steps: dict[int, dict[str, Any]] = {
            entry["step"]: entry for entry in self.events if entry["event"] in _REACHED and "step" in entry
        }

    def times(self, reached: int | None, counts_to: int | None, now: datetime.datetime | None) -> tuple[float, float]:
        """Seconds in all, and those that made steps up to `counts_to` (None: all of them) on the way to `reached`."""
        start, end = _seconds(self.events[0]), _seconds(self.events[-1])
        if now is not None:
            end = max(end, now.timestamp())
        if self.origin is None or reached is None:
            return max(0.0, end - start), 0.0
        began = _seconds(self.began)
        known = max(self.steps, default=self.origin)
        if not self.stop and now is None and self.origin < known < reached:
            # Killed after its last line: its records show how far it came, its pace how long that took.
            there = _seconds(self.steps[known])
            end = max(end, there + (there - began) * (reached - known) / (known - self.origin))
        if counts_to is None or counts_to >= reached:
            until = end
        elif counts_to <= self.origin:
            until = began
        elif counts_to in self.steps:
            until = _seconds(self.steps[counts_to])
        else:
            until = began + (end - began) * (counts_to - self.origin) / (reached - self.origin)
        stalls = sum(
            entry.get("stall_s", 0.0)
            for entry in self.events
            if entry["event"] == "save" and (counts_to is None or entry["step"] <= counts_to)
        )
        return max(0.0, end - start), min(max(0.0, until - began - stalls), max(0.0, end - start))

    def _first(self, event: str) -> dict[str, Any]:
        return next((entry for entry in self.events if entry["event"] == event), {})


def _read_lives(directory: RunDirectory) -> list[_Life]:
    lives: dict[int, list[dict[str, Any]]] = {}
    rewound: dict[int, list[str]] = {}
    for entry in read_journal(directory):
        if entry["event"] == "rewind":
            # It bears the number of the attempt before it, and is no part of that one's life.
            rewound.setdefault(entry["attempt"], []).append(entry["orphans"])
        else:
            lives.setdefault(entry["attempt"], []).append(entry)
    return [_Life(number, lives[number], rewound.get(number, ())) for number in sorted(lives)]


def _is_running(directory: RunDirectory, lives: Sequence[_Life]) -> bool:
    """Whether the last attempt is alive: it has not said that it stopped, and the lock is held since before it."""
    if not lives or lives[-1].stop:
        return False
    holder = _lock_holder(directory.lock)
    # A process that took the lock after this attempt began is its successor, which has not come to its journal yet.
    return holder is not None and holder.get("since", "")[:19] <= lives[-1].events[0]["time"][:19]


def _lock_holder(path: str) -> dict[str, str] | None:
    """What the lock file says of the process that holds it; None when none does.

    A shared lock is tried and let go of at once: the holder of the exclusive one is not disturbed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return dict(json.loads(os.pread(descriptor, 1000, 0)))
        except (ValueError, TypeError):
            return {}  # It is being written.
    finally:
        os.close(descriptor)
    return None


def _last_steps(directory: RunDirectory, logs: Iterable[str]) -> Iterable[int]:
    """The step of the last whole record of each of the `logs` that is there and has one."""
    for path in logs:
        try:
            step = last_step(directory.files.read_tail(path, _TAIL_BYTES))
        except FileNotFoundError:
            continue
        if step is not None:
            yield step


def _seconds(entry: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp()
