"""One run as a picture: which steps the logged metrics average, and where the checkpoints lie between them."""

from __future__ import annotations

import itertools
import math
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.record import Record
from trainer.views.marks import Mark, checkpoint_marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (9.375, 4.5)  # 900 × 432 CSS pixels
_PIXELS_PER_INCH = 192  # of a PNG: twice as sharp, for the screens that can show it
_LEFT, _RIGHT = 0.096, 0.712
_TOP, _STRIP_TOP, _BOTTOM = 0.815, 0.29, 0.13

# The colours of Okabe and Ito, which people with any colour vision tell apart.
_BLUE, _SKY, _VERMILION, _PURPLE, _ORANGE, _GREEN = "#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#E69F00", "#009E73"
_INK, _QUIET, _FAINT, _PAPER, _STRIP = "#24292F", "#57606A", "#D8DEE4", "#FFFFFF", "#F4F6F8"
_SPLITS = ((_VERMILION, "o"), (_PURPLE, "s"), (_GREEN, "D"), (_ORANGE, "v"))
"""Colour and shape of the evaluations, split by split."""

_SPAN_WIDTH = 6.5
_LOG_SCALE_FROM = 5
"""The largest value over the smallest from which a linear axis would flatten the end of a metric that falls."""
_LABELS_AT_MOST = 12
"""With more windows than this their borders are too close for a number each."""
_LEGEND_CHARACTERS = 33
_MARK_HEIGHT, _LABEL_HEIGHT = 0.15, -0.6
_LABEL_POINTS = 18
"""The room that a lag's number takes."""
_BAR = ((-0.32, -1.0), (0.32, -1.0), (0.32, 1.0), (-0.32, 1.0), (-0.32, -1.0))
"""The mark of a checkpoint: upright, as it stands for one step."""
_LOOKS: dict[str, tuple[str, Any, float, str, str]] = {
    "kept": ("checkpoint, kept", _BAR, 11, _INK, _INK),
    "best": ("checkpoint, best {monitor}", "*", 14, _ORANGE, _INK),
    "transient": ("checkpoint, kept, saved for a clock or a signal", "D", 7, _INK, _INK),
    "pruned": ("checkpoint, pruned since", _BAR, 11, _PAPER, _QUIET),
    "pruned-transient": ("checkpoint, pruned since, saved for a clock or a signal", "D", 7, _PAPER, _QUIET),
}
"""How each kind of checkpoint is drawn: legend, shape, size, fill and edge."""

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib, so that every machine draws the same
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "path.simplify": False,
    "text.parse_math": False,  # a metric's name is no formula
    "svg.hashsalt": "checkpoint-trainer",  # otherwise the ids are random
}
_UNDATED: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""What each format says of when and by which version it was made: nothing, so that the same run gives the same file."""


def draw_run(run_dir: str | os.PathLike[str], path: str | os.PathLike[str], *, metric: str = "loss") -> None:
    """Draws `metric` over the steps of a run, and its checkpoints on a strip below.

    A train record is a bar over the steps that it averages, an evaluation a point at its step. A checkpoint is joined
    to the window in which it lies; the part of the window that it has seen, its lag, is shaded. The same run directory
    gives the same file, byte for byte, with the same version of matplotlib.

    Args:
      run_dir: the run directory. Only its log, journal and manifests are read; the run may be going on.
      path: the file to write; its ending chooses the format, `.svg` or any other that matplotlib knows.
      metric: a name in the records, without the split. Values that are not finite are left out.

    Raises:
      ConfigError: matplotlib is missing, no record has `metric`, or `path` cannot be written.
      Unusable: `run_dir` has no metric log, or one that is damaged.
    """
    try:
        import matplotlib.style
    except ImportError as error:
        raise ConfigError(
            f"drawing {os.fspath(path)} needs matplotlib, which is not installed: "
            "pip install checkpoint-trainer[report]"
        ) from error
    directory = RunDirectory(run_dir)
    records = _records(directory)
    known = dict.fromkeys(name for record in records for name in record.metrics)
    if metric not in known:
        raise ConfigError(f"metric={metric} is in no record of {directory.path}; expected one of {', '.join(known)}")
    marks = checkpoint_marks(directory, records, metric=metric)
    format_name = os.path.splitext(os.fspath(path))[1].lstrip(".").lower() or "svg"
    with matplotlib.style.context(["default", _STYLE]):
        figure = _figure(records, marks, metric)
        try:
            figure.savefig(path, format=format_name, dpi=_PIXELS_PER_INCH, metadata=_UNDATED.get(format_name))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the picture {os.fspath(path)} cannot be written: {error}") from error


def _records(directory: RunDirectory) -> list[Record]:
    try:
        records = read_records(directory)
    except ValueError as error:
        raise Unusable(f"{directory.metrics} is damaged: {error}") from error
    if not records:
        raise Unusable(f"{directory.path} has no records in {os.path.basename(directory.metrics)}; expected a run_dir")
    return records


def _figure(records: Sequence[Record], marks: Sequence[Mark], metric: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor=_PAPER)
    figure.text(_LEFT, 0.925, "A logged mean covers a window; a checkpoint is one step", size=12, weight="bold")
    figure.text(
        _LEFT,
        0.868,
        f"The run's {metric} over its steps, and below it the checkpoints, each joined to the window in which it lies.",
        color=_QUIET,
    )
    top = figure.add_axes((_LEFT, _STRIP_TOP, _RIGHT - _LEFT, _TOP - _STRIP_TOP))
    strip = figure.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, _STRIP_TOP - _BOTTOM), sharex=top, facecolor=_STRIP)
    windows = [
        (record.window, value)
        for record in records
        if record.window is not None and (value := record.metrics.get(metric)) is not None
    ]
    _set_axes(top, strip, records, marks, metric)
    _draw_windows(top, windows, metric)
    _draw_evaluations(top, records, metric)
    _draw_lags(top, strip, marks, windows)
    _draw_checkpoints(strip, marks)
    _add_legend(top, "upper left", labelspacing=1.0)
    _add_legend(strip, "lower left", labelspacing=0.7)
    return figure


def _set_axes(top: Axes, strip: Axes, records: Sequence[Record], marks: Sequence[Mark], metric: str) -> None:
    """Fixes the limits first: where a bar's round end stops depends on them."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    last = max(*(record.step for record in records), *(mark.step for mark in marks), 1)
    strip.set_xlim(-0.02 * last, 1.02 * last)
    values = [value for record in records if (value := record.metrics.get(metric)) is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = ""
    if low > 0 and high > _LOG_SCALE_FROM * low and values[0] > values[-1]:
        top.set_yscale("log")
        top.set_ylim(low / (high / low) ** 0.12, high * (high / low) ** 0.08)
        top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        top.yaxis.set_minor_formatter(NullFormatter())
        top.yaxis.set_minor_locator(NullLocator())
        scale = ", log scale"
    else:
        margin = (high - low or abs(high) or 1.0) * 0.1
        top.set_ylim(low - 1.2 * margin, high + margin)
    top.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    top.set_ylabel(f"{metric}{' (mean over examples' + scale + ')' if metric == 'loss' else scale}", labelpad=6)
    borders = sorted({border for record in records if record.window for border in record.window})
    if len(borders) <= _LABELS_AT_MOST:
        strip.set_xticks(borders)
    else:
        strip.xaxis.set_major_locator(MaxNLocator(integer=True))
    strip.set_xlabel("step (optimizer updates)", labelpad=4)
    strip.set_ylim(-1, 1)
    strip.set_yticks([_MARK_HEIGHT], ["checkpoints"])
    top.tick_params(axis="x", length=0, labelbottom=False)
    for axes in (top, strip):
        axes.tick_params(axis="y", length=0)
    strip.tick_params(axis="x", length=3, color=_FAINT)
    top.grid(visible=True, color=_FAINT, linewidth=0.6)
    strip.grid(visible=True, axis="x", color=_FAINT, linewidth=0.6)
    for axes in (top, strip):
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_windows(axes: Axes, windows: Sequence[tuple[tuple[int, int], float]], metric: str) -> None:
    # A round end reaches half a line's width further than its line. Where windows are shorter than that, ends are cut.
    inset = _SPAN_WIDTH / 2 * _steps_per_point(axes)
    round_ends = any(end - start > 2 * inset for (start, end), _ in windows)
    steps: list[float] = []
    heights: list[float] = []
    for (start, end), value in windows:
        inside = min(inset, (end - start) / 2) if round_ends else 0
        steps += (start + inside, end - inside, math.nan)
        heights += (value, value, math.nan)
    if windows:
        axes.plot(
            steps,
            heights,
            color=_BLUE,
            linewidth=_SPAN_WIDTH,
            solid_capstyle="round" if round_ends else "butt",
            zorder=4,
            gid="train-windows",
            label=_wrapped(f"train {metric}: one mean over all steps of a window"),
        )


def _draw_evaluations(axes: Axes, records: Sequence[Record], metric: str) -> None:
    points: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.split is not None and (value := record.metrics.get(metric)) is not None:
            name = record.split if record.weights in (None, "raw") else f"{record.split} {record.weights}"
            points.setdefault(name, []).append((record.step, value))
    for number, (name, series) in enumerate(points.items()):
        colour, shape = _SPLITS[number % len(_SPLITS)]
        axes.plot(
            *zip(*series, strict=True),
            linestyle="none",
            marker=shape,
            markersize=6.5,
            color=colour,
            markeredgecolor=_PAPER,
            markeredgewidth=0.8,
            clip_on=False,
            zorder=5,
            gid=f"evaluations-{name.replace(' ', '-')}",
            label=_wrapped(f"{name} {metric}: measured with exactly this step's weights"),
        )


def _draw_lags(top: Axes, strip: Axes, marks: Sequence[Mark], windows: Sequence[tuple[tuple[int, int], float]]) -> None:
    """Joins each checkpoint to its window, and shades what it has seen of a window that was still open."""
    floor = top.get_ylim()[0]
    label: str | None = _wrapped("lag: steps since the last train record, in a window still open")
    for mark in marks:
        height = next((value for (start, end), value in windows if start < mark.step <= end), mark.partial)
        colour, width = (_INK, 0.9) if mark.kept else (_QUIET, 0.6)
        strip.plot([mark.step, mark.step], [_MARK_HEIGHT, 1], color=colour, linewidth=width, alpha=0.7, zorder=2)
        if height is not None:
            top.plot([mark.step, mark.step], [floor, height], color=colour, linewidth=width, alpha=0.7, zorder=2)
        if mark.lag and height is not None:
            span = [mark.window_start, mark.step]
            top.fill_between(span, floor, height, color=_SKY, alpha=0.22, linewidth=0, zorder=1, label=label)
            label = None
        if mark.lag:
            strip.axvspan(mark.window_start, mark.step, color=_SKY, alpha=0.22, linewidth=0, zorder=1)
    if _room_for_labels(strip, marks):
        strip.set_yticks([_MARK_HEIGHT, _LABEL_HEIGHT], ["checkpoints", "lag in steps"])
        for mark in marks:
            strip.text(mark.step, _LABEL_HEIGHT, f"{mark.lag}", color=_QUIET, ha="center", va="center_baseline")


def _room_for_labels(axes: Axes, marks: Sequence[Mark]) -> bool:
    gaps = [after.step - before.step for before, after in itertools.pairwise(marks)]
    return min(gaps, default=math.inf) >= _LABEL_POINTS * _steps_per_point(axes)


def _steps_per_point(axes: Axes) -> float:
    low, high = axes.get_xlim()
    return (high - low) / ((_RIGHT - _LEFT) * _INCHES[0] * 72)


def _draw_checkpoints(axes: Axes, marks: Sequence[Mark]) -> None:
    for kind, (label, shape, size, fill, edge) in _LOOKS.items():
        if members := [mark for mark in marks if mark.kind == kind]:
            axes.plot(
                [mark.step for mark in members],
                [_MARK_HEIGHT] * len(members),
                linestyle="none",
                marker=shape,
                markersize=size,
                markerfacecolor=fill,
                markeredgecolor=edge,
                markeredgewidth=0.9,
                clip_on=False,
                zorder=5,
                gid=f"checkpoints-{kind}",
                label=_wrapped(label.replace("{monitor}", members[0].best or "")),
            )


def _add_legend(axes: Axes, corner: Literal["upper left", "lower left"], *, labelspacing: float) -> None:
    """Beside the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc=corner,
        bbox_to_anchor=(1.012, 1.0 if corner == "upper left" else 0.0),
        borderaxespad=0,
        frameon=False,
        labelspacing=labelspacing,
        handlelength=1.8,
        handletextpad=0.8,
    )


def _wrapped(label: str) -> str:
    """`label` in lines that fit beside the axes."""
    return textwrap.fill(label, _LEGEND_CHARACTERS)
