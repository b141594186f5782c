"""`python -m trainer.report RUN_DIR…`: its arguments, its exit codes, its files."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest
import warm

from trainer.errors import ConfigError, Unusable, Unwritable
from trainer.ledger.log import MetricLog
from trainer.ledger.record import Record
from trainer.report import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Someone's own loop: a log of three records. The test runs beside it."""
    log = MetricLog(tmp_path / "run")
    for step in (10, 20):
        log.append([Record("train", step, step * 4, None, {"loss": 1 / step}, window=(step - 10, step))])
    log.append([Record("eval", 20, 80, None, {"loss": 0.4}, split="validation", weights="raw")])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Runs the command in a process where the modules of `blocked` cannot be imported."""

    def run(*arguments: str, blocked: tuple[str, ...] = ("tensorflow", "keras")) -> subprocess.CompletedProcess[str]:
        program = (
            f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
            "from trainer.command import run_command; from trainer.report import main\n"
            "run_command(main)"
        )
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.slow
def test_it_needs_no_tensorflow_and_says_where_the_page_is(run: Run, run_dir: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    done = run("run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("reported  report.html  ")
    assert (run_dir.parent / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_help_is_given_without_what_only_drawing_needs(run: Run, run_dir: pathlib.Path) -> None:
    done = run("--help", blocked=("tensorflow", "numpy", "matplotlib", "rich"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "-o report.html" in done.stdout
    assert "--plot" in done.stdout


@pytest.mark.slow
def test_without_matplotlib_one_line_says_what_to_install(run: Run, run_dir: pathlib.Path) -> None:
    done = run("run", blocked=("tensorflow", "matplotlib"))
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.count("\n") == 1
    assert "pip install checkpoint-trainer[report]" in done.stderr
    assert not (run_dir.parent / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["run", "-o", "out/a.html"], ["-o=out/a.html", "run"], ["run", "--output=out/a.html"]]
)
def test_the_page_goes_where_it_is_asked_for(run_dir: pathlib.Path, arguments: list[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(arguments) == 0
    assert [path.name for path in (run_dir.parent / "out").iterdir()] == ["a.html"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "begins"), [("run.png", b"\x89PNG"), ("run.svg", b"<?xml"), ("run.pdf", b"%PDF")])
def test_plot_is_one_picture_and_the_same_every_time(
    run_dir: pathlib.Path, name: str, begins: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    contents = []
    for runs in (["run"], ["run"], ["run", "run"]):
        assert main([*runs, f"--plot={name}"]) == 0
        contents.append((run_dir.parent / name).read_bytes())
    assert contents[0].startswith(begins)
    assert contents[0] == contents[1] != contents[2]
    assert f"drawn     {name}" in capsys.readouterr().out


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["run", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == {
        "report": "report.html",
        "bytes": (run_dir.parent / "report.html").stat().st_size,
        "plot": None,
        "runs": [
            {
                "name": "run",
                "path": "run",
                "step": 20,
                "records": 3,
                "checkpoints": 0,
                "attempts": 0,
                "explanations": [],
                "warnings": [],
            }
        ],
    }


@pytest.mark.slow
def test_what_is_left_out_is_warned_of(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"torn\nhalf of a li")
    assert main(["run"]) == 0
    assert capsys.readouterr().err == (
        "warning: run: 1 line of run/metrics.jsonl left out, the first is line 4: no record\n"
    )


@pytest.mark.slow
def test_nothing_in_the_run_directory_is_changed(run_dir: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")

    def content() -> dict[pathlib.Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run_dir.rglob("*") if path.is_file()}

    before = content()
    assert main(["run", "--plot=run.svg"]) == 0
    assert content() == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--plot=run.png"],
        ["run", "--wrong"],
        ["run", "--json=perhaps"],
        ["run", "-o", "report.txt"],
        ["run", "-o", "run/metrics.jsonl"],
        ["run", "--plot=run.bmp"],
        ["run", "--plot=run"],
        ["run", "--plot="],
    ],
)
def test_a_command_line_that_is_not_understood_is_64(run_dir: pathlib.Path, arguments: list[str]) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError) as caught:
        main(arguments)
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)
    assert (run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_run_directory_is_66_by_its_name(run_dir: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    if name == "file":
        (tmp_path / name).write_text("text")
    elif name == "empty":
        (tmp_path / name).mkdir()
    with pytest.raises(Unusable, match=name):
        main(["run", name])
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_what_cannot_be_written_is_74(run_dir: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    (run_dir.parent / "taken").write_text("text")
    with pytest.raises(Unwritable) as caught:
        main(["run", "-o", "taken/report.html"])
    assert caught.value.exit_code == 74
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_is_reported_while_it_is_written(
    warm_start: Callable[..., warm.Process],
    cold_command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: pathlib.Path,
) -> None:
    pytest.importorskip("matplotlib")
    flags = ("--train_for=1e9steps", "--log_every=5", "--save_every=20", "--eval_every=20", "--jit=none")
    trainer = warm_start("main", "--experiment=regression", "--run_dir=run", *flags)
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size > 5000):
        assert trainer.poll() is None
    done = cold_command("report", "run", "--json")
    assert trainer.poll() is None
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["runs"]
    assert told["records"] > 20
    assert told["warnings"] == []
    assert "running" in (tmp_path / "report.html").read_text()
