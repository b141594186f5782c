"""The training command, as a user calls it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Callable

import pytest

from trainer.errors import ConfigError
from trainer.main import main

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]

REGRESSION = ("--experiment=regression", "--train_for=40steps", "--save_every=10steps", "--run_dir=run")


def test_digits_by_default_reach_their_accuracy_and_the_last_lines_say_where(
    command: Command, cold_command: Command, tmp_path: pathlib.Path
) -> None:
    ended = cold_command("main")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    reached, best, last, show = ended.stdout.splitlines()[-4:]
    assert re.fullmatch(r"target reached at step \d+, epoch [\d.]+ in runs/digits", reached)
    measured = r"validation/accuracy (\S+) \(exact\)"
    found = re.fullmatch(rf"best   step (\d+)  {measured}  (runs/digits/checkpoints/step-\d{{10}})", best)
    assert found, best
    assert float(found[2]) >= 0.97
    assert (tmp_path / found[3] / "manifest.json").exists()
    assert re.fullmatch(rf"last   step \d+  {measured}  runs/digits/checkpoints/step-\d{{10}}", last)
    assert re.fullmatch(r"show   \S*python\S* -m trainer\.status runs/digits", show)
    shown = subprocess.run(show.split()[1:], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "validation/accuracy" in shown.stdout

    before = (tmp_path / "runs/digits/metrics.jsonl").read_bytes()
    again = command("main")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert (tmp_path / "runs/digits/metrics.jsonl").read_bytes() == before
    from_flagfile = command("main", "--flagfile=runs/digits/flags.txt")
    assert from_flagfile.returncode == 0, from_flagfile.stderr
    assert "nothing to do" in from_flagfile.stdout
    assert from_flagfile.stderr == ""


def test_cadences_that_do_not_divide_each_other_each_keep_their_own_grid(
    command: Command,
    cold_command: Command,
    tmp_path: pathlib.Path,
    tensors_of: Callable[[pathlib.Path], dict[str, bytes]],
) -> None:
    flags = (
        "--train_for=100steps",
        "--log_every=7",
        "--save_every=5",
        "--eval_every=11",
        "--keep_last=100",
        "--keep_best=0",
    )
    for train, run, more in ((cold_command, "one", ()), (command, "other", ("--tick=0.01s",))):
        ended = train("main", *flags, *more, f"--run_dir={run}", "--progress=never")
        assert ended.returncode == 0, ended.stderr
        assert (ended.stdout, ended.stderr) == ("", "")
    records = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    windows = [record["window"] for record in records if record["kind"] == "train"]
    assert windows == [[step - 7, step] for step in range(7, 99, 7)] + [[98, 100]]
    assert [record.get("closed_by") for record in records if record["kind"] == "train"] == [None] * 14 + ["end"]
    assert [record["step"] for record in records if record["kind"] == "eval"] == [*range(11, 100, 11), 100]
    saved = sorted(folder.name for folder in (tmp_path / "one/checkpoints").glob("step-*"))
    assert saved == [f"step-{step:010d}" for step in range(5, 101, 5)]
    assert (tmp_path / "one/metrics.jsonl").read_bytes() == (tmp_path / "other/metrics.jsonl").read_bytes()
    for name in saved:
        assert tensors_of(tmp_path / "one/checkpoints" / name) == tensors_of(tmp_path / "other/checkpoints" / name)


def test_the_plan_is_all_that_a_dry_run_makes(command: Command, tmp_path: pathlib.Path) -> None:
    ended = command("main", "--dry_run", "--train_for=100steps", "--log_every=7", "--save_every=5", "--eval_every=11")
    assert ended.returncode == 0, ended.stderr
    assert "log    every 7 steps: 15 train records" in ended.stdout
    assert "eval   every 11 steps: 10 evaluations" in ended.stdout
    assert "save   every 5 steps: 20 checkpoints" in ended.stdout
    assert "15% of the checkpoints end a window; the largest lag is 6 steps" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--experiment=nothing"], "experiment=nothing is unknown; expected one of digits, regression"),
        (["--experiment=no.such:Thing"], "cannot be imported"),
        (["--set=hiden=3"], "Digits has no field 'hiden'; its fields are batch_size, dropout, hidden, learning_rate"),
        (["--set=hidden=many"], "set=hidden=many: expected int"),
        (["--set=hidden"], "expected --set NAME=VALUE"),
        (["--save_every=5bananas"], "save_every: '5bananas' has the unknown unit 'bananas'"),
        (["--log_every=0"], "log_every: '0' is not positive"),
        (["--reconcile=maybe"], "expected one of carry, flush, align"),
        (["--reconcile=align", "--log_every=never"], "reconcile=align"),
        (["--log_every=5s"], "clock_in_log"),
        (["--keep_last=0"], "keep_last=0"),
        (["--keep_last=many"], "keep_last"),
        (["--no_such_flag"], "no_such_flag"),
        (["leftover"], "got 'leftover'; expected only flags"),
        (["--monitor=test/loss"], "monitor=test/loss"),
        (["--profile=9..3"], "profile=9..3"),
    ],
)
def test_bad_flags_get_one_line_and_64_and_leave_nothing(
    flags: list[str], said: str, command: Command, tmp_path: pathlib.Path
) -> None:
    ended = command("main", *flags)
    assert ended.returncode == 64, ended.stderr
    assert said in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_directory_that_is_not_this_runs_is_refused_and_left_as_it_is(
    command: Command, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("main", *REGRESSION, "--resume=must").returncode == 66
    assert not (tmp_path / "run").exists()
    first = command("main", *REGRESSION)
    assert first.returncode == 0, first.stderr
    before = content(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    refusals = {
        ("--experiment=digits",): "holds a run of experiments.regression:Regression",
        ("--set=noise=0.5",): "noise=0.1 there, 0.5 here",
        ("--seed=3",): "seed=17",
        ("--resume=never",): "resume=never",
        ("--run_dir=file",): "is a file",
        ("--run_dir=/proc/run",): "cannot be made",
    }
    monkeypatch.chdir(tmp_path)
    for flags, said in refusals.items():
        with pytest.raises(ConfigError) as refused:
            main([*REGRESSION, *flags])
        assert said in str(refused.value)
    assert content(tmp_path / "run") == before


def test_a_changed_learning_rate_is_warned_of_and_a_longer_target_extends_the_run(
    command: Command, tmp_path: pathlib.Path
) -> None:
    assert command("main", *REGRESSION).returncode == 0
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    longer = command("main", *REGRESSION, "--train_for=60steps", "--set=learning_rate=0.05")
    assert longer.returncode == 0, longer.stderr
    assert longer.stderr.splitlines() == ["warning: learning_rate was 0.1 when the run began and is 0.05 now"]
    after = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert after.startswith(before)
    assert [json.loads(line)["step"] for line in after[len(before) :].splitlines()] == [50, 60]


def test_when_all_checkpoints_are_broken_the_run_refuses_to_start_twice_and_moves_nothing(
    command: Command, tmp_path: pathlib.Path
) -> None:
    assert command("main", *REGRESSION).returncode == 0
    for index in (tmp_path / "run/checkpoints").glob("step-*/state.index"):
        index.write_bytes(b"")
    folders = sorted((tmp_path / "run/checkpoints").iterdir())
    for _ in range(2):
        ended = command("main", *REGRESSION)
        assert ended.returncode == 66
        assert "no checkpoint in run/checkpoints can be used" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert sorted((tmp_path / "run/checkpoints").iterdir()) == folders


@pytest.mark.parametrize("name", ["main", "status"])
def test_help_is_given_without_tensorflow(name: str, cold_command: Command) -> None:
    ended = cold_command(name, "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith(f"usage: python -m trainer.{name}")
    assert ended.stderr == ""


def test_the_process_ends_though_data_that_python_makes_is_read_ahead(
    cold_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent / "proofs"), prepend=os.pathsep)
    ended = cold_command("main", "--experiment=slow_data:Slow", "--train_for=20steps", "--run_dir=run")
    assert ended.returncode == 0, ended.stderr
    assert "target reached at step 20" in ended.stdout


def test_a_profile_is_written(command: Command, tmp_path: pathlib.Path) -> None:
    ended = command("main", *REGRESSION, "--profile=12..15steps")
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))


def content(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
    """Every file below `folder`, but for the lock, which names its last holder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
