"""Rounds: each row once, the one that begins another each time."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.jobs import Job
from bench.parts import Part, Row
from bench.workers import Failed

Perform = Callable[[Job], dict[str, Any]]
"""Does a job; returns what it measured. Raises `Failed`."""


@dataclasses.dataclass
class Measured:
    """What the rounds found out about a row."""

    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
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


def interleaved(rows: Sequence[Row], rounds: int) -> Iterator[tuple[int, Row]]:
    """Each row once a round, with the number of the round; each round begins one row later."""
    for number in range(rounds):
        first = number % len(rows) if rows else 0
        for row in (*rows[first:], *rows[:first]):
            yield number, row


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
      perform: does a job.
      tell: receives a line of progress.
      among: what is known of the rows before; one that has failed is not tried again.
    """
    found = {row.name: (among or {}).get(row.name, Measured()) for row in part.rows}
    for number, row in interleaved(part.rows, rounds):
        so_far = found[row.name]
        if so_far.error is not None:
            continue
        # Once it is known how long a step takes, the number of steps is right at once.
        expected = so_far.median("us_per_step") / 1e6 if so_far.samples and "us_per_step" in so_far.samples[0] else None
        try:
            so_far.samples.append(perform(Job(row.kind, row.workload, row.options, row.steps, seconds, expected)))
        except Failed as error:
            so_far.error, so_far.details = str(error), error.details
        figure = part.figures[0]
        said = so_far.error or f"{so_far.samples[-1][figure.key]:,.4g} {figure.unit}"
        tell(f"  {part.name} {number + 1}/{rounds}: {row.name}: {said}")
    return found
