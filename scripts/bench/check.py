"""Whether all do the same work: the losses of the same steps, from the same weights on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.jobs import CHECK_STEPS, Job
from bench.parts import OURS, OURS_TF_DATA, REFERENCE, Part, Row
from bench.rounds import Measured, Sample
from bench.workers import Failed

_OF_KERAS = ("run_n", "python_loop", "keras_fit", "orbit")
"""Those whose optimizer is Keras'."""
_THE_RULE, _KERAS, _ALL_ROWS = "the rule", "Keras", "all rows"


@dataclasses.dataclass
class Checked:
    """What a check found out."""

    rows: dict[str, Measured]
    """Each row with its loss, or its error."""
    chosen: dict[str, str] = dataclasses.field(default_factory=dict)
    """The row that is what the trainer chooses itself, by the name of the choice."""
    faults: list[str] = dataclasses.field(default_factory=list)
    """A line for each row that does other work, and for what no row can do without."""


def check(part: Part, *, perform: Callable[[Job], Sample], tell: Callable[[str], None]) -> Checked:
    """Trains the first steps with every row of a part, in the order of the data.

    All rows of one optimizer have to reach the same loss: that of the first of them, which for ours is the floor. Where
    optimizers differ in their rule, the first of another one has to be at or below the floor, and not too far.

    Args:
      part: whose rows all train one workload.
      perform: does a job; raises `Failed`.
      tell: receives a line of progress.
    """
    found = Checked({row.name: Measured() for row in part.rows})
    workload = part.rows[0].workload
    reference = Row(REFERENCE, "floor", workload, {"source": "arrays", "jit": "none"})
    rows = [reference, *(row for row in part.rows if row.name != REFERENCE)]
    for name, source in ((OURS, "arrays"), (OURS_TF_DATA, "tf.data")):
        if any(row.name.startswith(f"ours {source}") for row in rows):
            rows.append(Row(name, "ours", workload, {"source": source, "jit": "auto"}))
    firsts: dict[str, tuple[str, float]] = {}
    for row in rows:
        known = found.rows.get(row.name, Measured())
        try:
            sample = perform(Job(row.kind, row.workload, row.options, None, 0.0, check=True))
        except Failed as error:
            known.error, known.details = str(error), error.details
            tell(f"  {part.name}, first steps: {row.name}: {error}")
            if row is reference:
                found.faults.append(f"{part.name}: the floor, which the others are compared with, failed: {error}")
                return found
            if row.name in (OURS, OURS_TF_DATA):
                # No row would tell of it, and no target be told of that needs it.
                found.faults.append(f"{part.name}: {row.name} failed: {error}")
            continue
        known.loss = float(sample["loss"])
        tell(f"  {part.name}, first steps: {row.name}: loss {known.loss:.7f}")
        if row.name in (OURS, OURS_TF_DATA):
            found.chosen[row.name] = row.name.replace("auto", sample["jit"])
        rule, below = rule_of(row, part), part.tolerance
        if rule not in firsts:
            below = part.others_below or part.tolerance
        whose, expected = firsts.get(rule) or firsts.get(_THE_RULE) or ("itself", known.loss)
        firsts.setdefault(rule, (row.name, known.loss))
        if not agrees(known.loss, expected, below=below, above=part.tolerance):
            found.faults.append(
                f"{part.name}: {row.name} does other work: the mean loss of its first {CHECK_STEPS} steps is "
                f"{known.loss:.7g}, and that of {whose} {expected:.7g}"
            )
    return found


def rule_of(row: Row, part: Part) -> str:
    """Which rule it updates by, where that makes a difference."""
    if part.others_below is None:
        return _THE_RULE
    if row.kind in _OF_KERAS:
        return _KERAS
    return _ALL_ROWS if row.options.get("sparse") == "all" else _THE_RULE


def agrees(loss: float, expected: float, *, below: float, above: float) -> bool:
    """Whether a loss is the expected one, or so far from it, relatively; what is no number never is."""
    return -below * abs(expected) <= loss - expected <= above * abs(expected)
