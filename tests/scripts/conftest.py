"""What the tests of the scripts share: a project whose trainer does what a list of lines says, in no time."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SECONDS_AT_MOST = 30
LONG_PAUSE = 77
"""The one pause, in seconds, that is no pretence."""

# It stands in for .venv/bin/python. What it is asked to compute is told to it; what it is asked to train, it reads from
# the next line of the plan: what to save, how to end, or to wait for a signal as the trainer does.
PYTHON = f"""#!{sys.executable} -ISE
import os, pathlib, signal, sys, time

here = pathlib.Path(__file__).resolve().parents[2]
if sys.argv[1] == "-c":
    if (here / "run_dir").exists():
        print((here / "run_dir").read_text())
        sys.exit()
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])


def note(text):
    with (here / "log").open("a") as log:
        print(text, file=log)


def on_signal(number, frame):
    global stopped
    note(signal.Signals(number).name)
    if number == signal.SIGUSR2:
        return
    if stopped is not None:
        os._exit(99)
    stopped = number


stopped = None
waits = (here / "plan").read_text().split("\\n", 1)[0].startswith("wait")
if waits:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, on_signal)
words, _, rest = (here / "plan").read_text().partition("\\n")
(here / "plan").write_text(rest)
words = words.split()
note(f"start {{os.getpid()}} {{' '.join(sys.argv[1:])}}")
if words[0] == "save":
    folder = here / "run" / "checkpoints" / f"step-{{int(words[1]):010d}}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").touch()
    words = words[2:]
if words[0] == "exit":
    sys.exit(int(words[1]))
if words[0] == "die":
    os.kill(os.getpid(), int(words[1]))
if words[0] == "print":
    print(words[1], flush=True)
    sys.exit()
while stopped is None:
    time.sleep(0.01)
    if not (here / "plan").exists():  # the test is over
        os._exit(98)
# Long enough for a second signal to be one.
time.sleep(0.2)
note("saved")
sys.exit(130 if stopped == signal.SIGINT else 75)
"""


@dataclasses.dataclass
class Project:
    """A copy of the scripts beside a trainer that follows a plan."""

    path: pathlib.Path
    started: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    @property
    def run_dir(self) -> pathlib.Path:
        return self.path / "run"

    def plan(self, *lines: str) -> None:
        """What the next starts do: `[save STEP] exit CODE`, `[save STEP] die SIGNAL`, `wait`, `print TEXT`."""
        (self.path / "plan").write_text("".join(f"{line}\n" for line in lines))

    def log(self) -> list[str]:
        """What the trainers noted: their starts, and the signals that they got."""
        path = self.path / "log"
        return path.read_text().splitlines() if path.exists() else []

    def starts(self) -> list[list[str]]:
        """The arguments of each start."""
        return [line.split()[2:] for line in self.log() if line.startswith("start")]

    def pid(self) -> int:
        """The process of the last start."""
        return int([line for line in self.log() if line.startswith("start")][-1].split()[1])

    def signals(self) -> list[str]:
        """What the trainers got, in order."""
        return [line for line in self.log() if line.startswith("SIG")]

    def pauses(self) -> list[int]:
        """How long, in seconds, was waited before each start but the first."""
        path = self.path / "pauses"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def environment(self, **variables: str) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.path / 'bin'}{os.pathsep}{os.environ['PATH']}", **variables}

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts a script, with its output to be read."""
        process = subprocess.Popen(
            [str(self.path / "scripts" / script), *arguments],
            cwd=self.path,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # What the tests are started with may ignore it, as nohup does, and then no shell below can take it.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a script to its end."""
        process = self.start(script, *arguments, **variables)
        stdout, stderr = process.communicate(timeout=SECONDS_AT_MOST)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def stand_in(self, name: str, text: str) -> None:
        """Puts a program on the path, before any other of its name."""
        path = self.path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def project(tmp_path: pathlib.Path) -> Iterator[Project]:
    """The scripts of the project, with a trainer that follows a plan and pauses that take no time."""
    project = Project(tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    stamp = subprocess.run("cksum </dev/null", shell=True, capture_output=True, text=True, check=True).stdout
    (tmp_path / ".venv" / "installed-base").write_text(stamp)
    (tmp_path / "run_dir").write_text(str(tmp_path / "run"))
    real = shutil.which("sleep")
    held = f"[[ $1 == {LONG_PAUSE} ]] && exec {real} $1"
    project.stand_in("sleep", f"echo $1 >>{tmp_path}/pauses; {held}; exec {real} 0.01")
    project.plan()
    yield project
    (tmp_path / "plan").unlink()
    for process in project.started:
        process.kill()
        process.wait()
        process.communicate()


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object]], None]:
    """Waits until something holds."""

    def wait(holds: Callable[[], object], seconds: float = SECONDS_AT_MOST) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come to hold"
            time.sleep(0.01)

    return wait
