"""The tables of the report, and what there is to say of a run in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.views import formatting
from trainer.views.attempts import goodput
from trainer.views.columns import Column
from trainer.views.page.history import History
from trainer.views.page.markup import table
from trainer.views.table import attempt_columns, checkpoint_columns
from trainer.views.times import in_words
from trainer.views.waterfall import labels, terms_of

_NONE = "-"


def checkpoint_table(history: History) -> str:
    """Every checkpoint with the records that belong to it, as `trainer.status` shows them."""
    rows = history.status.checkpoints
    damaged = {index: row.damage for index, row in enumerate(rows) if row.damage is not None}
    return table(checkpoint_columns(history.status), "Checkpoints that are there", damaged=damaged)


def attempt_table(history: History) -> str:
    """Every attempt: the steps that it made, how it ended, and what was lost."""
    return table(attempt_columns(history.status.attempts), "Attempts")


def term_table(explanation: Mapping[str, Any]) -> str:
    """The terms of an explanation, with what each means."""
    terms = terms_of(explanation)
    shown = labels(terms)
    names = [f"{term.name}{' (dominates)' * (term.name == explanation.get('dominant'))}" for term in terms]
    columns = [
        Column("term", [[name] for name in names], left=True),
        Column("value", [[value] for value, _ in shown]),
        Column("difference", [[difference or _NONE] for _, difference in shown]),
        Column("standard error", [[_NONE if term.stderr is None else f"{term.stderr:.2g}"] for term in terms]),
        Column("meaning", [[term.meaning] for term in terms], left=True, wraps=True),
    ]
    return table(columns, "The gap term by term")


def run_table(histories: Sequence[History]) -> str:
    """The runs side by side."""
    columns = [
        Column("run", [[history.name] for history in histories], left=True),
        Column("state", [[state(history)] for history in histories], left=True),
        Column("step", [[str(history.last_step)] for history in histories]),
        Column("best", [[best(history)] for history in histories], left=True),
        Column("checkpoints", [[str(len(history.status.checkpoints))] for history in histories]),
        Column("attempts", [[str(len(history.status.attempts))] for history in histories]),
        Column("goodput", [[share(history)] for history in histories]),
    ]
    return table(columns, "The runs")


def difference_table(histories: Sequence[History]) -> str:
    """The parameters and flags in which the runs differ; nothing where they do not."""
    # A loop of one's own has none.
    histories = [history for history in histories if _settings(history)]
    known = [_settings(history) for history in histories]
    names = [
        name
        for name in dict.fromkeys(name for settings in known for name in settings)
        if len({settings.get(name) for settings in known}) > 1
    ]
    if not names:
        return ""
    columns = [Column("setting", [[name] for name in names], left=True)]
    for history, settings in zip(histories, known, strict=True):
        columns.append(Column(history.name, [[settings.get(name, _NONE)] for name in names], left=True, wraps=True))
    return table(columns, "What differs")


def facts_of(history: History) -> list[tuple[str, str]]:
    """What identifies a run, and how it went."""
    status, series = history.status, history.series
    run = status.run
    found = [("state", f"{state(history)}, step {history.last_step:,}"), ("directory", history.path)]
    for name in ("experiment", "seed", "run_id"):
        if run.get(name) is not None:
            found.append((name.replace("_", " "), str(run[name])))
    found += [(f"best {known['metric']}", _best(known)) for known in status.best_by]
    pruned = sum(not mark.kept for mark in history.marks)
    found.append(("records", f"{series.records:,}"))
    found.append(("checkpoints", f"{len(status.checkpoints)}{f', {pruned} pruned' if pruned else ''}"))
    if status.attempts:
        found.append(("goodput", f"{share(history)} of the time made steps that count"))
    if status.times is not None:
        found.append(("time", in_words(status.times)))
    if series.skipped:
        found.append(("skipped", f"{series.skipped} updates, as they were not finite"))
    if run.get("clock_in_log"):
        found.append(("clock_in_log", "the metric log depends on a clock"))
    return found


def parameter_table(history: History) -> str:
    """The parameters and flags of the run's last attempt; nothing where none are known."""
    settings = _settings(history)
    if not settings:
        return ""
    columns = [
        Column("setting", [[name] for name in settings], left=True),
        Column("value", [[value] for value in settings.values()], left=True, wraps=True),
    ]
    return table(columns, "Parameters and flags")


def state(history: History) -> str:
    """How the run stands."""
    attempts = history.status.attempts
    return attempts[-1].reason if attempts else "no journal"


def best(history: History) -> str:
    """The best step by the first monitored metric."""
    known = history.status.best
    return f"{known['metric']} {_best(known)}" if known else _NONE


def share(history: History) -> str:
    """The goodput."""
    found = goodput(history.status.attempts)
    return "not known" if found is None else f"{found:.1%}"


def _best(known: Mapping[str, Any]) -> str:
    kept = "" if known["path"] else ", not kept"
    return f"{formatting.number(known['value'])} at step {known['step']} ({known['relation']}{kept})"


def _settings(history: History) -> dict[str, str]:
    """The parameters, as the last segment has them, and the flags of the last attempt, by name."""
    run = history.status.run
    segments: Sequence[Mapping[str, Any]] = run.get("segments") or ()
    parameters = (segments[-1] if segments else run).get("parameters") or {}
    flags = {name: value for name, value in history.flags.items() if name != "run_dir"}
    return {**{name: str(value) for name, value in parameters.items()}, **flags}


def listed(steps: Any) -> str:
    """Steps as text, a run of them as its first and its last."""
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        return str(steps)
    ends = [step for step in steps if step + 1 not in steps]
    starts = [step for step in steps if step - 1 not in steps]
    return ", ".join(
        str(start) if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)
    )
