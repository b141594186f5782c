"""What happened to a run, over its steps: its checkpoints, and the attempts that it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer.views.attempts import KILLED, RUNNING, Attempt
from trainer.views.drawing import BAR, BLUE, CHECKPOINTS, INK, ORANGE, PAPER, QUIET, SKY, VERMILION
from trainer.views.marks import Mark
from trainer.views.page.history import History
from trainer.views.page.stack import COLUMNS, Panel, steps_per_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LANES = 6
_LANE_INCHES = 0.16
_NUMBER_POINTS = 15
"""The room that an attempt's number takes."""
_BAR_POINTS = 4.5
"""What a checkpoint's bar takes, with the room beside it."""
_WORDS = {
    "kept": "kept",
    "best": "best {monitor}",
    "transient": "kept, transient",
    "pruned": "pruned",
    "pruned-transient": "pruned, transient",
}
"""Each kind of checkpoint in the legend, for readers of a page that has the words beside it."""
_ENDINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "killed": ("killed", "X", {"color": VERMILION, "markeredgecolor": PAPER, "markersize": 8}),
    "preempted": ("preempted or interrupted", "s", {"color": ORANGE, "markeredgecolor": INK, "markersize": 6}),
    "error": ("failed", "P", {"color": INK, "markeredgecolor": PAPER, "markersize": 8}),
    "running": ("running", ">", {"color": BLUE, "markeredgecolor": PAPER, "markersize": 8}),
}
"""How the end of an attempt is drawn: legend, shape and looks; that of one which came to its end has no mark."""


def checkpoint_panel(history: History) -> Panel:
    """The checkpoints: kept, best, asked for by a clock or a signal, and those that were pruned."""

    def draw(axes: Axes) -> None:
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        _draw_checkpoints(axes, history.marks)

    return Panel("checkpoints", draw, height=0.32, strip=True)


def attempt_panel(history: History) -> Panel:
    """The attempts: the steps that each made, those of them that were lost, and how it ended."""
    bands = history.bands
    lanes = min(_LANES, len(bands))

    def draw(axes: Axes) -> None:
        axes.set_ylim(lanes - 0.4, -0.6)
        axes.set_yticks([])
        for number, attempt in enumerate(bands):
            _draw_attempt(axes, attempt, number % lanes)
        _draw_endings(axes, bands, lanes)

    return Panel("attempts", draw, height=max(2, lanes) * _LANE_INCHES, strip=True)


def ending_of(attempt: Attempt) -> str | None:
    """Which of the signs the end of an attempt has; None for one that came to its own end."""
    if attempt.reason in (KILLED, RUNNING, "error"):
        return attempt.reason
    return "preempted" if attempt.reason in ("preempted", "interrupted") else None


def _draw_checkpoints(axes: Axes, marks: Sequence[Mark]) -> None:
    low, high = axes.get_xlim()
    # Where they are many, thinner ones; and of those that are gone one a pixel.
    room = (high - low) / (max(len(marks), 1) * steps_per_point(axes) * _BAR_POINTS)
    thin = [(across * min(1.0, max(0.15, room)), up) for across, up in BAR]
    for kind, (_, shape, size, fill, edge) in CHECKPOINTS.items():
        members = [mark for mark in marks if mark.kind == kind]
        steps = [mark.step for mark in members]
        if kind.startswith("pruned"):
            steps = list({int(step / (high - low) * COLUMNS): step for step in steps}.values())
        if steps:
            axes.plot(
                steps,
                [0.0] * len(steps),
                linestyle="none",
                marker=thin if shape is BAR else shape,
                markersize=size,
                markerfacecolor=fill,
                markeredgecolor=edge,
                markeredgewidth=0.9 if room >= 1 else 0.4,
                clip_on=False,
                zorder=4 if kind.startswith("pruned") else 5 if shape is BAR else 6,
                gid=f"checkpoints-{kind}",
                label=_WORDS[kind].replace("{monitor}", members[0].best or ""),
            )


def _draw_attempt(axes: Axes, attempt: Attempt, lane: int) -> None:
    start, end = attempt.from_step or 0, attempt.to_step or 0
    counts = end - attempt.steps_lost
    gid = f"attempt-{attempt.attempt}"
    if counts > start:
        axes.barh(lane, counts - start, left=start, height=0.62, color=SKY, zorder=3, gid=gid)
    if attempt.steps_lost:
        known = "steps lost: made again" in axes.get_legend_handles_labels()[1]
        axes.barh(
            lane,
            attempt.steps_lost,
            left=counts,
            height=0.62,
            facecolor=PAPER,
            edgecolor=VERMILION,
            linewidth=0.7,
            hatch="//////",
            zorder=3,
            gid=f"{gid}-lost",
            label=None if known else "steps lost: made again",
        )
    if (end - start) / steps_per_point(axes) >= _NUMBER_POINTS:
        axes.text(start + 3 * steps_per_point(axes), lane, str(attempt.attempt), size=7, va="center_baseline", zorder=5)


def _draw_endings(axes: Axes, bands: Sequence[Attempt], lanes: int) -> None:
    for ending, (label, shape, looks) in _ENDINGS.items():
        found = [
            (attempt.to_step, number % lanes) for number, attempt in enumerate(bands) if ending_of(attempt) == ending
        ]
        if found:
            axes.plot(
                *zip(*found, strict=True),
                linestyle="none",
                marker=shape,
                markeredgewidth=0.7,
                clip_on=False,
                zorder=6,
                gid=f"ended-{ending}",
                label=label,
                **looks,
            )


def draw_ends(axes: Axes, bands: Sequence[Attempt]) -> None:
    """A line through a panel wherever an attempt was killed, preempted or failed."""
    for attempt in bands:
        if ending_of(attempt) not in (None, RUNNING):
            axes.axvline(attempt.to_step or 0, color=QUIET, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
