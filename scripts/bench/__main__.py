"""The command line: `scripts/bench.sh`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.check import check
from bench.flags import Asked, parsed
from bench.machine import machine
from bench.peers import python_with_peers
from bench.rounds import Measured, measure
from bench.rounds_json import as_json, write
from bench.table import figure_table, show, target_table
from bench.targets import verdicts
from bench.workers import Failed, Workers

_FAILED, _UNWRITABLE, _INTERRUPTED = 1, 74, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what is asked for; returns the exit code: 1 where a row failed, or did other work."""
    asked = parsed(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Whoever ends it is not to leave the jobs behind; under nohup a hangup ends nothing.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        peers = any(row.kind == "orbit" for part in asked.parts for row in part.rows)
        with Workers(python_with_peers(_tell) if peers else sys.executable) as workers:
            return _measure(asked, workers)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED


def _measure(asked: Asked, workers: Workers) -> int:
    began = time.monotonic()
    about = {**machine(), **workers.ready()}
    checked = {part.name: check(part, perform=workers.perform, tell=_tell) for part in asked.parts if part.checked}
    faults = [fault for found in checked.values() for fault in found.faults]
    if faults:
        print("\n".join(f"error: {fault}" for fault in faults), file=sys.stderr)
        return _FAILED
    rows: dict[str, Mapping[str, Measured]] = {}
    ended = 0
    try:
        for part in asked.parts:
            rows[part.name] = measure(
                part,
                rounds=asked.rounds,
                seconds=asked.seconds,
                perform=workers.together,
                tell=_tell,
                among=checked[part.name].rows if part.name in checked else None,
            )
    except (KeyboardInterrupt, Failed) as error:
        if not rows:
            raise
        # The parts that are through have all their rounds.
        ended, why = (_FAILED, f"error: {error}") if isinstance(error, Failed) else (_INTERRUPTED, "interrupted")
        print(f"{why}: what follows is of the parts that are through", file=sys.stderr)
    minutes = (time.monotonic() - began) / 60
    code = _report(asked, about, minutes, rows, {name: found.chosen for name, found in checked.items()})
    return ended or code


def _report(
    asked: Asked,
    about: Mapping[str, Any],
    minutes: float,
    rows: Mapping[str, Mapping[str, Measured]],
    chosen: Mapping[str, Mapping[str, str]],
) -> int:
    """Writes the file and shows the tables; returns the exit code."""
    told = verdicts(rows, chosen)
    how = {
        "workload": asked.workloads,
        "contender": asked.contenders,
        "rounds": asked.rounds,
        "seconds": asked.seconds,
        "minutes": round(minutes, 1),
    }
    failed = any(row.error for found in rows.values() for row in found.values())
    try:
        # First: the reader of the tables may go away.
        write(asked.json, {"machine": about, **how, **as_json(rows, chosen, told)})
        where, code = f"all rounds are in {asked.json}", _FAILED if failed else 0
    except OSError as error:
        where, code = f"error: {asked.json} could not be written: {error.strerror}", _UNWRITABLE
    show(
        figure_table([part for part in asked.parts if part.name in rows], rows, chosen),
        *([target_table(told)] if told else []),
    )
    _tell(f"{minutes:.0f} minutes")
    _tell(where)
    return code


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
