"""How pictures of runs look: one palette, one style, and files that are the same bytes every time."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

# The colours of Okabe and Ito, which people with any colour vision tell apart.
BLUE, SKY, VERMILION, PURPLE, ORANGE, GREEN = "#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#E69F00", "#009E73"
INK, QUIET, FAINT, PAPER, STRIP = "#24292F", "#57606A", "#D8DEE4", "#FFFFFF", "#F4F6F8"
SPLITS = ((VERMILION, "o"), (PURPLE, "s"), (GREEN, "D"), (ORANGE, "v"))
"""Colour and shape of the evaluations, split by split."""

BAR = ((-0.32, -1.0), (0.32, -1.0), (0.32, 1.0), (-0.32, 1.0), (-0.32, -1.0))
"""The mark of a checkpoint: upright, as it stands for one step."""
CHECKPOINTS: dict[str, tuple[str, Any, float, str, str]] = {
    "kept": ("checkpoint, kept", BAR, 11, INK, INK),
    "best": ("checkpoint, best {monitor}", "*", 14, ORANGE, INK),
    "transient": ("checkpoint, kept, saved for a clock or a signal", "D", 7, INK, INK),
    "pruned": ("checkpoint, pruned since", BAR, 11, PAPER, QUIET),
    "pruned-transient": ("checkpoint, pruned since, saved for a clock or a signal", "D", 7, PAPER, QUIET),
}
"""How each kind of checkpoint is drawn: legend, shape, size, fill and edge."""

FORMATS = ("svg", "png", "pdf")
"""What pictures are written as: of each it is known how to leave out when and by which version it was made."""

_PIXELS_PER_INCH = 192  # of a PNG: twice as sharp, for the screens that can show it
_LOG_SCALE_FROM = 5
"""The largest value over the smallest from which a linear axis would flatten the end of a metric that falls."""
_DECADES_FROM = 1000
"""The same, from which a logarithmic axis has room for powers of ten alone."""
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib, so that every machine draws the same
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
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


def check_matplotlib(path: str | os.PathLike[str]) -> None:
    """Refuses to draw into `path` where there is nothing to draw with.

    Raises:
      ConfigError: matplotlib is missing.
    """
    try:
        import matplotlib.style  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"drawing {os.fspath(path)} needs matplotlib, which is not installed: "
            "pip install checkpoint-trainer[report]"
        ) from error


def check_plot(path: str | os.PathLike[str]) -> str:
    """The format of the picture at `path`, by its ending; refuses what cannot be drawn before any work is done.

    Raises:
      ConfigError: its ending names no format, it is a folder, or matplotlib is missing.
    """
    name = os.fspath(path)
    format_name = os.path.splitext(name)[1].lstrip(".").lower()
    if format_name not in FORMATS:
        raise ConfigError(f"plot={name}; expected a file that ends in .{', .'.join(FORMATS)}, such as run.png")
    if os.path.isdir(name):
        raise ConfigError(f"plot={name} is a folder; expected a file, such as {os.path.join(name, 'run.png')}")
    check_matplotlib(name)
    return format_name


@contextlib.contextmanager
def drawing_style(**other: Any) -> Iterator[None]:
    """Draws as all pictures of runs look, whatever the user has set for matplotlib.

    Args:
      **other: settings of matplotlib that differ for this picture, with `_` for the dot in their names.
    """
    import matplotlib.style

    changed = {name.replace("_", ".", 1): value for name, value in other.items()}
    with matplotlib.style.context(["default", {**_STYLE, **changed}]):
        yield


def encoded(figure: Figure, format_name: str) -> bytes:
    """A figure as the content of a file, without a date.

    Raises:
      ValueError: matplotlib does not know the format.
    """
    content = io.BytesIO()
    figure.savefig(content, format=format_name, dpi=_PIXELS_PER_INCH, metadata=_UNDATED.get(format_name))
    return content.getvalue()


def draw_windows(
    axes: Axes,
    starts: Floats,
    ends: Floats,
    values: Floats,
    *,
    width: float,
    steps_per_point: float,
    **looks: Any,
) -> None:
    """Draws train windows as bars over the steps (start, end] that they average, each at its mean.

    Args:
      axes: where, with its limits set: where a bar's round end stops depends on them.
      starts, ends: the windows, in steps; finite, as are the `values`.
      values: their means.
      width: how thick a bar is, in points.
      steps_per_point: the scale of the horizontal axis.
      **looks: what else matplotlib is told of the line: colour, label, gid.
    """
    # A round end reaches half a line's width further than its line. Where windows are shorter than that, ends are cut.
    inset = width / 2 * steps_per_point
    lengths = ends - starts
    round_ends = bool((lengths > 2 * inset).any())
    inside = np.minimum(inset, lengths / 2) if round_ends else np.zeros_like(lengths)
    gaps = np.full_like(lengths, np.nan)
    axes.plot(
        np.stack([starts + inside, ends - inside, gaps], axis=1).ravel(),
        np.stack([values, values, gaps], axis=1).ravel(),
        linewidth=width,
        solid_capstyle="round" if round_ends else "butt",
        **looks,
    )


def set_value_scale(axes: Axes, values: Sequence[float]) -> bool:
    """Fits the vertical axis to finite values in the order of their steps; whether it is a logarithmic one."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    low, high = min(values, default=0.0), max(values, default=1.0)
    logarithmic = low > 0 and high > _LOG_SCALE_FROM * low and values[0] > values[-1]
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(low / (high / low) ** 0.12, high * (high / low) ** 0.08)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _DECADES_FROM * low else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        margin = (high - low or abs(high) or 1.0) * 0.1
        axes.set_ylim(low - 1.2 * margin, high + margin)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return logarithmic
