"""The checkpoints of a run's history, each with the window in which it lies: those that are there, and the pruned."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import RUN_REASONS, Manifest, load_manifests
from trainer.ledger.record import Number, Record


@dataclasses.dataclass(frozen=True)
class Mark:
    """A checkpoint as the picture shows it."""

    step: int
    window_start: int
    """Where the window that was open at `step` begins; `step` itself when the checkpoint ends a window."""
    kept: bool
    """Whether it is still there; otherwise retention has pruned it."""
    transient: bool = False
    best: str | None = None
    """The monitored metric by which it is the best checkpoint, if it is."""
    partial: Number = None
    """The mean over the open part of the window, where the manifest is there to tell."""

    @property
    def lag(self) -> int:
        """Steps trained since the newest train record."""
        return self.step - self.window_start

    @property
    def kind(self) -> str:
        """Which of the looks it has."""
        if self.kept and self.best:
            return "best"
        if self.transient:
            return "transient" if self.kept else "pruned-transient"
        return "kept" if self.kept else "pruned"


def checkpoint_marks(directory: RunDirectory, records: Sequence[Record], *, metric: str = "loss") -> list[Mark]:
    """As `marks_between`, from the records of the run."""
    return marks_between(directory, [record.step for record in records if record.kind == "train"], metric=metric)


def marks_between(directory: RunDirectory, ends: Iterable[int], *, metric: str = "loss") -> list[Mark]:
    """The checkpoints of the run's history, oldest first: those that are there, and those that were pruned.

    Args:
      directory: the run directory.
      ends: the steps at which its train windows end.
      metric: whose mean over the open part of a window is wanted.
    """
    # One that is damaged, or pruned by a running trainer while we look, is none that can be used.
    manifests, _ = load_manifests(directory)
    there = set(directory.step_folders())
    known = {step: reasons for step, reasons in _saves(directory).items() if step not in there}
    known |= {step: manifest.reasons for step, manifest in manifests.items()}
    best = _best(manifests)
    borders = [0, *sorted(ends)]
    marks = []
    for step, reasons in sorted(known.items()):
        manifest = manifests.get(step)
        # Without its manifest, a checkpoint's open window is the one that no record up to it had closed.
        closed = borders[bisect.bisect_right(borders, step) - 1]
        open_window: Mapping[str, Any] = manifest.open_window if manifest else {"from": closed}
        marks.append(
            Mark(
                step=step,
                window_start=open_window["from"],
                kept=manifest is not None,
                transient=bool(reasons) and not RUN_REASONS.intersection(reasons),
                best=best.get(step) if manifest else None,
                partial=open_window.get("metrics", {}).get(metric),
            )
        )
    return marks


def _saves(directory: RunDirectory) -> dict[int, Sequence[str]]:
    """The reasons of every save that the journal tells of and that no resume has undone."""
    saves: dict[int, Sequence[str]] = {}
    for entry in read_journal(directory):
        match entry:
            case {"event": "save", "step": int(step)}:
                saves[step] = entry.get("reasons", ())
            case {"event": "prune", "steps": [*steps]} if entry.get("why") != "unfinished":
                # A save that a kill kept out of the journal is only known from here, without its reasons.
                for step in steps:
                    saves.setdefault(step, ())
            case {"event": "quarantine", "step": int(step)}:
                saves.pop(step, None)
            case {"event": "resume" | "rewind", "step": int(newest)}:
                saves = {step: reasons for step, reasons in saves.items() if step <= newest}
    return saves


def _best(manifests: Mapping[int, Manifest]) -> dict[int, str]:
    """The best step by the newest manifest, with the metric that decides."""
    rankings = manifests[max(manifests)].rankings if manifests else {}
    return {ranking[0][1]: monitor for monitor, ranking in rankings.items() if ranking}
