"""What a run directory holds: its checkpoints, each with the records that belong to it, and its attempts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.checkpoint.retention import kept_checkpoints
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo
from trainer.views.attempts import Attempt, goodput, read_attempts


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
    """The best step so far by the monitored metric; its path is None when it was not kept."""
    attempts: Sequence[Attempt]
    checkpoints: Sequence[Row]
    """Oldest first."""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "run": dict(self.run),
            "latest": self.latest,
            "best": self.best and dict(self.best),
            "goodput": goodput(self.attempts),
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "checkpoints": [row.to_json() for row in self.checkpoints],
        }


def read_status(run_dir: str) -> Status:
    """Reads a run directory, which a trainer may be writing at the same time.

    Raises:
      Unusable: it is not there, is no run directory, or cannot be read.
    """
    directory = RunDirectory(run_dir)
    if not os.path.isdir(run_dir):
        what = "is a file" if os.path.exists(run_dir) else "does not exist"
        raise Unusable(f"{run_dir or repr(run_dir)} {what}; expected a run directory, such as runs/digits")
    try:
        info = RunInfo.load(directory)
        if not (info or directory.files.exists(directory.metrics) or directory.committed_steps()):
            raise Unusable(
                f"{run_dir} is no run directory: it has no run.json, no metric log and no checkpoint; "
                "expected the run_dir of a training command"
            )
        return _read(directory, info)
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{run_dir} cannot be read ({error}); mend it, or its permissions") from error


def _read(directory: RunDirectory, info: RunInfo | None) -> Status:
    flags = read_flags(directory)
    rows = [row for step in sorted(directory.committed_steps()) if (row := _read_row(directory, step))]
    manifests = {row.step: row.manifest for row in rows if row.manifest}
    latest = max(manifests, default=None)
    best: dict[str, Any] | None = None
    best_steps: list[int] = []
    if latest is not None:
        rankings = _rankings(manifests[latest])
        metric = flags.get("monitor", "")
        if metric not in rankings:
            metric = next(iter(rankings), "")
        ranking = rankings.get(metric, [])
        if ranking:
            value, step = ranking[0]
            path = directory.checkpoint(step) if step in manifests else None
            best = {"metric": metric, "value": value, "step": step, "path": path}
        best_steps = [step for _, step in ranking][: _number(flags.get("keep_best"))]
    attempts = read_attempts(directory, latest=latest)
    kept = kept_checkpoints(
        manifests.values(),
        # Without flags, as beside someone's own loop, it is not known how many of the newest stay.
        keep_last=_number(flags.get("keep_last")),
        best_steps=best_steps,
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
    return Status(
        run=run,
        latest=latest,
        best=best,
        attempts=attempts,
        checkpoints=[dataclasses.replace(row, kept_by=kept.get(row.step, ())) for row in rows],
    )


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
    for ranking in _rankings(manifest).values():
        counts += [step for _, step in ranking]
        numbers += [value for value, _ in ranking]
    if not all(isinstance(reason, str) for reason in manifest.reasons):
        raise ValueError(f"its manifest has {list(manifest.reasons)} for the reasons")
    for count in counts:
        if type(count) is not int:
            raise ValueError(f"its manifest has {count!r} for a count")
    for number in numbers:
        if number is not None and (isinstance(number, bool) or not math.isfinite(number)):
            raise ValueError(f"its manifest has {number!r} for a number")


def _rankings(manifest: Manifest) -> dict[str, list[tuple[float, int]]]:
    """The best values and their steps, best first, for each metric that was monitored."""
    best = manifest.control.get("best", {})
    return {metric: [(known["value"], known["step"]) for known in ranking] for metric, ranking in best.items()}


def window_of(manifest: Manifest) -> tuple[int, int]:
    """The train window of a checkpoint that has one."""
    start, end = (manifest.train or {})["window"]
    return start, end


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
