"""One run as a picture: which steps the logged metrics average, and where the checkpoints lie between them."""

from __future__ import annotations

import itertools
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.record import Record
from trainer.views.drawing import (
    BLUE,
    CHECKPOINTS,
    FAINT,
    INK,
    PAPER,
    QUIET,
    SKY,
    SPLITS,
    STRIP,
    check_matplotlib,
    draw_windows,
    drawing_style,
    encoded,
    set_value_scale,
)
from trainer.views.marks import Mark, checkpoint_marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (9.375, 4.5)  # 900 × 432 CSS pixels
_LEFT, _RIGHT = 0.096, 0.712
_TOP, _STRIP_TOP, _BOTTOM = 0.815, 0.29, 0.13

_SPAN_WIDTH = 6.5
_LABELS_AT_MOST = 12
"""With more windows than this their borders are too close for a number each."""
_LEGEND_CHARACTERS = 33
_MARK_HEIGHT, _LABEL_HEIGHT = 0.15, -0.6
_LABEL_POINTS = 18
"""The room that a lag's number takes."""


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
    check_matplotlib(path)
    directory = RunDirectory(run_dir)
    records = _records(directory)
    known = dict.fromkeys(name for record in records for name in record.metrics)
    if metric not in known:
        raise ConfigError(f"metric={metric} is in no record of {directory.path}; expected one of {', '.join(known)}")
    marks = checkpoint_marks(directory, records, metric=metric)
    format_name = os.path.splitext(os.fspath(path))[1].lstrip(".").lower() or "svg"
    with drawing_style():
        figure = _figure(records, marks, metric)
        try:
            Path(path).write_bytes(encoded(figure, format_name))
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

    figure = Figure(figsize=_INCHES, facecolor=PAPER)
    figure.text(_LEFT, 0.925, "A logged mean covers a window; a checkpoint is one step", size=12, weight="bold")
    figure.text(
        _LEFT,
        0.868,
        f"The run's {metric} over its steps, and below it the checkpoints, each joined to the window in which it lies.",
        color=QUIET,
    )
    top = figure.add_axes((_LEFT, _STRIP_TOP, _RIGHT - _LEFT, _TOP - _STRIP_TOP))
    strip = figure.add_axes((_LEFT, _BOTTOM, _RIGHT - _LEFT, _STRIP_TOP - _BOTTOM), sharex=top, facecolor=STRIP)
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
    from matplotlib.ticker import MaxNLocator

    last = max(*(record.step for record in records), *(mark.step for mark in marks), 1)
    strip.set_xlim(-0.02 * last, 1.02 * last)
    values = [value for record in records if (value := record.metrics.get(metric)) is not None]
    scale = ", log scale" if set_value_scale(top, values) else ""
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
    strip.tick_params(axis="x", length=3, color=FAINT)
    top.grid(visible=True, color=FAINT, linewidth=0.6)
    strip.grid(visible=True, axis="x", color=FAINT, linewidth=0.6)
    for axes in (top, strip):
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_windows(axes: Axes, windows: Sequence[tuple[tuple[int, int], float]], metric: str) -> None:
    if windows:
        (starts, ends), values = np.transpose([window for window, _ in windows]), [value for _, value in windows]
        draw_windows(
            axes,
            starts.astype(float),
            ends.astype(float),
            np.asarray(values, float),
            width=_SPAN_WIDTH,
            steps_per_point=_steps_per_point(axes),
            color=BLUE,
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
        colour, shape = SPLITS[number % len(SPLITS)]
        axes.plot(
            *zip(*series, strict=True),
            linestyle="none",
            marker=shape,
            markersize=6.5,
            color=colour,
            markeredgecolor=PAPER,
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
        colour, width = (INK, 0.9) if mark.kept else (QUIET, 0.6)
        strip.plot([mark.step, mark.step], [_MARK_HEIGHT, 1], color=colour, linewidth=width, alpha=0.7, zorder=2)
        if height is not None:
            top.plot([mark.step, mark.step], [floor, height], color=colour, linewidth=width, alpha=0.7, zorder=2)
        if mark.lag and height is not None:
            span = [mark.window_start, mark.step]
            top.fill_between(span, floor, height, color=SKY, alpha=0.22, linewidth=0, zorder=1, label=label)
            label = None
        if mark.lag:
            strip.axvspan(mark.window_start, mark.step, color=SKY, alpha=0.22, linewidth=0, zorder=1)
    if _room_for_labels(strip, marks):
        strip.set_yticks([_MARK_HEIGHT, _LABEL_HEIGHT], ["checkpoints", "lag in steps"])
        for mark in marks:
            strip.text(mark.step, _LABEL_HEIGHT, f"{mark.lag}", color=QUIET, ha="center", va="center_baseline")


def _room_for_labels(axes: Axes, marks: Sequence[Mark]) -> bool:
    gaps = [after.step - before.step for before, after in itertools.pairwise(marks)]
    return min(gaps, default=math.inf) >= _LABEL_POINTS * _steps_per_point(axes)


def _steps_per_point(axes: Axes) -> float:
    low, high = axes.get_xlim()
    return (high - low) / ((_RIGHT - _LEFT) * _INCHES[0] * 72)


def _draw_checkpoints(axes: Axes, marks: Sequence[Mark]) -> None:
    for kind, (label, shape, size, fill, edge) in CHECKPOINTS.items():
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
