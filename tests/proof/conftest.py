"""What lies beside the tests can be imported, also by the commands that they run; and runs to be proved."""

from __future__ import annotations

import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import trainer
from trainer.ledger.directory import RunDirectory

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import planes  # They lie beside.
from audited import train

OPTIONS: Mapping[str, Any] = {"log_every": 5, "save_every": 8, "eval_every": 6, "keep_last": 99}


@pytest.fixture
def trained(tmp_path: pathlib.Path) -> Callable[..., RunDirectory]:
    """Trains an experiment in a folder of the test, with a signal in the step `stop`, if one is named."""

    def run(experiment: trainer.Experiment, *, stop: int | None = None, **options: Any) -> RunDirectory:
        train(tmp_path / "run", experiment, stop=stop, **{**OPTIONS, **options})
        return RunDirectory(tmp_path / "run")

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of 24 steps with a checkpoint at 6, 8, 12, 16, 18 and 24, to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    # With this seed each evaluation up to 18 is better than the one before, and so saved.
    train(folder, planes.Noisy(shuffle=False), train_for=24, seed=3, **OPTIONS)
    return folder


@pytest.fixture
def copy(finished: pathlib.Path, tmp_path: pathlib.Path) -> RunDirectory:
    """The same run, to be forged."""
    shutil.copytree(finished, tmp_path / "run")
    return RunDirectory(tmp_path / "run")
