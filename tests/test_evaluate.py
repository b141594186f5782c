"""`python -m trainer.evaluate RUN_DIR`: its arguments, exit codes and output, and the runs that it looks at."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import warm

from trainer.checkpoint import folder
from trainer.errors import ConfigError, InUse, Unusable
from trainer.evaluate import main
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import read_evaluations
from trainer.ledger.manifest import LogPosition, Manifest
from trainer.ledger.run_info import RunInfo
from trainer.process.lock import locked

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., warm.Process]

EXPERIMENT = '''
import dataclasses

import trainer
from experiments.digits import Digits, load


@dataclasses.dataclass(frozen=True)
class Small(Digits):
    """Digits with a split that training never looks at."""

    hidden: int = 8

    def eval_data(self):
        images, labels = load()
        part = {"image": images[1500:1600], "label": labels[1500:1600]}
        return {"validation": trainer.data.arrays(part, batch_size=30)}

    def test_data(self):
        images, labels = load()
        return {"test": trainer.data.arrays({"image": images[1600:], "label": labels[1600:]}, batch_size=50)}
'''
NUMBERED = """
import tensorflow as tf

import trainer


def numbered(number):
    return {"image": tf.zeros([64]), "label": tf.cast(number % 10, tf.int32)}
"""
FLAGS = (
    "--experiment=small_digits:Small",
    "--run_dir=run",
    "--save_every=10steps",
    "--eval_every=10steps",
    "--progress=never",
    "--keep_last=9",
    "--ema=0.9",
)
SECONDS_AT_MOST = 120


@pytest.fixture
def run_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run directory without a checkpoint."""
    path = tmp_path / "run"
    (path / "checkpoints").mkdir(parents=True)
    info = RunInfo(
        experiment="small_digits:Small",
        parameters={},
        seed=17,
        jit="none",
        deterministic=False,
        threads={},
        machine={},
        versions={},
        data={},
        epoch_examples=None,
        clock_in_log=False,
        run_id="run",
    )
    (path / "run.json").write_bytes(info.encode())
    return path


@pytest.fixture
def commit(run_dir: pathlib.Path) -> Callable[[int], None]:
    """Commits a checkpoint that nobody comes to read."""

    def commit(step: int) -> None:
        directory = RunDirectory(run_dir)
        folder.begin(directory, step)
        pathlib.Path(f"{directory.state_prefix(step)}.index").write_bytes(b"index")
        files, none = folder.describe_files(directory, step), {"from": step, "steps": 0, "metrics": {}}
        position = LogPosition(0, 0, "")
        folder.commit(
            directory,
            Manifest(step, step, None, "run", ("interval",), 1, None, files, position, None, none, {}, {}, {}),
        )

    return commit


# What is refused before anything is imported.


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["one", "two"],
        ["one", "--wrong"],
        ["one", "--follow=perhaps"],
        ["one", "--follow", "--which=best"],
        ["one", "--follow", "--which="],
        ["one", "--split="],
        ["one", "--split=test,,other"],
    ],
)
def test_a_command_line_that_is_not_understood_is_64(arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        main(arguments)
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "not_ours"])
def test_what_is_no_run_directory_is_66_and_stays_as_it_is(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("text")
    elif kind != "missing":
        path.mkdir()
    if kind == "not_ours":
        (path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Unusable) as caught:
        main([str(path)])
    assert caught.value.exit_code == 66
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_a_checkpoint_is_66_and_names_what_waits_for_one(run_dir: pathlib.Path) -> None:
    with pytest.raises(Unusable, match=r"has no checkpoint.*--follow"):
        main([str(run_dir)])


def test_help_is_given_without_what_only_the_work_needs() -> None:
    blocked = "import sys\nfor name in ('tensorflow', 'numpy', 'rich'): sys.modules[name] = None\n"
    program = f"{blocked}from trainer.command import run_command; from trainer.evaluate import main; run_command(main)"
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("RUN_DIR", "--which", "--split", "--follow", "--json"):
        assert word in done.stdout


def test_two_do_not_evaluate_one_run_and_the_trainers_lock_is_another(
    run_dir: pathlib.Path, commit: Callable[[int], None]
) -> None:
    commit(10)
    with locked(str(run_dir / "evaluations.jsonl.lock"), folder=False):
        with pytest.raises(InUse, match=r"process \d+ on .* since ") as caught:
            main([str(run_dir)])
        assert caught.value.exit_code == 73
        assert "\n" not in str(caught.value)
        with locked(str(run_dir / "lock")):
            pass


# What it does, with a run that it really looks at.


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that another process does; not for ever."""
    end = time.monotonic() + SECONDS_AT_MOST
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_is_evaluated_once_with_its_own_bits_and_status_shows_it(
    command: Command, cold_command: Command, warm_start: Start, tmp_path: pathlib.Path
) -> None:
    experiment = tmp_path / "small_digits.py"
    experiment.write_text(EXPERIMENT)
    trained = command("main", *FLAGS, "--train_for=30steps")
    assert trained.returncode == 0, trained.stderr
    records = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    own = [json.loads(line) for line in records.splitlines() if b'"eval"' in line]

    def lines() -> list[bytes]:
        return (tmp_path / "run" / "evaluations.jsonl").read_bytes().splitlines()

    # For scripts: one object, and the rest elsewhere.
    done = cold_command("evaluate", "run", "--which=20,latest", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["run_dir"] == "run"
    assert value["skipped"] == []
    assert value["evaluations"] == [json.loads(line) for line in lines()]
    told = [(line["step"], line["split"], line["weights"]) for line in value["evaluations"]]
    assert told == [(step, split, "ema") for step in (20, 30) for split in ("validation", "test")]
    assert done.stderr.count("loss") == 4
    # The bits of the run's own evaluations, made by another process.
    again = [line for line in value["evaluations"] if line["split"] == "validation"]
    assert [
        {**record, "checkpoint": line["checkpoint"], "fingerprint": line["fingerprint"]}
        for record, line in zip(own[1:], again, strict=True)
    ] == again

    # For people; and only what is new.
    flip = tmp_path / "run" / "checkpoints" / "step-0000000010" / "state.index"
    flip.write_bytes(flip.read_bytes()[:-1] + b"!")
    done = command("evaluate", "run", "--which=all", "--split=test")
    assert done.returncode == 0, done.stderr
    assert [line.endswith("already evaluated") for line in done.stdout.splitlines()] == [True, True, False]
    assert done.stdout.splitlines()[-1] == "0 made, 2 already there: run/evaluations.jsonl"
    assert "checkpoint 10 of run cannot be used" in done.stderr
    assert len(lines()) == 4
    done = command("evaluate", "run", "--which=10")
    assert (done.returncode, done.stdout) == (66, "")
    assert done.stderr.count("\n") == 1
    assert "checkpoint 10 of run cannot be used" in done.stderr

    status = json.loads(command("status", "run", "--json").stdout)
    assert status["evaluations"] == {"lines": 4, "gone": 0, "other_data": 0}
    shown = {row["step"]: row["evaluations"] for row in status["checkpoints"]}
    assert list(shown[30]) == ["test", "validation"]
    assert shown[10] == {}
    fingerprint = again[0]["fingerprint"]
    assert shown[20]["validation"] == {**status["checkpoints"][1]["eval"]["validation"], "fingerprint": fingerprint}

    # For a script that cannot be told.
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "trainer.evaluate", "run", "--json"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS_AT_MOST,
            check=False,
        )
    assert process.returncode == 74
    assert process.stderr.splitlines()[-1].startswith("error: cannot write to stdout")

    # In the middle of an evaluation, which then counts for nothing.
    endless = "trainer.data.stream(lambda: tf.data.Dataset.range(10**12).map(numbered), batch_size=9)"
    experiment.write_text(
        EXPERIMENT.replace("import trainer\n", NUMBERED, 1).replace(
            'return {"test"', f'return {{"endless": {endless}, "test"'
        )
    )
    before = lines()
    process = warm_start("evaluate", "run", "--which=20,30")
    until(lambda: "already evaluated" in (tmp_path / "output.txt").read_text())
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=SECONDS_AT_MOST) == 75
    assert "interrupted" in (tmp_path / "output.txt").read_text()
    assert lines() == before


@pytest.mark.slow
def test_it_follows_a_run_through_a_preemption_to_its_end(
    command: Command, warm_start: Start, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "small_digits.py").write_text(EXPERIMENT)
    output, directory = tmp_path / "output.txt", RunDirectory(tmp_path / "run")

    def evaluated() -> set[int]:
        return {evaluation.record.step for evaluation in read_evaluations(directory)}

    following = warm_start("evaluate", "run", "--follow", "--split=test")
    until(lambda: "waiting for the first checkpoint in run" in output.read_text())
    flags = [flag for flag in FLAGS if not flag.startswith("--keep_last")]
    training = warm_start("main", *flags, "--train_for=10_000_000steps", "--keep_last=1", "--save_every=1s")
    # Beside the trainer, of whose checkpoints some go before they are read.
    until(lambda: len(evaluated()) >= 2)
    training.send_signal(signal.SIGTERM)
    assert training.wait(timeout=SECONDS_AT_MOST) == 75
    until(lambda: "the run has stopped (preempted); waiting" in output.read_text())
    assert following.poll() is None
    (step, *_) = directory.committed_steps()
    assert step in evaluated()

    done = command("main", *flags, f"--train_for={step + 25}steps")
    assert done.returncode == 0, done.stderr
    assert following.wait(timeout=SECONDS_AT_MOST) == 0
    assert "the run has ended (target reached)" in output.read_text()
    assert set(directory.committed_steps()) <= evaluated()
    subjects = [evaluation.subject for evaluation in read_evaluations(directory)]
    assert len(set(subjects)) == len(subjects)
    assert {subject.split for subject in subjects} == {"test"}
    gone = json.loads(command("status", "run", "--json").stdout)["evaluations"]
    assert gone["lines"] == len(subjects)
    assert gone["gone"] == len(subjects) - len(directory.committed_steps())


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_wait_ends_when_it_is_told_to(
    end: signal.Signals, code: int, warm_start: Start, tmp_path: pathlib.Path
) -> None:
    waiting = warm_start("evaluate", "nowhere", "--follow")
    until(lambda: "waiting for the first checkpoint" in (tmp_path / "output.txt").read_text())
    waiting.send_signal(end)
    assert waiting.wait(timeout=SECONDS_AT_MOST) == code
    assert not (tmp_path / "nowhere").exists()
