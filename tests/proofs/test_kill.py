"""The promise: the log and the weights of a run that was killed are those of a run that never was."""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
import time
from collections.abc import Callable

import pytest

from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.timeline.schedule import RECONCILE_MODES
from trainer.views.tensorboard import first_difference

pytestmark = pytest.mark.slow

KILLS = 12
ATTEMPTS_AT_MOST = 30
# Co-prime cadences: a save falls at every possible place inside a window, and every third evaluation beside one.
FLAGS = (
    "--train_for=3000steps",
    "--log_every=7",
    "--save_every=5",
    "--eval_every=11",
    "--keep_every=700steps",
    "--tick=0.05s",
    "--progress=never",
)


def test_a_run_killed_at_random_moments_leaves_the_same_bytes_as_one_that_never_was(
    tmp_path: pathlib.Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., subprocess.Popen[bytes]],
    tensors_of: Callable[[pathlib.Path], dict[str, bytes]],
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    # One of the modes each time: together they would take minutes.
    mode = (f"--reconcile={chance.choice(RECONCILE_MODES)}", f"--async_save={chance.choice(['true', 'false'])}")
    print(f"seed {seed}: {' '.join(mode)}")
    flags = (*FLAGS, *mode)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    ended = command("main", *flags, f"--run_dir={undisturbed}")
    assert ended.returncode == 0, ended.stderr

    kills = []
    for attempt in range(1, ATTEMPTS_AT_MOST + 1):
        process = start("main", *flags, f"--run_dir={killed}")
        # The first two die before any checkpoint; the others somewhere after the first save of their own.
        event = "plan" if len(kills) < 2 else "save"
        if len(kills) < KILLS and wait_for(event, process, killed, attempt):
            time.sleep(chance.uniform(0.0, 0.4))
            process.kill()
        if process.wait(timeout=240) == 0:
            break
        kills.append(newest_step(killed))
    print(f"killed with the newest checkpoint at {kills}")

    assert len(kills) >= 10, "too few attempts were killed: the run is too short for this machine"
    assert kills[0] is None, "the first kill was to come before the first checkpoint"
    assert len(set(kills)) >= 8, "the kills were to come at different moments"
    assert (killed / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    folders = sorted(folder.name for folder in (undisturbed / "checkpoints").glob("step-*"))
    assert sorted(folder.name for folder in (killed / "checkpoints").glob("step-*")) == folders
    for name in folders:
        assert tensors_of(killed / "checkpoints" / name) == tensors_of(undisturbed / "checkpoints" / name), name
    for run in (killed, undisturbed):
        assert first_difference(run / "events", read_records(RunDirectory(run))) is None


def wait_for(event: str, process: subprocess.Popen[bytes], run_dir: pathlib.Path, attempt: int) -> bool:
    """Waits until attempt number `attempt` has journaled `event`; False when it ended before."""
    journal = run_dir / "journal.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and any(
            entry["attempt"] == attempt and entry["event"] == event for entry in whole_lines(journal)
        ):
            return True
        time.sleep(0.01)
    return False


def whole_lines(path: pathlib.Path) -> list[dict[str, object]]:
    lines = path.read_bytes().splitlines(keepends=True)[-200:]
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def newest_step(run_dir: pathlib.Path) -> int | None:
    return next(iter(RunDirectory(run_dir).committed_steps()), None)
