"""Panels one above the other over the same steps, each with a heading and the legend of what it shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainer.views.drawing import FAINT, INK, PAPER, STRIP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.375
"""Inches: 900 CSS pixels."""
LEFT, RIGHT = 0.085, 0.965
"""The edges of every panel, as shares of the width."""
COLUMNS = 800
"""How many CSS pixels lie between them, about."""

_TOP, _TITLE, _LEGEND_ROW, _GAP, _BOTTOM = 0.06, 0.27, 0.19, 0.14, 0.5  # inches
_HEAD = 0.5
"""Inches that the heading of a whole picture takes."""
_CHARACTER, _HANDLE = 0.068, 0.5
"""Inches that a letter and the sign of a legend take, rather more than less."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel of a stack."""

    title: str
    draw: Callable[[Axes], None]
    """Draws on the axes, whose steps are set."""
    height: float = 1.9
    """In inches, without heading and legend."""
    strip: bool = False
    """Whether it has no values, only marks."""


def draw_stack(panels: Sequence[Panel], *, last_step: int, heading: str = "") -> Figure:
    """A figure as high as its panels, of which the lowest names the steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, 4), facecolor=PAPER)
    first: Axes | None = None
    drawn = []
    for panel in panels:
        axes = figure.add_axes((LEFT, 0.1, RIGHT - LEFT, 0.1), sharex=first, label=panel.title)
        if first is None:
            axes.set_xlim(*step_limits(last_step))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
            first = axes
        _set_look(axes, panel)
        panel.draw(axes)
        drawn.append((panel, axes, _legend_rows(axes, panel.title)))
    height = _TOP + bool(heading) * _HEAD + _BOTTOM
    height += sum(panel.height + _TITLE + rows * _LEGEND_ROW for panel, _, rows in drawn) + _GAP * (len(drawn) - 1)
    figure.set_size_inches(WIDTH, height)
    if heading:
        figure.text(LEFT, 1 - (_TOP + 0.2) / height, heading, size=12, weight="bold", va="center")
    top = height - _TOP - bool(heading) * _HEAD
    for panel, axes, rows in drawn:
        _add_heading(axes, panel, rows)
        top -= _TITLE + rows * _LEGEND_ROW + panel.height
        axes.set_position((LEFT, top / height, RIGHT - LEFT, panel.height / height))
        axes.tick_params(axis="x", labelbottom=axes is drawn[-1][1])
        top -= _GAP
    drawn[-1][1].set_xlabel("step (optimizer updates)", labelpad=4)
    return figure


def step_limits(last_step: int) -> tuple[float, float]:
    """The steps at the left and the right edge of the panels of a run that came to `last_step`."""
    last = max(last_step, 1)
    return -0.012 * last, 1.012 * last


def steps_per_point(axes: Axes) -> float:
    """The scale of a panel's steps."""
    low, high = axes.get_xlim()
    return (high - low) / ((RIGHT - LEFT) * WIDTH * 72)


def _set_look(axes: Axes, panel: Panel) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3, color=FAINT)
    axes.grid(visible=True, axis="x" if panel.strip else "both", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0)
    if panel.strip:
        axes.set_facecolor(STRIP)


def _widths(axes: Axes) -> list[float]:
    return [len(label) * _CHARACTER + _HANDLE for label in axes.get_legend_handles_labels()[1]]


def _legend_rows(axes: Axes, title: str) -> int:
    """How many rows the legend takes; 0 when it fits beside the title, or there is none."""
    widths, room = _widths(axes), (RIGHT - LEFT) * WIDTH
    if sum(widths) <= room - len(title) * _CHARACTER * 1.3 - 0.3:
        return 0
    return math.ceil(len(widths) / _per_row(widths, room))


def _per_row(widths: Sequence[float], room: float) -> int:
    return max(1, min(len(widths), int(room / max(widths))))


def _add_heading(axes: Axes, panel: Panel, rows: int) -> None:
    offset = rows * _LEGEND_ROW * 72 + 4.5  # points above the axes
    axes.annotate(
        panel.title,
        (0, 1),
        xytext=(0, offset),
        xycoords="axes fraction",
        textcoords="offset points",
        weight="bold",
        color=INK,
        va="bottom",
        annotation_clip=False,
    )
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = _per_row(_widths(axes), (RIGHT - LEFT) * WIDTH) if rows else len(handles)
    axes.legend(
        handles,
        labels,
        loc="lower left" if rows else "lower right",
        bbox_to_anchor=(0.0, 1.0) if rows else (1.0, 1.0),
        ncols=columns,
        borderaxespad=0,
        borderpad=0.3,
        frameon=False,
        handlelength=2.2,
        handletextpad=0.6,
        columnspacing=1.6,
        labelspacing=0.35,
    )
