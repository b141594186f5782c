"""`python -m trainer.status RUN_DIR`: its arguments, its exit codes, its output to people and to scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.errors import ConfigError, Unusable
from trainer.status import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with two checkpoints, and one that is damaged."""
    path = tmp_path / "run"
    for step in (10, 20, 30):
        folder = path / "checkpoints" / f"step-{step:010d}"
        folder.mkdir(parents=True)
        (folder / "state.index").write_bytes(b"index")
        manifest = {
            "format": 1,
            "step": step,
            "examples": step * 64,
            "reasons": ["interval"],
            "transient": False,
            "attempt": 1,
            "parent": None,
            "files": [{"name": "state.index", "bytes": 5, "crc32": "00000000"}],
            "log": {"records": 0, "bytes": 0, "sha256": ""},
            "train": {"relation": "window", "window": [0, 7], "lag": step - 7, "metrics": {"loss": 0.4125}},
            "open_window": {"from": 7, "steps": step - 7, "metrics": {}},
            "eval": {},
            "control": {},
            "data": {},
        }
        (folder / "manifest.json").write_text("{" if step == 30 else json.dumps(manifest))
    (path / "metrics.jsonl").touch()
    return path


@pytest.fixture
def run() -> Run:
    """Runs the command in a process where TensorFlow cannot be imported."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        program = (
            "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
            "from trainer.command import run_command; from trainer.status import main\n"
            "run_command(main)"
        )
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)

    return run


def test_it_needs_no_tensorflow(run: Run, run_dir: Path) -> None:
    done = run(run_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.4125" in done.stdout
    assert "damaged" in done.stdout


def test_an_object_that_cannot_be_written_is_74_in_one_line(run_dir: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "trainer.status", str(run_dir), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 74
    assert done.stderr.startswith("error: cannot write to stdout")
    assert done.stderr.count("\n") == 1


def test_a_table_that_nobody_can_read_is_no_error(run_dir: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "trainer.status", str(run_dir)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_given_without_what_only_the_table_needs(run_dir: Path) -> None:
    blocked = "import sys\nfor name in ('tensorflow', 'numpy', 'rich'): sys.modules[name] = None\n"
    program = f"{blocked}from trainer.command import run_command; from trainer.status import main; run_command(main)"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "RUN_DIR" in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize("arguments", [["--json", "{}"], ["{}", "--json"]])
def test_json_is_one_object_and_nothing_else(
    arguments: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(run_dir) for argument in arguments]) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == [
        *("run", "latest", "best", "goodput", "attempts", "checkpoints", "evaluations", "best_by", "times"),
    ]
    assert value["latest"] == 20
    assert [row["step"] for row in value["checkpoints"]] == [10, 20, 30]


def test_nothing_in_the_run_directory_is_changed(run_dir: Path) -> None:
    def content() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run_dir.rglob("*") if path.is_file()}

    before = content()
    main([str(run_dir)])
    main([str(run_dir), "--json"])
    assert content() == before


@pytest.mark.parametrize("arguments", [[], ["one", "two"], ["one", "--wrong"], ["one", "--json=perhaps"]])
def test_a_command_line_that_is_not_understood_is_64(arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        main(arguments)
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "not_ours"])
def test_what_is_no_run_directory_is_66(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("text")
    elif kind != "missing":
        path.mkdir()
    if kind == "not_ours":
        (path / "step-0000000001").mkdir()
    with pytest.raises(Unusable) as caught:
        main([str(path)])
    assert caught.value.exit_code == 66
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_is_one_line_on_stderr_and_the_exit_code(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path / "missing", "--json")
    assert (done.returncode, done.stdout) == (66, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_goes_away_is_no_error(run_dir: Path, flags: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        command = [sys.executable, "-m", "trainer.status", str(run_dir), *flags]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
