"""What the end-to-end tests share: running a command as a user would, and reading what a run left."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import trainer

# Quiet, and before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SECONDS_AT_MOST = 240


@pytest.fixture
def train(tmp_path: pathlib.Path) -> Callable[..., trainer.Result]:
    """Trains in the test's own folder, silently and without waiting for XLA."""

    def run(experiment: trainer.Experiment, *, folder: str = "run", **options: Any) -> trainer.Result:
        on_record = options.pop("on_record", None)
        stop_request = options.pop("stop_request", None)
        options = {"run_dir": str(tmp_path / folder), "progress": "never", "jit": "none", **options}
        return trainer.Trainer(experiment, on_record=on_record, stop_request=stop_request, **options).run()

    return run


@pytest.fixture
def command(tmp_path: pathlib.Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m trainer.COMMAND …` to its end, in the test's own folder."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(name, arguments),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_AT_MOST,
            check=False,
        )

    return run


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts `python -m trainer.COMMAND …`, for tests that kill it."""
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command_line(name, arguments),
                cwd=tmp_path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def tensors_of() -> Callable[[pathlib.Path], dict[str, bytes]]:
    """Reads every tensor of the TensorFlow checkpoint in a step's folder, as bytes by key."""

    def read(folder: pathlib.Path) -> dict[str, bytes]:
        import numpy as np
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(folder / "state"))
        return {
            key: np.asarray(reader.get_tensor(key)).tobytes()
            for key in reader.get_variable_to_shape_map()
            if "OBJECT" not in key
        }

    return read


def command_line(name: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"trainer.{name}", *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
