"""`python -m trainer.rewind RUN_DIR --step=S`: its arguments, its exit codes, its output, and the runs that follow."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from trainer.checkpoint import folder
from trainer.errors import ConfigError, InUse, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog, read_records
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.process.lock import locked
from trainer.rewind import main
from trainer.views.status import read_status
from trainer.views.tensorboard import EventWriter, first_difference

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    """A finished run of one attempt: a record, its events and a checkpoint every 10 steps up to 50."""
    directory = RunDirectory(tmp_path / "run")
    log = MetricLog(directory)
    log.append([])
    directory.files.make_directory(directory.checkpoints)
    journal = Journal(directory)
    journal.write("start", host="vm")
    journal.write("plan", lines=[])
    events = EventWriter(pathlib.Path(directory.events), 1, -1)
    for step in range(10, 60, 10):
        record = Record("train", step, step * 4, None, {"loss": 1 / step}, window=(step - 10, step))
        log.append([record])
        events.add([record])
        events.flush()
        folder.begin(directory, step)
        pathlib.Path(directory.state_prefix(step) + ".index").write_bytes(b"index of %d" % step)
        manifest = Manifest(
            step=step,
            examples=step * 4,
            epoch=None,
            run=None,
            reasons=("interval",),
            attempt=1,
            parent=None,
            files=folder.describe_files(directory, step),
            log=log.position,
            train=None,
            open_window={"from": step, "steps": 0, "metrics": {}},
            eval={},
            control={"events": events.position},
            data={},
        )
        folder.commit(directory, manifest)
        journal.write("save", step=step, reasons=["interval"])
    events.close()
    journal.write("stop", reason="target reached", exit_code=0, step=50, saved=True)
    return tmp_path / "run"


def content(path: pathlib.Path) -> dict[str, bytes]:
    files = (item for item in path.rglob("*") if item.is_file() and item.name != "lock")
    return {str(item.relative_to(path)): item.read_bytes() for item in files}


def shows_the_log(run_dir: pathlib.Path) -> bool:
    return first_difference(run_dir / "events", read_records(RunDirectory(run_dir))) is None


def test_it_says_in_one_line_what_is_where(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = (run_dir / "metrics.jsonl").stat().st_size
    assert main([str(run_dir), "--step=30"]) == 0
    cut = size - (run_dir / "metrics.jsonl").stat().st_size
    assert capsys.readouterr().out == (
        f"rewound from step 50 to step 30 in {run_dir}; 2 checkpoints and {cut} bytes of records are in "
        f"{run_dir}/orphans/attempt-0001-rewind\n"
    )
    assert (run_dir / "orphans/attempt-0001-rewind/step-0000000050/manifest.json").exists()

    before = content(run_dir)
    assert main([str(run_dir), "--step=30"]) == 0
    assert capsys.readouterr().out == (
        f"nothing to do: step 30 is the newest checkpoint in {run_dir}, and no record is later\n"
    )
    assert content(run_dir) == before


def test_json_is_one_object_and_nothing_else(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(run_dir), "--step=40"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value.pop("cut_bytes") > 0
    assert value == {
        "run_dir": str(run_dir),
        "step": 40,
        "from_step": 50,
        "moved": [50],
        "orphans": "orphans/attempt-0001-rewind",
    }
    assert main(["--json", str(run_dir), "--step=40"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["moved"], value["cut_bytes"], value["orphans"]) == ([], 0, None)


def test_status_shows_the_steps_that_it_cost_and_no_attempt_of_its_own(run_dir: pathlib.Path) -> None:
    main([str(run_dir), "--step=30"])
    status = read_status(str(run_dir))
    assert status.latest == 30
    (attempt,) = status.attempts
    assert (attempt.to_step, attempt.steps_lost, attempt.reason) == (50, 20, "target reached")


def test_tensorboard_shows_the_log_again(run_dir: pathlib.Path) -> None:
    assert shows_the_log(run_dir)
    main([str(run_dir), "--step=30"])
    assert shows_the_log(run_dir)


def test_events_that_a_kill_left_uncut_are_cut_by_the_next_call(
    run_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainer.views.tensorboard.rewind_events", kill)
        with pytest.raises(KeyboardInterrupt):
            main([str(run_dir), "--step=30"])
    assert not shows_the_log(run_dir)
    main([str(run_dir), "--step=30"])
    assert shows_the_log(run_dir)


def test_a_directory_that_a_trainer_holds_is_73_and_named(run_dir: pathlib.Path) -> None:
    with locked(str(run_dir / "lock")):
        before = content(run_dir)
        with pytest.raises(InUse, match=r"process \d+ on .* since ") as caught:
            main([str(run_dir), "--step=30"])
        assert content(run_dir) == before
    assert caught.value.exit_code == 73
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--step=30"],
        ["{}"],
        ["{}", "--step=ten"],
        ["{}", "--step=-10"],
        ["{}", "30"],
        ["{}", "--step=30", "--wrong"],
    ],
)
def test_a_command_line_that_is_not_understood_is_64_and_changes_nothing(
    arguments: list[str], run_dir: pathlib.Path
) -> None:
    before = content(run_dir)
    with pytest.raises(ConfigError) as caught:
        main([argument.format(run_dir) for argument in arguments])
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)
    assert content(run_dir) == before


def test_which_step_has_to_be_said(run_dir: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="got no --step; expected"):
        main([str(run_dir)])


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
        main([str(path), "--step=30"])
    assert caught.value.exit_code == 66
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_it_needs_no_tensorflow_and_an_error_is_one_line(run_dir: pathlib.Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = (
            "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
            "from trainer.command import run_command; from trainer.rewind import main\n"
            "run_command(main)"
        )
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    refused = run(str(run_dir), "--step=35")
    assert (refused.returncode, refused.stdout) == (66, "")
    assert refused.stderr.count("\n") == 1
    assert "10, 20, 30, 40, 50" in refused.stderr
    done = run(str(run_dir), "--step=30")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_given_without_what_only_the_work_needs() -> None:
    blocked = "import sys\nfor name in ('tensorflow', 'numpy', 'rich'): sys.modules[name] = None\n"
    program = f"{blocked}from trainer.command import run_command; from trainer.rewind import main; run_command(main)"
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "RUN_DIR" in done.stdout
    assert "--step" in done.stdout


@pytest.mark.slow
def test_a_run_that_is_rewound_ends_in_the_bytes_of_one_that_never_went_further(
    command: Command,
    cold_command: Command,
    tmp_path: pathlib.Path,
    tensors_of: Callable[[pathlib.Path], dict[str, bytes]],
) -> None:
    flags = (
        "--experiment=regression",
        "--log_every=10steps",
        "--save_every=15steps",
        "--keep_last=100",
        "--progress=never",
    )

    def train(run: str, train_for: str, *more: str, run_it: Command = command) -> None:
        ended = run_it("main", *flags, f"--run_dir={run}", f"--train_for={train_for}", *more)
        assert ended.returncode == 0, ended.stderr

    def end_of(run: str) -> tuple[bytes, dict[str, dict[str, bytes]]]:
        assert shows_the_log(tmp_path / run)
        folders = sorted((tmp_path / run / "checkpoints").glob("step-*"))
        return (tmp_path / run / "metrics.jsonl").read_bytes(), {path.name: tensors_of(path) for path in folders}

    # With the same flags, from the middle of a window: the same run again.
    train("run", "90steps", run_it=cold_command)
    undisturbed = end_of("run")
    assert cold_command("rewind", "run", "--step=45").returncode == 0
    assert end_of("run") != undisturbed
    train("run", "90steps")
    assert end_of("run") == undisturbed

    # With others, which is what one rewinds for: as if they had been given at that step.
    assert command("rewind", "run", "--step=30").returncode == 0
    others = ("--set=learning_rate=0.02", "--log_every=7steps", "--save_every=20steps")
    train("run", "75steps", *others)
    train("straight", "30steps")
    train("straight", "75steps", *others)
    assert end_of("run") == end_of("straight")
    assert end_of("run") != undisturbed

    status = read_status(str(tmp_path / "run"))
    assert status.latest == 75
    told = [(attempt.from_step, attempt.to_step, attempt.steps_lost) for attempt in status.attempts]
    assert told == [(0, 90, 60), (45, 90, 45), (30, 75, 0)]
