"""The report as one page of HTML that needs nothing else: no network, no font, no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.views.drawing import drawing_style, encoded
from trainer.views.page import tables
from trainer.views.page.assets import SCRIPT, STYLE
from trainer.views.page.figures import METRICS_OPEN, Drawn, costs, course, metrics_of, other_metrics, picture, shared
from trainer.views.page.history import History
from trainer.views.page.markup import facts, figure, folded, text
from trainer.views.waterfall import waterfall_figure

GENERATOR = '<meta name="generator" content="trainer.report">'
"""What tells a page of ours from another."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_ROWS_OPEN = 30
"""A longer table is folded."""


def report(histories: Sequence[History]) -> str:
    """The page. The same run directories give the same page, with the same version of matplotlib."""
    title = f"Run {histories[0].name}" if len(histories) == 1 else f"{len(histories)} runs"
    # The page's own font, and text that can be searched and read aloud.
    with drawing_style(svg_fonttype="none"):
        sections = list(_sections(histories))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{text(title)}</h1>\n{''.join(sections)}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def picture_of(histories: Sequence[History], format_name: str) -> bytes:
    """One picture of the runs, as the content of a file."""
    with drawing_style():
        return encoded(picture(histories), format_name)


def _sections(histories: Sequence[History]) -> Iterator[str]:
    if len(histories) > 1:
        yield _overview(histories)
    for number, history in enumerate(histories, start=1):
        heading = f"<h2>{text(history.name)}</h2>\n" if len(histories) > 1 else ""
        yield f'<section id="run-{number}">\n{heading}{"".join(_run(history, f"run-{number}"))}</section>\n'


def _overview(histories: Sequence[History]) -> str:
    links = " ".join(
        f'<a href="#run-{number}">{text(history.name)}</a>' for number, history in enumerate(histories, start=1)
    )
    parts = [f'<nav aria-label="runs">{links}</nav>\n', tables.run_table(histories)]
    metrics = metrics_of(histories)
    caption = "A line is the means of a run’s train windows, a mark an evaluation of exactly that step’s weights"
    splits = list(dict.fromkeys(name for history in histories for name in history.evaluations))
    if len(splits) > 1:
        caption += f" (filled {splits[0]}, hollow or half filled {', '.join(splits[1:])})"
    if metrics:
        parts.append(figure(shared(histories, metrics[:1]), text(caption) + ".", name="overview"))
    if metrics[1:]:
        parts.append(
            _perhaps_folded(
                figure(shared(histories, metrics[1:]), "The other metrics of the same runs.", name="overview-more"),
                f"{len(metrics) - 1} more metrics",
                folds=len(metrics) - 1 > METRICS_OPEN,
            )
        )
    return "<section>\n" + "".join(parts) + tables.difference_table(histories) + "</section>\n"


def _run(history: History, name: str) -> Iterator[str]:
    if history.warnings:
        yield '<ul class="warnings">' + "".join(f"<li>{text(line)}</li>" for line in history.warnings) + "</ul>\n"
    yield facts(tables.facts_of(history))
    yield figure(course(history), _course_caption(history), name=f"{name}-course")
    if more := other_metrics(history):
        count = len(history.metrics) - 1
        shown = figure(more, "The other metrics, drawn alike.", name=f"{name}-metrics")
        yield _perhaps_folded(shown, f"{count} more metrics", folds=count > METRICS_OPEN)
    if spent := costs(history):
        yield figure(
            spent,
            "The learning rate of the last update of each window; the speed while training, without evaluations and "
            "stalls; and for how long each save held training up.",
            name=f"{name}-costs",
        )
    yield "<h3>Checkpoints</h3>\n"
    rows = len(history.status.checkpoints)
    if rows:
        yield _perhaps_folded(tables.checkpoint_table(history), f"{rows} checkpoints", folds=rows > _ROWS_OPEN)
    else:
        yield "<p>There is no checkpoint yet.</p>\n"
    if attempts := len(history.status.attempts):
        yield f"<h3>Attempts</h3>\n<p>{text(tables.share(history))} of the time made steps that count.</p>\n"
        yield _perhaps_folded(tables.attempt_table(history), f"{attempts} attempts", folds=attempts > _ROWS_OPEN)
    yield from _explanations(history.explanations, name)
    if settings := tables.parameter_table(history):
        yield folded("Parameters and flags", settings)


def _course_caption(history: History) -> str:
    parts = []
    if history.metrics:
        parts.append(
            "A bar is the mean over the steps of a train window, a point an evaluation of exactly that step’s weights."
        )
    if history.marks:
        parts.append(
            "A transient checkpoint was asked for by a clock or a signal alone; a pruned one is not there any more."
        )
    if history.bands:
        parts.append("The attempts are the steps that each process made; dashed lines are where one was cut short.")
    return " ".join(parts)


def _explanations(explanations: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[str]:
    if explanations:
        yield "<h3>Why the logged metric is not the evaluated one</h3>\n"
    for number, (file, explanation) in enumerate(sorted(explanations.items(), reverse=True), start=1):
        metric, split, step = (explanation.get(key) for key in ("metric", "split", "step"))
        of = f"{split or 'the checkpoint'}, at step {step}"
        says = f"The gap between the logged {metric} and that of {of}, term by term, as in the table below."
        drawn = Drawn(waterfall_figure(explanation), says, {"curves": []})
        caption = f"From {text(file)}."
        if explanation.get("open_steps"):
            caption += f" Steps that are in no record yet: {text(tables.listed(explanation['open_steps']))}."
        shown = figure(drawn, caption, name=f"{name}-explain-{number}") + tables.term_table(explanation)
        # The newest first, the others for who asks.
        yield _perhaps_folded(shown, f"{metric} of {of}", folds=number > 1)


def _perhaps_folded(content: str, summary: str, *, folds: bool) -> str:
    return folded(summary, content) if folds else content
