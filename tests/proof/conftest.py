"""What lies beside the tests can be imported, also by the commands that they run; and runs to be proved."""

from __future__ import annotations

import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

import trainer
from trainer.ledger.directory import RunDirectory
from trainer.process.signals import StopRequest
from trainer.run.program import Advance, Program

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture
def trained(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """Trains an experiment in a folder of the test, with a signal while the step `stop_at` runs, if one is named."""

    def run(experiment: trainer.Experiment, *, stop_at: int | None = None, **options: Any) -> RunDirectory:
        options = {
            "log_every": 5,
            "save_every": 8,
            "eval_every": 6,
            "keep_last": 99,
            "progress": "never",
            "jit": "none",
            **options,
        }
        with monkeypatch.context() as patch:
            if stop_at is not None:
                options |= _stopping(patch, stop_at)
            trainer.Trainer(experiment, run_dir=str(tmp_path / "run"), **options).run()
        return RunDirectory(tmp_path / "run")

    return run


def _stopping(patch: pytest.MonkeyPatch, step: int) -> dict[str, Any]:
    """Has a signal arrive while `step` runs; returns the options that make it so."""
    request, once = StopRequest(), Program.run

    def run(program: Program, until: int, closes: list[int]) -> Advance:
        advance = once(program, until, closes)
        if until >= step and not request:
            request.note(signal.SIGTERM, None)
        return advance

    patch.setattr(Program, "run", run)
    return {"stop_request": request, "tick": "0.000001s"}
