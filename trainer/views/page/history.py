"""All that the report tells of one run directory, read once."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.views.attempts import Attempt
from trainer.views.marks import Mark, marks_between
from trainer.views.page.later import later_curves
from trainer.views.page.pace import Pace, read_pace
from trainer.views.page.series import Curve, Series, read_series
from trainer.views.status import Status, read_status
from trainer.views.waterfall import terms_of

_EXPLANATION = re.compile(r"step-.*\.json", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class History:
    """One run, as its directory tells it."""

    name: str
    """What it is called in legends and headings."""
    path: str
    status: Status
    series: Series
    later: Mapping[str, Mapping[str, Curve]]
    """What `trainer.evaluate` has measured, by split and metric."""
    marks: Sequence[Mark]
    pace: Pace
    explanations: Mapping[str, Mapping[str, Any]]
    """What `trainer.explain` has written, by the name of its file."""
    flags: Mapping[str, str]
    warnings: Sequence[str]
    """What could not be shown, one line each."""

    @property
    def evaluations(self) -> Mapping[str, Mapping[str, Curve]]:
        """All evaluations by split and metric, the run's own first."""
        return {**self.series.evaluations, **self.later}

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, in the order in which the records have them."""
        names = [name for known in self.evaluations.values() for name in known]
        return list(dict.fromkeys([*self.series.train, *names]))

    @property
    def last_step(self) -> int:
        """The last step that anything is known of."""
        reached = [attempt.to_step or 0 for attempt in self.status.attempts]
        saved = [row.step for row in self.status.checkpoints]
        return max([self.series.last_step, *reached, *saved, *(mark.step for mark in self.marks)])

    @property
    def bands(self) -> list[Attempt]:
        """The attempts that trained, in order."""
        return [attempt for attempt in self.status.attempts if attempt.from_step is not None]

    def to_json(self) -> dict[str, Any]:
        """What scripts are told of it."""
        return {
            "name": self.name,
            "path": self.path,
            "step": self.last_step,
            "records": self.series.records,
            "checkpoints": len(self.status.checkpoints),
            "attempts": len(self.status.attempts),
            "explanations": list(self.explanations),
            "warnings": list(self.warnings),
        }


def read_histories(run_dirs: Sequence[str]) -> list[History]:
    """Reads run directories, which trainers may be writing at the same time.

    Raises:
      Unusable: one of them is not there, is no run directory, or cannot be read.
    """
    return [read_history(path, name) for path, name in zip(run_dirs, _names(run_dirs), strict=True)]


def read_history(path: str, name: str) -> History:
    """Reads one run directory.

    Raises:
      Unusable: it is not there, is no run directory, or cannot be read.
    """
    directory = RunDirectory(path)
    status = read_status(path)
    try:
        series = read_series(directory)
        explanations, garbled = _read_explanations(directory)
        marks, pace, flags = marks_between(directory, ()), read_pace(directory), read_flags(directory)
        later = later_curves(directory, status, marks, series.evaluations)
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} cannot be read ({error}); mend it, or its permissions") from error
    warnings = [
        f"the checkpoint of step {row.step} is damaged: {row.damage}" for row in status.checkpoints if row.damage
    ]
    if series.damaged:
        lines = f"{series.damaged} line{'' if series.damaged == 1 else 's'}"
        warnings.append(f"{lines} of {directory.metrics} left out, the first is line {series.first_damaged}: no record")
    return History(name, path, status, series, later, marks, pace, explanations, flags, [*warnings, *garbled])


def _names(run_dirs: Sequence[str]) -> list[str]:
    """A name for each: that of its folder, or its path where two folders have the same."""
    short = [os.path.basename(os.path.abspath(path)) or path for path in run_dirs]
    return [name if short.count(name) == 1 else path for name, path in zip(short, run_dirs, strict=True)]


def _read_explanations(directory: RunDirectory) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The explanations by the name of their file; and of those that cannot be shown, why."""
    found, garbled = {}, []
    for name in directory.files.list(directory.explanations):
        if not _EXPLANATION.fullmatch(name):
            continue
        path = os.path.join(directory.explanations, name)
        try:
            explanation = json.loads(directory.files.read(path))
            terms_of(explanation)
        except (ValueError, RecursionError) as error:
            garbled.append(f"{path} is no explanation: {error}")
        else:
            found[name] = explanation
    return found, garbled
