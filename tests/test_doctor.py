"""`python -m trainer.doctor`: its arguments, its exit codes, its output to people and to scripts."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

import pytest

from trainer import doctor
from trainer.doctor import main
from trainer.errors import EXIT_DONE, EXIT_FINDINGS, ConfigError
from trainer.proof.options import SET_HERE
from trainer.run.config import Config

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ZOO = pathlib.Path(__file__).parent / "proof"


@pytest.fixture
def run() -> Run:
    """Runs the command in a process where TensorFlow cannot be imported."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = (
            "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
            "from trainer.command import run_command; from trainer.doctor import main\n"
            "run_command(main)"
        )
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def in_the_zoo(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Has the command find the zoo, measure briefly, and make its temporary folder in a new one."""
    from trainer.proof import jit

    monkeypatch.syspath_prepend(str(ZOO))
    monkeypatch.setattr(jit, "_SECONDS", 0.01)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_help_needs_no_tensorflow_and_names_the_flags_of_the_trainer_but_those_of_its_runs(run: Run) -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (EXIT_DONE, "")
    flags = {line.strip().partition("=")[0] for line in done.stdout.splitlines() if line.startswith("  --")}
    names = {item.name for item in dataclasses.fields(Config)} - set(SET_HERE)
    assert flags == {f"--{name}" for name in {*names, "experiment", "set", "steps", "json", "help"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jit=fast"], "jit=fast is no choice"),
        (["--run_dir=x"], "Unknown command line flag 'run_dir'"),
        (["--experiment=nothing_of_that_name"], "experiment=nothing_of_that_name is unknown"),
        (["--steps=1"], "steps"),
        (["--set", "hidden"], "set=hidden sets nothing"),
        (["digits"], "got 'digits'; expected only flags"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_tensorflow_is_imported(
    run: Run, arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == ConfigError.exit_code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_findings_are_one_json_object_and_exit_3_and_nothing_is_left(
    in_the_zoo: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--experiment=zoo:Unsaved", "--jit=none", "--noasync_save", "--steps=2", "--json"])
    output = capsys.readouterr().out
    assert code == EXIT_FINDINGS
    told = json.loads(output)
    assert output.count("\n") == 1
    assert [finding["kind"] for finding in told["findings"]] == ["unsaved", "resume"]
    assert list(in_the_zoo.glob("trainer-*")) == []


def test_diagnosis_is_told_in_words(
    in_the_zoo: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import trainer.proof.doctor

    measured = {"none": {"ms_per_step": 0.5}, "chunk": {"error": "it does not compile"}, "same_bits": None}
    diagnosis = trainer.proof.doctor.Diagnosis((), {**measured, "recommended": "none"}, ("it prints",))
    monkeypatch.setattr(trainer.proof.doctor, "examine", lambda *arguments, **options: diagnosis)
    assert main(["--experiment=zoo:Healthy"]) == EXIT_DONE
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "healthy       it resumes exactly, and nothing was found that speaks against it",
        "jit=none      0.5 ms a step",
        "jit=chunk     it does not compile",
        "recommended   --jit=none  (there is nothing to compare)",
    ]
    assert said.err == "warning: it prints\n"


def test_experiment_that_raises_while_it_is_built_is_told_and_no_stack_trace(
    in_the_zoo: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--experiment=zoo:Broken"]) == EXIT_FINDINGS
    said = capsys.readouterr()
    assert said.out.startswith("build         model raises KeyError: 'no such layer'")
    assert "Traceback" not in said.out + said.err


def test_field_that_cannot_be_set_is_an_error_and_no_finding(in_the_zoo: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="Healthy has no field 'width'"):
        main(["--experiment=zoo:Healthy", "--set", "width=3"])


def test_termination_tidies_up(in_the_zoo: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    import trainer.proof.doctor

    folders = []

    def examine(*arguments: object, folder: str, **options: object) -> None:
        folders.append(folder)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.proof.doctor, "examine", examine)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        main(["--experiment=zoo:Healthy"])
    assert raised.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert folders
    assert not os.path.exists(folders[0])


def test_each_line_of_what_runs_say_comes_once(capsys: pytest.CaptureFixture[str]) -> None:
    once = doctor._Once(sys.stderr)
    for _ in range(3):
        print("warning: again", file=once)
    print("another", file=once)
    assert capsys.readouterr().err == "warning: again\nanother\n"
