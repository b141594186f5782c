"""How a run ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from trainer.decide.measured import measured
from trainer.decide.monitor import Monitor
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.run.assembly import Assembly
from trainer.run.loop import Stop
from trainer.timeline.cadence import Progress


@dataclasses.dataclass(frozen=True)
class SavedStep:
    """A checkpoint: its step, its folder, and the monitored value where one was measured there."""

    step: int
    path: str
    value: float | None = None
    relation: str | None = None
    """How the value relates to its weights: `exact`, measured on them, or `window`, a mean over earlier ones."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    run_dir: str
    step: int
    examples: int
    epoch: float | None
    reason: str
    """`target reached`, `early stop`, `data ended`, `nothing to do`, `preempted`, `interrupted` or `dry run`."""
    exit_code: int
    """What a process exits with for it."""
    saved: bool
    """Whether the checkpoint of `step` is committed."""
    monitor: str
    """The metric by which `best` is the best."""
    best: SavedStep | None
    """The best step so far; its folder exists when `keep_best` is at least 1."""
    best_by: Mapping[str, SavedStep]
    """The best step by each monitored metric, the first one included."""
    last: SavedStep | None

    @property
    def records(self) -> list[Record]:
        """Every record of the metric log, read when asked for."""
        return read_records(RunDirectory(self.run_dir))


def result_of(
    directory: RunDirectory, parts: Assembly, stop: Stop, *, latest: Manifest | None, now: Progress
) -> Result:
    """The result of a run.

    Args:
      directory: where it is.
      parts: what it was made of, with its decisions.
      stop: why it ended.
      latest: the newest checkpoint's manifest.
      now: where it stands.
    """
    first = parts.decisions.best.monitor
    best_by = {
        ranked.monitor.metric: SavedStep(
            best.step, directory.checkpoint(best.step), best.value, ranked.monitor.relation
        )
        for ranked in parts.decisions.rankings
        for best in ranked.ranking[:1]
    }
    return Result(
        run_dir=directory.path,
        step=now.step,
        examples=now.examples,
        epoch=parts.schedule.epoch(now.examples),
        reason=stop.reason,
        exit_code=stop.exit_code,
        saved=latest is not None and latest.step == now.step,
        monitor=first.metric,
        best=best_by.get(first.metric),
        best_by=best_by,
        last=_saved(directory, latest, first) if latest else None,
    )


def _saved(directory: RunDirectory, manifest: Manifest, monitor: Monitor) -> SavedStep:
    """A committed checkpoint, with the monitored metric where a record that ends at its step has it."""
    path, metric = directory.checkpoint(manifest.step), measured(manifest, monitor.metric)
    if metric is None or metric.value is None or metric.step != manifest.step:
        return SavedStep(manifest.step, path)
    return SavedStep(manifest.step, path, metric.value, metric.relation)
