"""Whether all do the same work: the losses of the same steps, from the same weights on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.jobs import CHECK_STEPS, Job
from bench.parts import OURS, OURS_TF_DATA, REFERENCE, Part, Row
from bench.rounds import Measured, Perform
from bench.workers import Failed

_OF_KERAS = ("run_n", "python_loop", "keras_fit", "orbit")
"""Those whose optimizer is Keras'."""


@dataclasses.dataclass
class Checked:
    """What a check found out."""

    rows: dict[str, Measured]
    """Each row with its loss, or its error."""
    chosen: dict[str, str] = dataclasses.field(default_factory=dict)
    """The row that is what the trainer chooses itself, by the name of the choice."""
    faults: list[str] = dataclasses.field(default_factory=list)
    """A line for each row that does other work."""


def check(part: Part, *, perform: Perform, tell: Callable[[str], None]) -> Checked:
    """Trains the first steps with every row of a part, in the order of the data.

    Args:
      part: whose rows all train one workload.
      perform: does a job.
      tell: receives a line of progress.
    """
    found = Checked({row.name: Measured() for row in part.rows})
    workload = part.rows[0].workload
    reference = Row(REFERENCE, "floor", workload, {"source": "arrays", "jit": "none"})
    rows = [reference, *(row for row in part.rows if row.name != REFERENCE)]
    for name, source in ((OURS, "arrays"), (OURS_TF_DATA, "tf.data")):
        if any(row.name.startswith(f"ours {source}") for row in rows):
            rows.append(Row(name, "ours", workload, {"source": source, "jit": "auto"}))
    expected = 0.0
    for row in rows:
        known = found.rows.get(row.name, Measured())
        try:
            sample = perform(Job(row.kind, row.workload, row.options, None, 0.0, None, check=True))
        except Failed as error:
            known.error, known.details = str(error), error.details
            tell(f"  {part.name}, first steps: {row.name}: {error}")
            if row is reference:
                found.faults.append(f"{part.name}: the floor, which the others are compared with, failed: {error}")
                return found
            continue
        known.loss = float(sample["loss"])
        tell(f"  {part.name}, first steps: {row.name}: loss {known.loss:.7f}")
        if row is reference:
            expected = known.loss
        if row.name in (OURS, OURS_TF_DATA):
            found.chosen[row.name] = row.name.replace("auto", sample["jit"])
        if not agrees(known.loss, expected, tolerance_of(row, part)):
            found.faults.append(
                f"{part.name}: {row.name} does other work: the mean loss of its first {CHECK_STEPS} steps is "
                f"{known.loss:.7g}, and the floor's {expected:.7g}"
            )
    return found


def tolerance_of(row: Row, part: Part) -> float:
    """How far its loss may be from the floor's, relatively."""
    other = row.kind in _OF_KERAS or row.options.get("sparse") == "all"
    return part.tolerance_of_others if other and part.tolerance_of_others is not None else part.tolerance


def agrees(loss: float, expected: float, tolerance: float) -> bool:
    """Whether a loss is the expected one, relatively to it; what is no number never is."""
    return abs(loss - expected) <= tolerance * abs(expected)
