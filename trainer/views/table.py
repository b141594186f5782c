"""The status of a run for people: the table of its checkpoints, and what there is to say of the run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from rich.text import Text

from trainer.ledger.manifest import Manifest
from trainer.views import formatting
from trainer.views.attempts import KILLED, RUNNING, Attempt, goodput
from trainer.views.columns import HEADING, Column, print_table, table
from trainer.views.status import Status, window_of
from trainer.views.times import in_words

_NONE: Final = "-"
_STYLES: Final = {
    "best": "bold green",
    "(transient)": "dim",
    "nan": "bold red",
    "damaged": "bold red",
    RUNNING: "bold green",
    KILLED: "bold red",
    _NONE: "dim",
}
_KEPT_FOR: Final = {"every": "for good", "resumed": "resumed from"}
"""What people are told of a reason to keep a checkpoint, where that is more than its name."""
_FOLDED = 3
"""Where attempts are folded, so many in a row that ended alike become one line."""


def print_status(status: Status, stream: TextIO) -> None:
    """Prints `status` for people: fitted to the width of a terminal, and all of it where `stream` is none."""
    print_table(lambda width, rule: status_text(status, width=width, rule=rule), stream)


def status_text(status: Status, *, width: int | None = None, rule: str = "─") -> Text:
    """`status` for people.

    Args:
      status: what to show.
      width: the room in characters; where it is too little, the columns that matter least are left out, and named.
        None shows everything.
      rule: the character that lines are drawn with.
    """
    lines = [Text("no checkpoint yet")]
    if status.checkpoints:
        damaged = {index: row.damage for index, row in enumerate(status.checkpoints) if row.damage is not None}
        lines = table(checkpoint_columns(status), width=width, rule=rule, styles=_STYLES, damaged=damaged)
    lines += [Text(), *_facts(status)]
    if status.attempts:
        columns = attempt_columns(status.attempts, folded=width is not None)
        lines += [Text(), *table(columns, width=width, rule=rule, styles=_STYLES, damaged={})]
        if len(columns[0].cells) < len(status.attempts):
            lines.append(Text("attempts in a row that ended alike are one line: add | cat for each", HEADING))
    return Text("\n", end="").join([*lines, Text()])


def checkpoint_columns(status: Status) -> list[Column]:
    """The columns of the checkpoints, one row each, oldest first."""
    manifests = [row.manifest for row in status.checkpoints]

    def cells(words: Callable[[Manifest], Sequence[str] | None]) -> list[Sequence[str]]:
        return [(manifest and words(manifest)) or [_NONE] for manifest in manifests]

    monitored = str(status.best["metric"]) if status.best else ""
    columns = [
        Column("step", [[str(row.step)] for row in status.checkpoints]),
        Column("examples", cells(lambda manifest: [str(manifest.examples)]), rank=90),
        Column("epoch", cells(lambda manifest: _decimal(manifest.epoch)), rank=50),
        Column("reasons", cells(_reasons), left=True, wraps=True),
        Column("kept for", [_kept_for(row.kept_by) for row in status.checkpoints], "", 12, True, True),
        Column("window", cells(_window_text), "train", 30, left=True),
        Column("lag", cells(lambda manifest: [str(manifest.train["lag"])] if manifest.train else None), "train", 10),
    ]

    def add_metrics(group: str, known: Callable[[Manifest], Mapping[str, Any]]) -> None:
        names = dict.fromkeys(name for manifest in manifests if manifest for name in known(manifest).get("metrics", ()))
        for name in names:
            rank = 0 if monitored == f"{group}/{name}" else 20 if name == "loss" else 80 if group == "train" else 60

            def value(manifest: Manifest, name: str = name) -> Sequence[str] | None:
                metrics = known(manifest).get("metrics", {})
                return [formatting.number(metrics[name])] if name in metrics else None

            columns.append(Column(name, cells(value), group, rank))

    add_metrics("train", lambda manifest: manifest.train or {})
    for split in dict.fromkeys(split for manifest in manifests if manifest for split in manifest.eval):

        def of_split(manifest: Manifest, split: str = split) -> Mapping[str, Any]:
            found: Mapping[str, Any] = manifest.eval.get(split, {})
            return found

        def age(manifest: Manifest, split: str = split) -> Sequence[str] | None:
            return [str(manifest.eval[split]["age"])] if split in manifest.eval else None

        add_metrics(split, of_split)
        columns.append(Column("age", cells(age), split, 15 if monitored.startswith(f"{split}/") else 25))
    columns += _later_columns(status)
    columns.append(Column("size", cells(lambda manifest: [formatting.size(manifest.size)]), rank=70))
    return columns


def _later_columns(status: Status) -> list[Column]:
    """The metrics of what was evaluated later, where the run had not evaluated the same itself."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for index, row in enumerate(status.checkpoints):
        for split, known in row.evaluations.items():
            own = row.manifest.eval.get(split) if row.manifest else None
            # Of other data, as after a change of it, the numbers are others.
            if own is None or own["age"] or own["metrics"] != known["metrics"]:
                found.setdefault(split, {})[index] = known["metrics"]
    columns = []
    for split, rows in found.items():
        for name in dict.fromkeys(name for metrics in rows.values() for name in metrics):
            cells = [
                [formatting.number(rows[index][name])] if name in rows.get(index, {}) else [_NONE]
                for index in range(len(status.checkpoints))
            ]
            columns.append(Column(name, cells, f"later {split}", 22 if name == "loss" else 62))
    return columns


def attempt_columns(attempts: Sequence[Attempt], *, folded: bool = False) -> list[Column]:
    """The columns of the attempts; `folded` puts those in a row that ended alike into one line, but for the last."""
    rows = _folded(attempts) if folded else [[attempt] for attempt in attempts]

    def cells(words: Callable[[Sequence[Attempt]], object]) -> list[Sequence[str]]:
        return [[_NONE if (value := words(row)) is None else str(value)] for row in rows]

    def same(value: Callable[[Attempt], object], many: str = _NONE) -> list[Sequence[str]]:
        found = [{value(attempt) for attempt in row} for row in rows]
        return [[many.format(len(values)) if len(values) > 1 else str(*(values - {None}) or _NONE)] for values in found]

    first_steps = cells(lambda row: _mean(attempt.first_step_s for attempt in row))
    # A journal may be older than this.
    told = any(attempt.first_step_s is not None for attempt in attempts)
    return [
        Column("attempt", cells(lambda row: "–".join(str(row[end].attempt) for end in sorted({0, len(row) - 1})))),
        Column("host", same(lambda attempt: attempt.host, "{} hosts"), rank=20, left=True),
        Column("from", cells(lambda row: row[0].from_step), "step"),
        Column("to", cells(lambda row: row[-1].to_step), "step"),
        Column("lost", cells(lambda row: sum(attempt.steps_lost for attempt in row)), "step"),
        Column("took", cells(lambda row: formatting.duration(sum(attempt.seconds for attempt in row))), rank=15),
        *([Column("first step", first_steps, rank=12)] if told else []),
        Column("to recover", cells(lambda row: _mean(attempt.recover_s for attempt in row)), rank=10),
        Column("end", [[_ending(row[0])] for row in rows], left=True),
        Column("exit", same(lambda attempt: attempt.exit_code), rank=30),
    ]


def _folded(attempts: Sequence[Attempt]) -> list[Sequence[Attempt]]:
    rows: list[Sequence[Attempt]] = []
    for _, group in itertools.groupby(attempts[:-1], _ending):
        alike = list(group)
        rows += [alike] if len(alike) >= _FOLDED else [[attempt] for attempt in alike]
    return [*rows, attempts[-1:]]


def _mean(seconds: Iterable[float | None]) -> str | None:
    """A time: of one attempt, or the mean of several, as far as it is known."""
    told = list(seconds)
    known = [one for one in told if one is not None]
    if not known:
        return None
    return f"{'Ø ' * (len(told) > 1)}{formatting.duration(sum(known) / len(known))}"


def _facts(status: Status) -> list[Text]:
    run = status.run
    facts = []
    for position, best in enumerate(status.best_by):
        there = best["path"] or "(not kept)"
        value = f"{formatting.number(best['value'])} ({best['relation']})"
        facts.append(("" if position else "best", f"step {best['step']}  {best['metric']} {value}  {there}"))
    if status.latest is not None:
        path = next(row.path for row in status.checkpoints if row.step == status.latest)
        facts.append(("latest", f"step {status.latest}  {path}"))
    if status.evaluations["lines"]:
        facts.append(("later", _told_of(**status.evaluations)))
    known = (("", run["experiment"]), ("seed ", run["seed"]), ("id ", run["run_id"]))
    facts.append(("run", "  ".join(f"{word}{value}" for word, value in known if value is not None) or _NONE))
    if run.get("clock_in_log"):
        facts.append(("", "clock_in_log: the metric log depends on a clock"))
    facts.append(("goodput", _goodput_text(status.attempts)))
    if status.times is not None:
        facts.append(("time", in_words(status.times)))
    return [Text.assemble((f"{label:<9}", HEADING), text) for label, text in facts]


def _goodput_text(attempts: Sequence[Attempt]) -> str:
    share = goodput(attempts)
    if share is None:
        return "not known"
    told = f"{share:.1%} of the time made steps that count"
    if lost := sum(attempt.steps_lost for attempt in attempts):
        told += f"; {lost} step{'s' * (lost > 1)} lost"
    known = [attempt.recover_s for attempt in attempts if attempt.recover_s is not None]
    if known:
        mean, longest = (formatting.duration(value) for value in (sum(known) / len(known), max(known)))
        told += f"; {mean} to recover" if mean == longest else f"; {mean} to recover in the mean, {longest} at most"
    return told


def _told_of(*, lines: int, gone: int, other_data: int) -> str:
    told = [f"{lines} evaluation{'' if lines == 1 else 's'} by trainer.evaluate"]
    if gone:
        told.append(f"{gone} of checkpoints that are gone or damaged")
    if other_data:
        told.append(f"{other_data} on other data than the run's or the newest")
    return ", ".join(told)


def _reasons(manifest: Manifest) -> list[str]:
    return [*_listed(manifest.reasons), *(["(transient)"] if manifest.transient else [])]


def _listed(words: Sequence[str]) -> list[str]:
    """`words` with the commas that they have in a sentence."""
    return [*(f"{word}," for word in words[:-1]), *words[-1:]]


def _kept_for(reasons: Sequence[str]) -> list[str]:
    return _listed([_KEPT_FOR.get(reason, reason) for reason in reasons]) or [_NONE]


def _window_text(manifest: Manifest) -> list[str] | None:
    return ["({}, {}]".format(*window_of(manifest))] if manifest.train else None


def _decimal(value: float | None) -> list[str] | None:
    return None if value is None else [f"{value:.2f}"]


def _ending(attempt: Attempt) -> str:
    why = attempt.fault or attempt.signal
    return f"{attempt.reason} ({why})" if why else attempt.reason
