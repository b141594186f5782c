"""The curves of one run: each metric, the learning rate, the speed, and what saves cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.views.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    SPLITS,
    VERMILION,
    Floats,
    draw_windows,
    set_value_scale,
)
from trainer.views.page.bands import draw_ends
from trainer.views.page.decimate import visible
from trainer.views.page.history import History
from trainer.views.page.series import Curve
from trainer.views.page.stack import COLUMNS, Panel, steps_per_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS_AT_MOST = COLUMNS // 4
"""With more windows than this a bar for each would be shorter than it is thick."""
_MARKS_AT_MOST = 150
_SPAN_WIDTH = 5.0  # points
_RATES = ((GREEN, "-"), (PURPLE, "--"), (ORANGE, ":"), (INK, "-."))


def metric_panel(history: History, metric: str) -> Panel:
    """A metric: its train windows as bars over the steps that they average, its evaluations as points."""

    def draw(axes: Axes) -> None:
        train = history.series.train.get(metric)
        evaluations = {name: known[metric] for name, known in history.evaluations.items() if metric in known}
        windows = [at_pixels(axes, train)] if train else []
        points = [at_pixels(axes, curve) for curve in evaluations.values()]
        shown = [*windows, *points]
        scale_values(axes, shown)
        for curve in windows:
            _draw_train(axes, curve, bars=len(history.series.train[metric]) <= _BARS_AT_MOST)
        for number, (name, curve) in enumerate(zip(evaluations, points, strict=True)):
            colour, shape = SPLITS[number % len(SPLITS)]
            draw_points(axes, curve, label=name, color=colour, marker=shape, markeredgecolor=PAPER)
        draw_gaps(axes, shown)
        draw_ends(axes, history.bands)

    return Panel(metric, draw)


def rate_panel(history: History) -> Panel:
    """The learning rate of each optimizer: that of the last update of each window."""

    def draw(axes: Axes) -> None:
        curves = [at_pixels(axes, curve) for curve in history.series.learning_rates.values()]
        scale_values(axes, curves)
        for number, (name, curve) in enumerate(zip(history.series.learning_rates, curves, strict=True)):
            colour, dash = _RATES[number % len(_RATES)]
            looks: dict[str, Any] = {"marker": "."} if len(curve) <= _MARKS_AT_MOST else {}
            label = name or None
            axes.plot(curve.steps, curve.values, color=colour, linestyle=dash, linewidth=1.4, label=label, **looks)

    return Panel("learning rate", draw, height=0.95)


def pace_panel(history: History) -> Panel:
    """The speed between the events that the journal has, in examples a second where it is known how many a step has."""
    known = history.series.examples
    unit = "examples" if len(known) else "steps"

    def draw(axes: Axes) -> None:
        ordered = sorted(history.pace.stretches, key=lambda stretch: stretch.end)
        for first, label, looks in (
            (True, "first of an attempt: with tracing and compiling", {"color": ORANGE, "linestyle": (0, (1.5, 1))}),
            (False, "between evaluations and saves", {"color": BLUE}),
        ):
            chosen = [stretch for stretch in ordered if stretch.first == first]
            if not chosen:
                continue
            starts, ends, seconds = np.array([(item.start, item.end, item.seconds) for item in chosen], float).T
            done = _examples_at(known, ends) - _examples_at(known, starts) if len(known) else ends - starts
            curve = at_pixels(axes, Curve(ends, done / seconds, starts))
            _draw_spans(axes, curve, width=2.2, label=label, **looks)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: short(value))

    return Panel(f"{unit} a second", draw, height=0.95)


def stall_panel(history: History) -> Panel:
    """For how long training stood still for each save."""
    stalls = history.pace.stalls
    scale, unit = (1000.0, "ms") if stalls.values.max(initial=0.0) < 1 else (1.0, "s")

    def draw(axes: Axes) -> None:
        curve = at_pixels(axes, stalls)
        axes.vlines(curve.steps, 0, curve.values * scale, color=VERMILION, linewidth=1.0)
        if len(curve) <= _MARKS_AT_MOST:
            axes.plot(curve.steps, curve.values * scale, linestyle="none", marker=".", color=VERMILION)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: short(value))

    return Panel(f"stall of a save ({unit})", draw, height=0.75)


def at_pixels(axes: Axes, curve: Curve) -> Curve:
    """What of a curve can be seen at the width of a panel."""
    low, high = axes.get_xlim()
    return curve.of(visible(curve.steps, curve.values, low=low, high=high, columns=COLUMNS))


def scale_values(axes: Axes, curves: list[Curve]) -> None:
    """Fits the vertical axis to the finite values of all of `curves`; says so where it is logarithmic."""
    values = np.concatenate([curve.values for curve in curves]) if curves else np.array([])
    if set_value_scale(axes, values[np.isfinite(values)].tolist()):
        axes.set_ylabel("log scale", labelpad=2)


def draw_points(axes: Axes, curve: Curve, *, size: float = 6.0, **looks: Any) -> None:
    """Evaluations: a point each, smaller and joined by a line where there are many."""
    many = len(curve) > _MARKS_AT_MOST
    axes.plot(
        curve.steps,
        curve.values,
        linestyle="-" if many else "none",
        linewidth=0.8,
        markersize=2.0 if many else size,
        markeredgewidth=0.0 if many else 0.7,
        clip_on=False,
        zorder=5,
        **looks,
    )


def draw_gaps(axes: Axes, curves: list[Curve]) -> None:
    """Marks the steps at which a value was not finite, at the upper edge."""
    gaps = [curve.steps[np.isnan(curve.values)] for curve in curves]
    if any(map(len, gaps)):
        steps = np.unique(np.concatenate(gaps))
        axes.plot(
            steps,
            np.full(len(steps), 0.96),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=5 if len(steps) <= _MARKS_AT_MOST else 3,
            markeredgewidth=1.0 if len(steps) <= _MARKS_AT_MOST else 0.4,
            color=INK,
            zorder=6,
            gid="not-finite",
            label="not finite",
        )


def short(value: float) -> str:
    """A number of an axis in few characters."""
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


def _draw_train(axes: Axes, curve: Curve, *, bars: bool) -> None:
    if bars:
        label = "train: the mean of a window"
        _draw_spans(axes, curve, width=_SPAN_WIDTH, color=BLUE, zorder=4, gid="train-windows", label=label)
    else:
        label = "train: means of windows, each pixel from lowest to highest"
        axes.plot(curve.steps, curve.values, color=BLUE, linewidth=0.9, zorder=3, gid="train-windows", label=label)


def _draw_spans(axes: Axes, curve: Curve, *, width: float, **looks: Any) -> None:
    finite = np.isfinite(curve.values)
    if curve.starts is not None and finite.any():
        spans = curve.starts[finite], curve.steps[finite], curve.values[finite]
        draw_windows(axes, *spans, width=width, steps_per_point=steps_per_point(axes), **looks)


def _examples_at(known: Curve, steps: Floats) -> Floats:
    """The examples consumed by `steps`, between and beyond the records at the pace of the nearest ones."""
    at, examples = np.concatenate([[0.0], known.steps]), np.concatenate([[0.0], known.values])
    found: Floats = np.interp(steps, at, examples)
    last = at[-1]
    return np.where(steps > last, examples[-1] * steps / max(last, 1.0), found)
