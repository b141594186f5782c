"""What the end-to-end tests share: running a command as a user would, and reading what a run left."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import trainer

# What lies beside the tests can be imported by all of them; last, for folders of theirs are called as modules may be.
sys.path.append(str(pathlib.Path(__file__).parent))

import warm

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


@pytest.fixture(scope="session")
def warm_server() -> Iterator[warm.Server]:
    """Forks commands in a moment, from a process that has imported what they need."""
    server = warm.Server()
    yield server
    server.close()


@pytest.fixture
def command(warm_server: warm.Server, tmp_path: pathlib.Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m trainer.COMMAND …` to its end, in the test's own folder."""

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return warm_server.run(name, arguments, cwd=tmp_path, timeout=SECONDS_AT_MOST)

    return run


@pytest.fixture
def cold_command(tmp_path: pathlib.Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `command`, in a Python of its own, which takes seconds.

    For what only that can show: what a command imports, what is said while it starts, variables that are read then,
    that a run does not depend on the order of sets, how the interpreter ends; and each command as it really is, once.
    """

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(name, arguments),
            cwd=tmp_path,
            env=warm.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_AT_MOST,
            check=False,
        )

    return run


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `python -m trainer.COMMAND …`, for tests that kill it, also while it starts."""
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command_line(name, arguments),
                cwd=tmp_path,
                env=warm.environment(),
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


@pytest.fixture
def warm_start(warm_server: warm.Server, tmp_path: pathlib.Path) -> Iterator[Callable[..., warm.Process]]:
    """As `start`, without the seconds: for what a process does that has started."""
    started: list[warm.Process] = []

    def run(name: str, *arguments: str) -> warm.Process:
        with (tmp_path / "output.txt").open("ab") as output:
            process = warm_server.start(name, arguments, cwd=tmp_path, stdout=output, stderr=output)
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
