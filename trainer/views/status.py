"""What a run directory holds: its checkpoints, each with the records that belong to it, and its attempts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.checkpoint.retention import kept_checkpoints
from trainer.decide.monitor import relation_of
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory, check_folder, no_run_directory
from trainer.ledger.evaluations import Evaluation, checkpoint_identity, group_evaluations
from trainer.ledger.flagfile import read_flags
from trainer.ledger.manifest import BadManifest, Manifest, eval_relation
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import read_segments
from trainer.views.attempts import Attempt, goodput, read_attempts
from trainer.views.times import sum_of


@dataclasses.dataclass(frozen=True)
class Row:
    """A committed checkpoint."""

    step: int
    path: str
    manifest: Manifest | None
    """None when it is damaged."""
    damage: str | None = None
    """What is wrong with it."""
    kept_by: tuple[str, ...] = ()
    """Every reason why it is not deleted; none for one that the next save deletes."""
    evaluations: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The newest later evaluation of each split, as a manifest tells those of the run itself, and of what data."""

    def to_json(self) -> dict[str, Any]:
        """What scripts are told of it; a damaged one says so under a key of its own."""
        manifest = self.manifest
        value: dict[str, Any] = {
            "step": self.step,
            "examples": manifest and manifest.examples,
            "epoch": manifest and manifest.epoch,
            "reasons": list(manifest.reasons) if manifest else [],
            "transient": manifest is not None and manifest.transient,
            "kept_by": list(self.kept_by),
            "train": manifest and manifest.train,
            "eval": manifest.eval if manifest else {},
            "evaluations": dict(self.evaluations),
            "bytes": manifest and manifest.size,
            "path": self.path,
        }
        return value if self.damage is None else {**value, "damaged": self.damage}


@dataclasses.dataclass(frozen=True)
class Status:
    """What a run directory holds."""

    run: Mapping[str, Any]
    """Its path, and what identifies the run: the content of `run.json`."""
    latest: int | None
    """The step of the newest usable checkpoint."""
    best: Mapping[str, Any] | None
    """The best step so far, which is that by the first monitored metric; its path is None when it was not kept."""
    best_by: Sequence[Mapping[str, Any]]
    """The best step so far by each monitored metric that was measured."""
    attempts: Sequence[Attempt]
    checkpoints: Sequence[Row]
    """Oldest first."""
    evaluations: Mapping[str, int]
    """How many were made later: `lines`, of these `gone`, of no checkpoint that is there, and those on `other_data`."""

    @property
    def times(self) -> dict[str, float] | None:
        """Where the time of all attempts went, of those that told; None where none did."""
        return sum_of(attempt.times for attempt in self.attempts)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "run": dict(self.run),
            "latest": self.latest,
            "best": self.best and dict(self.best),
            "goodput": goodput(self.attempts),
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "checkpoints": [row.to_json() for row in self.checkpoints],
            "evaluations": dict(self.evaluations),
            "best_by": [dict(best) for best in self.best_by],
            "times": self.times,
        }


def read_status(run_dir: str) -> Status:
    """Reads a run directory, which a trainer may be writing at the same time.

    Raises:
      Unusable: it is not there, is no run directory, or cannot be read.
    """
    directory = RunDirectory(run_dir)
    check_folder(run_dir)
    try:
        info = RunInfo.load(directory)
        if not (info or directory.files.exists(directory.metrics) or directory.committed_steps()):
            raise no_run_directory(run_dir, "no run.json, no metric log and no checkpoint")
        return _read(directory, info)
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{run_dir} cannot be read ({error}); mend it, or its permissions") from error


def _read(directory: RunDirectory, info: RunInfo | None) -> Status:
    flags = read_flags(directory)
    rows = [row for step in sorted(directory.committed_steps()) if (row := _read_row(directory, step))]
    manifests = {row.step: row.manifest for row in rows if row.manifest}
    latest = max(manifests, default=None)
    rankings = manifests[latest].rankings if latest is not None else {}
    best_by = [
        {
            "metric": metric,
            "value": value,
            "step": step,
            "path": directory.checkpoint(step) if step in manifests else None,
            "relation": relation_of(metric),
        }
        for metric, ranking in rankings.items()
        for value, step in ranking[:1]
    ]
    keep_best = _number(flags.get("keep_best"))
    attempts = read_attempts(directory, latest=latest)
    kept = kept_checkpoints(
        manifests.values(),
        # Without flags, as beside someone's own loop, it is not known how many of the newest stay.
        keep_last=_number(flags.get("keep_last")),
        best_steps={step for ranking in rankings.values() for _, step in ranking[:keep_best]},
        # The checkpoint that an attempt resumed from stays while that attempt has not come to its end.
        resumed_from=attempts[-1].from_step if attempts and attempts[-1].exit_code is None else None,
    )
    run = {"path": directory.path, "run_id": None, "experiment": None, "seed": None}
    if info:
        run.update(dataclasses.asdict(info))
    elif latest is not None:
        run["run_id"] = manifests[latest].run
    if latest is not None:
        run["segments"] = manifests[latest].control.get("segments", [])
    later = group_evaluations(directory, manifests, info)
    return Status(
        run=run,
        latest=latest,
        best=next((best for best in best_by if best["metric"] == next(iter(rankings))), None),
        best_by=best_by,
        attempts=attempts,
        checkpoints=[
            dataclasses.replace(
                row, kept_by=kept.get(row.step, ()), evaluations=_told(later.of.get(row.step, {}), row.step)
            )
            for row in rows
        ],
        evaluations={"lines": later.lines, "gone": later.gone, "other_data": len(later.other_data)},
    )


def _told(made: Mapping[str, Evaluation], step: int) -> dict[str, Any]:
    """What was evaluated later of the checkpoint of `step`, by split."""
    told = eval_relation({split: evaluation.record for split, evaluation in made.items()}, step)
    return {split: {**known, "fingerprint": made[split].fingerprint} for split, known in told.items()}


def _read_row(directory: RunDirectory, step: int) -> Row | None:
    """The checkpoint of `step`; None when it is deleted while we read it."""
    path = directory.checkpoint(step)
    try:
        manifest = Manifest.load(directory, step)
        _check(manifest)
    except (OSError, ValueError) as error:
        reason = str(error)
    except (TypeError, KeyError, AttributeError) as error:
        reason = f"its manifest lacks or garbles {error}"
    else:
        return Row(step, path, manifest)
    # The manifest is the first of its files to go, so one that is still there is that of a damaged checkpoint.
    return Row(step, path, None, reason) if directory.files.exists(directory.manifest(step)) else None


def _check(manifest: Manifest) -> None:
    """Raises where a section that is shown is not what its format says; only someone else's hand makes it so."""
    counts: list[Any] = []
    numbers: list[Any] = [manifest.epoch]
    if manifest.train is not None:
        counts += [manifest.train["lag"], *window_of(manifest)]
        numbers += manifest.train["metrics"].values()
    for known in manifest.eval.values():
        counts += [known["age"], known["step"]]
        numbers += known["metrics"].values()
    for ranking in manifest.rankings.values():
        counts += [step for _, step in ranking]
        numbers += [value for value, _ in ranking]
    checkpoint_identity(manifest)
    try:
        read_segments(manifest)
    except Unusable as error:
        raise BadManifest(str(error)) from error
    if not all(isinstance(reason, str) for reason in manifest.reasons):
        raise ValueError(f"its manifest has {list(manifest.reasons)} for the reasons")
    for count in counts:
        if type(count) is not int:
            raise ValueError(f"its manifest has {count!r} for a count")
    for number in numbers:
        if number is not None and (isinstance(number, bool) or not math.isfinite(number)):
            raise ValueError(f"its manifest has {number!r} for a number")


def window_of(manifest: Manifest) -> tuple[int, int]:
    """The train window of a checkpoint that has one."""
    start, end = (manifest.train or {})["window"]
    return start, end


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
