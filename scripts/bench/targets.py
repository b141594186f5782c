"""What is promised, as ratios of rows that took turns: in each round one ratio, and their median is what counts."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping

from bench import parts
from bench.parts import FIT, FIT_100, FIT_100_COMPILED, FIT_COMPILED, HAND_WRITTEN, OURS, OURS_TF_DATA, PARTS
from bench.rounds import Measured

Found = Mapping[str, Mapping[str, Measured]]
"""By part and row."""


@dataclasses.dataclass(frozen=True)
class Value:
    """One side of a ratio."""

    rows: tuple[str, ...]
    """A row; of several the one with the least median."""
    figure: str = "us_per_step"


@dataclasses.dataclass(frozen=True)
class Target:
    """A ratio and its bound."""

    part: str
    name: str
    over: Value
    under: Value
    bound: float
    at_least: bool
    """Whether the ratio must not be less than the bound, or not more."""

    def met(self, ratio: float) -> bool:
        """Whether the ratio keeps it."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A target and what became of it."""

    target: Target
    ratios: tuple[float, ...] = ()
    """One a round; none where a row failed."""
    error: str | None = None

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        return self.error is None and self.target.met(self.ratio)


def _at_most(part: str, name: str, over: Value, under: Value, bound: float) -> Target:
    return Target(part, name, over, under, bound, at_least=False)


def _faster(part: str, name: str, other: tuple[str, ...], bound: float, than: str = OURS) -> Target:
    """The others' time over ours."""
    return Target(part, name, Value(other), Value((than,)), bound, at_least=True)


def _row(name: str, figure: str = "us_per_step") -> Value:
    return Value((name,), figure)


_KERAS = (FIT, FIT_100, FIT_COMPILED, FIT_100_COMPILED)

TARGETS = (
    *(
        _at_most(part.name, f"ours {mode} ÷ floor", _row(f"ours {mode}"), _row(f"floor {mode}"), 1.03)
        for part in PARTS
        if part.checked
        for mode in (f"{source} {jit}" for source, jit in parts.MODES)
    ),
    _faster("digits", "Orbit ÷ ours", (parts.ORBIT,), 3),
    _faster("digits", "fit 100 steps at once ÷ ours", (FIT_100,), 3),
    _faster("digits", "fit ÷ ours", (FIT,), 12),
    _faster("digits", "Python loop ÷ ours", (parts.PYTHON_LOOP,), 8),
    _faster("digits", "Orbit ÷ ours on tf.data", (parts.ORBIT,), 1.1, OURS_TF_DATA),
    _faster("digits", "best run(n) by hand ÷ ours on tf.data", HAND_WRITTEN, 1, OURS_TF_DATA),
    _faster("mlp10m", "best of fit ÷ ours", _KERAS, 1),
    _faster("embedding", "best of fit ÷ ours", _KERAS, 2),
    *(
        _at_most("logging", f"{what} {name} ÷ never", _row(f"{what} {name}"), _row(f"{what} {parts.NO_LOG}"), bound)
        for what, name, bound in (
            ("digits", parts.LOG_1, 1.25),
            ("digits", parts.LOG_100, 1.02),
            ("mlp10m", parts.LOG_1, 1.01),
        )
    ),
    Target("saves", "neither ÷ logs and saves", _row(parts.PLAIN), _row(parts.SAVING), 0.97, at_least=True),
    *(
        _at_most("saves", f"memory ÷ (that of fit + {more})", _row(parts.SAVING, "peak_mb"), _row(FIT, figure), 1)
        for more, figure in (("the weights", "peak_and_weights_mb"), ("what a save holds", "peak_and_save_mb"))
    ),
    Target(
        "adam",
        "Keras ÷ ours on 100 × 100k",
        Value(("Keras 100 × 100k",), "ms_per_apply"),
        Value(("ours 100 × 100k",), "ms_per_apply"),
        3,
        at_least=True,
    ),
    *(
        _at_most(
            "adam",
            f"{who} {many} ÷ {one}",
            _row(f"{who} {many}", "ms_per_apply"),
            _row(f"{who} {one}", "ms_per_apply"),
            1,
        )
        for who in ("ours", "ours compiled")
        for many, one in (("1000 × 1k", "1 × 1M"), ("100 × 100k", "1 × 10M"))
    ),
    *(
        _at_most("flatness", f"{many} ÷ {few}", _row(many), _row(few), 1.02)
        for many, few in (
            (parts.MANY_STEPS, parts.FEW_STEPS),
            (parts.MANY_RECORDS, parts.FEW_RECORDS),
            (parts.KEEP_30, parts.KEEP_3),
        )
    ),
    _at_most(
        "startup",
        "first step ÷ (import TensorFlow + build + trace + compile)",
        _row(parts.COMMAND, "first_step_s"),
        _row(parts.COMMAND, "parts_s"),
        1.1,
    ),
)


def verdicts(found: Found, chosen: Mapping[str, Mapping[str, str]]) -> list[Verdict]:
    """What became of each target whose rows were measured; nothing of those whose rows were not asked for.

    Args:
      found: what was measured.
      chosen: by part, the rows that stand for what the trainer chooses itself.
    """
    told = []
    for target in TARGETS:
        rows, names = found.get(target.part, {}), chosen.get(target.part, {})
        there = {*rows, *(row.name for part in PARTS if part.name == target.part for row in part.rows)}
        sides = [
            [name for name in (names.get(name, name) for name in value.rows) if name in there]
            for value in (target.over, target.under)
        ]
        # Where one of several was not asked for, nobody knows which is the best.
        if all(sides) and {*itertools.chain(*sides)} <= rows.keys():
            told.append(_verdict(target, *({name: rows[name] for name in side} for side in sides)))
    return told


def _verdict(target: Target, over: Mapping[str, Measured], under: Mapping[str, Measured]) -> Verdict:
    values = []
    for value, side in ((target.over, over), (target.under, under)):
        for name, row in side.items():
            if row.error is not None or not row.samples:
                return Verdict(target, error=f"{name}: {row.error or 'not measured'}")
        best = min(side.values(), key=lambda row: row.median(value.figure))
        values.append(best.of(value.figure))
    return Verdict(target, tuple(a / b for a, b in zip(*values, strict=True)))
