"""The legs of a run: the stretches of its steps that were trained with the same flags, as its journal tells them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest
from trainer.ledger.segments import read_segments
from trainer.run.config import Config
from trainer.run.experiment import FREE

_ELSEWHERE = ("init_from",)
"""Flags that are warned of when they change, and yet say nothing of what comes next."""
OF_THE_COURSE = frozenset(
    item.name
    for item in dataclasses.fields(Config)
    if item.name == "train_for" or (item.metadata["on_resume"] != FREE and item.name not in _ELSEWHERE)
)
"""The flags on which it depends what a run logs, evaluates, saves and computes."""


@dataclasses.dataclass(frozen=True)
class Leg:
    """The steps `start`+1 … `end`, all trained with the same flags."""

    flags: Mapping[str, Any]
    """The fields of `Config` and `experiment`, as JSON values; what an older version did not have is not among them."""
    start: int
    end: int
    attempt: int
    """The first attempt that made some of it; 0 where no attempt is known."""
    noted: bool = True
    """Whether the journal has the flags; otherwise they are those of the last attempt, from `flags.txt`."""

    def config(self, epoch_examples: int | None) -> Config:
        """The configuration; an epoch that no flag gives has `epoch_examples`, as `run.json` keeps it.

        Raises:
          ConfigError: the flags are none.
        """
        names = {item.name for item in dataclasses.fields(Config)}
        flags = {name: value for name, value in self.flags.items() if name in names}
        if flags.get("epoch_examples") is None:
            flags["epoch_examples"] = epoch_examples
        return Config(**flags)


def legs_of(directory: RunDirectory, manifest: Manifest | None, *, until: int | None = None) -> tuple[Leg, ...]:
    """The legs that led to a checkpoint, oldest first, from step 0 on; at least one.

    Steps that were trained and cut again are in none of them.

    Args:
      directory: the run's.
      manifest: the checkpoint's; None for a run that has none.
      until: where the last leg ends; by default at the checkpoint.

    Raises:
      OSError: the journal or the flags cannot be read.
      Unusable: the manifest garbles the segments.
    """
    end = manifest.step if manifest else 0
    return join(
        stretches(read_journal(directory), typed_flags(read_flags(directory)), end if until is None else until),
        borders=[segment.step for segment in read_segments(manifest)],
    )


def stretches(entries: Iterable[Mapping[str, Any]], flags: Mapping[str, Any], end: int) -> tuple[Leg, ...]:
    """What each attempt has made of the steps up to `end`, oldest first: a leg for each, whatever its flags.

    Args:
      entries: those of the journal, in order.
      flags: what stands in for flags that the journal does not have.
      end: the last step.
    """
    lives: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["event"] != "rewind":  # It bears the number of the attempt before it, and is no part of its life.
            lives.setdefault(entry["attempt"], []).append(entry)
    found: list[Leg] = []
    for number in sorted(lives):
        events = {entry["event"]: entry for entry in reversed(lives[number])}
        if "plan" not in events:
            continue  # It ended before it trained.
        resumed = "resume" in events
        origin = events["resume"]["step"] if resumed else 0
        known = events.get("start", {}).get("flags")
        noted = isinstance(known, dict)
        earlier = [dataclasses.replace(leg, end=min(leg.end, origin)) for leg in found] if resumed else []
        # What the first attempt did at step 0 is a leg of its own, though it has no step.
        found = [leg for leg in earlier if leg.start < leg.end or leg is earlier[0]]
        if (reached := found[-1].end if found else 0) < origin:
            found.append(Leg(flags, reached, origin, 0, noted=False))
        found.append(Leg(known if noted else flags, origin, max(origin, end), number, noted))
    found = [dataclasses.replace(leg, end=min(leg.end, end)) for leg in found if leg.start < end or leg is found[0]]
    return tuple(found) or (Leg(flags, 0, end, 0, noted=False),)


def join(legs: Sequence[Leg], *, borders: Collection[int] = ()) -> tuple[Leg, ...]:
    """The legs, of which neighbours with the same flags are one, but where a segment begins between them."""
    joined: list[Leg] = []
    for leg in legs:
        before = joined[-1] if joined else None
        if before and before.noted == leg.noted and leg.start not in borders and _course(before) == _course(leg):
            joined[-1] = dataclasses.replace(before, end=leg.end)
        else:
            joined.append(leg)
    return tuple(joined)


def typed_flags(texts: Mapping[str, str]) -> dict[str, Any]:
    """The flags of a flagfile, with the types that the configuration has them in; those that have none are left out."""
    hints = typing.get_type_hints(Config)
    typed: dict[str, Any] = {}
    for name, text in texts.items():
        kinds = typing.get_args(hints[name]) or (hints[name],) if name in hints else (str,)
        try:
            typed[name] = next(read(text) for kind, read in _READERS.items() if kind in kinds)
        except ValueError:
            continue  # Not as it was written: then the default stands.
    return typed


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


_READERS: dict[type, typing.Callable[[str], Any]] = {bool: _truth, int: int, float: float, str: str}


def _course(leg: Leg) -> dict[str, Any]:
    """The flags that the course depends on, with defaults for what an older version did not have."""
    defaults = {item.name: item.default for item in dataclasses.fields(Config)}
    return {name: leg.flags.get(name, defaults[name]) for name in OF_THE_COURSE}
