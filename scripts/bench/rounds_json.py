"""What was measured, for scripts: every round."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rounds import Measured
from bench.targets import Verdict


def write(path: Path, told: Mapping[str, Any]) -> None:
    """Writes it as JSON, which knows no NaN and no infinity: they are null.

    Raises:
      OSError: it cannot be written.
    """
    path.write_text(json.dumps(_finite(told), indent=1, allow_nan=False) + "\n")


def as_json(
    rows: Mapping[str, Mapping[str, Measured]], chosen: Mapping[str, Mapping[str, str]], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """What was measured, what stands for what the trainer chooses itself, and the targets."""
    return {
        "parts": {
            part: {
                "chosen": dict(chosen.get(part, {})),
                "rows": {name: _row_json(measured) for name, measured in measured_rows.items()},
            }
            for part, measured_rows in rows.items()
        },
        "targets": [
            {
                "part": verdict.target.part,
                "name": verdict.target.name,
                "bound": verdict.target.bound,
                "at_least": verdict.target.at_least,
                "ratio": verdict.ratio if verdict.ratios else None,
                "ratios": list(verdict.ratios),
                "error": verdict.error,
                "met": verdict.met,
            }
            for verdict in verdicts
        ],
    }


def _row_json(measured: Measured) -> dict[str, Any]:
    # A loss that was no number may be there in some rounds only.
    numbers = [
        figure
        for figure in (measured.samples[0] if measured.samples else {})
        if all(isinstance(sample.get(figure), int | float) for sample in measured.samples)
    ]
    return {
        "first_loss": measured.loss,
        "error": measured.error,
        "details": measured.details,
        "figures": {
            figure: {
                "median": measured.median(figure),
                "min": min(measured.of(figure)),
                "max": max(measured.of(figure)),
            }
            for figure in numbers
        },
        "rounds": measured.samples,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
