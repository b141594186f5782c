"""What was measured, for people: one table of all figures, and one of the targets."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.parts import OURS, PARTS, Part
from bench.rounds import Measured
from bench.targets import Verdict

WIDTH = 120
"""Of what is printed where there is no terminal."""
_BAD = "red"


def figure_table(
    parts: Sequence[Part], rows: Mapping[str, Mapping[str, Measured]], chosen: Mapping[str, Mapping[str, str]]
) -> Table:
    """Medians of the rounds, and from where to where they went; a section for each part.

    Args:
      parts: which.
      rows: what was measured, by part and name; only these are shown.
      chosen: by part, the rows that stand for what the trainer chooses itself.
    """
    table = _table("workload", "who", "figure", "from – to", "÷ ours", left=2)
    if any(name in rows[part.name] for part in parts for name in chosen.get(part.name, {}).values()):
        table.caption = "* what the trainer chooses itself; ÷ ours is by its choice for arrays"
    for part in parts:
        found, stars = rows[part.name], chosen.get(part.name, {})
        table.add_row(Text(part.name, "bold"), Text(part.title, "italic"))
        ours = found.get(stars.get(OURS, ""))
        for row in part.rows:
            if row.name in found:
                starred = f"{row.name} *" if row.name in stars.values() else row.name
                _add(table, part, starred, found[row.name], ours)
        table.add_section()
    return table


def target_table(verdicts: Sequence[Verdict]) -> Table:
    """The median of the ratios of the rounds, and whether it keeps its bound."""
    table = _table("workload", "target", "ratio", "from – to", "bound", "", left=2)
    table.title = Text("\ntargets", "bold")
    order, before = [part.name for part in PARTS], None
    for verdict in sorted(verdicts, key=lambda verdict: order.index(verdict.target.part)):
        target = verdict.target
        if before not in (None, target.part):
            table.add_section()
        name, before = ("" if target.part == before else target.part), target.part
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}"
        word = Text("met") if verdict.met else Text("MISSED", _BAD)
        if verdict.error is not None:
            table.add_row(Text(name, "bold"), Text(f"{target.name}: {verdict.error}"), "", "", bound, word)
            continue
        spread = f"{min(verdict.ratios):.3f} – {max(verdict.ratios):.3f}"
        table.add_row(Text(name, "bold"), target.name, f"{verdict.ratio:.3f}", spread, bound, word)
    return table


def show(*tables: Table) -> None:
    """Prints tables as wide as the terminal."""
    width = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for table in tables:
        console.print(table)


def _add(table: Table, part: Part, who: str, measured: Measured, ours: Measured | None) -> None:
    """Adds a row of the table for each figure of a row of the part."""
    if measured.error is not None:
        table.add_row("", Text(f"{who}: {measured.error}"), Text("failed", _BAD))
        return
    for number, figure in enumerate(part.figures):
        if figure.key not in measured.samples[0]:
            continue
        values, median = measured.of(figure.key), measured.median(figure.key)
        ratio = ""
        if part.checked and number == 0 and ours and ours.samples and ours.error is None:
            ratio = f"{median / ours.median(figure.key):.2f}"
        what = f"{who}: {figure.of}" if figure.of else who
        spread = f"{_number(min(values))} – {_number(max(values))}"
        table.add_row("", what, f"{_number(median)} {figure.unit}", spread, ratio)


def _table(*columns: str, left: int) -> Table:
    """An empty one, whose first columns begin at the left, and whose second one is broken where there is no room."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=number != 1, overflow="fold")
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
