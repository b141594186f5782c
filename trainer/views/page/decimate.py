"""Fewer points than there are, and to the eye the same curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.views.drawing import Floats

Indices = npt.NDArray[np.intp]


def visible(steps: Floats, values: Floats, *, low: float, high: float, columns: int) -> Indices:
    """Which points of a curve to draw, so that a line through them covers the pixels that one through all would.

    Of the points in each column of pixels the first, the last, a lowest and a highest stay, and where one is not finite
    the first and the last of those: no spike and no gap is lost. At most six points a column are left.

    Args:
      steps: where the points are, ascending.
      values: their values, NaN where they are not finite.
      low, high: the steps at the left and the right edge of what is drawn; points beyond belong to the edges.
      columns: how many pixels lie between.

    Returns:
      The indices of the points that stay, ascending.
    """
    count = len(steps)
    if count <= columns:
        return np.arange(count)
    scale = columns / max(high - low, np.finfo(float).tiny)
    column = np.clip((steps - low) * scale, 0, columns - 1).astype(np.intp)
    kept = [_first_and_last(np.arange(count), column)]
    finite = np.isfinite(values)
    # By column, and within it by value: the ends of each group are its lowest and its highest.
    shown = np.flatnonzero(finite)
    kept.append(_first_and_last(shown[np.lexsort((values[shown], column[shown]))], column))
    kept.append(_first_and_last(np.flatnonzero(~finite), column))
    return np.unique(np.concatenate(kept))


def _first_and_last(order: Indices, column: Indices) -> Indices:
    """The first and the last of each column, of points given column by column."""
    if not len(order):
        return order
    changes = np.flatnonzero(np.diff(column[order]))
    return np.concatenate([order[:1], order[changes], order[changes + 1], order[-1:]])
