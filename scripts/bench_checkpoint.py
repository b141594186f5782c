"""Checkpoints in figures, each measured side by side with what it is compared to, in one run on this machine.

Prints a table and, with --json=FILE, writes the same figures for scripts. A missed target is printed as one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from figures import Figure, show, write

import trainer
from trainer.checkpoint import folder
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import LogPosition, Manifest
from trainer.ledger.record import Record

_ALL_CORES = "no core free"


class Model(tf.Module):
    """Layers of 1000 × 1000, and what Adam keeps of each: `megabytes` in all."""

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.layers = [
            tf.Variable(0.03 * tf.random.stateless_normal([1000, 1000], [layer, 1], alg="philox"))
            for layer in range(round(megabytes / 12))
        ]

    @property
    def bytes(self) -> int:
        return 3 * 4_000_000 * len(self.layers)


def asynchronous_saves(place: Path, megabytes: int, rounds: int) -> Iterator[Figure]:
    """What a save costs training that leaves one core to others, as where an accelerator computes, and that takes all.

    Each in a process of its own: TensorFlow's threads are those of a process.
    """
    cores = os.cpu_count() or 1
    for name, threads in (("one core free", max(1, cores - 1)), (_ALL_CORES, cores)):
        with multiprocessing.get_context("spawn").Pool(1) as process:
            yield from process.apply(_measured_saves, (place / name, megabytes, rounds, threads, name))


def _measured_saves(place: Path, megabytes: int, rounds: int, threads: int, name: str) -> list[Figure]:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(f"  training on {threads} threads", file=sys.stderr)
    return list(_saves(place, megabytes, rounds, name))


def _saves(place: Path, megabytes: int, rounds: int, name: str) -> Iterator[Figure]:
    """The training time that a save costs, over the time that `tf.train.Checkpoint.write` takes for the same state.

    A step is slowed while the writer computes, so the steps are timed one by one: lost is what the save call took, and
    what each step took beyond the median of the undisturbed steps of the same round, from the call to the commit.
    """
    model = Model(megabytes)
    optimizer = trainer.optim.Adam(1e-3)
    step_counter = tf.Variable(0, dtype=tf.int64)
    optimizer.build(model.trainable_variables, step=step_counter)
    inputs = tf.random.stateless_normal([256, 1000], [7, 7], alg="philox")

    @tf.function
    def train_step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            values = inputs
            for layer in model.layers:
                values = tf.tanh(values @ layer)
            loss = tf.reduce_mean(values**2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        step_counter.assign_add(1)
        return loss

    def timed_step() -> float:
        started = time.perf_counter()
        train_step().numpy()
        return time.perf_counter() - started

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, step=step_counter)
    for _ in range(3):
        train_step()
    log = MetricLog(place / "run")
    ratios, lost, writes = [], [], []
    with trainer.CheckpointStore(checkpoint, log, keep_last=1, async_save=True, verify_saves="never") as store:
        # As the trainer does it before the first step.
        store.prepare()
        now = trainer.Progress()
        for number in range(rounds):
            started = time.perf_counter()
            checkpoint.write(str(place / "synchronous" / "state"))
            writes.append(time.perf_counter() - started)
            shutil.rmtree(place / "synchronous")
            calm = [timed_step() for _ in range(8)]
            started = time.perf_counter()
            now = trainer.Progress(step=int(step_counter), examples=int(step_counter))
            store.save(now, reasons=["interval"])
            stalled = time.perf_counter() - started
            disturbed = []
            while store.busy:
                disturbed.append(timed_step())
            store.poll()
            calm += [timed_step() for _ in range(8)]
            usual = statistics.median(calm)
            lost.append(stalled + sum(disturbed) - usual * len(disturbed))
            ratios.append(lost[-1] / writes[-1])
            print(
                f"  save {number + 1}: write {writes[-1]:.2f} s, step {usual:.3f} s, stalled {stalled:.3f} s, "
                f"{len(disturbed)} steps beside the writer, lost {lost[-1]:.3f} s",
                file=sys.stderr,
            )
        assert store.latest is not None
        stored = store.latest.size
    spread = (
        f"of {rounds} saves; {min(ratios):.2f} to {max(ratios):.2f}; a write takes {statistics.median(writes):.2f} s"
    )
    lost_by = f"training time lost by a save / synchronous write, {name}"
    yield Figure(lost_by, statistics.median(ratios), 0.25, "×", spread)
    yield Figure("… the first save", ratios[0], 0.25, "×", f"{lost[0]:.2f} s lost")
    if name != _ALL_CORES:
        return
    yield Figure("stored bytes / tensor bytes", stored / (model.bytes + 8), 1.01, "×", f"{stored:,} bytes")
    yield from _restored_once(checkpoint, place / "run", stored)


def _restored_once(checkpoint: tf.train.Checkpoint, run_dir: Path, stored: int) -> Iterator[Figure]:
    """How many bytes a resume reads, by the kernel's own count."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        return

    def read() -> int:
        return int(dict(line.split(": ") for line in counters.read_text().splitlines())["rchar"])

    store = trainer.CheckpointStore(checkpoint, MetricLog(run_dir))
    before = read()
    store.resume()
    ratio = (read() - before) / stored
    yield Figure("bytes read by a resume / stored bytes", ratio, 1.05, "×", "no tensor is read twice")


def status_of_many(place: Path, checkpoints: int, rounds: int) -> Iterator[Figure]:
    """How long `trainer.status` takes on a run directory with very many checkpoints."""
    run_dir = place / "many"
    _train(run_dir, steps=10)
    directory = RunDirectory(run_dir)
    manifest = Manifest.load(directory, 10)
    for step in range(11, 10 + checkpoints):
        shutil.copytree(directory.checkpoint(10), directory.checkpoint(step))
        folder.commit(directory, dataclasses.replace(manifest, step=step, parent=step - 1))
    seconds = [_timed("-m", "trainer.status", str(run_dir)) for _ in range(rounds)]
    yield Figure(
        f"trainer.status of {checkpoints:,} checkpoints", statistics.median(seconds), 0.5, "s", f"of {rounds} calls"
    )


def resume_after_many_records(place: Path, records: int, rounds: int) -> Iterator[Figure]:
    """What a metric log of very many records adds to a resume, over one of ten."""
    few, many = place / "few", place / "records"
    _train(few, steps=10)
    shutil.copytree(few, many)
    directory = RunDirectory(many)
    manifest = Manifest.load(directory, 10)
    digest, size = hashlib.sha256(), 0
    with open(directory.metrics, "wb") as file:
        for step in range(records):
            record = Record("train", step + 1, step * 32, step / 7, {"loss": 1 / (step + 1)}, window=(step, step + 1))
            digest.update(line := record.line())
            size += file.write(line)
    vouched = LogPosition(records, size, digest.hexdigest())
    folder.commit(directory, dataclasses.replace(manifest, log=vouched))
    times: dict[Path, list[float]] = {few: [], many: []}
    for _ in range(rounds):
        for run_dir, seconds in times.items():
            seconds.append(_resume_seconds(run_dir))
    added = statistics.median(times[many]) - statistics.median(times[few])
    yield Figure(
        f"a log of {records:,} records adds to a resume", added, 0.3, "s", f"{size / 1e6:.0f} MB; of {rounds} pairs"
    )


def _resume_seconds(run_dir: Path) -> float:
    """From the attempt's first line in the journal to its last, of a finished run that is called again."""
    _train(run_dir, steps=10)
    journal = read_journal(RunDirectory(run_dir))
    last = [entry for entry in journal if entry["attempt"] == journal[-1]["attempt"]]
    assert last[-1]["reason"] == "nothing to do", last[-1]
    start, stop = (time.mktime(time.strptime(entry["time"][:19], "%Y-%m-%dT%H:%M:%S")) for entry in (last[0], last[-1]))
    fraction = float(last[-1]["time"][19:-1]) - float(last[0]["time"][19:-1])
    return stop - start + fraction


def _train(run_dir: Path, *, steps: int) -> None:
    flags = ["--experiment=regression", f"--run_dir={run_dir}", f"--train_for={steps}steps", "--log_every=1"]
    _timed("-m", "trainer.main", *flags, "--save_every=never", "--eval_every=never", "--progress=never")


def _timed(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measures everything and prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench_checkpoint.sh", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="the size of the state (default 500)")
    parser.add_argument("--checkpoints", type=int, default=1_000, help="how many for trainer.status (default 1000)")
    parser.add_argument("--records", type=int, default=1_000_000, help="how many in the long log (default a million)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    parts: list[tuple[str, Callable[[Path], Iterator[Figure]]]] = [
        ("saves", lambda place: asynchronous_saves(place, arguments.megabytes, arguments.rounds)),
        ("status", lambda place: status_of_many(place, arguments.checkpoints, arguments.rounds)),
        ("resume", lambda place: resume_after_many_records(place, arguments.records, arguments.rounds)),
    ]
    figures: list[Figure] = []
    for name, part in parts:
        print(f"measuring {name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as place:
            figures += part(Path(place))
    show(figures)
    if arguments.json:
        write(figures, arguments.json)


if __name__ == "__main__":
    main()
