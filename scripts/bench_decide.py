"""What deciding costs training: the same run with and without monitors, conditions and early stopping.

Both log and evaluate at the same steps; one of them also decides: two monitors whose three best are kept, smoothed
conditions that make each log step a boundary, early stopping. Deciding is measured where each evaluation has a periodic
save, and saves of new bests where only every other one has, so that they come on top: what they cost is what saves
cost. Each run is a process of its own, the two take turns, and the time is that of the loop alone, from its first
evaluation on. Prints a table and, with --json=FILE, writes the same figures for scripts.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import statistics
import sys
import tempfile
from typing import Any

from figures import Figure, show, write

EVERY = 50
"""Steps between evaluations."""
MOST = 1.01
"""The most that it may cost."""
WITHOUT: dict[str, Any] = {"keep_best": 0}
WITH: dict[str, Any] = {
    "monitor": "validation/loss,validation/absolute",
    "keep_best": 3,
    # Never all of them, so that no save is made that the other run does not make.
    "save_if": "mean5(train/loss)<ema0.9(train/loss),validation/loss<best(validation/loss),train/loss<0",
    "early_stop": "1000evals",
}


def measure(name: str, parameters: int, steps: int, rounds: int, save_every: int, most: float | None) -> Figure:
    """The time of the loop with deciding over the time without."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for decides in (False, True) if number % 2 else (True, False):
            with (
                tempfile.TemporaryDirectory(prefix="bench-decide-") as place,
                multiprocessing.get_context("spawn").Pool(1) as process,
            ):
                seconds[decides].append(process.apply(loop_seconds, (place, parameters, steps, save_every, decides)))
        print(f"  round {number + 1}: {seconds[False][-1]:.2f} s without, {seconds[True][-1]:.2f} s", file=sys.stderr)
    ratios = [having / lacking for lacking, having in zip(seconds[False], seconds[True], strict=True)]
    per_step = statistics.median(seconds[False]) / (steps - EVERY) * 1000
    return Figure(
        f"{parameters / 1e6:g}M parameters: {name} / a run that does not decide",
        statistics.median(ratios),
        most,
        "×",
        f"of {rounds} pairs; {min(ratios):.3f} to {max(ratios):.3f}; {per_step:.3g} ms a step",
    )


def loop_seconds(place: str, parameters: int, steps: int, save_every: int, decides: bool) -> float:
    """How long the loop of one run took, from its first evaluation to its last, as the journal tells it."""
    from wide import Regress

    import trainer
    from trainer.ledger.directory import RunDirectory
    from trainer.ledger.journal import read_journal

    experiment = Regress(width=round((parameters / 2) ** 0.5))
    options: dict[str, Any] = {
        "log_every": 10,
        "eval_every": EVERY,
        "save_every": save_every,
        "train_for": steps,
        "progress": "never",
    }
    result = trainer.Trainer(experiment, run_dir=f"{place}/run", **options, **(WITH if decides else WITHOUT)).run()
    assert result.reason == "target reached", result
    journal = read_journal(RunDirectory(result.run_dir))
    times = [
        datetime.datetime.fromisoformat(entry["time"].replace("Z", "+00:00"))
        for entry in journal
        if entry["event"] == "evaluate"
    ]
    return (times[-1] - times[0]).total_seconds()


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench_decide.sh", description=__doc__)
    parser.add_argument("--parameters", type=int, default=10_000_000, help="of the model (default 10 million)")
    parser.add_argument("--steps", type=int, default=200, help="of each run (default 200)")
    parser.add_argument("--rounds", type=int, default=5, help="how many pairs of runs (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    figures = [
        measure(name, arguments.parameters, arguments.steps, arguments.rounds, save_every, most)
        for name, save_every, most in (
            ("one that decides", EVERY, MOST),
            # Nothing is promised of saves here: scripts/bench_checkpoint.sh measures them.
            ("one that also saves each new best", 2 * EVERY, None),
        )
    ]
    show(figures)
    if arguments.json:
        write(figures, arguments.json)


if __name__ == "__main__":
    main()
