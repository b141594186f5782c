"""The figures of the report, each with what it shows in words, and the numbers under the pointer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.views import formatting
from trainer.views.page.bands import attempt_panel, checkpoint_panel
from trainer.views.page.curves import metric_panel, pace_panel, rate_panel, stall_panel
from trainer.views.page.decimate import visible
from trainer.views.page.history import History
from trainer.views.page.overview import shared_panel
from trainer.views.page.series import Curve
from trainer.views.page.stack import COLUMNS, LEFT, RIGHT, Panel, draw_stack, step_limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_OPEN = 3
"""How many metrics, beside the first, are shown before the rest is folded."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure of the page."""

    figure: Figure
    says: str
    """What it shows, for those who do not see it."""
    numbers: dict[str, Any]
    """What the page reads out at a step: the step limits, and curves of steps and values."""


def course(history: History) -> Drawn:
    """The first metric of a run over its checkpoints and attempts."""
    return _drawn([history], _course_panels(history), history.metrics[:1])


def other_metrics(history: History) -> Drawn | None:
    """All the metrics but the first; None when there is no more than one."""
    metrics = history.metrics[1:]
    panels = [dataclasses.replace(metric_panel(history, metric), height=1.4) for metric in metrics]
    return _drawn([history], panels, metrics) if panels else None


def costs(history: History) -> Drawn | None:
    """The learning rate, the speed and the stalls of saves; None when none is known."""
    panels = _cost_panels(history)
    return _drawn([history], panels, [], rates=True) if panels else None


def shared(histories: Sequence[History], metrics: Sequence[str]) -> Drawn:
    """Metrics of several runs, all of them in each panel."""
    return _drawn(histories, [shared_panel(histories, metric) for metric in metrics], metrics)


def picture(histories: Sequence[History]) -> Figure:
    """One picture of one run, with all its panels but those of further metrics; or one of several runs."""
    last_step = max(history.last_step for history in histories)
    if len(histories) > 1:
        panels = [shared_panel(histories, metric) for metric in metrics_of(histories)[:METRICS_OPEN]]
        return draw_stack(panels, last_step=last_step, heading=f"{len(histories)} runs")
    (history,) = histories
    panels = [*_course_panels(history), *_cost_panels(history)]
    return draw_stack(panels, last_step=last_step, heading=history.name)


def metrics_of(histories: Sequence[History]) -> list[str]:
    """The metrics of all the runs, the loss first."""
    found = list(dict.fromkeys(metric for history in histories for metric in history.metrics))
    return sorted(found, key=lambda metric: metric != "loss")


def _course_panels(history: History) -> list[Panel]:
    panels = [metric_panel(history, metric) for metric in history.metrics[:1]]
    if history.marks or not panels:
        panels.append(checkpoint_panel(history))
    if history.bands:
        panels.append(attempt_panel(history))
    return panels


def _cost_panels(history: History) -> list[Panel]:
    panels = []
    if history.series.learning_rates:
        panels.append(rate_panel(history))
    if history.pace.stretches:
        panels.append(pace_panel(history))
    if len(history.pace.stalls):
        panels.append(stall_panel(history))
    return panels


def _drawn(
    histories: Sequence[History], panels: Sequence[Panel], metrics: Sequence[str], *, rates: bool = False
) -> Drawn:
    last_step = max(history.last_step for history in histories)
    low, high = step_limits(last_step)
    curves = []
    words = [f"{', '.join(panel.title for panel in panels)}, over steps 0 to {last_step}"]
    for history in histories:
        found = list(_curves(history, metrics))
        words += [_in_words(name, curve) for name, curve in found]
        if rates:
            found += [(f"learning rate {name}".strip(), curve) for name, curve in history.series.learning_rates.items()]
        before = f"{history.name}: " if len(histories) > 1 else ""
        curves += [_read_out(before + name, curve, low=low, high=high) for name, curve in found]
    limits = {"low": low, "high": high, "left": LEFT, "right": RIGHT, "last": last_step}
    figure = draw_stack(panels, last_step=last_step)
    return Drawn(figure, ". ".join(filter(None, words)) + ".", {**limits, "curves": curves})


def _curves(history: History, metrics: Sequence[str]) -> Iterator[tuple[str, Curve]]:
    for metric in metrics:
        if metric in history.series.train:
            yield f"train/{metric}", history.series.train[metric]
        for split, known in history.evaluations.items():
            if metric in known:
                yield f"{split}/{metric}", known[metric]


def _in_words(name: str, curve: Curve) -> str:
    finite = np.flatnonzero(np.isfinite(curve.values))
    if not len(finite):
        return f"{name} was never finite" if len(curve) else ""
    values = curve.values[finite]
    first, last, low, high = (formatting.number(float(value)) for value in (values[0], values[-1], *_range(values)))
    gaps = len(curve) - len(finite)
    return (
        f"{name} goes from {first} to {last}, between {low} and {high}, in {len(curve)} records"
        f"{f', {gaps} of them not finite' if gaps else ''}"
    )


def _range(values: Any) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _read_out(name: str, curve: Curve, *, low: float, high: float) -> dict[str, Any]:
    shown = curve.of(visible(curve.steps, curve.values, low=low, high=high, columns=COLUMNS))
    return {
        "name": name,
        "window": shown.starts is not None,
        "steps": [int(step) for step in shown.steps],
        "values": [float(f"{value:.5g}") if np.isfinite(value) else None for value in shown.values],
    }
