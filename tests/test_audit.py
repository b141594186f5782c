"""`python -m trainer.audit RUN_DIR`: its arguments, its exit codes, its output to people and to scripts."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import trainer.audit
from trainer.audit import main
from trainer.errors import ConfigError, Unusable
from trainer.process.signals import StopRequest

GOLDEN = pathlib.Path(__file__).parent / "golden" / "format-1"
CHECKS = [
    *("identity", "files", "tensors", "log", "windows", "grids", "decisions", "manifests", "learning_rate"),
    *("journal", "tensorboard", "orphans", "evaluations"),
]


@pytest.fixture
def run_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "run"))


def without_tensorflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    blocked = "import sys\nfor name in ('tensorflow', 'numpy', 'rich'): sys.modules[name] = None\n"
    program = f"{blocked}from trainer.command import run_command; from trainer.audit import main; run_command(main)"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_needs_nothing() -> None:
    done = without_tensorflow("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "RUN_DIR" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere"], 66, "does not exist"),
        ([], 64, "no argument"),
        (["a", "b"], 64, "expected 1 argument"),
        (["--josn", "a"], 64, "josn"),
    ],
)
def test_a_typo_costs_no_wait_for_tensorflow(arguments: list[str], code: int, says: str) -> None:
    done = without_tensorflow(*arguments)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_run_that_holds(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1 : len(CHECKS) + 1]] == CHECKS
    assert out.splitlines()[-1] == f"holds  {run_dir}: 11 of 13 checks, 2 not checked"
    assert err == ""


def test_a_run_that_does_not(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = run_dir / "checkpoints" / "step-0000000080" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"examples":640', b'"examples":641'))
    assert main([str(run_dir)]) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"FAILED  {run_dir}: ")
    assert "the first is files: checkpoint 80 is damaged: its manifest is not as it was written" in last


def test_json_is_one_object_and_nothing_else(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = run_dir / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"step":7,', b'"step":8,', 1))
    assert main([str(run_dir), "--json"]) == 3
    out, err = capsys.readouterr()
    value = json.loads(out)
    assert (out.count("\n"), err, value["ok"]) == (1, "", False)
    assert [check["name"] for check in value["checks"]] == CHECKS
    by_name = {check["name"]: check for check in value["checks"]}
    assert by_name["log"]["ok"] is False
    assert by_name["log"]["detail"] == by_name["log"]["failures"][0]
    assert by_name["evaluations"]["ok"] is None
    assert by_name["files"] == {
        "name": "files",
        "ok": True,
        "detail": "8 files of 4 checkpoints, 7.0 kB",
        "failures": [],
    }


@pytest.mark.slow
def test_the_verdict_stands_where_nobody_can_read_it(run_dir: pathlib.Path) -> None:
    (run_dir / "metrics.jsonl").write_bytes(b"")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "trainer.audit", str(run_dir)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unusable, match="is no run directory"):
        main([str(tmp_path)])
    with pytest.raises(ConfigError):
        main([])


def test_a_signal_ends_it_and_says_so(
    run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = StopRequest()
    request.note(signal.SIGTERM, None)
    monkeypatch.setattr(StopRequest, "__bool__", lambda self: True)
    monkeypatch.setattr(StopRequest, "exit_code", 75)
    assert main([str(run_dir)]) == 75
    assert capsys.readouterr() == ("", "interrupted: nothing was written; run the same command again\n")


def test_progress_is_told_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    times = iter(range(9))
    progress = trainer.audit._Progress(StopRequest(), lambda: float(next(times)))
    progress.tell("reading checkpoints: 1.0 GB of 4.0 GB")
    progress.tell("reading checkpoints: 2.0 GB of 4.0 GB")
    progress.clear()
    lines = capsys.readouterr().err.split("\r")
    assert lines[1:3] == ["reading checkpoints: 1.0 GB of 4.0 GB", "reading checkpoints: 2.0 GB of 4.0 GB"]
    assert lines[-1] == ""


@pytest.mark.slow
def test_a_signal_while_tensorflow_is_imported(
    run_dir: pathlib.Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start("audit", str(run_dir))
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "tensorflow" not in maps.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
