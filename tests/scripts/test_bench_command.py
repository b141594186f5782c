"""The command line of scripts/bench.sh: what it refuses and asks for, its exit codes, signals, server and peers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[2] / "scripts"))

from bench import __main__ as command
from bench import flags, jobs, peers, server
from bench.jobs import Job
from bench.parts import Part
from bench.rounds import Measured
from bench.workers import ROOT, Failed, Workers


def silent(line: str) -> None:
    """Where no one looks at the progress."""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Job], dict[str, Any]]], list[Job]]:
    """Has the command line work with jobs that `perform` does, and returns those that it asks for."""

    def replace(perform: Callable[[Job], dict[str, Any]]) -> list[Job]:
        asked: list[Job] = []

        class Fake:
            def __init__(self, python: str) -> None: ...
            def __enter__(self) -> Fake:
                return self

            def __exit__(self, *error: object) -> None: ...
            def ready(self) -> dict[str, Any]:
                return {"import_s": 2.0}

            def perform(self, job: Job) -> dict[str, Any]:
                asked.append(job)
                return perform(job)

            def together(self, jobs: Sequence[Job], moment_s: float | None) -> list[dict[str, Any] | Failed]:
                return [answered(self.perform, job) for job in jobs]

        monkeypatch.setattr(command, "Workers", Fake)
        monkeypatch.setattr(command, "python_with_peers", lambda tell: sys.executable)
        monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
        return asked

    return replace


def answered(perform: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any] | Failed:
    """As a server answers."""
    try:
        return perform(job)
    except Failed as error:
        return error


def well(job: Job) -> dict[str, Any]:
    if job.check:
        return {"loss": 0.5, "jit": "none"}
    return {"us_per_step": 10.0, "steps": 100, "seconds": 1e-3, "loss": 0.1, "peak_mb": 300.0}


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--workload=digit"], "--workload=digit: 'digit' is unknown"),
            (["--workload="], "--workload=: '' is unknown"),
            (["--workload=digits,"], "--workload=digits,: '' is unknown"),
            (["--contender=theirs"], "--contender=theirs: no row begins with 'theirs'"),
            (["--contender="], "--contender=: a name is missing"),
            (["--contender=ours,"], "--contender=ours,: a name is missing"),
            (["--rounds=0"], "--rounds=0: expected 1 or more"),
            (["--seconds=-1"], "--seconds=-1: expected a time"),
            (["--seconds=nan"], "--seconds=nan: expected a time"),
            (["--json=/nowhere/at/all.json"], "--json=/nowhere/at/all.json: expected a file"),
            (["--json=."], "--json=.: expected a file"),
            (["digits"], "unrecognized arguments: digits"),
        ],
    )
    def test_what_cannot_be_is_refused_in_one_line_before_anything_is_set_up(
        self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "Workers", None)
        monkeypatch.setattr(command, "python_with_peers", None)
        with pytest.raises(SystemExit) as ended:
            command.main(arguments)
        told = capsys.readouterr().err
        assert ended.value.code == 64
        assert says in told
        assert told.count("\n") == 1

    def test_help_and_the_tables_need_no_tensorflow(self) -> None:
        blocked = "import sys; sys.modules['tensorflow'] = None; from bench.__main__ import main; main(['--help'])"
        env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
        done = subprocess.run([sys.executable, "-c", blocked], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "--contender" in done.stdout
        assert "less than two hours" in " ".join(done.stdout.split())

    def test_a_file_that_is_there_and_cannot_be_written_is_noticed_at_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(path: pathlib.Path, mode: str) -> None:
            raise PermissionError(13, "Permission denied")

        # Not by its mode: that stops no administrator.
        monkeypatch.setattr(pathlib.Path, "open", refuse)
        with pytest.raises(SystemExit) as ended:
            command.main([f"--json={tmp_path / 'b.json'}"])
        assert ended.value.code == 64
        assert "b.json: expected a file that can be written (Permission denied)" in capsys.readouterr().err

    def test_looking_at_the_file_changes_nothing(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "old.json").write_text("old")
        for name in ("old.json", "new.json"):
            flags.parsed([f"--json={tmp_path / name}"])
        assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
        assert (tmp_path / "old.json").read_text() == "old"

    def test_a_disk_that_is_full_at_the_end_costs_the_file_and_not_the_tables(
        self, workers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(path: pathlib.Path, told: Any) -> None:
            raise OSError(28, "No space left on device")

        workers(well)
        monkeypatch.setattr(command, "write", full)
        arguments = ["--workload=regression", "--contender=fit", "--rounds=1", f"--json={tmp_path / 'b.json'}"]
        assert command.main(arguments) == 74
        told = capsys.readouterr()
        assert "could not be written: No space left on device" in told.err.splitlines()[-1]
        assert "fit 100 steps at once" in told.out

    def test_orbit_is_installed_only_for_rows_of_its_own(
        self, workers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        workers(well)
        installed = []
        monkeypatch.setattr(command, "python_with_peers", lambda tell: installed.append(True) or sys.executable)
        for wanted, count in (("fit", 0), ("Orbit", 1)):
            arguments = ["--workload=regression", f"--contender={wanted}", "--rounds=1"]
            command.main([*arguments, f"--json={tmp_path / 'b.json'}"])
            assert len(installed) == count

    def test_only_what_is_asked_for_is_measured(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = workers(well)
        arguments = ["--workload=regression,startup", "--contender=fit,Orbit", "--rounds=2", "--seconds=0.5"]
        assert command.main([*arguments, f"--json={tmp_path / 'b.json'}"]) == 0
        assert {job.workload for job in asked} == {"regression"}
        measured = [job for job in asked if not job.check]
        # Two rounds, and before them once to learn how many steps fit in.
        assert [job.steps for job in measured if job.kind == "orbit"] == [None, 50_000, 50_000]
        assert {job.kind for job in measured} == {"keras_fit", "orbit"}
        written = json.loads((tmp_path / "b.json").read_text())
        assert written["rounds"] == 2
        assert written["machine"]["import_s"] == 2.0
        assert len(written["parts"]["regression"]["rows"]["fit"]["rounds"]) == 2
        assert written["workload"] == ["regression", "startup"]
        assert written["contender"] == ["fit", "Orbit"]
        assert "linear regression" in capsys.readouterr().out

    def test_other_work_ends_it_before_any_round(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = workers(lambda job: {"loss": 0.5 if job.kind == "floor" else 0.6, "jit": "none"})
        assert command.main(["--workload=regression", f"--json={tmp_path / 'b.json'}"]) == 1
        assert all(job.check for job in asked)
        assert "error: regression: Orbit does other work" in capsys.readouterr().err
        assert not (tmp_path / "b.json").exists()

    def test_a_failure_is_a_row_and_the_exit_code(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def perform(job: Job) -> dict[str, Any]:
            if job.kind == "orbit":
                raise Failed("ModuleNotFoundError: No module named 'orbit'")
            return well(job)

        workers(perform)
        assert command.main(["--workload=digits", "--rounds=1", f"--json={tmp_path / 'b.json'}"]) == 1
        told = capsys.readouterr().out
        words = " ".join(told.split())
        assert "Orbit: ModuleNotFoundError: No module named 'orbit' failed" in words
        assert "Orbit ÷ ours: Orbit: ModuleNotFoundError: No module named 'orbit' ≥ 3 MISSED" in words

    def test_an_interrupt_is_one_line(self, workers: Any, capsys: pytest.CaptureFixture[str]) -> None:
        def perform(job: Job) -> dict[str, Any]:
            raise KeyboardInterrupt

        workers(perform)
        assert command.main(["--workload=adam"]) == 130
        assert capsys.readouterr().err.splitlines()[-1] == "interrupted"

    def test_an_interrupt_leaves_the_parts_that_were_through(
        self, workers: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def perform(job: Job) -> dict[str, Any]:
            if job.workload == "digits" and not job.check:
                raise KeyboardInterrupt
            return well(job)

        workers(perform)
        arguments = ["--workload=regression,digits", "--contender=fit", f"--json={tmp_path / 'b.json'}"]
        assert command.main(arguments) == 130
        told = capsys.readouterr()
        assert "interrupted: what follows is of the parts that are through" in told.err
        assert "linear regression" in told.out
        assert list(json.loads((tmp_path / "b.json").read_text())["parts"]) == ["regression"]

    def test_the_end_of_all_processes_leaves_the_parts_that_were_through(
        self, workers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def measure(part: Part, **options: Any) -> dict[str, Measured]:
            if part.name == "digits":
                raise Failed("the process that starts the jobs ended with exit code 1")
            return {row.name: Measured([well(Job("ours", part.name, {}, 1, 1.0))]) for row in part.rows}

        workers(well)
        monkeypatch.setattr(command, "measure", measure)
        arguments = ["--workload=regression,digits", "--contender=fit", f"--json={tmp_path / 'b.json'}"]
        assert command.main(arguments) == 1
        told = capsys.readouterr()
        assert "ended with exit code 1: what follows is of the parts that are through" in told.err
        assert list(json.loads((tmp_path / "b.json").read_text())["parts"]) == ["regression"]

    @pytest.mark.parametrize(
        ("signals", "before", "code"),
        [
            ([signal.SIGTERM], [], 143),
            ([signal.SIGHUP], [], 129),
            # Nobody is there to hear of a hangup, and nobody wants to.
            ([signal.SIGHUP, signal.SIGTERM], ["nohup"], 143),
        ],
        ids=["SIGTERM", "SIGHUP", "nohup"],
    )
    def test_a_signal_leaves_no_folder(
        self, signals: list[signal.Signals], before: list[str], code: int, tmp_path: pathlib.Path
    ) -> None:
        with _bench(tmp_path, before=before) as run:
            _children(run.pid)
            # Their folder is made before them, and the handlers before that.
            assert len(list(tmp_path.iterdir())) == 1
            for number in signals:
                run.send_signal(number)
            assert run.wait(timeout=60) == code
            assert "Traceback" not in run.stderr.read()  # type: ignore[union-attr]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
    def test_a_signal_ends_the_job_under_way_and_the_server(
        self, number: signal.Signals, tmp_path: pathlib.Path
    ) -> None:
        with _bench(tmp_path, "--contender=ours 1 × 1M", "--seconds=600") as run:
            (serving,) = _children(run.pid)
            (job,) = _children(serving)
            run.send_signal(number)
            assert run.wait(timeout=60) == 128 + number
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ProcessLookupError):
            os.kill(serving, 0)
        # Its parent is gone, and who takes its place may be slow to see that it has ended.
        _waited(lambda: _state(job) in ("", "Z"))


def test_a_server_that_has_ended_is_a_failure_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Workers(shutil.which("true") or "true") as workers:
        for _ in range(2):
            with pytest.raises(Failed, match="the process that starts the jobs ended with exit code 0"):
                workers.together([Job("ours", "regression", {}, None, 1.0)], None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_is_killed_is_a_failure_at_once_and_takes_its_jobs_with_it(tmp_path: pathlib.Path) -> None:
    python, number = tmp_path / "python", tmp_path / "number"
    # The job holds what the server answers to open, as one that was forked of it does.
    python.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {number}\nkill -9 $$\n")
    python.chmod(0o700)
    with Workers(str(python)) as workers:
        with pytest.raises(Failed, match="the process that starts the jobs ended with exit code -9"):
            workers.ready()
        assert _state(int(number.read_text())) == "S"
    _waited(lambda: _state(int(number.read_text())) in ("", "Z"))


class TestServer:
    JOB = dataclasses.asdict(Job("ours", "regression", {}, None, 1.0))

    def answers(self, monkeypatch: pytest.MonkeyPatch, perform: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
        """What is answered where two jobs are asked for, which `perform` does."""
        monkeypatch.setattr(jobs, "perform", perform)
        told = io.StringIO()
        server.serve(io.StringIO(json.dumps({"jobs": [self.JOB] * 2, "moment_s": 0.1}) + "\n"), told)
        answers: list[dict[str, Any]] = json.loads(told.getvalue())
        return answers

    def test_each_job_answers_from_a_process_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def perform(job: Job, ready: Callable[[], None]) -> dict[str, Any]:
            ready()
            return {"process": os.getpid(), "kind": job.kind}

        first, second = (answer["sample"] for answer in self.answers(monkeypatch, perform))
        assert len({os.getpid(), first["process"], second["process"]}) == 3
        assert first["kind"] == second["kind"] == "ours"

    def test_who_was_measured_beside_others_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = self.answers(monkeypatch, lambda job, ready: {"us_per_step": 1.0})
        assert answers == [{"error": "it never said where its clock starts", "details": ""}] * 2

    def test_what_fails_is_told_in_one_line_with_its_details(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def perform(job: Job, ready: Callable[[], None]) -> dict[str, Any]:
            raise ValueError("it is wrong\nand has a long story")

        for answer in self.answers(monkeypatch, perform):
            assert answer["error"] == "ValueError: it is wrong"
            assert "long story" in answer["details"]


class TestPeers:
    @staticmethod
    def commands(monkeypatch: pytest.MonkeyPatch, place: pathlib.Path, *, fails: str) -> list[list[str]]:
        """Has no command run, but those that contain `fails` fail; returns all of them."""
        asked = []

        def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
            asked.append([str(word) for word in command])
            if fails in asked[-1]:
                raise subprocess.CalledProcessError(1, command)
            (place / "bin").mkdir(parents=True, exist_ok=True)
            (place / "bin" / "python").touch()
            return subprocess.CompletedProcess(command, 0, stdout=f"{place}\n")

        monkeypatch.setattr(peers, "PLACE", place)
        monkeypatch.setattr(peers.subprocess, "run", run)
        return asked

    def test_they_are_installed_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
        asked = self.commands(monkeypatch, tmp_path / "venv", fails="nothing")
        wanted = str(tmp_path / "venv" / "bin" / "python")
        assert [peers.python_with_peers(silent) for _ in range(2)] == [wanted, wanted]
        assert [command[2] for command in asked] == ["venv", asked[1][2], "pip"]
        assert "addsitedir" in (tmp_path / "venv" / "trainer.pth").read_text()

    def test_without_them_the_others_are_measured(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
    ) -> None:
        asked, told = self.commands(monkeypatch, tmp_path / "venv", fails="pip"), []
        assert peers.python_with_peers(told.append) == sys.executable
        assert told[-1].startswith("warning: Orbit could not be installed")
        peers.python_with_peers(told.append)
        assert [command[2] for command in asked].count("pip") == 2


@contextlib.contextmanager
def _bench(place: pathlib.Path, *arguments: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """Starts the command, its temporary files in `place`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(place)}
    command_line = [*before, sys.executable, "-m", "bench", "--workload=adam", f"--json={place / 'b.json'}"]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command_line, *arguments], env=env, **pipes) as run:
        try:
            yield run
        finally:
            run.kill()


def _children(process: int) -> list[int]:
    """The children of a process, once it has any."""
    return _waited(lambda: [int(line) for line in _told("pgrep", "-P", str(process)).split()])


def _state(process: int) -> str:
    """Such as S of one that sleeps and Z of one that has ended; nothing where there is none any more."""
    return _told("ps", "-o", "stat=", "-p", str(process)).strip()[:1]


def _told(*command_line: str) -> str:
    return subprocess.run(command_line, stdout=subprocess.PIPE, text=True, check=False).stdout


def _waited(ask: Callable[[], Any]) -> Any:
    """The first answer that is true."""
    until = time.monotonic() + 60
    while not (answer := ask()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return answer
