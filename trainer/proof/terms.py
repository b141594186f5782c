"""The terms of an explanation: a gap as a telescoping sum. Without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

LOGGED, OWN_UPDATE, MOTION, AVERAGING, MODE, SAMPLING, GENERALIZATION = NAMES = (
    "logged",
    "own_update",
    "motion",
    "averaging",
    "mode",
    "sampling",
    "generalization",
)
"""The terms, in the order in which they lead from the logged value to the evaluated one."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way to measure the metric, on the way from the logged value to the evaluated one."""

    name: str
    """That of the term that leads to it, of `NAMES`."""
    value: float
    stderr: float | None = None
    """The standard error of the value as a mean over a sample; None where it is no mean."""


@dataclasses.dataclass(frozen=True)
class Term:
    """One line: what changes between two ways to measure the metric, and by how much that changes it."""

    name: str
    value: float
    """The metric after it."""
    difference: float
    """From the value of the line before; 0 on the first."""
    stderr: float | None
    """The standard error of the difference, where one side of it is a sample of the other."""
    meaning: str
    """In words."""


def terms_of(measured: Sequence[Measured], words: dict[str, str]) -> tuple[Term, ...]:
    """The telescoping sum through values that were measured one after the other.

    A term that was not measured by itself is part of the next one that was, whose meaning then names it.

    Args:
      measured: in the order of `NAMES`, the logged value first.
      words: what each term means.
    """
    terms: list[Term] = []
    before = measured[0]
    for one in measured:
        between = NAMES[NAMES.index(before.name) + 1 : NAMES.index(one.name)]
        left_out = [name for name in between if name in words]
        also = f"; with {' and '.join(name.replace('_', ' ') for name in left_out)} in it" if left_out else ""
        # The window is a sample of the training set, and the split one of what there is to generalize to.
        sampled = {SAMPLING: before.stderr, GENERALIZATION: one.stderr}.get(one.name)
        terms.append(Term(one.name, one.value, one.value - before.value, sampled, words[one.name] + also))
        before = one
    return tuple(terms)


def dominant(terms: Sequence[Term]) -> str | None:
    """The term with the largest difference either way; None where nothing differs."""
    largest = max(terms[1:], key=lambda term: abs(term.difference), default=None)
    return largest.name if largest is not None and largest.difference else None


def standard_error(mean: float, square: float, weight: float, total: float) -> float | None:
    """The standard error of a weighted mean, its examples taken for independent.

    The weighted variance over the number of examples that equal weights would need for it, (Σw)² ÷ Σw², less one:
    L. Kish, Survey Sampling, 1965.

    Args:
      mean: Σ w·x ÷ Σ w.
      square: Σ w·x² ÷ Σ w.
      weight: Σ w² ÷ Σ w.
      total: Σ w.
    """
    effective = total / weight if weight > 0 else 0.0
    if effective <= 1 or not math.isfinite(square):
        return None
    return math.sqrt(max(0.0, square - mean * mean) / (effective - 1))


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why the logged metric of a checkpoint is not its evaluated one."""

    step: int
    metric: str
    split: str | None
    """The split that it is evaluated on; None where the experiment has none."""
    window: tuple[int, int]
    """(a, b]: the steps that the logged value averages."""
    weights: str
    """Which are evaluated: `raw` or `ema`."""
    terms: tuple[Term, ...]
    open_steps: tuple[int, ...]
    """The steps after the window that the checkpoint holds and no record does."""
    replayed_from: int | None
    """The step of the checkpoint that the window was trained again from, 0 for the run's beginning; None where it was
    not."""
    reproduced: bool | None
    """Whether that gave the logged value, bit for bit; None where it was not tried."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def gap(self) -> float:
        """The evaluated value less the logged one."""
        return self.terms[-1].value - self.terms[0].value

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints, and what is kept in the run directory."""
        return {
            "step": self.step,
            "metric": self.metric,
            "split": self.split,
            "gap": self.gap,
            "terms": [dataclasses.asdict(term) for term in self.terms],
            "dominant": dominant(self.terms),
            "open_steps": list(self.open_steps),
            "window": list(self.window),
            "weights": self.weights,
            "replayed_from": self.replayed_from,
            "reproduced": self.reproduced,
            "notes": list(self.notes),
        }
