"""The attempts of a run, as its journal tells them: how far each came, how it ended, and what it was worth."""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.errors import EXIT_DONE
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import RESTORE, utc_now
from trainer.ledger.log import last_step
from trainer.views.lives import Life, read_lives

RUNNING, KILLED = "running", "killed"

_TAIL_BYTES = 1 << 16


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
    """From the start of its process, or where that is not told from its first line in the journal, to its last sign of
    life."""
    useful_seconds: float
    """What of `seconds` made steps that count: nothing but training, and nothing that was lost."""
    signal: str | None = None
    """The name of the signal that it obeyed and stopped, or `max_runtime`; None where nothing asked."""
    message: str | None = None
    """What the error said."""
    recover_s: float | None = None
    """Seconds from the last sign of life of the attempt that was interrupted before it to its own first step beyond
    those of that one; None where none was interrupted, and where it never came so far."""
    times: Mapping[str, float] | None = None
    """Where its time went, as far as it told: seconds of each part, and the `total`."""
    first_step_s: float | None = None
    """Seconds from the start of its process to the end of its first step; None where it did not tell of one."""

    @property
    def cause(self) -> str | None:
        """What ended it: the signal, or the error and what it said; None where it came to its end, or was killed."""
        if self.fault:
            return f"{self.fault}: {self.message}" if self.message else self.fault
        return self.signal

    def to_json(self) -> dict[str, Any]:
        """What scripts are told of it."""
        names = ("attempt", "reason", "exit_code", "from_step", "to_step", "steps_lost", "host", "cause")
        value = {name: getattr(self, name) for name in names}
        times = None if self.times is None else dict(self.times)
        spent = {"seconds": round(self.seconds, 6), "recover_s": self.recover_s, "first_step_s": self.first_step_s}
        restore = None if times is None else times[RESTORE]
        return {**value, **spent, "restore_s": restore, "times": times}


def goodput(attempts: Sequence[Attempt]) -> float | None:
    """The share of the attempts' wall time that made steps which count; None when no time is known.

    As the journal knows it: where it does not tell how old the process was, an attempt begins when it is noted there.
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
    lives = read_lives(directory)
    running = _is_running(directory, lives)
    if lives and not lives[-1].stop and not running:
        lives = read_lives(directory)  # It may have come to its end between the two looks.
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
        began, ended = life.span(reached, (now or utc_now()) if alive else None)
        stop, fault = life.stop, life.fault
        attempts.append(
            Attempt(
                attempt=life.number,
                host=life.host,
                reason=stop.get("reason", RUNNING if alive else KILLED),
                fault=fault.get("error"),
                exit_code=stop.get("exit_code"),
                from_step=life.origin,
                to_step=reached,
                steps_lost=lost,
                seconds=ended - began,
                useful_seconds=min(life.useful(reached, counts_to, ended, running=alive), ended - began),
                signal=life.signal,
                message=str(fault["message"]) if "message" in fault else None,
                times=life.times,
                first_step_s=life.first_step_s,
            )
        )
        if life.origin is not None:
            counts_to = life.origin if counts_to is None else min(counts_to, life.origin)
            logs = []
        logs.append(os.path.join(directory.orphans_of(life.number), "metrics.jsonl"))
    return _recovered(attempts[::-1], lives)


def _recovered(attempts: Sequence[Attempt], lives: Sequence[Life]) -> list[Attempt]:
    """The attempts, each with how long it took to be beyond where the run had been interrupted."""
    told: list[Attempt] = []
    reached = 0
    since: float | None = None
    """When the run was interrupted, at `reached`; None while it has not been."""
    for attempt, life in zip(attempts, lives, strict=True):
        ended = life.started + attempt.seconds
        if since is not None and attempt.to_step is not None:
            known = {} if attempt.reason == RUNNING else {attempt.to_step: ended}
            passed = life.passed(reached, known)
            if passed is None:
                reached = max(reached, attempt.to_step)
            else:
                attempt = dataclasses.replace(attempt, recover_s=round(max(0.0, passed - since), 3))
                since = None
        told.append(attempt)
        if life.rewound or attempt.exit_code == EXIT_DONE:
            # What comes next was decided by someone, and is no recovery.
            since = None
        elif since is None and attempt.to_step is not None:
            since, reached = ended, attempt.to_step
    return told


def _is_running(directory: RunDirectory, lives: Sequence[Life]) -> bool:
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
