"""Several runs in one picture: a panel for each metric, a colour, a shape and a dash for each run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.views.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION
from trainer.views.page.curves import at_pixels, draw_gaps, draw_points, scale_values
from trainer.views.page.history import History
from trainer.views.page.series import Curve
from trainer.views.page.stack import COLUMNS, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_THICK, _THIN = 1.3, 0.7  # points
_FILLS: tuple[Any, ...] = ("full", "none", "left", "right")


class _Look(NamedTuple):
    """What tells a run from the others."""

    colour: str
    shape: str
    dash: str


_LOOKS = tuple(
    map(
        _Look,
        (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK),
        ("o", "s", "D", "v", "^", "P", "X"),
        ("-", "--", "-.", ":", "-", "--", "-."),
    )
)


def shared_panel(histories: Sequence[History], metric: str) -> Panel:
    """A metric of several runs: a line for the train windows of each, a mark for each evaluation."""
    splits = list(dict.fromkeys(name for history in histories for name in history.evaluations))
    fills = {name: _FILLS[number % len(_FILLS)] for number, name in enumerate(splits)}

    def draw(axes: Axes) -> None:
        shown: list[Curve] = []
        for number, history in enumerate(histories):
            look = _LOOKS[number % len(_LOOKS)]
            windows = history.series.train.get(metric)
            points = {name: known[metric] for name, known in history.evaluations.items() if metric in known}
            if windows:
                shown.append(at_pixels(axes, windows))
                _draw_line(axes, shown[-1], look, dense=len(windows) > COLUMNS // 4)
            for name, curve in points.items():
                shown.append(at_pixels(axes, curve))
                looks = {"color": look.colour, "marker": look.shape, "fillstyle": fills[name]}
                draw_points(axes, shown[-1], size=5.5, markeredgecolor=look.colour, **looks)
            if windows or points:
                # For the legend: the line and the mark in one.
                sign = axes.plot([], [], look.shape, color=look.colour, markersize=5.5, label=history.name)[0]
                sign.set(linestyle=look.dash, linewidth=_THICK)
        scale_values(axes, shown)
        draw_gaps(axes, shown)

    return Panel(metric, draw, height=2.2)


def _draw_line(axes: Axes, curve: Curve, look: _Look, *, dense: bool) -> None:
    """The means of the windows, each over the steps (start, end] that it averages."""
    starts = curve.steps if curve.starts is None else curve.starts
    axes.plot(
        [*starts[:1], *curve.steps],
        [*curve.values[:1], *curve.values],
        drawstyle="steps-pre",
        color=look.colour,
        # Of strokes from the lowest to the highest value of each pixel dashes would leave nothing to see.
        linestyle="-" if dense else look.dash,
        linewidth=_THIN if dense else _THICK,
    )
