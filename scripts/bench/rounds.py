"""Rounds: each row once, in turns with the others; another one begins each time."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.contender import hundreds
from bench.jobs import Job
from bench.parts import Part, Row
from bench.workers import Failed

Sample = dict[str, Any]
"""What a job measured."""
Perform = Callable[[Sequence[Job], float | None], Sequence[Sample | Failed]]
"""Does jobs in turns of so many seconds; returns what each measured, or why it came to nothing."""
STEP_TIME = "us_per_step"
"""The figure of those who train a number of steps."""
_PROBE = 0.3
"""The share of a round's time that it takes to find out how many steps fit in."""


@dataclasses.dataclass
class Measured:
    """What the rounds found out about a row."""

    samples: list[Sample] = dataclasses.field(default_factory=list)
    """One a round, in their order."""
    error: str | None = None
    """Why there are no more."""
    details: str = ""
    loss: float | None = None
    """Of the steps in which losses are compared."""

    def of(self, figure: str) -> list[float]:
        """A figure of each round."""
        return [float(sample[figure]) for sample in self.samples]

    def median(self, figure: str) -> float:
        """The median of a figure.

        Raises:
          statistics.StatisticsError: there was no round.
        """
        return statistics.median(self.of(figure))


def measure(
    part: Part,
    *,
    rounds: int,
    seconds: float,
    perform: Perform,
    tell: Callable[[str], None],
    among: dict[str, Measured] | None = None,
) -> dict[str, Measured]:
    """Measures the rows of a part, by name.

    Args:
      part: which.
      rounds: how often each of them.
      seconds: how long each is to train, where the row does not say how many steps.
      perform: does jobs.
      tell: receives a line of progress.
      among: what is known of the rows before; one that has failed is not tried again.
    """
    found = {row.name: (among or {}).get(row.name, Measured()) for row in part.rows}
    figure, steps = part.figures[0], {row.name: row.steps for row in part.rows}

    def perform_all(rows: Sequence[Row], seconds: float, when: str) -> Iterator[tuple[Row, Sample]]:
        """Those that do not fail, with what they measure."""
        jobs = [Job(row.kind, row.workload, row.options, steps[row.name], seconds) for row in rows]
        if len(jobs) > 1:
            tell(f"  {part.name} {when}: {len(jobs)} rows take turns")
        for row, sample in zip(rows, perform(jobs, part.moment_s), strict=True):
            if isinstance(sample, Failed):
                said = str(sample)
                found[row.name].error, found[row.name].details = said, sample.details
            else:
                said = f"{sample[figure.key]:,.4g} {figure.unit}"
                yield row, sample
            tell(f"  {part.name} {when}: {row.name}: {said}")

    def sound(rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if found[row.name].error is None]

    if figure.key == STEP_TIME:
        # How many steps take that long is known only after some.
        for row in sound(part.rows):
            if row.steps is None:
                for _, sample in perform_all([row], _PROBE * seconds, "alone"):
                    steps[row.name] = hundreds(seconds / (sample[STEP_TIME] * 1e-6))
    for number in range(rounds):
        rows = sound(rotated(part.rows, number))
        for group in [[row] for row in rows] if part.moment_s is None else [rows]:
            for row, sample in perform_all(group, seconds, f"{number + 1}/{rounds}"):
                found[row.name].samples.append(sample)
    return found


def rotated(rows: Sequence[Row], by: int) -> list[Row]:
    """All of them in their order, begun so many later."""
    first = by % len(rows) if rows else 0
    return [*rows[first:], *rows[:first]]
