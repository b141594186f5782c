"""`scripts/preemptible.sh`: what it starts again, what it passes on, when it gives up."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = "preemptible.sh"
Until = Callable[..., None]
SLOW = 120
"""Seconds that TensorFlow may take to start, where others train beside it."""


@pytest.mark.parametrize("ending", ["exit 75", "exit 73", "exit 134", "exit 143", "die 9", "die 11", "die 15"])
def test_what_a_restart_can_mend_is_started_again_with_the_same_flags(project: Any, ending: str) -> None:
    project.plan(ending, "exit 0")
    done = project.run(SCRIPT, "--experiment=digits", "--set=hidden=8")
    assert done.returncode == 0
    assert project.starts() == [["-m", "trainer.main", "--experiment=digits", "--set=hidden=8"]] * 2


@pytest.mark.parametrize("code", [0, 1, 3, 64, 65, 66, 72, 74, 76, 130, 131, 133, 144, 255])
def test_everything_else_ends_it_with_that_code(project: Any, code: int) -> None:
    project.plan(f"exit {code}", "exit 0")
    done = project.run(SCRIPT)
    assert done.returncode == code
    assert len(project.starts()) == 1
    assert done.stderr == ""


def test_it_says_how_the_trainer_ended_and_what_is_saved(project: Any) -> None:
    project.plan("save 500 die 9", "exit 0")
    done = project.run(SCRIPT)
    assert done.stderr == "the trainer ended with 137, step 500 is saved; it starts again in 1 s\n"


def test_pauses_double_to_a_limit_and_begin_anew_with_progress(project: Any) -> None:
    project.plan(*["exit 75"] * 4, "save 3 exit 75", "exit 75", "exit 0")
    assert project.run(SCRIPT, "--attempts=9", "--pause=2", "--longest_pause=9").returncode == 0
    assert project.pauses() == [2, 4, 8, 9, 2, 4]


def test_it_gives_up_after_attempts_without_progress_with_the_last_code(project: Any) -> None:
    project.plan("save 10 exit 75", "exit 75", "die 11", "exit 0")
    done = project.run(SCRIPT, "--attempts=2")
    assert done.returncode == 139
    assert len(project.starts()) == 3
    assert done.stderr.splitlines()[-1].startswith("error: nothing new was saved in ")
    assert "last 2 attempts, step 10 is saved" in done.stderr


def test_progress_is_a_newer_committed_step_and_nothing_else(project: Any) -> None:
    checkpoints = project.run_dir / "checkpoints"
    for name in ("step-0000000020", "step-0000000090", "step-best"):
        (checkpoints / name).mkdir(parents=True)
    for name in ("step-0000000020", "step-best"):
        (checkpoints / name / "manifest.json").touch()
    project.plan("save 20 exit 75", "save 9 exit 75", "exit 0")
    assert project.run(SCRIPT, "--attempts=2").returncode == 75
    assert len(project.starts()) == 2


def test_attempts_that_make_progress_have_no_limit(project: Any) -> None:
    project.plan(*(f"save {step} exit 75" for step in (8, 9, 10, 11, 9_999_999_999, 12_345_678_901)), "exit 0")
    assert project.run(SCRIPT, "--attempts=1").returncode == 0


def test_another_trainer_is_waited_for_without_end(project: Any) -> None:
    project.plan("exit 75", *["exit 73"] * 9, "exit 75", "exit 0")
    assert project.run(SCRIPT, "--attempts=2").returncode == 75
    assert len(project.starts()) == 11


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_machine_that_goes_ends_both_once_the_state_is_saved(project: Any, until: Until, name: str) -> None:
    project.plan("wait", "exit 0")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    supervisor.send_signal(signal.Signals[name])
    assert supervisor.wait(30) == 75
    assert project.log()[1:] == ["SIGTERM" if name == "SIGHUP" else name, "saved"]


def test_news_that_is_told_twice_is_passed_on_once(project: Any, until: Until) -> None:
    project.plan("wait")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    for name in ("SIGTERM", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGTERM"):
        supervisor.send_signal(signal.Signals[name])
        time.sleep(0.01)
    assert supervisor.wait(30) == 75
    assert project.log()[1:] == ["SIGTERM", "saved"]


def test_an_interrupt_ends_both_with_130_once_the_state_is_saved(project: Any, until: Until) -> None:
    project.plan("wait", "exit 0")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 130
    assert project.log()[1:] == ["SIGINT", "saved"]


def test_a_second_interrupt_gets_through(project: Any, until: Until) -> None:
    project.plan("wait")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    supervisor.send_signal(signal.SIGTERM)
    until(project.signals)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 99
    assert project.log()[1:] == ["SIGTERM", "SIGINT"]


def test_a_request_to_save_is_passed_on_and_nothing_ends(project: Any, until: Until) -> None:
    project.plan("wait", "exit 0")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    for count in (1, 2, 3):
        supervisor.send_signal(signal.SIGUSR2)
        until(lambda count=count: len(project.signals()) == count)
    assert supervisor.poll() is None
    os.kill(project.pid(), signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert project.signals() == ["SIGUSR2"] * 3 + ["SIGTERM"]
    assert len(project.starts()) == 2


def test_a_storm_of_signals_does_not_end_it(project: Any, until: Until) -> None:
    project.plan("wait", "exit 0")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    for _ in range(300):
        supervisor.send_signal(signal.SIGUSR2)
    time.sleep(0.1)
    assert supervisor.poll() is None
    for _ in range(100):
        supervisor.send_signal(signal.SIGTERM)
        supervisor.send_signal(signal.SIGUSR2)
    assert supervisor.wait(30) == 75
    assert project.signals().count("SIGTERM") == 1
    assert len(project.starts()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_in_a_pause_ends_it_at_once(project: Any, until: Until, number: int, code: int) -> None:
    project.plan("exit 75", "exit 0")
    supervisor = project.start(SCRIPT, "--pause=77")
    until(project.pauses)
    supervisor.send_signal(number)
    assert supervisor.wait(30) == code
    assert len(project.starts()) == 1


def test_a_signal_that_comes_while_the_trainer_is_started_is_not_lost(project: Any) -> None:
    """Sent at moments that fall before, in and after the start: both end, and nothing is started again."""
    for moment in range(12):
        project.plan("wait", "wait")
        supervisor = project.start(SCRIPT)
        time.sleep(moment / 50)
        supervisor.send_signal(signal.SIGTERM)
        # Before there is anything to pass it on to it ends the shell.
        assert supervisor.wait(30) in (75, -signal.SIGTERM)
        assert len(project.starts()) <= moment + 1


def test_a_trainer_that_was_stopped_and_goes_on_is_the_same(project: Any, until: Until) -> None:
    project.plan("wait", "exit 0")
    supervisor = project.start(SCRIPT)
    until(project.starts)
    os.kill(project.pid(), signal.SIGSTOP)
    time.sleep(0.1)
    supervisor.send_signal(signal.SIGUSR2)
    time.sleep(0.1)
    os.kill(project.pid(), signal.SIGCONT)
    until(lambda: project.signals() == ["SIGUSR2"])
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 75
    assert len(project.starts()) == 1


class Terminal:
    """A terminal in which a command runs as a user's does: in the foreground, or as a job behind a shell."""

    def __init__(self, project: Any, *command: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=project.path,
            env=project.environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        project.started.append(self.process)
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def text(self) -> str:
        """All that came on the screen; to be read when the process has ended."""
        read = b""
        while True:
            try:
                part = os.read(self.master, 4096)
            except OSError:  # nobody has it open any more
                part = b""
            if not part:
                return read.decode()
            read += part


@pytest.fixture
def terminal(project: Any) -> Iterator[Callable[..., Terminal]]:
    """Starts a command in a terminal of its own."""
    opened: list[Terminal] = []

    def start(*command: str) -> Terminal:
        opened.append(Terminal(project, *command))
        return opened[-1]

    yield start
    for one in opened:
        os.close(one.master)


@pytest.mark.parametrize("command", ["scripts/preemptible.sh", "scripts/preemptible.sh | cat"])
def test_ctrl_c_at_a_terminal_reaches_the_trainer_once(
    project: Any, until: Until, terminal: Callable[..., Terminal], command: str
) -> None:
    project.plan("wait", "exit 0")
    shown = terminal("bash", "-o", "pipefail", "-c", command)
    until(project.starts)
    shown.type("\x03")
    until(lambda: "saved" in project.log())
    shown.process.wait(30)
    assert project.log()[1:] == ["SIGINT", "saved"]


def test_it_runs_as_a_background_job_also_where_the_terminal_stops_those_that_write(
    project: Any, until: Until, terminal: Callable[..., Terminal]
) -> None:
    project.plan("print seen", "exit 0")
    shown = terminal("bash", "-i")
    shown.type("stty tostop; scripts/preemptible.sh & wait $!; echo code $?; exit\n")
    shown.process.wait(30)
    assert "seen\r\n" in (text := shown.text())
    assert "code 0\r\n" in text


def test_the_run_directory_is_found_as_the_trainer_finds_it(project: Any) -> None:
    (project.path / "run_dir").unlink()
    (project.path / "runs").mkdir()
    (project.path / "runs" / "regression").symlink_to(project.run_dir)
    (project.path / "more.flags").write_text("--experiment=regression\n--run_dir=run\n")
    for flags in (["--run_dir=run"], ["--run_dir", "run"], ["--flagfile=more.flags"], ["--experiment=regression"]):
        project.plan("save 7 exit 75", "exit 0")
        done = project.run(SCRIPT, *flags, PYTHONPATH=str(ROOT))
        assert done.returncode == 0
        assert "step 7 is saved" in done.stderr


def test_flags_that_the_trainer_does_not_know_are_its_own_error_of_one_line(project: Any) -> None:
    (project.path / "run_dir").unlink()
    done = project.run(SCRIPT, "--experimentt=digits", PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout, project.starts()) == (64, "", [])
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--attempts=0", "--attempts=x", "--attempts=", "--pause=-1", "--longest_pause=1.5"])
def test_an_option_that_cannot_be_is_64_in_one_line(project: Any, option: str) -> None:
    done = project.run(SCRIPT, option)
    assert (done.returncode, done.stdout, project.starts()) == (64, "", [])
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_starts_nothing(project: Any, option: str) -> None:
    done = project.run(SCRIPT, option)
    assert (done.returncode, done.stderr, project.starts()) == (0, "", [])
    assert done.stdout.startswith("usage: scripts/preemptible.sh")


@pytest.mark.slow
def test_the_real_trainer_is_started_again_and_ends_with_the_machine(project: Any, until: Until) -> None:
    """First the trainer alone is preempted, then the machine: two attempts, the second one further than the first."""
    python = project.path / ".venv" / "bin" / "python"
    python.write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    (project.path / "run_dir").unlink()
    flags = ["--experiment=regression", "--run_dir=run", "--train_for=1e9steps", "--eval_every=never"]
    flags += ["--log_every=never", "--save_every=1s", "--jit=none", "--progress=never", "--tick=0.1s"]
    supervisor = project.start(SCRIPT, *flags, PYTHONPATH=str(ROOT))

    def attempt() -> int:
        """The number of the attempt that trains, once it has saved something."""
        lines = (project.run_dir / "journal.jsonl").read_text().splitlines()
        saves = [entry["attempt"] for entry in map(json.loads, lines) if entry["event"] == "save"]
        return max(saves, default=0)

    until((project.run_dir / "journal.jsonl").exists, SLOW)
    until(lambda: attempt() == 1, SLOW)
    os.kill(json.loads((project.run_dir / "lock").read_text())["pid"], signal.SIGTERM)
    until(lambda: attempt() == 2, SLOW)
    supervisor.send_signal(signal.SIGTERM)
    _, stderr = supervisor.communicate(timeout=SLOW)
    assert supervisor.returncode == 75, stderr
    told = subprocess.run(
        [sys.executable, "-m", "trainer.status", "run", "--json"],
        cwd=project.path,
        env=project.environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    attempts = json.loads(told.stdout)["attempts"]
    assert [(one["reason"], one["exit_code"]) for one in attempts] == [("preempted", 75)] * 2
    assert attempts[0]["to_step"] < attempts[1]["to_step"]
    assert f"the trainer ended with 75, step {attempts[0]['to_step']} is saved" in stderr
