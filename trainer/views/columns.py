"""Tables for terminals: columns that fit the width, the least important ones left out by name where they do not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Span, Text

from trainer.views import formatting

HEADING: Final = "dim"
_GAP: Final = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column. Its cells are words; where room is short, those of a `wraps` column go on several lines."""

    name: str
    cells: Sequence[Sequence[str]]
    group: str = ""
    rank: int = 0
    """Where the terminal is narrow, the highest rank is left out first, and 0 never."""
    left: bool = False
    wraps: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.group}/{self.name}" if self.group else self.name

    def natural(self) -> int:
        return max(_cells(self.name), *(_cells(" ".join(cell)) for cell in self.cells))

    def least(self) -> int:
        words = (_cells(word) for cell in self.cells for word in cell)
        return max(_cells(self.name), *words) if self.wraps else self.natural()


def table(
    columns: Sequence[Column],
    *,
    width: int | None,
    rule: str,
    styles: Mapping[str, str],
    damaged: Mapping[int, str],
) -> list[Text]:
    """The lines of a table; below it, what there was no room for.

    Args:
      columns: the columns, all of the same number of cells.
      width: the room in characters; None shows everything.
      rule: the character that lines are drawn with.
      styles: how certain words are shown.
      damaged: rows of which only the first cell and what is wrong with them are shown.
    """
    shown, widths = _fit(columns, width)
    lines = [*_headings(shown, widths, rule), *_body(shown, widths, styles, damaged)]
    if hidden := [column.full_name for column in columns if column not in shown]:
        lines.append(Text(f"no room for {', '.join(hidden)}: widen the terminal, or add | cat", HEADING))
    return lines


def _fit(columns: Sequence[Column], width: int | None) -> tuple[list[Column], list[int]]:
    """The columns that there is room for, and how wide each is."""
    shown = list(columns)
    least = {column: column.least() for column in columns}
    natural = {column: column.natural() for column in columns}
    while width is not None and _total(shown, [least[column] for column in shown]) > width:
        last = max(shown, key=lambda column: column.rank)
        if not last.rank:
            break
        shown.remove(last)
    widths = [least[column] for column in shown]
    for index, column in enumerate(shown):
        more = natural[column] - widths[index]
        widths[index] += more if width is None else max(0, min(more, width - _total(shown, widths)))
    for _, end, missing in _groups(shown, widths):
        widths[end] += missing
    return shown, widths


def _total(columns: Sequence[Column], widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1) + sum(missing for _, _, missing in _groups(columns, widths))


def _groups(columns: Sequence[Column], widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """The first and the last column of each group, and how much wider than they its name is."""
    ends: dict[str, tuple[int, int]] = {}
    for index, column in enumerate(columns):
        if column.group:
            ends[column.group] = (ends.get(column.group, (index, index))[0], index)
    return [
        (first, last, max(0, _cells(group) - sum(widths[first : last + 1]) - _GAP * (last - first)))
        for group, (first, last) in ends.items()
    ]


def _headings(columns: Sequence[Column], widths: Sequence[int], rule: str) -> list[Text]:
    """A line with the names of the groups, where there are any, and one with those of the columns."""
    line = ""
    for first, last, _ in _groups(columns, widths):
        start = sum(widths[:first]) + _GAP * first
        label = columns[first].group
        rest = sum(widths[first : last + 1]) + _GAP * (last - first) - _cells(label) - 1
        line += " " * (start - _cells(line)) + label + (f" {rule * rest}" if rest > 0 else "")
    names = [
        column.name + " " * (width - _cells(column.name)) if column.left else column.name.rjust(width)
        for column, width in zip(columns, widths, strict=True)
    ]
    return [Text(text.rstrip(), HEADING) for text in (line, (" " * _GAP).join(names)) if text]


def _body(
    columns: Sequence[Column], widths: Sequence[int], styles: Mapping[str, str], damaged: Mapping[int, str]
) -> list[Text]:
    """The lines of the rows, one or more each; a damaged row has its first cell, and what is wrong with it."""
    lines = []
    for index, first in enumerate(columns[0].cells):
        if index in damaged:
            step = first[0].rjust(widths[0])
            lines.append(Text.assemble(step, " " * _GAP, ("damaged", styles["damaged"]), f": {damaged[index]}"))
            continue
        cells = [_broken(column, column.cells[index], width) for column, width in zip(columns, widths, strict=True)]
        for level in range(max(map(len, cells))):
            # A string and its spans, not one `Text` of many: those of a thousand rows take their time.
            line, spans, padding = "", [], 0
            for column, width, cell in zip(columns, widths, cells, strict=True):
                words = cell[level] if level < len(cell) else []
                space = width - _cells(" ".join(words))
                line += " " * (padding if column.left else padding + space)
                for position, word in enumerate(words):
                    start = len(line)
                    line += f" {word}" if position else word
                    if style := styles.get(word.rstrip(",")):
                        spans.append(Span(start, len(line), style))
                padding = _GAP + (space if column.left else 0)
            lines.append(Text(line.rstrip(), spans=spans))
    return lines


def _broken(column: Column, words: Sequence[str], width: int) -> list[list[str]]:
    """The words of a cell in as many lines as they need."""
    lines: list[list[str]] = [[]]
    for word in words:
        if column.wraps and lines[-1] and _cells(" ".join([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return lines


def _cells(text: str) -> int:
    """How wide `text` is on a terminal."""
    # Most cells are plain, and of many rows there are very many.
    return len(text) if text.isascii() else cell_len(text)


def print_table(make: Callable[[int | None, str], Text], stream: TextIO, *, narrowest: int = 0) -> None:
    """Prints what is made of tables: fitted to the width of a terminal, and all of it where `stream` is none.

    Whoever read our output may be gone, or its disk full: what was found stands all the same.

    Args:
      make: makes it for a width in characters, None for any, and the character that lines are drawn with.
      stream: where to.
      narrowest: the least width that it is fitted to.
    """
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    width = max(narrowest, console.width - 1) if stream.isatty() else None
    text = make(width, "-" if console.options.ascii_only else "─")
    text.plain = formatting.printable(text.plain, stream)
    with contextlib.suppress(OSError):
        with console.capture() as capture:
            console.print(text, soft_wrap=True, end="")
        # Written by ourselves: rich ends the process with 1 when the reader of a pipe has gone.
        stream.write(capture.get())
        stream.flush()
