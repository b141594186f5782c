"""Faults as a user meets them: a full disk, a folder without permissions, a run directory that is moved away."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import resource
import shutil
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

FLAGS = (
    "--experiment=regression",
    "--log_every=7",
    "--save_every=20",
    "--keep_every=20steps",
    "--jit=none",
    "--progress=never",
)
TARGET = "--train_for=300steps"
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
SECONDS_AT_MOST = 120

Run = subprocess.CompletedProcess[str]
Train = Callable[..., Run]
Tensors = Callable[[pathlib.Path], dict[str, bytes]]


def train_cold(run_dir: pathlib.Path, *flags: str, **options: Any) -> Run:
    """Trains to the end, or to the fault, in a process that may begin with less than ours has."""
    return subprocess.run(
        [sys.executable, "-m", "trainer.main", *FLAGS, TARGET, f"--run_dir={run_dir}", *flags],
        cwd="/",
        env=warm.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_AT_MOST,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def train(warm_server: warm.Server) -> Train:
    """Trains to the end, or to the fault."""

    def run(run_dir: pathlib.Path, *flags: str) -> Run:
        arguments = [*FLAGS, TARGET, f"--run_dir={run_dir}", *flags]
        return warm_server.run("main", arguments, cwd="/", timeout=SECONDS_AT_MOST)

    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that nothing happened to."""
    path = tmp_path_factory.mktemp("faults") / "undisturbed"
    ended = train_cold(path)
    assert (ended.returncode, ended.stderr) == (0, "")
    return path


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A disk that six checkpoints fill."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120k", "none", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def assert_told(run: Run, code: int, *parts: str) -> None:
    """The exit code, and one line that says what happened."""
    assert run.returncode == code, run.stderr
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("error: " if code else "warning: ")
    assert all(part in lines[0] for part in parts), run.stderr


def assert_goes_on(train: Train, run_dir: pathlib.Path, undisturbed: pathlib.Path, tensors_of: Tensors) -> None:
    """The same command comes to the end of a run that nothing happened to."""
    ended = train(run_dir)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_same(run_dir, undisturbed, tensors_of)


def assert_same(run_dir: pathlib.Path, undisturbed: pathlib.Path, tensors_of: Tensors) -> None:
    assert (run_dir / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    folders = sorted((undisturbed / "checkpoints").glob("step-*"))
    assert len(folders) == 15
    assert [folder.name for folder in sorted((run_dir / "checkpoints").glob("step-*"))] == [f.name for f in folders]
    for folder in folders:
        assert tensors_of(run_dir / "checkpoints" / folder.name) == tensors_of(folder)


@pytest.mark.parametrize("async_save", ["true", "false"])
def test_a_full_disk_ends_the_run_and_a_larger_one_lets_it_go_on(
    async_save: str, train: Train, disk: pathlib.Path, undisturbed: pathlib.Path, tensors_of: Tensors
) -> None:
    run_dir = disk / "run"
    assert_told(train(run_dir, f"--async_save={async_save}"), 74, "No space left on device", "free space")
    committed = RunDirectory(run_dir).committed_steps()
    assert 2 <= len(committed) < 15
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert_goes_on(train, run_dir, undisturbed, tensors_of)


def test_a_file_that_may_not_grow_ends_the_run(
    train: Train, undisturbed: pathlib.Path, tensors_of: Tensors, tmp_path: pathlib.Path
) -> None:
    """The journal is the first to be so large."""
    limited = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (5000, 5000))
    run_dir = tmp_path / "run"
    assert_told(train_cold(run_dir, preexec_fn=limited), 74, str(run_dir), "File too large")
    assert_goes_on(train, run_dir, undisturbed, tensors_of)


def without_privileges() -> None:
    """Lets permissions hold for root too: takes from the next program what overrides them."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def test_a_directory_without_permissions_is_refused_and_never_taken_for_an_empty_one(
    train: Train, undisturbed: pathlib.Path, tensors_of: Tensors, tmp_path: pathlib.Path
) -> None:
    if os.getuid() == 0 and sys.platform != "linux":
        pytest.skip("permissions mean nothing to root")
    somebody = {"preexec_fn": without_privileges} if os.getuid() == 0 else {}
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    for step in range(220, 301, 20):
        shutil.rmtree(run_dir / "checkpoints" / f"step-{step:010d}")
    records = (run_dir / "metrics.jsonl").read_bytes()

    run_dir.chmod(0o555)
    assert_told(train_cold(run_dir, **somebody), 64, f"run_dir={run_dir} is not writable", "mend its permissions")
    run_dir.chmod(0o755)

    # It can be listed, and not be entered.
    (run_dir / "checkpoints").chmod(0o644)
    assert_told(train_cold(run_dir, **somebody), 66, "checkpoints", "Permission denied")
    (run_dir / "checkpoints").chmod(0o755)
    assert (run_dir / "metrics.jsonl").read_bytes() == records
    assert RunDirectory(run_dir).committed_steps()[0] == 200
    assert_goes_on(train, run_dir, undisturbed, tensors_of)


def test_a_run_directory_that_is_moved_away_ends_the_run_and_the_one_there_now_stays_as_it_is(
    train: Train, undisturbed: pathlib.Path, tmp_path: pathlib.Path, warm_start: Callable[..., warm.Process]
) -> None:
    run_dir, aside = tmp_path / "run", tmp_path / "aside"
    process = warm_start("main", *FLAGS, f"--run_dir={run_dir}", "--keep_every=never", "--train_for=1e9steps")
    wait_for_saves(process, run_dir, 3)
    run_dir.rename(aside)
    shutil.copytree(undisturbed, run_dir)
    code = process.wait(timeout=SECONDS_AT_MOST)
    told = (tmp_path / "output.txt").read_text().splitlines()
    assert code == 74, told
    assert told[-1].startswith(f"error: {run_dir} was removed or replaced while it was in use; ")
    assert all(line.startswith("warning: ") for line in told[:-1]), told
    for name in ("metrics.jsonl", "journal.jsonl", "run.json", "flags.txt"):
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes(), name

    shutil.rmtree(run_dir)
    aside.rename(run_dir)
    newest = RunDirectory(run_dir).committed_steps()[0]
    ended = train(run_dir, "--keep_every=never", f"--train_for={newest + 1}steps")
    assert ended.returncode == 0, ended.stderr
    count = min(newest, 300) // 7
    assert count >= 8
    first, expected = ((path / "metrics.jsonl").read_bytes().splitlines()[:count] for path in (run_dir, undisturbed))
    assert first == expected


def wait_for_saves(process: warm.Process, run_dir: pathlib.Path, count: int) -> None:
    """Waits until the journal tells of so many saves."""
    deadline = time.monotonic() + SECONDS_AT_MOST
    while process.poll() is None and time.monotonic() < deadline:
        if sum(entry["event"] == "save" for entry in read_journal(RunDirectory(run_dir))) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"there were no {count} saves")


def test_a_damaged_checkpoint_costs_one_line_and_the_steps_since_the_one_before(
    train: Train, undisturbed: pathlib.Path, tensors_of: Tensors, tmp_path: pathlib.Path
) -> None:
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    file = run_dir / "checkpoints" / "step-0000000300" / "state.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert_told(train(run_dir), 0, "checkpoint 300 was put aside: it does not restore: ")
    assert_same(run_dir, undisturbed, tensors_of)
