"""What was measured, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.parts import OURS, Part
from bench.rounds import Measured
from bench.targets import Verdict

WIDTH = 120
_LEFT_ALIGNED = 1
"""The columns that begin at the left."""


def part_table(part: Part, rows: Mapping[str, Measured], chosen: Mapping[str, str]) -> list[str]:
    """The lines of one part: medians of the rounds, and from where to where they went.

    Args:
      part: which.
      rows: what was measured, by name; only these are shown.
      chosen: the rows that stand for what the trainer chooses itself.
    """
    shown = {row.name: rows[row.name] for row in part.rows if row.name in rows}
    whole = len(part.figures) == 1
    (first, unit), *_ = part.figures.items()
    ours = rows.get(chosen.get(OURS, ""))
    ours_median = ours.median(first) if ours and ours.samples and ours.error is None else None
    header = ["", unit if whole else "", "from", "to"]
    header += ["÷ ours", "first loss", "last loss", "steps", "MB"] if part.checked else []
    table = [header]
    failed = {}
    for name, measured in shown.items():
        starred = f"{name} *" if name in chosen.values() else name
        if measured.error is not None:
            failed[len(table)] = measured.error
            table.append([starred])
            continue
        for figure, what in part.figures.items():
            if figure not in measured.samples[0]:
                continue
            values = measured.of(figure)
            cells = [
                starred if whole else f"{starred}: {what}",
                *map(_number, (measured.median(figure), min(values), max(values))),
            ]
            if part.checked:
                cells += [
                    f"{measured.median(first) / ours_median:.2f}" if ours_median else "",
                    "" if measured.loss is None else f"{measured.loss:.5f}",
                    f"{last:.5f}" if (last := measured.samples[-1]["loss"]) is not None else "",
                    f"{measured.median('steps'):,.0f}",
                    f"{measured.median('peak_mb'):,.0f}",
                ]
            table.append(cells)
    lines = _aligned(table)
    for index, error in failed.items():
        lines[index] = f"{lines[index].rstrip()}  failed: {error}"[:WIDTH]
    notes = ["* what the trainer chooses itself"] if chosen else []
    return [f"{part.name}: {part.title}", *lines, *notes]


def target_table(verdicts: Sequence[Verdict]) -> list[str]:
    """The lines of the targets: the median of the ratios of the rounds, and whether it keeps its bound."""
    table = [["", "", "ratio", "from", "to", "target", ""]]
    failed = {}
    for verdict in verdicts:
        target = verdict.target
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}"
        if verdict.error is not None:
            failed[len(table)] = verdict.error
            table.append([target.part, target.name])
            continue
        ratios = (verdict.ratio, min(verdict.ratios), max(verdict.ratios))
        verdict_word = "met" if verdict.met else "MISSED"
        table.append([target.part, target.name, *(f"{ratio:.3f}" for ratio in ratios), bound, verdict_word])
    lines = _aligned(table, left=2)
    for index, error in failed.items():
        lines[index] = f"{lines[index].rstrip()}  MISSED: {error}"[:WIDTH]
    return ["targets", *lines]


def as_json(
    rows: Mapping[str, Mapping[str, Measured]], chosen: Mapping[str, Mapping[str, str]], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """The same, with every round."""
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
    numbers = [
        figure
        for figure, value in (measured.samples[0] if measured.samples else {}).items()
        if isinstance(value, int | float)
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


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _aligned(table: Sequence[Sequence[str]], *, left: int = _LEFT_ALIGNED) -> list[str]:
    """Columns two blanks apart, the first ones from the left."""
    columns = max(map(len, table))
    filled = [[*cells, *[""] * (columns - len(cells))] for cells in table]
    widths = [max(len(cells[column]) for cells in filled) for column in range(columns)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in filled
    ]
