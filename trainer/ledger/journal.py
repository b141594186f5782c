"""The journal: what happened and when. Append-only, never cut."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

from trainer.ledger.directory import RunDirectory
from trainer.ledger.record import compact_json

PARTS = START, RESTORE, STEP, DATA_WAIT, LOG, EVALUATE, SAVE = (
    "start",
    "restore",
    "step",
    "data_wait",
    "log",
    "evaluation",
    "save",
)
"""What an attempt spends its time on: the keys of the `seconds` of a `times` and of a `stop`, in their order."""
TOTAL = "total"
"""Their last key: the parts, and what belongs to none."""

_TAIL_BYTES = 1 << 16
_LONGEST_S = 1e9

_NEEDED = {
    "save": ("step",),
    "evaluate": ("step",),
    "resume": ("step",),
    "rewind": ("orphans",),
    "times": ("step", "seconds"),
}
"""What readers count on in the line of an event, beside what each line has."""
_KINDS: dict[str, tuple[type, ...]] = {
    "attempt": (int,),
    "event": (str,),
    "step": (int, type(None)),
    "orphans": (str,),
    "reason": (str,),
    "exit_code": (int,),
    "stall_s": (int, float),
    "error": (str,),
    "host": (str,),
}


def utc_now() -> datetime.datetime:
    """The wall clock."""
    return datetime.datetime.now(datetime.timezone.utc)


class Journal:
    """Writes the journal of one attempt.

    Args:
      directory: the run directory, which exists.
      now: the wall clock.
      attempt: the number that its lines bear; by default that of a new attempt, which follows the last one found.
    """

    def __init__(
        self,
        directory: RunDirectory,
        now: Callable[[], datetime.datetime] = utc_now,
        *,
        attempt: int | None = None,
    ) -> None:
        self._path = directory.journal
        self._files = directory.files
        self._now = now
        self.attempt = last_attempt(directory) + 1 if attempt is None else attempt
        tail = self._files.read_tail(self._path, 1) if self._files.exists(self._path) else b""
        if tail not in (b"", b"\n"):
            # A line torn by a kill: ended, so that the next one stands alone.
            self._files.append(self._path, b"\n")

    def write(self, event: str, **details: Any) -> None:
        """Adds a line: the time, the attempt, `event` and `details`, which are JSON values."""
        time = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = compact_json({"time": time, "attempt": self.attempt, "event": event, **details})
        self._files.append(self._path, line.encode() + b"\n")

    def sync(self) -> None:
        """Makes what was written durable."""
        self._files.sync(self._path)


class NoJournal:
    """Where nothing is noted: beside a loop of one's own."""

    attempt = 0

    def write(self, event: str, **details: Any) -> None:
        """Notes nothing."""


def last_attempt(directory: RunDirectory) -> int:
    """The number of the newest attempt in the journal; 0 when there is none."""
    if not directory.files.exists(directory.journal):
        return 0
    lines = directory.files.read_tail(directory.journal, _TAIL_BYTES).splitlines()
    # A line longer than the tail hides those before it: then all are read.
    entries = [entry for entry in map(_parse, lines) if entry] or read_journal(directory)
    return max((entry["attempt"] for entry in entries), default=0)


def last_stop(directory: RunDirectory) -> dict[str, Any] | None:
    """The line of the journal that ended the last attempt; None while that runs, or when it was killed."""
    if not directory.files.exists(directory.journal):
        return None
    # An attempt's last line: what follows it, but for a rewind, is another attempt.
    for line in reversed(directory.files.read_tail(directory.journal, _TAIL_BYTES).splitlines()):
        entry = _parse(line)
        if entry is None or entry["event"] != "rewind":
            return entry if entry and entry["event"] == "stop" else None
    return None


def last_entries(directory: RunDirectory, event: str) -> list[dict[str, Any]]:
    """The newest lines of an event, oldest first; some of them, where there are many."""
    if not directory.files.exists(directory.journal):
        return []
    lines = directory.files.read_tail(directory.journal, _TAIL_BYTES).splitlines()
    return [entry for entry in map(_parse, lines) if entry and entry["event"] == event]


def save_seconds(entry: Mapping[str, Any]) -> float:
    """How long a save took that a line tells of: the copy of the variables, the writing, the commit.

    Raises:
      TypeError: it tells something else.
      ValueError: or what no process can have measured.
    """
    seconds = [entry.get(name, 0.0) for name in ("snapshot_s", "write_s", "commit_s")]
    if not all(0 <= taken < _LONGEST_S for taken in seconds):
        raise ValueError(f"{seconds} are no seconds")
    return float(sum(seconds))


def read_journal(directory: RunDirectory) -> list[dict[str, Any]]:
    """Every line of the journal that is whole, in order."""
    if not directory.files.exists(directory.journal):
        return []
    return [entry for line in directory.files.read(directory.journal).splitlines() if (entry := _parse(line))]


def _parse(line: bytes) -> dict[str, Any] | None:
    """The entry of one line; None for a line torn by a kill, or damaged so that it cannot be relied on."""
    try:
        entry = json.loads(line)
        if datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).tzinfo is None:
            return None
        needed = {"attempt", "event", *_NEEDED.get(entry["event"], ())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    whole = (
        needed <= entry.keys()
        and all(isinstance(entry[name], kinds) for name, kinds in _KINDS.items() if name in entry)
        and not ("step" in needed and entry["step"] is None)
    )
    return entry if whole else None
