"""Jobs that are told to end, end by themselves or hang: what they leave, and that the same command goes on from there.

Each is compared with one that nothing happened to: its log is the same, byte by byte.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import warm

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal

pytestmark = pytest.mark.slow

SECONDS_AT_MOST = 120
HOLD, TARGET = 210, 400
"""The first batch that can be held, which is the first of a window, too; and the steps of a job."""
SAVED = 200
"""The last step before it that is saved by the cadence."""
ONE_STEP_A_CHUNK = "--tick=0.000001s"

EXPERIMENT = f'''
"""Data that the host makes; files beside this one say how slowly."""

import dataclasses, multiprocessing, pathlib, time
import numpy as np
import tensorflow as tf
import trainer
from experiments.regression import Regression

HERE = pathlib.Path(__file__).parent


def wait_for(number):
    """Waits a while for each batch, where a file says how long; and for what comes after {HOLD}, while it is held."""
    if (HERE / "pace").exists():
        time.sleep(float((HERE / "pace").read_text()))
        with open(HERE / "given", "a") as file:
            file.write(f"{{number}}\\n")
    while number >= {HOLD} and (HERE / "held").exists():
        (HERE / "holding").touch()
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Waiting(Regression):
    def numbers(self):
        for number in range(10 * {TARGET}):
            wait_for(number)
            yield number

    def train_data(self):
        def batches():
            for number in self.numbers():
                x = np.random.default_rng(number).uniform(-1, 1, 8).astype(np.float32)
                yield {{"x": x, "y": 2 * x + 1}}

        specs = {{name: tf.TensorSpec([8], tf.float32) for name in ("x", "y")}}
        make = lambda: tf.data.Dataset.from_generator(batches, output_signature=specs)
        return trainer.data.stream(make, resume="replay", fingerprint="steady")


def load(number):
    return number


@dataclasses.dataclass(frozen=True)
class Pooled(Waiting):
    """Its batches come from processes that are forked while it trains."""

    def numbers(self):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for number in range(10 * {TARGET}):
                wait_for(number)
                yield pool.map(load, [number] * 4, chunksize=1)[0]
'''

FLAGS = (f"--train_for={TARGET}steps", "--log_every=7", "--save_every=50", "--jit=none", "--progress=never")


class Job:
    """A job in a folder of its own."""

    def __init__(self, folder: pathlib.Path, server: warm.Server) -> None:
        self.folder, self._server = folder, server
        self.directory = RunDirectory(folder / "run")
        self._started: list[warm.Process | subprocess.Popen[bytes]] = []
        (folder / "waiting.py").write_text(EXPERIMENT)

    def arguments(self, *flags: str, experiment: str = "Waiting") -> list[str]:
        return [f"--experiment=waiting:{experiment}", "--run_dir=run", *FLAGS, *flags]

    def start(self, *flags: str) -> warm.Process:
        with (self.folder / "output.txt").open("ab") as output:
            process = self._server.start("main", self.arguments(*flags), cwd=self.folder, stdout=output, stderr=output)
        self._started.append(process)
        return process

    def start_group(self, *flags: str, experiment: str) -> subprocess.Popen[bytes]:
        """Starts the command in a Python of its own, and in a group of its own."""
        with (self.folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer.main", *self.arguments(*flags, experiment=experiment)],
                cwd=self.folder,
                env=warm.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, name: str, *arguments: str) -> int:
        """Runs a command to its end; returns the exit code."""
        ended = self._server.run(name, arguments, cwd=self.folder, timeout=SECONDS_AT_MOST)
        with (self.folder / "output.txt").open("a") as output:
            output.write(ended.stdout + ended.stderr)
        return ended.returncode

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    # What it is told by files.

    def hold(self) -> None:
        (self.folder / "held").touch()

    def let_go(self) -> None:
        (self.folder / "held").unlink()

    def slow_down(self, seconds: float) -> None:
        """Each batch takes so long from now on; None comes at once."""
        (self.folder / "pace.new").write_text(str(seconds))
        os.rename(self.folder / "pace.new", self.folder / "pace")

    def speed_up(self) -> None:
        for name in ("held", "pace"):
            (self.folder / name).unlink(missing_ok=True)

    def wait(self, process: warm.Process | subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        """Waits until it is as far."""
        deadline = time.monotonic() + SECONDS_AT_MOST
        while not ready():
            assert process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)

    def is_held(self) -> bool:
        return (self.folder / "holding").exists()

    def is_stuck(self) -> bool:
        """Whether it is in the call that waits for the batch that is held; of one that trains a step a chunk."""
        there = f'"step":{HOLD},'.encode() in self.log
        if there:
            # From its record to its next call it is not far.
            time.sleep(0.5)
        return there

    # What it leaves.

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    @property
    def given(self) -> list[str]:
        """The batches that were given since it was slowed down."""
        path = self.folder / "given"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def log(self) -> bytes:
        path = self.folder / "run" / "metrics.jsonl"
        return path.read_bytes() if path.exists() else b""

    def lines(self, event: str) -> list[dict[str, Any]]:
        if not (self.folder / "run").exists():
            return []
        return [line for line in read_journal(self.directory) if line["event"] == event]

    @property
    def newest(self) -> dict[str, Any]:
        """The manifest of the newest checkpoint."""
        path = self.directory.manifest(max(self.directory.committed_steps()))
        return dict(json.loads(pathlib.Path(path).read_text()))

    def goes_on_to_the_same_end(self, undisturbed: bytes) -> None:
        """The same command comes to the end of a run that nothing happened to."""
        self.speed_up()
        assert self.run("main", *self.arguments()) == 0, self.output
        assert self.log == undisturbed


@pytest.fixture(scope="module")
def undisturbed(warm_server: warm.Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The log of a job that nothing happens to."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), warm_server)
    assert job.run("main", *job.arguments()) == 0, job.output
    return job.log


@pytest.fixture
def job(warm_server: warm.Server, tmp_path: pathlib.Path) -> Iterator[Job]:
    job = Job(tmp_path, warm_server)
    yield job
    job.close()


def test_a_notice_while_batches_are_slow_is_seen_at_the_next_one(job: Job) -> None:
    job.hold()
    # Nothing is due for a long while, and many fast batches have shown how many steps a chunk may have.
    process = job.start("--save_every=never", "--keep_best=0", "--tick=0.1s", "--grace=10m")
    job.wait(process, job.is_held)
    job.slow_down(0.3)
    process.send_signal(signal.SIGTERM)
    job.let_go()
    assert process.wait(SECONDS_AT_MOST) == 75
    stop = job.lines("stop")[-1]
    assert (stop["reason"], stop["exit_code"], stop["saved"]) == ("preempted", 75, True)
    assert "unfinished" not in stop
    assert stop["step"] < TARGET
    # A few are read ahead; hundreds were to come.
    assert len(job.given) < 20
    assert job.newest["reasons"] == ["signal"]


def test_a_notice_while_no_batch_comes_ends_the_process_with_the_grace_and_the_newest_checkpoint_stands(
    job: Job, undisturbed: bytes
) -> None:
    job.hold()
    process = job.start("--grace=1s", ONE_STEP_A_CHUNK)
    job.wait(process, job.is_stuck)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS_AT_MOST) == 75
    (signalled,), (stop,) = job.lines("signal"), job.lines("stop")
    assert (signalled["signal"], signalled["step"], signalled["saved"]) == ("SIGTERM", HOLD, False)
    assert (stop["reason"], stop["exit_code"], stop["step"]) == ("preempted", 75, HOLD)
    assert (stop["saved"], stop["unfinished"]) == (False, True)
    assert job.newest["step"] == SAVED
    (said,) = job.output.splitlines()
    assert "grace=1s" in said
    assert f"step {SAVED} stays the newest checkpoint" in said
    job.goes_on_to_the_same_end(undisturbed)
    assert [line["step"] for line in job.lines("resume")] == [SAVED]
    assert job.run("audit", "run") == 0, job.output


def test_a_request_to_save_saves_and_the_run_goes_on_to_the_same_end(job: Job, undisturbed: bytes) -> None:
    job.hold()
    process = job.start(ONE_STEP_A_CHUNK)
    job.wait(process, job.is_stuck)
    process.send_signal(signal.SIGUSR2)
    job.let_go()
    assert process.wait(SECONDS_AT_MOST) == 0, job.output
    saves = [(line["step"], line["reasons"]) for line in job.lines("save")]
    (asked,) = [step for step, reasons in saves if reasons == ["request"]]
    assert asked == HOLD + 1
    assert saves[-1][0] == TARGET
    manifest = json.loads(pathlib.Path(job.directory.manifest(asked)).read_text())
    assert (manifest["reasons"], manifest["transient"]) == (["request"], True)
    assert [line["signal"] for line in job.lines("signal")] == ["SIGUSR2"]
    assert job.log == undisturbed
    # It goes on from there as from any other.
    for step in job.directory.committed_steps():
        if step > asked:
            shutil.rmtree(job.directory.checkpoint(step))
    job.goes_on_to_the_same_end(undisturbed)
    assert [line["step"] for line in job.lines("resume")] == [asked]


def test_the_end_of_the_time_that_a_process_may_run_is_a_preemption(job: Job, undisturbed: bytes) -> None:
    job.slow_down(0.005)
    process = job.start("--max_runtime=1.5s", "--tick=0.1s")
    assert process.wait(SECONDS_AT_MOST) == 75, job.output
    (stop,) = job.lines("stop")
    assert (stop["reason"], stop["exit_code"], stop["saved"]) == ("preempted", 75, True)
    assert stop["step"] < TARGET
    assert [line["signal"] for line in job.lines("signal")] == ["max_runtime"]
    assert "runtime" in job.newest["reasons"]
    assert job.newest["step"] == stop["step"]
    job.goes_on_to_the_same_end(undisturbed)


def test_a_chunk_that_does_not_return_ends_the_process_and_says_where_it_stood(job: Job, undisturbed: bytes) -> None:
    job.hold()
    process = job.start("--hang_timeout=3s", ONE_STEP_A_CHUNK)
    assert process.wait(SECONDS_AT_MOST) == 75, job.output
    (fault,) = job.lines("fault")
    assert fault["error"] == "HangTimeout"
    assert "hang_timeout=3s" in fault["message"]
    assert "program.py" in fault["stacks"]["MainThread"]
    # Where the data comes from, and does not.
    assert any("in wait_for" in stack for stack in fault["stacks"].values())
    (stop,) = job.lines("stop")
    assert (stop["reason"], stop["exit_code"], stop["step"]) == ("hung", 75, HOLD)
    assert (stop["saved"], stop["unfinished"]) == (False, True)
    assert job.newest["step"] == SAVED
    job.goes_on_to_the_same_end(undisturbed)


def test_a_signal_to_the_whole_group_leaves_the_workers_of_the_data_at_work_until_the_state_is_saved(
    job: Job, undisturbed: bytes
) -> None:
    job.hold()
    process = job.start_group("--tick=0.1s", "--grace=20s", experiment="Pooled")
    job.wait(process, job.is_held)
    os.killpg(process.pid, signal.SIGTERM)
    # The step that is under way needs what comes next.
    job.let_go()
    assert process.wait(SECONDS_AT_MOST) == 75
    (stop,) = job.lines("stop")
    assert (stop["reason"], stop["exit_code"], stop["saved"]) == ("preempted", 75, True)
    assert stop["step"] < TARGET
    # It came to its end by itself, and waited for no worker.
    assert "is saved in" in job.output
    assert "grace" not in job.output
    # And it leaves none behind.
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    job.speed_up()
    assert job.run("main", *job.arguments(experiment="Pooled")) == 0, job.output
    assert job.log == undisturbed


def test_an_automatic_interval_is_told_and_follows_what_happens(job: Job, undisturbed: bytes) -> None:
    job.slow_down(0.02)
    auto = "--save_every=auto"
    process = job.start(auto, "--mtbf=1s", "--save_overhead=0.9", "--tick=0.1s")
    job.wait(process, lambda: any(line["reasons"] == ["auto"] for line in job.lines("save")))
    # What it cost is seen at the next step.
    job.wait(process, lambda: len(job.lines("decide")) > 1)
    process.kill()
    assert process.wait(SECONDS_AT_MOST) == -signal.SIGKILL
    assert job.newest["transient"]
    job.speed_up()
    assert job.run("main", *job.arguments(auto, "--mtbf=1h")) == 0, job.output
    assert job.log == undisturbed
    decisions = job.lines("decide")
    for line in decisions:
        assert min(line["interval_s"], line["stall_s"], line["mtbf_s"]) > 0
    first = {line["attempt"]: line for line in reversed(decisions)}
    assert first[1]["mtbf_s"] == 1.0
    # The kill counts as much as the hour that was expected.
    assert first[2]["mtbf_s"] < 3600
    # What the first attempt's saves have shown is known.
    assert first[2]["stall_s"] != first[1]["stall_s"]
