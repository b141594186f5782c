"""The doctor: everything that can be known of an experiment before a long job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.proof.build import build
from trainer.proof.findings import KINDS, Finding
from trainer.proof.fresh import MakeExperiment
from trainer.proof.jit import measure_modes
from trainer.proof.options import cadences
from trainer.proof.runs import examine_runs
from trainer.proof.traces import examine_traces, prints


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What the doctor found."""

    findings: tuple[Finding, ...]
    """In the order of `KINDS`; empty for a healthy experiment."""
    jit: Mapping[str, Any]
    """As `measure_modes` returns it; empty where the experiment cannot be built."""
    warnings: tuple[str, ...] = ()
    """What is no fault and yet worth a line."""

    def to_json(self) -> dict[str, Any]:
        """The one object that scripts see."""
        findings = [finding.to_json() for finding in self.findings]
        return {"ok": not findings, "findings": findings, "jit": dict(self.jit)}


def examine(make: MakeExperiment, *, steps: int, options: Mapping[str, Any], folder: str) -> Diagnosis:
    """Examines an experiment: its traces first, then short runs, then the ways to compile it.

    Args:
      make: makes the experiment, a new one at each call.
      steps: how long the runs are that prove it resumes exactly.
      options: the trainer's options that the user gave, none of `SET_HERE` among them.
      folder: an empty folder to work in.
    """
    settings = {**cadences(steps, (1,)), **options}
    built = build(make, settings)
    if isinstance(built, Finding):
        return Diagnosis((built,), {})
    findings = [*examine_traces(built, make()), *examine_runs(make, steps=steps, options=options, folder=folder)]
    findings.sort(key=lambda finding: KINDS.index(finding.kind))
    return Diagnosis(tuple(dict.fromkeys(findings)), measure_modes(make, settings, folder), tuple(prints(built.watch)))
