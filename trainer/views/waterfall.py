"""An explanation as a waterfall: from the logged value, term by term, to the evaluated one."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.storage.whole import write_whole
from trainer.views.drawing import (
    BLUE,
    FAINT,
    INK,
    PAPER,
    QUIET,
    STRIP,
    VERMILION,
    check_plot,
    drawing_style,
    encoded,
)
from trainer.views.explanation import plain, rounded, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 9.375  # inches: 900 CSS pixels
_ROW, _ABOVE, _BELOW = 0.36, 0.72, 0.5  # inches
_BAR_HEIGHT = 0.58
_NOT_FINITE = "not finite"
_PAD_POINTS = 7
_ROOM = 0.2
"""What is left free beside the outermost values for the numbers, as a share of what they span."""
_NARROW = _ROOM / (1 + 2 * _ROOM) * 0.95
"""Nearer to an edge than this share of the width a number does not fit between."""


class Term(NamedTuple):
    """One line of an explanation."""

    name: str
    value: float
    """The metric after this term; NaN where it is not finite."""
    difference: float
    """What the term adds to the line before it; NaN where it is not finite."""
    stderr: float | None
    """The standard error of the difference, where it is of a sample."""
    meaning: str


def terms_of(explanation: Mapping[str, Any]) -> list[Term]:
    """The terms of an explanation, in their order.

    Raises:
      ValueError: it is no explanation: there are fewer than two terms, or one of them lacks or garbles something.
    """
    try:
        terms = [
            Term(
                str(term["name"]),
                _number(term["value"]),
                _number(term["difference"]),
                None if term.get("stderr") is None else _number(term["stderr"]),
                str(term.get("meaning", "")),
            )
            for term in explanation["terms"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks or garbles {error}") from error
    if len(terms) < 2:
        raise ValueError(f"it has {len(terms)} terms; expected two or more")
    return terms


def draw_waterfall(explanation: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws an explanation into a file, the same bytes every time with the same version of matplotlib.

    Args:
      explanation: the object that `trainer.explain --json` prints.
      path: the file to write, `.svg`, `.png` or `.pdf`, at once; one that is there is replaced, and folders are made.

    Raises:
      ConfigError: matplotlib is missing, or `path` has another ending or is a folder.
      Unwritable: `path` cannot be written.
      ValueError: it is no explanation.
    """
    format_name = check_plot(path)
    with drawing_style():
        content = encoded(waterfall_figure(explanation), format_name)
    write_whole(os.fspath(path), content)


def waterfall_figure(explanation: Mapping[str, Any]) -> Figure:
    """The waterfall with its title, as high as it has terms."""
    from matplotlib.figure import Figure

    rows = len(terms_of(explanation)) + 1
    height = _ABOVE + rows * _ROW + _BELOW
    figure = Figure(figsize=(_WIDTH, height), facecolor=PAPER)
    metric, step, split = (explanation.get(name) for name in ("metric", "step", "split"))
    left = 0.15
    title = f"From the logged {metric} to the {f'{split} ' if split else ''}{metric} of checkpoint {step}"
    says = "A bar to the right of the line that comes from above adds to the metric; one to the left takes from it."
    figure.text(left, 1 - 0.24 / height, title, size=12, weight="bold", va="center")
    figure.text(left, 1 - 0.5 / height, says, color=QUIET, va="center")
    axes = figure.add_axes((left, _BELOW / height, 0.97 - left, rows * _ROW / height))
    draw_waterfall_on(axes, explanation)
    return figure


def draw_waterfall_on(axes: Axes, explanation: Mapping[str, Any]) -> None:
    """Draws an explanation on `axes`: downwards the logged value, a bar for each difference, the evaluated value.

    The direction of a bar is told by its side, its sign and its colour; the term that dominates by a solid bar and bold
    text. A line across a bar's end is its standard error, one to each side.

    Raises:
      ValueError: it is no explanation.
    """
    terms = terms_of(explanation)
    last, dominant = len(terms), explanation.get("dominant")
    shown = labels(terms)
    names = [*(term.name.replace("_", " ") for term in terms), str(explanation.get("split") or "checkpoint")]
    _set_axes(axes, terms, names, str(explanation.get("metric") or "value"))
    _draw_end(axes, 0, terms[0].value, shown[0][0])
    _draw_end(axes, last, terms[-1].value, shown[-1][0])
    for row, (before, term) in enumerate(itertools.pairwise(terms), start=1):
        # The level that one row hands to the next.
        axes.plot([before.value] * 2, [row - 1, row + _BAR_HEIGHT / 2], color=QUIET, linewidth=0.7, zorder=2)
        _draw_difference(axes, row, before.value, term, shown[row][1], dominant=term.name == dominant)
    axes.plot([terms[-1].value] * 2, [last - 1, last], color=QUIET, linewidth=0.7, zorder=2)
    for label, name in zip(axes.get_yticklabels(), [*(term.name for term in terms), None], strict=True):
        label.set_color(INK)
        label.set_fontweight("bold" if name == dominant and name is not None else "normal")


def labels(terms: Sequence[Term]) -> list[tuple[str, str]]:
    """The value and the difference of each term as text, rounded so that those differences add up too."""
    shown = iter(rounded([term.value for term in terms if math.isfinite(term.value)] or [0.0]))
    values = [next(shown) if math.isfinite(term.value) else None for term in terms]
    differences = [_difference(before, after) for before, after in itertools.pairwise(values)]
    texts = [_NOT_FINITE if value is None else plain(value) for value in values]
    return list(zip(texts, ["", *differences], strict=True))


def _difference(before: Decimal | None, after: Decimal | None) -> str:
    return _NOT_FINITE if before is None or after is None else signed(after - before).replace("-", "−")


def _set_axes(axes: Axes, terms: Sequence[Term], names: Sequence[str], metric: str) -> None:
    reach = [value + side * (term.stderr or 0.0) for term in terms for value in (term.value,) for side in (-1, 1)]
    finite = [value for value in reach if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = (high - low) or abs(high) or 1.0
    axes.set_xlim(low - _ROOM * margin, high + _ROOM * margin)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(metric, labelpad=4)
    axes.set_facecolor(STRIP)
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _draw_end(axes: Axes, row: int, value: float, label: str) -> None:
    """The logged or the evaluated value: a mark, as a bar would need a zero."""
    if math.isnan(value):
        _annotate(axes, axes.get_xlim()[0], row, label, to_left=False, bold=True)
        return
    axes.plot(
        [value], [row], linestyle="none", marker="D", markersize=7, color=INK, zorder=4, gid=f"waterfall-end-{row}"
    )
    _annotate(axes, value, row, label, to_left=False, bold=True)


def _draw_difference(axes: Axes, row: int, start: float, term: Term, label: str, *, dominant: bool) -> None:
    end = term.value
    if math.isnan(start) or math.isnan(end):
        _annotate(axes, axes.get_xlim()[0], row, label, to_left=False, bold=dominant)
        return
    colour = VERMILION if end > start else BLUE
    axes.barh(
        row,
        end - start,
        left=start,
        height=_BAR_HEIGHT,
        facecolor=(colour, 1.0 if dominant else 0.35),
        edgecolor=colour,
        linewidth=1.0,
        zorder=3,
        gid=f"waterfall-{term.name}",
    )
    if term.stderr:
        axes.errorbar(end, row, xerr=term.stderr, color=INK, linewidth=1.0, capsize=3, zorder=5)
    # Beyond the bar's end, or before its beginning where there is no room.
    low, high = axes.get_xlim()
    to_left = end < start
    outside = end + (term.stderr or 0.0) * (-1 if to_left else 1)
    if not _NARROW < (outside - low) / (high - low) < 1 - _NARROW:
        to_left, outside = not to_left, start
    _annotate(axes, outside, row, label, to_left=to_left, bold=dominant)


def _annotate(axes: Axes, value: float, row: int, text: str, *, to_left: bool, bold: bool) -> None:
    axes.annotate(
        text,
        (value, row),
        xytext=(-_PAD_POINTS if to_left else _PAD_POINTS, 0),
        textcoords="offset points",
        ha="right" if to_left else "left",
        va="center_baseline",
        fontweight="bold" if bold else "normal",
        zorder=6,
    )


def _number(value: Any) -> float:
    """A JSON number; NaN for null, which is not finite."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} for a number")
    return float(value)
