"""The table of a run's checkpoints, each with the records that belong to it, and what there is to say of the run."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from trainer.checkpoint.retention import kept_checkpoints
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo
from trainer.views import formatting
from trainer.views.attempts import KILLED, RUNNING, Attempt, goodput, read_attempts

_GAP: Final = 2
_NONE: Final = "-"
_HEADING: Final = "dim"
_STYLES: Final = {
    "best": "bold green",
    "(transient)": "dim",
    "nan": "bold red",
    "damaged": "bold red",
    RUNNING: "bold green",
    KILLED: "bold red",
    _NONE: "dim",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A committed checkpoint."""

    step: int
    path: str
    manifest: Manifest | None
    """None when it is damaged."""
    damage: str | None = None
    """What is wrong with it."""
    kept_by: tuple[str, ...] = ()
    """Every reason why it is not deleted; none for one that the next save deletes."""

    def to_json(self) -> dict[str, Any]:
        """What scripts are told of it; a damaged one says so under a key of its own."""
        manifest = self.manifest
        value: dict[str, Any] = {
            "step": self.step,
            "examples": manifest and manifest.examples,
            "epoch": manifest and manifest.epoch,
            "reasons": list(manifest.reasons) if manifest else [],
            "transient": manifest is not None and manifest.transient,
            "kept_by": list(self.kept_by),
            "train": manifest and manifest.train,
            "eval": manifest.eval if manifest else {},
            "bytes": manifest and manifest.size,
            "path": self.path,
        }
        return value if self.damage is None else {**value, "damaged": self.damage}


@dataclasses.dataclass(frozen=True)
class Status:
    """What a run directory holds."""

    run: Mapping[str, Any]
    """Its path, and what identifies the run: the content of `run.json`."""
    latest: int | None
    """The step of the newest usable checkpoint."""
    best: Mapping[str, Any] | None
    """The best step so far by the monitored metric; its path is None when it was not kept."""
    attempts: Sequence[Attempt]
    checkpoints: Sequence[Row]
    """Oldest first."""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "run": dict(self.run),
            "latest": self.latest,
            "best": self.best and dict(self.best),
            "goodput": goodput(self.attempts),
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "checkpoints": [row.to_json() for row in self.checkpoints],
        }


def read_status(run_dir: str) -> Status:
    """Reads a run directory, which a trainer may be writing at the same time.

    Raises:
      Unusable: it is not there, is no run directory, or cannot be read.
    """
    directory = RunDirectory(run_dir)
    if not os.path.isdir(run_dir):
        what = "is a file" if os.path.exists(run_dir) else "does not exist"
        raise Unusable(f"{run_dir or repr(run_dir)} {what}; expected a run directory, such as runs/digits")
    try:
        info = RunInfo.load(directory)
        if not (info or directory.files.exists(directory.metrics) or directory.committed_steps()):
            raise Unusable(
                f"{run_dir} is no run directory: it has no run.json, no metric log and no checkpoint; "
                "expected the run_dir of a training command"
            )
        return _read(directory, info)
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{run_dir} cannot be read ({error}); mend it, or its permissions") from error


def print_status(status: Status, stream: TextIO) -> None:
    """Prints `status` for people: fitted to the width of a terminal, and all of it where `stream` is none."""
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    text = status_text(
        status, width=console.width - 1 if stream.isatty() else None, rule="-" if console.options.ascii_only else "─"
    )
    text.plain = formatting.printable(text.plain, stream)
    with console.capture() as capture:
        console.print(text, soft_wrap=True, end="")
    # Written by ourselves: rich ends the process with 1 when the reader of a pipe has gone.
    stream.write(capture.get())


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
        lines = _table(_checkpoint_columns(status), width, rule, damaged)
    lines += [Text(), *_facts(status)]
    if status.attempts:
        lines += [Text(), *_table(_attempt_columns(status.attempts), width, rule, {})]
    return Text("\n", end="").join([*lines, Text()])


def _read(directory: RunDirectory, info: RunInfo | None) -> Status:
    flags = read_flags(directory)
    rows = [row for step in sorted(directory.committed_steps()) if (row := _read_row(directory, step))]
    manifests = {row.step: row.manifest for row in rows if row.manifest}
    latest = max(manifests, default=None)
    best: dict[str, Any] | None = None
    best_steps: list[int] = []
    if latest is not None:
        rankings = _rankings(manifests[latest])
        metric = flags.get("monitor", "")
        if metric not in rankings:
            metric = next(iter(rankings), "")
        ranking = rankings.get(metric, [])
        if ranking:
            value, step = ranking[0]
            path = directory.checkpoint(step) if step in manifests else None
            best = {"metric": metric, "value": value, "step": step, "path": path}
        best_steps = [step for _, step in ranking][: _number(flags.get("keep_best"))]
    # Without flags, as beside someone's own loop, it is not known how many of the newest stay.
    kept = kept_checkpoints(manifests.values(), keep_last=_number(flags.get("keep_last")), best_steps=best_steps)
    run = {"path": directory.path, "run_id": None, "experiment": None, "seed": None}
    if info:
        run.update(dataclasses.asdict(info))
    elif latest is not None:
        run["run_id"] = manifests[latest].run
    return Status(
        run=run,
        latest=latest,
        best=best,
        attempts=read_attempts(directory, latest=latest),
        checkpoints=[dataclasses.replace(row, kept_by=kept.get(row.step, ())) for row in rows],
    )


def _read_row(directory: RunDirectory, step: int) -> Row | None:
    """The checkpoint of `step`; None when it is deleted while we read it."""
    path = directory.checkpoint(step)
    try:
        manifest = Manifest.load(directory, step)
        _check(manifest)
    except (OSError, ValueError) as error:
        reason = str(error)
    except (TypeError, KeyError, AttributeError) as error:
        reason = f"its manifest lacks or garbles {error}"
    else:
        return Row(step, path, manifest)
    # The manifest is the first of its files to go, so one that is still there is that of a damaged checkpoint.
    return Row(step, path, None, reason) if directory.files.exists(directory.manifest(step)) else None


def _check(manifest: Manifest) -> None:
    """Raises where a section that is shown is not what its format says; only someone else's hand makes it so."""
    counts: list[Any] = []
    numbers: list[Any] = [manifest.epoch]
    if manifest.train is not None:
        counts += [manifest.train["lag"], *_window(manifest)]
        numbers += manifest.train["metrics"].values()
    for known in manifest.eval.values():
        counts += [known["age"], known["step"]]
        numbers += known["metrics"].values()
    for ranking in _rankings(manifest).values():
        counts += [step for _, step in ranking]
        numbers += [value for value, _ in ranking]
    if not all(isinstance(reason, str) for reason in manifest.reasons):
        raise ValueError(f"its manifest has {list(manifest.reasons)} for the reasons")
    for count in counts:
        if type(count) is not int:
            raise ValueError(f"its manifest has {count!r} for a count")
    for number in numbers:
        if number is not None and (isinstance(number, bool) or not math.isfinite(number)):
            raise ValueError(f"its manifest has {number!r} for a number")


def _rankings(manifest: Manifest) -> dict[str, list[tuple[float, int]]]:
    """The best values and their steps, best first, for each metric that was monitored."""
    best = manifest.control.get("best", {})
    return {metric: [(known["value"], known["step"]) for known in ranking] for metric, ranking in best.items()}


def _window(manifest: Manifest) -> tuple[int, int]:
    start, end = (manifest.train or {})["window"]
    return start, end


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Column:
    """One column. Its cells are words; where room is short, those of a `wraps` column go on several lines."""

    name: str
    cells: Sequence[Sequence[str]]
    group: str = ""
    rank: int = 0
    """Where the terminal is narrow, the highest rank is left out first, and 0 never."""
    left: bool = False
    wraps: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.group}/{self.name}" if self.group else self.name

    def natural(self) -> int:
        return max(cell_len(self.name), *(cell_len(" ".join(cell)) for cell in self.cells))

    def least(self) -> int:
        words = (cell_len(word) for cell in self.cells for word in cell)
        return max(cell_len(self.name), *words) if self.wraps else self.natural()


def _checkpoint_columns(status: Status) -> list[_Column]:
    manifests = [row.manifest for row in status.checkpoints]

    def cells(words: Callable[[Manifest], Sequence[str] | None]) -> list[Sequence[str]]:
        return [(manifest and words(manifest)) or [_NONE] for manifest in manifests]

    monitored = str(status.best["metric"]) if status.best else ""
    columns = [
        _Column("step", [[str(row.step)] for row in status.checkpoints]),
        _Column("examples", cells(lambda manifest: [str(manifest.examples)]), rank=90),
        _Column("epoch", cells(lambda manifest: _decimal(manifest.epoch)), rank=50),
        _Column("reasons", cells(_reasons), left=True, wraps=True),
        _Column("kept by", [_listed(row.kept_by) or [_NONE] for row in status.checkpoints], "", 40, True, True),
        _Column("window", cells(_window_text), "train", 30, left=True),
        _Column("lag", cells(lambda manifest: [str(manifest.train["lag"])] if manifest.train else None), "train", 10),
    ]

    def add_metrics(group: str, known: Callable[[Manifest], Mapping[str, Any]]) -> None:
        names = dict.fromkeys(name for manifest in manifests if manifest for name in known(manifest).get("metrics", ()))
        for name in names:
            rank = 0 if monitored == f"{group}/{name}" else 20 if name == "loss" else 80 if group == "train" else 60

            def value(manifest: Manifest, name: str = name) -> Sequence[str] | None:
                metrics = known(manifest).get("metrics", {})
                return [formatting.number(metrics[name])] if name in metrics else None

            columns.append(_Column(name, cells(value), group, rank))

    add_metrics("train", lambda manifest: manifest.train or {})
    for split in dict.fromkeys(split for manifest in manifests if manifest for split in manifest.eval):

        def of_split(manifest: Manifest, split: str = split) -> Mapping[str, Any]:
            found: Mapping[str, Any] = manifest.eval.get(split, {})
            return found

        def age(manifest: Manifest, split: str = split) -> Sequence[str] | None:
            return [str(manifest.eval[split]["age"])] if split in manifest.eval else None

        add_metrics(split, of_split)
        columns.append(_Column("age", cells(age), split, 15 if monitored.startswith(f"{split}/") else 25))
    columns.append(_Column("size", cells(lambda manifest: [formatting.size(manifest.size)]), rank=70))
    return columns


def _attempt_columns(attempts: Sequence[Attempt]) -> list[_Column]:
    def cells(words: Callable[[Attempt], object]) -> list[Sequence[str]]:
        return [[_NONE if (value := words(attempt)) is None else str(value)] for attempt in attempts]

    return [
        _Column("attempt", cells(lambda attempt: attempt.attempt)),
        _Column("host", cells(lambda attempt: attempt.host), rank=20, left=True),
        _Column("from step", cells(lambda attempt: attempt.from_step)),
        _Column("to step", cells(lambda attempt: attempt.to_step)),
        _Column("steps lost", cells(lambda attempt: attempt.steps_lost)),
        _Column("took", cells(lambda attempt: formatting.duration(attempt.seconds)), rank=30),
        _Column("end", [[_ending(attempt)] for attempt in attempts], left=True),
        _Column("exit code", cells(lambda attempt: attempt.exit_code), rank=10),
    ]


def _facts(status: Status) -> list[Text]:
    run = status.run
    facts = []
    if status.best:
        there = status.best["path"] or "(not kept)"
        value = formatting.number(status.best["value"])
        facts.append(("best", f"step {status.best['step']}  {status.best['metric']} {value}  {there}"))
    if status.latest is not None:
        path = next(row.path for row in status.checkpoints if row.step == status.latest)
        facts.append(("latest", f"step {status.latest}  {path}"))
    known = (("", run["experiment"]), ("seed ", run["seed"]), ("id ", run["run_id"]))
    facts.append(("run", "  ".join(f"{word}{value}" for word, value in known if value is not None) or _NONE))
    if run.get("clock_in_log"):
        facts.append(("", "clock_in_log: the metric log depends on a clock"))
    share = goodput(status.attempts)
    facts.append(("goodput", "not known" if share is None else f"{share:.1%} of the time made steps that count"))
    return [Text.assemble((f"{label:<9}", _HEADING), text) for label, text in facts]


def _reasons(manifest: Manifest) -> list[str]:
    return [*_listed(manifest.reasons), *(["(transient)"] if manifest.transient else [])]


def _listed(words: Sequence[str]) -> list[str]:
    """`words` with the commas that they have in a sentence."""
    return [*(f"{word}," for word in words[:-1]), *words[-1:]]


def _window_text(manifest: Manifest) -> list[str] | None:
    return ["({}, {}]".format(*_window(manifest))] if manifest.train else None


def _decimal(value: float | None) -> list[str] | None:
    return None if value is None else [f"{value:.2f}"]


def _ending(attempt: Attempt) -> str:
    return f"{attempt.reason} ({attempt.fault})" if attempt.fault else attempt.reason


def _table(columns: Sequence[_Column], width: int | None, rule: str, damaged: Mapping[int, str]) -> list[Text]:
    """The lines of a table; below it, what there was no room for."""
    shown, widths = _fit(columns, width)
    lines = [*_headings(shown, widths, rule), *_body(shown, widths, damaged)]
    if hidden := [column.full_name for column in columns if column not in shown]:
        lines.append(Text(f"no room for {', '.join(hidden)}: widen the terminal, or add | cat", _HEADING))
    return lines


def _fit(columns: Sequence[_Column], width: int | None) -> tuple[list[_Column], list[int]]:
    """The columns that there is room for, and how wide each is."""
    shown = list(columns)
    least = {column: column.least() for column in columns}
    natural = {column: column.natural() for column in columns}
    while width is not None and _total(shown, [least[column] for column in shown]) > width:
        last = max(shown, key=lambda column: column.rank)
        if not last.rank:
            break
        shown.remove(last)
    widths = [least[column] for column in shown]
    for index, column in enumerate(shown):
        more = natural[column] - widths[index]
        widths[index] += more if width is None else max(0, min(more, width - _total(shown, widths)))
    for _, end, missing in _groups(shown, widths):
        widths[end] += missing
    return shown, widths


def _total(columns: Sequence[_Column], widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1) + sum(missing for _, _, missing in _groups(columns, widths))


def _groups(columns: Sequence[_Column], widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """The first and the last column of each group, and how much wider than they its name is."""
    ends: dict[str, tuple[int, int]] = {}
    for index, column in enumerate(columns):
        if column.group:
            ends[column.group] = (ends.get(column.group, (index, index))[0], index)
    return [
        (first, last, max(0, cell_len(group) - sum(widths[first : last + 1]) - _GAP * (last - first)))
        for group, (first, last) in ends.items()
    ]


def _headings(columns: Sequence[_Column], widths: Sequence[int], rule: str) -> list[Text]:
    """A line with the names of the groups, where there are any, and one with those of the columns."""
    line = ""
    for first, last, _ in _groups(columns, widths):
        start = sum(widths[:first]) + _GAP * first
        label = columns[first].group
        rest = sum(widths[first : last + 1]) + _GAP * (last - first) - cell_len(label) - 1
        line += " " * (start - cell_len(line)) + label + (f" {rule * rest}" if rest > 0 else "")
    names = [
        column.name + " " * (width - cell_len(column.name)) if column.left else column.name.rjust(width)
        for column, width in zip(columns, widths, strict=True)
    ]
    return [Text(text.rstrip(), _HEADING) for text in (line, (" " * _GAP).join(names)) if text]


def _body(columns: Sequence[_Column], widths: Sequence[int], damaged: Mapping[int, str]) -> list[Text]:
    """The lines of the rows, one or more each; a damaged row has its first cell, and what is wrong with it."""
    lines = []
    for index, first in enumerate(columns[0].cells):
        if index in damaged:
            step = first[0].rjust(widths[0])
            lines.append(Text.assemble(step, " " * _GAP, ("damaged", _STYLES["damaged"]), f": {damaged[index]}"))
            continue
        cells = [_broken(column, column.cells[index], width) for column, width in zip(columns, widths, strict=True)]
        for level in range(max(map(len, cells))):
            line, padding = Text(), 0
            for column, width, cell in zip(columns, widths, cells, strict=True):
                words = cell[level] if level < len(cell) else []
                space = width - cell_len(" ".join(words))
                line.append(" " * (padding if column.left else padding + space))
                for position, word in enumerate(words):
                    line.append(f" {word}" if position else word, _STYLES.get(word.rstrip(",")))
                padding = _GAP + (space if column.left else 0)
            line.rstrip()
            lines.append(line)
    return lines


def _broken(column: _Column, words: Sequence[str], width: int) -> list[list[str]]:
    """The words of a cell in as many lines as they need."""
    lines: list[list[str]] = [[]]
    for word in words:
        if column.wraps and lines[-1] and cell_len(" ".join([*lines[-1], word])) > width:
            lines.append([])
        lines[-1].append(word)
    return lines
