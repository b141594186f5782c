"""The three parts that work alone, in a loop that is not ours: the README's script, undisturbed and killed."""

from __future__ import annotations

import pathlib
import random
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).with_name("parts_alone.py")
KILLS = 8
SECONDS_AT_MOST = 60

# Imports TensorFlow once and forks before it has done anything, so that an attempt costs a fraction of a second.
# For each line `RUN_DIR` it starts an attempt; the next line ends it, by `kill` or by waiting.
FORKS = """
import os, runpy, signal, sys
import tensorflow
lines = iter(sys.stdin)
for run_dir in lines:
    process = os.fork()
    if process == 0:
        sys.argv = [sys.argv[1], run_dir.strip()]
        runpy.run_path(sys.argv[0], run_name="__main__")
        os._exit(0)
    if next(lines).strip() == "kill":
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forks:
    """Attempts that need not import TensorFlow each for itself."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, run_dir):
        self._tell(str(run_dir))

    def kill(self):
        """Returns the exit code: −9, or 0 where the attempt was done before."""
        self._tell("kill")
        return int(self._process.stdout.readline())

    def wait(self):
        self._tell("wait")
        return int(self._process.stdout.readline())

    def close(self):
        self._process.communicate(timeout=SECONDS_AT_MOST)

    def _tell(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@pytest.fixture(scope="module")
def forks():
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("parts") / "undisturbed"
    train(run_dir)
    return run_dir


def train(run_dir):
    """Runs the script as a user does."""
    subprocess.run([sys.executable, str(SCRIPT), str(run_dir)], check=True, timeout=SECONDS_AT_MOST)


def newest_step(run_dir):
    """Returns the step of the newest committed checkpoint, 0 before the first."""
    return max((int(file.parent.name[5:]) for file in run_dir.glob("checkpoints/step-*/manifest.json")), default=0)


def checkpoints(run_dir):
    return sorted(folder.name for folder in (run_dir / "checkpoints").glob("step-*"))


def wait_for_step(run_dir, step):
    """Waits until there is a checkpoint of `step` or a later one."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while newest_step(run_dir) < step:
        assert time.monotonic() < deadline, f"no checkpoint of step {step} after {SECONDS_AT_MOST} s"
        time.sleep(0.001)


def test_undisturbed_run_logs_and_saves_on_its_own_grids(undisturbed):
    lines = (undisturbed / "metrics.jsonl").read_bytes().splitlines()
    assert len(lines) == 29
    assert lines[0].startswith(
        b'{"kind":"train","step":7,"examples":224,"epoch":0.224,"window":[0,7],"metrics":{"loss":'
    )
    assert b'"window":[196,200]' in lines[-1]
    assert lines[-1].endswith(b'"learning_rate":0.01,"closed_by":"end"}')
    assert checkpoints(undisturbed) == ["step-0000000190", "step-0000000195", "step-0000000200"]


def test_finished_run_started_again_changes_nothing(undisturbed, forks):
    def state():
        return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in undisturbed.rglob("*.json*")}

    before = state()
    forks.start(undisturbed)
    assert forks.wait() == 0
    assert state() == before


def test_run_killed_at_random_moments_is_byte_for_byte_the_undisturbed_one(undisturbed, forks, tmp_path, tensors_of):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run_dir = tmp_path / "killed"

    # The first before any checkpoint, the others at moments spread over the run.
    steps = [0, *sorted(chance.sample(range(1, 190), KILLS - 1))]
    killed = []
    for step in steps:
        forks.start(run_dir)
        wait_for_step(run_dir, step)
        time.sleep(chance.uniform(0.0, 0.02))
        if forks.kill() != 0:
            killed.append(newest_step(run_dir))
    print(f"killed with the newest checkpoint at {killed}")
    train(run_dir)

    assert killed, "every run ended before it was killed"
    assert (run_dir / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert checkpoints(run_dir) == checkpoints(undisturbed)
    for folder in checkpoints(run_dir):
        ours, theirs = (tensors_of(path / "checkpoints" / folder) for path in (run_dir, undisturbed))
        assert ours == theirs
