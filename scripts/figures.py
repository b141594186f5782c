"""Figures of a benchmark: a table for people, JSON for scripts, and whether each target is met."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    target: float
    """The most that it may be."""
    unit: str
    detail: str

    @property
    def met(self) -> bool:
        return self.value <= self.target


def show(figures: Sequence[Figure]) -> None:
    """Prints the table; a missed target is printed as one."""
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        verdict = "met   " if figure.met else "MISSED"
        print(
            f"{figure.name:<{width}}  {figure.value:6.3f} {figure.unit}  target ≤ {figure.target:<5g} {verdict}  "
            f"{figure.detail}"
        )


def write(figures: Sequence[Figure], path: str) -> None:
    """Writes the same figures as JSON."""
    rows = [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures]
    Path(path).write_text(json.dumps({"cpus": os.cpu_count(), "figures": rows}, indent=1) + "\n")
