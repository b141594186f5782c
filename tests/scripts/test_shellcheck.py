"""Every shell script is clean in the eyes of shellcheck, is executable, and answers when asked for help."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "scripts").glob("*.sbatch")])
SOURCED = ROOT / "scripts" / "environment.sh"
OF_JOBS = ["preemptible.sh", "gce_spot.sh", "slurm.sbatch"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: pathlib.Path) -> None:
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    program = beside if beside.exists() else shutil.which("shellcheck")
    assert program, "shellcheck is one of the dev tools: pip install -e '.[dev]'"
    command = [program, "--external-sources", "--source-path=SCRIPTDIR", "--shell=bash", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path != SOURCED], ids=lambda path: path.name)
def test_a_script_can_be_called(script: pathlib.Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("name", OF_JOBS)
def test_the_scripts_of_jobs_are_short_and_their_help_fits_a_screen(project: Any, name: str) -> None:
    done = project.run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert len(done.stdout.splitlines()) <= 24
    assert len((ROOT / "scripts" / name).read_text().splitlines()) <= 160
