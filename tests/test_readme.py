"""The README's code does what the README says."""

from __future__ import annotations

import pathlib
import re
import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_experiment_of_the_readme_trains(
    command: Callable[..., subprocess.CompletedProcess[str]],
    cold_command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: pathlib.Path,
) -> None:
    code = re.search(r"```python\n(# my_experiment\.py\n.*?)```", README, re.DOTALL)
    assert code
    (tmp_path / "my_experiment.py").write_text(code[1])
    ended = cold_command("main", "--experiment=my_experiment:MyExperiment", "--set=units=32")
    assert ended.returncode == 0, ended.stderr
    accuracy = re.findall(r"accuracy ([\d.]+)", ended.stdout)
    assert float(accuracy[-1]) > 0.97
    assert "in runs/myexperiment" in ended.stdout
    tested = command("evaluate", "runs/myexperiment", "--which=best", "--split=test")
    assert tested.returncode == 0, tested.stderr
    assert re.search(r"step +\d+ .* test +loss [\d.]+  accuracy 0\.9\d+", tested.stdout)
    exported = command("export", "runs/myexperiment", "--to=served")
    assert exported.returncode == 0, exported.stderr
    assert "out  probability  float32 [any]" in exported.stdout


def test_the_loop_of_the_readme_is_the_one_that_is_tested() -> None:
    assert (ROOT / "tests" / "parts_alone.py").read_text().strip() in README
