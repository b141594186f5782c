"""A job: one row measured or checked once, in this process."""

from __future__ import annotations

import dataclasses
import importlib
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from bench.contender import EVERY, Contender, Setting, timed

CHECK_STEPS = 20
"""The steps after which losses are compared: one window of the log."""
_OF_A_SAVE = 3
"""A save that is written beside training copies the weights and both moments of Adam."""
KINDS = {
    "ours": "bench.ours:Ours",
    "floor": "bench.floor:Floor",
    "run_n": "bench.run_n:RunN",
    "python_loop": "bench.python_loop:PythonLoop",
    "keras_fit": "bench.keras_fit:KerasFit",
    "orbit": "bench.orbit_controller:OrbitController",
    "adam": "bench.adam:measure",
    "startup": "bench.startup:measure",
}
"""Who takes part, and where that is written: a `Contender`, or a function that measures something else."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do. All of it can be told in JSON."""

    kind: str
    workload: str
    options: Mapping[str, Any]
    steps: int | None
    """None for as many as take about the time."""
    seconds: float
    check: bool = False
    """Whether to train `CHECK_STEPS` in the order of the data instead, from the first weights on."""


def perform(job: Job, ready: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Does it; returns what was measured, which can be told in JSON.

    Args:
      job: what to do.
      ready: is called just before the clock starts.
    """
    module, _, name = KINDS[job.kind].partition(":")
    kind = getattr(importlib.import_module(module), name)
    if not isinstance(kind, type):
        return dict(kind(seconds=job.seconds, ready=ready, **job.options))
    from bench.workloads import workload

    what = workload(job.workload)
    with tempfile.TemporaryFile("w") as log:
        every = CHECK_STEPS if job.check else EVERY
        contender: Contender = kind(Setting(what, every, not job.check, log, ready), **job.options)
        if job.check:
            return {"loss": contender.run(CHECK_STEPS).loss, **contender.details}
        contender.warm_up()
        done = contender.run(job.steps) if job.steps else timed(contender.run, job.seconds)
    peak = peak_mb()
    return {
        "us_per_step": done.seconds / done.steps * 1e6,
        "steps": done.steps,
        "seconds": done.seconds,
        "loss": done.last_loss,
        "peak_mb": peak,
        "peak_and_weights_mb": peak + what.megabytes(),
        "peak_and_save_mb": peak + _OF_A_SAVE * what.megabytes(),
        "weights_mb": what.megabytes(),
        **contender.details,
    }


def peak_mb() -> float:
    """The most memory that this process ever had, as the system counts it."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6
