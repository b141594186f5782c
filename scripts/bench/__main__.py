"""The command line: `scripts/bench.sh`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from bench.check import check
from bench.machine import machine
from bench.parts import PARTS, Part
from bench.rounds import Measured, measure
from bench.table import as_json, part_table, target_table
from bench.targets import verdicts
from bench.workers import ROOT, Failed, Workers

ABOUT = """Measures the speed of training side by side: this trainer in each of its modes, the floor (its compiled step
in a bare loop), loops by hand, Keras' fit and Orbit's Controller, with the same data, first weights, optimizer,
batches, metrics and lines of the log. Each trains in a process of its own; they take turns. First all train the same
steps, and their losses have to agree. Prints a table for each workload, then the targets, and writes all rounds as
JSON."""
_USAGE, _FAILED, _INTERRUPTED = 64, 1, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see scripts/bench.sh --help", file=sys.stderr)
        sys.exit(_USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what is asked for; returns the exit code: 1 where a row failed, or did other work."""
    given, chosen_parts = _parsed(arguments)
    # Whoever ends it is not to leave the jobs behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with Workers(_python()) as workers:
            return _measure(given, chosen_parts, workers)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED


def _measure(given: argparse.Namespace, chosen_parts: Sequence[Part], workers: Workers) -> int:
    began = time.monotonic()
    about = {**machine(), **workers.ready()}
    checked = {part.name: check(part, perform=workers.perform, tell=_tell) for part in chosen_parts if part.checked}
    faults = [fault for found in checked.values() for fault in found.faults]
    if faults:
        print("\n".join(f"error: {fault}" for fault in faults), file=sys.stderr)
        return _FAILED
    rows: dict[str, Mapping[str, Measured]] = {}
    for part in chosen_parts:
        rows[part.name] = measure(
            part,
            rounds=given.rounds,
            seconds=given.seconds,
            perform=workers.perform,
            tell=_tell,
            among=checked[part.name].rows if part.name in checked else None,
        )
    chosen = {name: found.chosen for name, found in checked.items()}
    told = verdicts(rows, chosen)
    for part in chosen_parts:
        print("\n".join([*part_table(part, rows[part.name], chosen.get(part.name, {})), ""]))
    if told:
        print("\n".join(target_table(told)))
    minutes = (time.monotonic() - began) / 60
    how = {"rounds": given.rounds, "seconds": given.seconds, "minutes": round(minutes, 1)}
    Path(given.json).write_text(json.dumps({"machine": about, **how, **as_json(rows, chosen, told)}, indent=1) + "\n")
    _tell(f"{minutes:.0f} minutes; all rounds are in {given.json}")
    return _FAILED if any(row.error for found in rows.values() for row in found.values()) else 0


def _parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Part]]:
    names = [part.name for part in PARTS]
    parser = _Parser(prog="scripts/bench.sh", description=ABOUT, allow_abbrev=False)
    parser.add_argument(
        "--workload", metavar="NAME,…", default=",".join(names), help=f"what is measured, of {', '.join(names)}"
    )
    parser.add_argument(
        "--contender", metavar="NAME,…", help="only the rows whose names begin so, such as ours,floor,fit (default all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=2, help="that each trains about, in a round (default 2)")
    parser.add_argument("--json", metavar="FILE", default="bench.json", help="where the rounds go (default bench.json)")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error(f"--rounds={given.rounds}: expected 1 or more")
    if not 0 < given.seconds < float("inf"):
        parser.error(f"--seconds={given.seconds:g}: expected a time in seconds, such as 2")
    if not os.access(Path(given.json).parent, os.W_OK) or Path(given.json).is_dir():
        parser.error(f"--json={given.json}: expected a file in a folder that can be written")
    wanted = given.workload.split(",")
    for name in wanted:
        if name not in names:
            parser.error(f"--workload={name} is unknown; expected some of {', '.join(names)}")
    chosen = [part for part in PARTS if part.name in wanted]
    if given.contender is not None:
        begins = tuple(given.contender.split(","))
        for begin in begins:
            if not any(row.name.startswith(begin) for part in chosen for row in part.rows):
                rows = dict.fromkeys(row.name for part in chosen for row in part.rows)
                parser.error(f"--contender={begin}: no row begins so; there are {', '.join(rows)}")
        chosen = [
            dataclasses.replace(part, rows=[row for row in part.rows if row.name.startswith(begins)]) for part in chosen
        ]
        chosen = [part for part in chosen if part.rows]
    return given, chosen


def _python() -> str:
    """The Python that sees the peers too, where there is one."""
    peers = ROOT / ".venv-bench" / "bin" / "python"
    return str(peers) if peers.exists() else sys.executable


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
