"""How long the command takes to its first step, as its journal tells, and what that consists of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal

_IMPORT = "import time; began = time.perf_counter(); import tensorflow; print(time.perf_counter() - began)"


def measure(*, seconds: float, ready: Callable[[], None]) -> dict[str, Any]:
    """Seconds of each part of the start of `python -m trainer.main`; neither argument is of any matter.

    `parts_s` are those that nobody does without: TensorFlow's import, measured alone, and to build, trace and compile.
    """
    alone = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory(prefix="bench-start-") as place:
        flags = ["--experiment=digits", f"--run_dir={place}", "--train_for=100steps", "--eval_every=never"]
        command = [sys.executable, "-m", "trainer.main", *flags, "--progress=never"]
        subprocess.run(command, check=True, capture_output=True)
        told = next(entry for entry in read_journal(RunDirectory(place)) if "first_step_s" in entry)
    start = told["start"]
    # Digits is compiled as a chunk, ahead of its first step: without this, steps would count as compiling.
    compiling = start["compile"]
    imported = float(alone.stdout)
    return {
        "import_tensorflow_s": imported,
        "import_s": start["import"],
        "build_s": start["build"],
        "trace_s": start["trace"],
        "compile_s": compiling,
        "first_step_s": told["first_step_s"],
        "parts_s": imported + start["build"] + start["trace"] + compiling,
        "start": start,
    }
