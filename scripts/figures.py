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
    target: float | None
    """The most that it may be; None where nothing is promised."""
    unit: str
    detail: str

    @property
    def met(self) -> bool:
        return self.target is None or self.value <= self.target


def show(figures: Sequence[Figure]) -> None:
    """Prints the table; a missed target is printed as one."""
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        promised = "" if figure.target is None else f"target ≤ {figure.target:<5g} {'met' if figure.met else 'MISSED'}"
        print(f"{figure.name:<{width}}  {figure.value:6.3f} {figure.unit}  {promised:<21}  {figure.detail}")


def write(figures: Sequence[Figure], path: str) -> None:
    """Writes the same figures as JSON."""
    rows = [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures]
    Path(path).write_text(json.dumps({"cpus": os.cpu_count(), "figures": rows}, indent=1) + "\n")
