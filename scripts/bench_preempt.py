"""What an interruption costs: the way to the first new step, the way from a notice to the exit, and goodput.

The first new step is timed by the command itself, from the start of its process. Beside it, in turns, stands the floor:
a process that imports TensorFlow, builds the same model, traces the same step, reads the checkpoint with
tf.train.Checkpoint and does that step, without a log, a plan or a store. The floor is the sum of these parts alone:
neither Python's own start is in it, nor the import of the trainer, nor the evaluation that the command traces as well.
A notice is a SIGTERM at some moment of a training run; from its way to the end of the process are taken the tick, and
what the journal says of the save. Goodput is what trainer.status tells of digits under scripts/preemptible.sh, where
SIGKILL and SIGTERM take turns. Prints a table and, with --json=FILE, writes the same figures for scripts.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from figures import Figure, show, write

from trainer.errors import EXIT_PREEMPTED
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import last_attempt, read_journal, save_seconds
from trainer.ledger.run_info import RunInfo
from trainer.views.attempts import KILLED
from trainer.views.lives import seconds_of

START_OVER_FLOOR = 1.15
"""The most time from the start of a process to its first new step, over the floor."""
EXIT_SECONDS = 0.5
"""The most seconds from a notice to the exit, beside the tick and the save."""
FLOOR = ("import", "build", "trace", "restore", "first_chunk")
"""What the floor consists of."""
BESIDE = ("trainer's import", "evaluation's trace")
"""What the floor's process needs, or the command does, and is no part of it."""
SEED = 17
ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained."""

    name: str
    width: int = 0
    """Of the perceptron that reproduces its input; 0 stands for digits."""

    @property
    def flags(self) -> list[str]:
        return ["--experiment=wide:Regress", f"--set=width={self.width}"] if self.width else ["--experiment=digits"]

    def experiment(self) -> Any:
        """The experiment itself: it imports TensorFlow."""
        if self.width:
            from wide import Regress

            return Regress(self.width)
        from experiments.digits import Digits

        return Digits()


def of_weights(megabytes: float) -> Job:
    """A job whose weights, two square layers in float32, take so much."""
    return Job(f"{megabytes:g} MB of weights", max(1, round((megabytes * 1e6 / 8) ** 0.5)))


def of_state(megabytes: float) -> Job:
    """A job whose checkpoint, with both of Adam's moments, takes so much."""
    return dataclasses.replace(of_weights(megabytes / 3), name=f"{megabytes:g} MB of state")


class Running:
    """A trainer, or a supervisor of one, in a process of its own, which ends with the block at the latest.

    Args:
      command: what to start.
      run_dir: where it trains.
    """

    def __init__(self, command: Sequence[str], run_dir: Path) -> None:
        self._command = " ".join(command)
        self.directory = RunDirectory(run_dir)
        self._attempts = last_attempt(self.directory)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # It is open as long as the process.
        scripts = os.pathsep.join(filter(None, [str(ROOT / "scripts"), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": scripts},
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        # A supervisor that was killed would leave its trainer behind.
        self.process.terminate()
        self.process.wait()
        self._errors.close()

    def entries(self, number: int = 1) -> list[dict[str, Any]]:
        """What the journal has of the attempt of that number, counted from where this process began."""
        return [entry for entry in read_journal(self.directory) if entry["attempt"] == self._attempts + number]

    def first_step(self, number: int = 1) -> dict[str, Any]:
        """Waits until that attempt has trained its first step; returns the line that says so."""
        while True:
            ended = self.process.poll() is not None
            for entry in self.entries(number):
                if "first_step_s" in entry:
                    return entry
            if ended:
                self.fail("ended before its first step")
            time.sleep(0.05)

    def fail(self, what: str) -> NoReturn:
        """Ends the benchmark: there is nothing to measure."""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").splitlines()
        last = said[-1] if said else "it said nothing"
        sys.exit(f"error: {self._command} {what}, exit code {self.process.poll()}: {last}")


def training(job: Job, run_dir: Path, *flags: str) -> Running:
    """Starts `trainer.main`, which saves at the end alone."""
    own = [f"--run_dir={run_dir}", f"--seed={SEED}", "--save_every=never", "--keep_best=0", "--progress=never"]
    # Where a flag is given twice the last one counts.
    command = [sys.executable, "-m", "trainer.main", *job.flags, *own, "--train_for=1e9steps", *flags]
    return Running(command, run_dir)


def floor(job: Job, run_dir: Path, *, resumed: bool) -> dict[str, float]:
    """Seconds of each part of the floor, and of `BESIDE`, in this process: in a new one only, before any other work."""
    from trainer.run.timing import Times

    times = Times()
    with times.starting("import"):
        import tensorflow  # noqa: F401  # What of it the model needs is told apart.
    with times.starting(BESIDE[0]):
        from trainer.run.evaluate import Evaluator
        from trainer.run.program import Program
        from trainer.run.state import TrainState

        experiment = job.experiment()
    # As the command does it: what was imported is not looked through for garbage while the step is traced.
    gc.freeze()
    directory = RunDirectory(run_dir)
    info = RunInfo.load(directory)
    assert info is not None
    jit = info.jit == "chunk"
    with times.starting("build"):
        source = experiment.train_data()
        state = TrainState(experiment, SEED)
    with times.starting("trace"):
        program = Program(experiment, state, source, seed=SEED, jit=jit)
    if resumed:
        with times.starting("restore"):
            prefix = directory.state_prefix(directory.committed_steps()[0])
            state.checkpoint().read(prefix).assert_consumed()
    with times.starting("first_chunk"):
        program.run(int(state.step.numpy()) + 1, [])
    with times.starting(BESIDE[1]):
        for split, data in experiment.eval_data().items():
            Evaluator(experiment, state.model, data, split=split, seed=SEED, jit=jit).build()
    return times.start


@dataclasses.dataclass(frozen=True)
class Start:
    """One way to begin."""

    job: Job
    resumed: bool

    @property
    def name(self) -> str:
        return f"{self.job.name}, {'resumed' if self.resumed else 'fresh'}"


def measure_starts(place: Path, rounds: int, megabytes: float) -> Iterator[Figure]:
    """The seconds to the first new step, over the floor."""
    digits, large = Job("digits"), of_weights(megabytes)
    runs = {digits: place / "digits", large: place / "large"}
    for job, run_dir in runs.items():
        with training(job, run_dir, "--train_for=3steps") as trainer:
            if trainer.process.wait():
                trainer.fail("did not come to its end")
    starts = [Start(digits, False), Start(digits, True), Start(large, True)]
    told: dict[Start, dict[str, list[dict[str, float]]]] = {start: {"command": [], "floor": []} for start in starts}
    for number in range(rounds):
        for start in starts:
            run_dir = runs[start.job]
            # Who comes first takes turns.
            for what in ("floor", "command") if number % 2 else ("command", "floor"):
                if what == "floor":
                    seconds = floor_alone(start, run_dir)
                else:
                    seconds = first_step(start.job, run_dir if start.resumed else place / f"fresh-{number}")
                told[start][what].append(seconds)
            last = ", ".join(f"{what} {seconds[-1]['all']:.2f} s" for what, seconds in told[start].items())
            print(f"  {start.name} {number + 1}: {last}", file=sys.stderr)
    for start, measured in told.items():
        pairs = zip(measured["command"], measured["floor"], strict=True)
        ratios = [command["all"] / least["all"] for command, least in pairs]
        name = f"{start.name}: process start to first new step / floor"
        yield Figure(name, statistics.median(ratios), START_OVER_FLOOR, "×", _spread(ratios, "pairs"))
        for what, rows in measured.items():
            median = {part: statistics.median(row[part] for row in rows) for part in rows[0]}
            detail = ", ".join(f"{part} {seconds:.3f}" for part, seconds in median.items() if part != "all")
            yield Figure(f"… the {what}", median["all"], None, "s", detail)


def first_step(job: Job, run_dir: Path) -> dict[str, float]:
    """Seconds of the command to its first new step, `all` and in parts; then it is killed."""
    with training(job, run_dir) as trainer:
        entry = trainer.first_step()
        trainer.process.kill()
    parts = {**entry["start"], "restore": entry["seconds"]["restore"]}
    return {**parts, "rest": entry["first_step_s"] - sum(parts.values()), "all": entry["first_step_s"]}


def floor_alone(start: Start, run_dir: Path) -> dict[str, float]:
    """The seconds of the floor in a process of its own: `all`, its parts, and in brackets what is beside it."""
    command = [sys.executable, __file__, f"--floor={start.job.width}", f"--floor_of={run_dir}"]
    done = subprocess.run([*command, *(["--floor_resumed"] if start.resumed else [])], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: the floor cannot be measured: {done.stderr.strip()}")
    parts: dict[str, float] = json.loads(done.stdout)
    inside = {part: parts[part] for part in FLOOR if part in parts}
    return {**inside, **{f"({part})": parts[part] for part in BESIDE}, "all": sum(inside.values())}


@dataclasses.dataclass(frozen=True)
class Notice:
    """One SIGTERM: how long the process took to end."""

    seconds: float
    """From the signal to the end of the process."""
    save: float
    """What the save took, as the journal tells."""
    noted: float
    """From the signal to the line that says it was seen; the copy of the variables comes before it."""
    parting: float
    """From the attempt's last line to the end of the process."""


def measure_notices(place: Path, rounds: int, megabytes: float) -> Iterator[Figure]:
    """The seconds from a notice to the exit, beside the tick and the save."""
    moments = random.Random(SEED)
    for job in (Job("digits"), of_state(megabytes)):
        for tick in (1.0, 0.1):
            notices = []
            for number in range(rounds):
                with tempfile.TemporaryDirectory(dir=place) as run_dir:
                    notices.append(notice_to_exit(job, Path(run_dir), tick, after=moments.uniform(0.5, 3.5)))
                print(f"  {job.name}, tick {tick:g} s {number + 1}: {notices[-1]}", file=sys.stderr)
            beyond = [notice.seconds - tick - notice.save for notice in notices]
            median = {
                field.name: statistics.median(getattr(notice, field.name) for notice in notices)
                for field in dataclasses.fields(Notice)
            }
            detail = (
                f"{_spread(beyond, 'notices')}; {median['seconds']:.3f} s in all: noted after {median['noted']:.3f}, "
                f"the save {median['save']:.3f}, from the last line to the end {median['parting']:.3f}"
            )
            name = f"{job.name}, tick {tick:g} s: notice to exit, less tick and save"
            yield Figure(name, statistics.median(beyond), EXIT_SECONDS, "s", detail)


def notice_to_exit(job: Job, run_dir: Path, tick: float, *, after: float) -> Notice:
    """Has a run end by SIGTERM, `after` so many seconds of training."""
    # Nothing but the tick ends a chunk; and the save is to be made also where the machine is busy.
    flags = ["--eval_every=never", "--log_every=100000steps", f"--tick={tick:g}s", "--grace=120s"]
    with training(job, run_dir, *flags) as trainer:
        trainer.first_step()
        time.sleep(after)
        by_the_wall, asked = time.time(), time.monotonic()
        trainer.process.send_signal(signal.SIGTERM)
        code = trainer.process.wait()
        seconds, gone = time.monotonic() - asked, time.time()
        events = {entry["event"]: entry for entry in trainer.entries()}
        if code != EXIT_PREEMPTED or not events.get("stop", {}).get("saved"):
            trainer.fail("did not save at a SIGTERM")
    noted, last = (seconds_of(events[name]) for name in ("signal", "stop"))
    return Notice(seconds, save_seconds(events["save"]), noted - by_the_wall, gone - last)


def measure_goodput(place: Path, interruptions: int, seconds: float) -> Iterator[Figure]:
    """What interruptions leave of the time of digits, and what each of them costs."""
    run_dir = place / "interrupted"
    moments = random.Random(SEED)
    cadences = ["--log_every=1000steps", "--eval_every=10000steps", "--save_every=auto"]
    own = [f"--run_dir={run_dir}", "--train_for=1e9steps", "--progress=never"]
    command = [str(ROOT / "scripts" / "preemptible.sh"), *Job("digits").flags, *own, *cadences]
    with Running(command, run_dir) as supervisor:
        for number in range(1, interruptions + 2):
            supervisor.first_step(number)
            time.sleep(moments.uniform(0.5, 1.5) * seconds)
            if number <= interruptions:
                sent = signal.SIGKILL if number % 2 else signal.SIGTERM
                os.kill(supervisor.entries(number)[0]["pid"], sent)
                print(f"  interruption {number}: {sent.name}", file=sys.stderr)
        supervisor.process.terminate()
        if supervisor.process.wait() != EXIT_PREEMPTED:
            supervisor.fail("did not stop at a SIGTERM")
    told = subprocess.run(
        [sys.executable, "-m", "trainer.status", run_dir, "--json"], check=True, capture_output=True, text=True
    )
    status = json.loads(told.stdout)
    attempts = status["attempts"]
    spent = [attempt["times"] for attempt in attempts if attempt["times"]]
    whole = sum(times["total"] for times in spent)
    parts = {part: sum(times[part] for times in spent) / whole for part in spent[0] if part != "total"}
    shares = ", ".join(f"{part} {share:.1%}" for part, share in parts.items() if share >= 0.001)
    name = f"digits, {seconds:g} s of training between interruptions: goodput"
    yield Figure(name, status["goodput"], None, "", f"{len(attempts)} attempts; of the times that they told: {shares}")
    killed = [float(attempt["steps_lost"]) for attempt in attempts if attempt["reason"] == KILLED]
    asked = [float(attempt["steps_lost"]) for attempt in attempts if attempt["exit_code"] == EXIT_PREEMPTED]
    # Each may have one, and it would be one too many.
    yield Figure("… steps lost by a SIGTERM, the most", max(asked), 0, "", _spread(asked, "attempts", digits=0))
    if killed:
        spread = _spread(killed, "attempts", digits=0)
        yield Figure("… steps lost by a SIGKILL", statistics.median(killed), None, "", spread)
    for name, what in {
        "restore_s": "reading the checkpoint",
        "first_step_s": "process start to first new step",
        "recover_s": "interruption to first step beyond it",
    }.items():
        values = [attempt[name] for attempt in attempts[1:] if attempt[name] is not None]
        if values:
            yield Figure(f"… {what}", statistics.median(values), None, "s", _spread(values, "attempts"))


def _spread(values: Sequence[float], what: str, *, digits: int = 3) -> str:
    return f"of {len(values)} {what}; {min(values):.{digits}f} to {max(values):.{digits}f}"


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench_preempt.sh", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of a start and its floor (default 7; 0: none)")
    parser.add_argument("--weights", type=float, default=30, help="MB of the large model's weights (default 30)")
    parser.add_argument("--notices", type=int, default=5, help="of each job and tick (default 5; 0: none)")
    parser.add_argument("--state", type=float, default=120, help="MB that the large job saves (default 120)")
    parser.add_argument("--interruptions", type=int, default=10, help="of the goodput's run (default 10; 0: none)")
    parser.add_argument("--every", type=float, default=5, help="seconds of training before each (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    # How it calls itself, for a floor.
    parser.add_argument("--floor", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--floor_of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--floor_resumed", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor is not None:
        parts = floor(Job("", arguments.floor), arguments.floor_of, resumed=arguments.floor_resumed)
        print(json.dumps(parts))
        return
    # Who ends it by a signal is not to leave a trainer behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-preempt-") as name:
        place = Path(name)
        if arguments.rounds > 0:
            figures += measure_starts(place, arguments.rounds, arguments.weights)
        if arguments.notices > 0:
            figures += measure_notices(place, arguments.notices, arguments.state)
        if arguments.interruptions > 0:
            figures += measure_goodput(place, arguments.interruptions, arguments.every)
    show(figures)
    if arguments.json:
        write(figures, arguments.json)


if __name__ == "__main__":
    main()
