"""The flags of `scripts/bench.sh`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench.parts import PARTS, Part

ABOUT = """Measures the speed of training side by side: this trainer in each of its modes, the floor (its compiled step
in a bare loop), loops by hand, Keras' fit and Orbit's Controller, with the same data, first weights, optimizer,
batches, metrics and lines of the log. Each trains in a process of its own, for a moment at a time while the others are
stopped; as a tick would count that too, this trainer has --tick=1h on tf.data. First all train the same steps, and
their losses have to agree. Prints a table of all that was measured and one of the targets, and writes all rounds as
JSON. All of it takes less than two hours, and 8 GB of memory: the rows of a workload are there together."""
_USAGE = 64


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    parts: Sequence[Part]
    """With the rows that are asked for."""
    workloads: Sequence[str]
    contenders: Sequence[str] | None
    """How the names of the rows begin; None for all."""
    rounds: int
    seconds: float
    json: Path


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see scripts/bench.sh --help", file=sys.stderr)
        sys.exit(_USAGE)


def parsed(arguments: Sequence[str] | None) -> Asked:
    """What the command line asks for; ends the process with 64 and a line where that cannot be."""
    names = [part.name for part in PARTS]
    parser = _Parser(prog="scripts/bench.sh", description=ABOUT, allow_abbrev=False)
    parser.add_argument(
        "--workload", metavar="NAME,…", default=",".join(names), help=f"what is measured, of {', '.join(names)}"
    )
    parser.add_argument(
        "--contender", metavar="NAME,…", help="only the rows whose names begin so, such as ours,floor,fit (default all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=4, help="that each trains about, in a round (default 4)")
    parser.add_argument("--json", metavar="FILE", default="bench.json", help="where the rounds go (default bench.json)")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error(f"--rounds={given.rounds}: expected 1 or more")
    if not 0 < given.seconds < float("inf"):
        parser.error(f"--seconds={given.seconds:g}: expected a time in seconds, such as 2")
    wanted = given.workload.split(",")
    for name in wanted:
        if name not in names:
            parser.error(f"--workload={given.workload}: {name!r} is unknown; expected some of {', '.join(names)}")
    chosen = [part for part in PARTS if part.name in wanted]
    begins = None if given.contender is None else tuple(given.contender.split(","))
    for begin in begins or ():
        if not begin or not any(row.name.startswith(begin) for part in chosen for row in part.rows):
            rows = dict.fromkeys(row.name for part in chosen for row in part.rows)
            what = f"no row begins with {begin!r}" if begin else "a name is missing"
            parser.error(f"--contender={given.contender}: {what}; there are {', '.join(rows)}")
    if begins is not None:
        chosen = [
            dataclasses.replace(part, rows=[row for row in part.rows if row.name.startswith(begins)]) for part in chosen
        ]
    if reason := _unwritable(Path(given.json)):
        parser.error(f"--json={given.json}: expected a file that can be written ({reason})")
    parts = [part for part in chosen if part.rows]
    return Asked(parts, wanted, begins, given.rounds, given.seconds, Path(given.json))


def _unwritable(path: Path) -> str | None:
    """Why the file cannot be written, before anyone waits for what is to be in it; what it holds stays."""
    there = path.exists()
    try:
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None
