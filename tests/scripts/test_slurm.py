"""`scripts/slurm.sbatch`: what Slurm does to a job, done to it here, with a stand-in for scontrol."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
SECONDS_AT_MOST = 30
ARRAY = {"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
Until = Callable[..., None]


@pytest.fixture
def job(project: Any) -> Callable[..., subprocess.Popen[str]]:
    """Starts it as Slurm does: a copy from elsewhere, in the folder of the project, as leader of a session."""
    spool = project.path / "spool" / "job00040"
    spool.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "slurm.sbatch", spool / "slurm_script")
    project.stand_in("scontrol", f'echo "$@" >>{project.path}/asked; exit ${{SCONTROL:-0}}')

    def start(*flags: str, variables: Mapping[str, str] = ARRAY, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(spool / "slurm_script"), *flags],
            cwd=project.path,
            env=project.environment(**variables, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        project.started.append(process)
        return process

    return start


def asked(project: Any) -> list[str]:
    path = project.path / "asked"
    return path.read_text().splitlines() if path.exists() else []


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what was said on stderr."""
    return process.wait(SECONDS_AT_MOST), process.communicate(timeout=SECONDS_AT_MOST)[1]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_the_trainer_takes_the_place_of_the_job_s_process_and_gets_its_signal(
    project: Any, until: Until, job: Callable[..., Any], name: str
) -> None:
    project.plan("wait")
    process = job("--experiment=digits", variables={"SLURM_JOB_ID": "40"})
    until(project.starts)
    assert project.pid() == process.pid
    process.send_signal(signal.Signals[name])
    assert ended(process) == (75, "")
    assert project.log()[1:] == [name, "saved"]
    assert project.starts() == [["-m", "trainer.main", "--experiment=digits"]]
    assert asked(project) == []


@pytest.mark.parametrize("variables", [ARRAY, {"SLURM_JOB_ID": "40"}])
def test_the_time_limit_saves_and_queues_the_job_again_where_it_has_to_be_asked_for(
    project: Any, until: Until, job: Callable[..., Any], variables: dict[str, str]
) -> None:
    project.plan("wait")
    process = job("--requeue=scontrol", "--run_dir=runs/a", variables=variables)
    until(project.starts)
    process.send_signal(signal.SIGUSR1)
    assert ended(process) == (75, "")
    assert project.log()[1:] == ["SIGUSR1", "saved"]
    assert asked(project) == ["requeue 40_3" if variables is ARRAY else "requeue 40"]


def test_a_preemption_that_reaches_every_process_reaches_the_trainer_once(
    project: Any, until: Until, job: Callable[..., Any]
) -> None:
    project.plan("wait")
    process = job("--requeue=scontrol", "--run_dir=runs/a")
    until(project.starts)
    os.killpg(process.pid, signal.SIGTERM)
    assert ended(process) == (75, "")
    assert project.log()[1:] == ["SIGTERM", "saved"]
    assert asked(project) == ["requeue 40_3"]


@pytest.mark.parametrize("code", [0, 64, 65, 66, 73, 130, 137])
@pytest.mark.parametrize("way", ["exit", "scontrol"])
def test_only_75_is_queued_again(project: Any, job: Callable[..., Any], way: str, code: int) -> None:
    project.plan(f"exit {code}")
    assert ended(job(f"--requeue={way}", "--run_dir=runs/a"))[0] == code
    assert asked(project) == []


def test_a_job_that_cannot_be_queued_again_says_so_and_keeps_its_code(project: Any, job: Callable[..., Any]) -> None:
    project.plan("exit 75")
    code, stderr = ended(job("--requeue=scontrol", "--run_dir=runs/a", SCONTROL="1"))
    assert code == 75
    assert stderr.startswith("error: scontrol could not queue job 40_3 again")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        (["--run_dir=runs/a", "--set=name=a b"], ["--run_dir=runs/a-3", "--set=name=a b"]),
        (["--seed=%a", "--run_dir=runs/%a/x"], ["--seed=3", "--run_dir=runs/3/x"]),
    ],
)
def test_each_task_of_an_array_has_a_run_directory_and_flags_of_its_own(
    project: Any, job: Callable[..., Any], given: list[str], trained: list[str]
) -> None:
    project.plan("exit 0")
    assert ended(job(*given)) == (0, "")
    assert " ".join(project.starts()[0]) == " ".join(["-m", "trainer.main", *trained])


def test_without_an_array_the_flags_stay_as_they_are(project: Any, job: Callable[..., Any]) -> None:
    project.plan("exit 0")
    assert ended(job("--run_dir=runs/%a", variables={"SLURM_JOB_ID": "40"})) == (0, "")
    assert project.starts() == [["-m", "trainer.main", "--run_dir=runs/%a"]]


def test_an_array_without_a_run_directory_is_refused(project: Any, job: Callable[..., Any]) -> None:
    code, stderr = ended(job("--experiment=digits"))
    assert (code, project.starts()) == (64, [])
    assert stderr.startswith("error: an array needs a run directory")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [["--requeue=never"], ["--requeue"]])
def test_another_way_to_be_queued_again_is_64_in_one_line(
    project: Any, job: Callable[..., Any], flags: list[str]
) -> None:
    code, stderr = ended(job(*flags))
    assert (code, project.starts()) == (64, [])
    assert stderr.startswith(f"error: {flags[0]} ")
    assert stderr.count("\n") == 1


def test_outside_of_a_job_or_of_the_project_it_is_64_in_one_line(project: Any, job: Callable[..., Any]) -> None:
    code, stderr = ended(job("--requeue=scontrol", variables={}))
    assert (code, stderr.count("\n")) == (64, 1)
    shutil.rmtree(project.path / "scripts")
    code, stderr = ended(job())
    assert (code, stderr.count("\n")) == (64, 1)
    assert "call sbatch in the project's folder" in stderr


def test_slurm_is_asked_for_what_it_needs() -> None:
    lines = (ROOT / "scripts" / "slurm.sbatch").read_text().splitlines()
    head = [line for line in lines if line.startswith("#SBATCH ")]
    assert {"#SBATCH --signal=B:USR1@60", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(head)
    # sbatch reads no further than the first command.
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first for line in head)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_starts_nothing(project: Any, option: str) -> None:
    done = project.run("slurm.sbatch", option)
    assert (done.returncode, done.stderr, project.starts()) == (0, "", [])
    assert done.stdout.startswith("usage: sbatch ")
