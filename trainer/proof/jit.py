"""What the ways to compile a program cost here."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from trainer.errors import TrainerError
from trainer.proof.compare import first_tensor_difference
from trainer.proof.fresh import MakeExperiment
from trainer.run.assembly import Assembly, assemble
from trainer.run.catalog import canonical_name
from trainer.run.config import Config, make_config
from trainer.run.jit import MODES, NONE

_SAME_STEPS = 4
"""After so many steps, in two chunks, the modes' states are compared."""
_MOST_STEPS = 500
_SECONDS = 0.5
_WORTH_IT = 0.9
"""Compiling has to bring a step under this share of its time to be recommended."""


def measure_modes(make: MakeExperiment, options: dict[str, Any], folder: str) -> dict[str, Any]:
    """Measures a step in each mode, and compares what the modes compute.

    Args:
      make: makes the experiment.
      options: the trainer's.
      folder: a folder for temporary checkpoints.

    Returns:
      By mode `ms_per_step`, milliseconds without compilation, or the `error` that keeps it from running; `same_bits`,
      whether all that run lead to the same state (null where fewer than two do); and the mode `recommended`, null where
      none runs.
    """
    measured: dict[str, Any] = {}
    prefixes = []
    for mode in MODES:
        experiment = make()
        config = make_config({**options, "jit": mode}, experiment.suggested_flags)
        prefix = os.path.join(folder, mode, "state")
        try:
            parts = assemble(experiment, config, name=canonical_name(type(experiment)), known=None)
            measured[mode] = {"ms_per_step": _measure(parts, config, prefix)}
            prefixes.append(prefix)
        except TrainerError as error:
            measured[mode] = {"error": str(error)}
    pairs = itertools.pairwise(prefixes)
    same = all(first_tensor_difference(*pair) is None for pair in pairs) if len(prefixes) > 1 else None
    return {**measured, "same_bits": same, "recommended": recommended(measured)}


def _measure(parts: Assembly, config: Config, prefix: str) -> float:
    """Milliseconds of a step, the first chunks aside; writes the state after `_SAME_STEPS` steps."""
    program = parts.program
    done = 0
    for until in (1, _SAME_STEPS):
        program.run(until, [])
        done = until
    parts.state.checkpoint().write(prefix)
    steps, best = 1, float("inf")
    started = time.perf_counter()
    while time.perf_counter() - started < _SECONDS and done < _MOST_STEPS:
        before = time.perf_counter()
        program.run(done + steps, [])
        best = min(best, (time.perf_counter() - before) / steps)
        done, steps = done + steps, 2 * steps
    return float(f"{1e3 * best:.3g}")


def recommended(measured: dict[str, Any]) -> str | None:
    """The fastest mode that runs; not compiling, unless it brings much. None where none runs."""
    times = {mode: result["ms_per_step"] for mode, result in measured.items() if "ms_per_step" in result}
    if NONE not in times:
        return next(iter(times), None)
    return min(times, key=lambda mode: times[mode] / (1 if mode == NONE else _WORTH_IT))
