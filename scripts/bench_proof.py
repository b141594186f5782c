"""What proofs cost: how fast an audit reads checkpoints, and a replay beside the training that it repeats.

The audit is the command on a run of large checkpoints, all of its checks and its start included, and its two readings
alone. A replay and the training take turns, each in a process of its own; the time of both is that between the
first and the last checkpoint: of training with its saves, of the replay with its restoring and comparing.
Prints a table and, with --json=FILE, writes the same figures for scripts.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from typing import Any

from figures import Figure, show, write

SECONDS_A_GIGABYTE = 1.0
"""The most that an audit may take to read one."""
REPLAY_OVER_TRAINING = 1 / 0.9
"""The most time that a replayed step may take, over a trained one."""


def measure_audit(size: int, rounds: int) -> list[Figure]:
    """Seconds that an audit takes for a gigabyte of checkpoints."""
    whole, reading = [], []
    with tempfile.TemporaryDirectory(prefix="bench-proof-") as place:
        path = os.path.join(place, "run")
        alone(make_large_run, path, size)
        for number in range(rounds):
            seconds, read, gigabytes = alone(audit_seconds, path)
            whole.append(seconds / gigabytes)
            reading.append(read / gigabytes)
            print(
                f"  audit {number + 1}: {seconds:.2f} s for {gigabytes:.2f} GB, reading {read:.2f} s", file=sys.stderr
            )
    detail = f"median of {rounds}, {gigabytes:.2f} GB"
    return [
        Figure("audit: reading a gigabyte of checkpoint", statistics.median(reading), SECONDS_A_GIGABYTE, "s", detail),
        Figure("audit: all checks, for each gigabyte", statistics.median(whole), SECONDS_A_GIGABYTE, "s", detail),
    ]


def measure_replay(name: str, kind: str, rounds: int, *options: Any) -> Figure:
    """The time of a replayed step over that of a trained one."""
    ratios, trained = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-proof-") as place:
            path = os.path.join(place, "run")
            trained.append(alone(train_seconds, path, kind, *options))
            ratios.append(alone(replay_seconds, path, kind) / trained[-1])
        print(f"  {name} {number + 1}: {trained[-1] * 1e3:.3g} ms a step, ratio {ratios[-1]:.3f}", file=sys.stderr)
    detail = (
        f"of {rounds} pairs; {min(ratios):.3f} to {max(ratios):.3f}; {statistics.median(trained) * 1e3:.3g} ms a step"
    )
    return Figure(
        f"{name}: a replayed step / a trained one", statistics.median(ratios), REPLAY_OVER_TRAINING, "×", detail
    )


def alone(function: Any, *arguments: Any) -> Any:
    """What `function` returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def make_large_run(path: str, size: int) -> None:
    """Trains a run whose three checkpoints hold `size` bytes each."""
    from wide import Regress

    import trainer

    trainer.Trainer(
        Regress(width=round((size / 24) ** 0.5)), run_dir=path, train_for=3, save_every=1, log_every=1, progress="never"
    ).run()


def audit_seconds(path: str) -> tuple[float, float, float]:
    """How long an audit takes, how long its reading of the checkpoints, and how many gigabytes they hold."""
    from trainer.ledger.directory import RunDirectory
    from trainer.proof.audit.contents import read_contents
    from trainer.proof.audit.engine import audit
    from trainer.proof.audit.evidence import read_evidence

    # A first audit starts TensorFlow; and the files are in memory afterwards, for both.
    assert audit(path).ok
    started = time.perf_counter()
    assert audit(path).ok
    seconds = time.perf_counter() - started
    contents = read_contents(read_evidence(RunDirectory(path)), lambda line: None)
    return seconds, contents.seconds, contents.bytes / 1e9


def train_seconds(path: str, kind: str, steps: int, save_every: int) -> float:
    """Seconds a step that training takes between its first and its last checkpoint but one."""
    import trainer
    from trainer.ledger.directory import RunDirectory
    from trainer.ledger.journal import read_journal

    trainer.Trainer(
        _experiment(kind),
        run_dir=path,
        train_for=steps,
        save_every=save_every,
        eval_every="never",
        keep_best=0,
        keep_last=99,
        progress="never",
    ).run()
    saves = [entry for entry in read_journal(RunDirectory(path)) if entry["event"] == "save"]
    first, last = (
        datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00")) for entry in (saves[0], saves[-1])
    )
    return (last - first).total_seconds() / (saves[-1]["step"] - saves[0]["step"])


def replay_seconds(path: str, kind: str) -> float:
    """Seconds a step that the replay takes between the same checkpoints."""
    from trainer.ledger.directory import RunDirectory
    from trainer.ledger.manifest import load_manifests
    from trainer.ledger.run_info import RunInfo
    from trainer.proof import reopen
    from trainer.proof.replay import Replay

    reopen.experiment_of = lambda info: _experiment(kind)  # type: ignore[assignment]
    directory = RunDirectory(path)
    info = RunInfo.load(directory)
    assert info is not None
    stretches, ended = [], []
    for stretch in Replay(directory, info).stretches([None, *load_manifests(directory)[0].values()]):
        assert stretch.ok, stretch.describe()
        stretches.append(stretch)
        ended.append(time.perf_counter())
    # The first one compiles, as the first steps of training do. The others restore, train and compare.
    return (ended[-1] - ended[0]) / (stretches[-1].end - stretches[0].end)


def _experiment(kind: str) -> Any:
    from wide import Regress

    from experiments.digits import Digits

    return Digits() if kind == "digits" else Regress(width=2236)


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench_proof.sh", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="of each large checkpoint (default 500)")
    parser.add_argument("--rounds", type=int, default=5, help="how many pairs of runs, and audits (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    figures = [
        *measure_audit(arguments.megabytes * 1_000_000, arguments.rounds),
        measure_replay("digits", "digits", arguments.rounds, 40_000, 5_000),
        measure_replay("10M parameters", "wide", arguments.rounds, 150, 30),
    ]
    show(figures)
    if arguments.json:
        write(figures, arguments.json)


if __name__ == "__main__":
    main()
