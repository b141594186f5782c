"""How long trainer.status takes on a run directory with very many checkpoints, records and attempts.

The directory is written by hand, as a long run on machines that vanish leaves it, but for the tensors: status never
opens them. Beside the command stand the parts of its time: what Python takes to start, what the imports take, and what
is left for reading and showing. Prints a table and, with --json=FILE, writes the same figures for scripts.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import Figure, show, write

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.manifest import LogPosition, Manifest, StateFile, eval_relation, train_relation
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo

MOST = 0.5
"""The most seconds that the command may take."""
BATCH, EXAMPLES = 64, 50_000
_STATE = {"state.data-00000-of-00001": b"d" * 100, "state.index": b"index"}


def make_run(path: Path, *, checkpoints: int, records: int, attempts: int) -> None:
    """Writes the directory of a run that evaluates and saves at the end of every so many windows."""
    directory = RunDirectory(path)
    path.mkdir()
    _write_identity(directory)
    every = records // checkpoints
    of_attempt = -(-checkpoints // attempts)
    clock = _Clock()
    journal = Journal(directory, clock)
    best: list[dict[str, Any]] = []
    kept: list[int] = []
    written = 0
    with open(directory.metrics, "wb") as log:
        for number in range(checkpoints):
            step = (number + 1) * every * 100
            kept.append(step)
            if number % of_attempt == 0:
                if number:
                    # The one before was killed: it has no stop.
                    clock.seconds += 60
                    journal = Journal(directory, clock)
                _begin(journal, resumed=number * every * 100)
            train = None
            for window in range(number * every, (number + 1) * every):
                end = (window + 1) * 100
                metrics = {"loss": 3 / (end + 1), "accuracy": 1 - 1 / (end + 1)}
                train = Record("train", end, end * BATCH, end * BATCH / EXAMPLES, metrics, window=(window * 100, end))
                written += log.write(train.line())
            evaluation = Record(
                "eval",
                step,
                step * BATCH,
                step * BATCH / EXAMPLES,
                {"loss": 4 / step},
                split="validation",
                weights="raw",
            )
            written += log.write(evaluation.line())
            best = [{"value": 4 / step, "step": step, "relation": "exact"}]
            clock.seconds += 60
            journal.write("evaluate", step=step, splits=["validation"], seconds=1.5)
            journal.write("decide", step=step, best=["validation/loss"], condition=False, stop=False)
            manifest = Manifest(
                step=step,
                examples=step * BATCH,
                epoch=step * BATCH / EXAMPLES,
                run="0" * 32,
                reasons=("interval", "best"),
                attempt=journal.attempt,
                parent=step - every * 100 or None,
                files=tuple(StateFile(name, len(content), "00000000") for name, content in _STATE.items()),
                log=LogPosition((every + 1) * (number + 1), written, "0" * 64),
                train=train_relation(train, step),
                open_window={"from": step, "steps": 0, "metrics": {}},
                eval=eval_relation({"validation": evaluation}, step),
                control={
                    "cadence": {"seconds": 60.0 * number},
                    "best": {"validation/loss": best},
                    "modes": {"validation/loss": "min"},
                    "early_stop": {},
                    "pending": [],
                    "segments": [],
                    "events": {"file": "events.out.tfevents.0000000001.trainer", "bytes": 412},
                },
                data={"mode": "indexed", "fingerprint": "0" * 16},
                for_good=True,
                kept=tuple(kept),
            )
            _write_checkpoint(directory, manifest)
            journal.write("save", step=step, reasons=["interval", "best"], stall_s=0.01, bytes=manifest.size)
            journal.write("times", step=step, seconds=_split(60.0 * (number % of_attempt + 1)))
    journal.write(
        "stop",
        reason="target reached",
        exit_code=0,
        step=checkpoints * every * 100,
        saved=True,
        seconds=_split(60.0 * of_attempt),
    )


class _Clock:
    """A wall clock that stands still until it is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> datetime.datetime:
        begin = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
        return begin + datetime.timedelta(seconds=self.seconds)


def _begin(journal: Journal, *, resumed: int) -> None:
    flags = {f"flag_{number}": "value" for number in range(50)}
    journal.write("start", host=f"spot-{journal.attempt}", pid=1, flags=flags, versions={})
    if resumed:
        journal.write("resume", step=resumed, cut_bytes=0, cut_step=None)
    journal.write("plan", lines=["a line of the plan"] * 15)
    journal.write("times", step=resumed + 1, seconds=_split(0.0))


def _split(seconds: float) -> dict[str, float]:
    return {"start": 1.0, "step": 0.9 * seconds, "save": 0.02 * seconds, "total": seconds}


def _write_identity(directory: RunDirectory) -> None:
    data = {"train": {"mode": "indexed", "fingerprint": "0" * 16}, "validation": {"fingerprint": "1" * 16}}
    info = RunInfo(
        experiment="experiments.digits:Digits",
        parameters={},
        seed=17,
        jit="chunk",
        deterministic=False,
        threads={},
        machine={},
        versions={},
        data=data,
        epoch_examples=EXAMPLES,
        clock_in_log=False,
        run_id="0" * 32,
    )
    Path(directory.run_info).write_bytes(info.encode())
    Path(directory.flags).write_text("--keep_last=3\n--keep_best=1\n")


def _write_checkpoint(directory: RunDirectory, manifest: Manifest) -> None:
    folder = Path(directory.checkpoint(manifest.step))
    folder.mkdir(parents=True)
    for name, content in _STATE.items():
        (folder / name).write_bytes(content)
    Path(directory.manifest(manifest.step)).write_bytes(manifest.encode())


def figures_of(run_dir: Path, what: str, rounds: int) -> Iterator[Figure]:
    """The seconds of the command, for people and for scripts, and of what it cannot do without."""
    imports = "import trainer.status, trainer.views.status"
    commands = {
        f"trainer.status, {what}": (["-m", "trainer.status", str(run_dir)], MOST),
        "… --json": (["-m", "trainer.status", str(run_dir), "--json"], MOST),
        "… what of it Python takes to start": (["-c", "pass"], None),
        "… and to import what reads": (["-c", imports], None),
        "… and what shows": (["-c", f"{imports}, trainer.views.table"], None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, (command, _) in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    for name, (_, most) in commands.items():
        detail = f"of {rounds} calls; {min(seconds[name]):.3f} to {max(seconds[name]):.3f}"
        yield Figure(name, statistics.median(seconds[name]), most, "s", detail)


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench_status.sh", description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=1_000, help="how many there are (default 1000)")
    parser.add_argument("--records", type=int, default=100_000, help="train records in the log (default 100000)")
    parser.add_argument("--attempts", type=int, default=60, help="attempts in the journal (default 60)")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (default 9)")
    parser.add_argument("--keep", metavar="DIR", help="leave the run directory there, to look at")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-status-") as place:
        run_dir = Path(arguments.keep or Path(place, "run"))
        make_run(
            run_dir,
            checkpoints=arguments.checkpoints,
            records=arguments.records,
            attempts=arguments.attempts,
        )
        what = f"{arguments.checkpoints:,} checkpoints, {arguments.records:,} records"
        figures = list(figures_of(run_dir, what, arguments.rounds))
    show(figures)
    if arguments.json:
        write(figures, arguments.json)


if __name__ == "__main__":
    main()
