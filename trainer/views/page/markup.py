"""Pieces of HTML: tables, pictures and lists. Whatever comes from a run is text, and escaped."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.views.columns import Column
from trainer.views.drawing import encoded
from trainer.views.page.figures import Drawn

_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_NAMES = re.compile(r'( id="|href="#|url\(#)')


def text(value: object) -> str:
    """`value` as text of a page, or of an attribute in double quotes."""
    return html.escape(str(value))


def inline_svg(drawn: Drawn, *, name: str) -> str:
    """A figure as a part of the page, as wide as there is room, its words read out instead of its lines.

    Args:
      drawn: the figure.
      name: what tells its ids from those of the other figures of the page.
    """
    svg = encoded(drawn.figure, "svg").decode()
    svg = _METADATA.sub("", _PROLOGUE.sub("", svg, count=1), count=1)
    svg = _NAMES.sub(lambda found: f"{found[1]}{name}-", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{text(drawn.says)}" ', 1)


def figure(drawn: Drawn, caption: str, *, name: str) -> str:
    """A figure with its caption, and a line that tells the numbers at the step under the pointer."""
    return (
        f"<figure>\n<figcaption>{caption}</figcaption>\n"
        '<div class="scroll" tabindex="0" role="group" aria-label="picture"><div class="picture">'
        f'{inline_svg(drawn, name=name)}<div class="pointer"></div></div></div>\n'
        '<p class="readout" aria-hidden="true"></p>\n'
        f'<script type="application/json">{_json(drawn.numbers)}</script>\n</figure>\n'
    )


def table(columns: Sequence[Column], caption: str, *, damaged: Mapping[int, str] | None = None) -> str:
    """A table of columns as those of `trainer.status`, its groups in a row of headings of their own.

    Args:
      columns: the columns, one or more, all of the same number of cells.
      caption: what it is a table of.
      damaged: rows of which only the first cell is shown, and what is wrong with them.
    """
    rows = []
    for index in range(len(columns[0].cells)):
        cells = [_cell(column, index) for column in columns]
        if damaged and index in damaged:
            cells = [
                cells[0],
                f'<td class="bad left" colspan="{len(columns) - 1}">damaged: {text(damaged[index])}</td>',
            ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    groups = ""
    if any(column.group for column in columns):
        spans = [(group, len(list(members))) for group, members in itertools.groupby(columns, lambda one: one.group)]
        groups = "".join(
            f'<th colspan="{span}" scope="colgroup">{text(group)}</th>' if group else f'<td colspan="{span}"></td>'
            for group, span in spans
        )
        groups = f"<tr>{groups}</tr>\n"
    names = "".join(f'<th scope="col"{_side(column)}>{text(column.name)}</th>' for column in columns)
    return (
        f'<div class="scroll table" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption>\n<thead>{groups}<tr>{names}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>\n"
    )


def facts(known: Sequence[tuple[str, str]]) -> str:
    """A list of facts, each with its name."""
    return (
        "<dl>" + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in known) + "</dl>\n"
    )


def folded(summary: str, content: str) -> str:
    """What is shown when the reader asks for it."""
    return f"<details><summary>{text(summary)}</summary>\n{content}</details>\n"


def _cell(column: Column, index: int) -> str:
    return f"<td{_side(column)}>{text(' '.join(column.cells[index]))}</td>"


def _side(column: Column) -> str:
    return f' class="left{" wraps" if column.wraps else ""}"' if column.left else ""


def _json(value: Any) -> str:
    """JSON that no name in it can end the script with."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
