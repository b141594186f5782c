"""What is measured: the parts of the benchmark, and in each the rows that take turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

OURS = "ours arrays auto"
"""The trainer as it comes: one of its modes below, which it chooses itself."""
OURS_TF_DATA = "ours tf.data auto"
MODES = (("arrays", "chunk"), ("arrays", "step"), ("arrays", "none"), ("tf.data", "step"), ("tf.data", "none"))
"""Where the examples come from, and what is compiled."""
HAND_WRITTEN = ("run(n)", "run(n) with compiled step")
PYTHON_LOOP = "Python loop"
FIT, FIT_100 = "fit", "fit 100 steps at once"
FIT_COMPILED, FIT_100_COMPILED = f"{FIT} compiled", f"{FIT_100} compiled"
ORBIT = "Orbit"
REFERENCE = "floor arrays none"
"""Whose loss the others have to reach."""

NO_LOG, LOG_100, LOG_1 = "log never", "log every 100", "log every step"
PLAIN, SAVING = "ours neither logs nor saves", "ours logs every 10 and saves every 100"
FEW_STEPS, MANY_STEPS = "20k steps", "200k steps"
FEW_RECORDS, MANY_RECORDS = "20k steps and records", "200k steps and records"
KEEP_3, KEEP_30 = "80 saves of which 3 are kept", "80 saves of which 30 are kept"
COMMAND = "trainer.main"
SHAPES = {
    "100 × 100k": (100, 100_000),
    "1 × 10M": (1, 10_000_000),
    "1000 × 1k": (1000, 1000),
    "1 × 1M": (1, 1_000_000),
}
"""Variables to update: how many, and of how many numbers each."""
LARGE = ("100 × 100k", "1 × 10M")
"""Those of 10 million numbers."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Something that is measured, in a process of its own each round."""

    name: str
    kind: str
    """Who takes part: a key of `bench.jobs.KINDS`."""
    workload: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Which of its ways."""
    steps: int | None = None
    """How many to train; None for as many as fit the time."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that the rows of a part are measured by."""

    key: str
    """Its name in a sample."""
    unit: str
    of: str = ""
    """What it is of, where a part has several."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows that are compared with each other."""

    name: str
    title: str
    rows: Sequence[Row]
    figures: Sequence[Figure] = (Figure("us_per_step", "µs a step"),)
    """What is measured; a row that has not one of them is not shown with it."""
    moment_s: float | None = 0.1
    """How long a row runs while the others of a round are stopped; None for one after the other."""
    checked: bool = False
    """Whether all rows do the same work, so that their losses are compared first."""
    tolerance: float = 1e-4
    """How far the loss of an optimizer with the same rule may be from the reference's, relatively."""
    others_below: float | None = None
    """How far below the reference's the loss of an optimizer with another rule for rows may be; None for no such rows.

    Where a batch names a row twice, Keras' Adam adds up the squares of the slices and not the slices: its steps are
    larger, and its loss falls faster. Not above: there is the loss of who never updates.
    """


def _contenders(workload: str, *more: Row) -> list[Row]:
    made = [
        Row(f"{who} {source} {jit}", who, workload, {"source": source, "jit": jit})
        # Those that are compared stand side by side.
        for source, jit in MODES
        for who in ("ours", "floor")
    ]
    made += [
        Row(HAND_WRITTEN[0], "run_n", workload),
        Row(HAND_WRITTEN[1], "run_n", workload, {"jit": True}),
        Row(PYTHON_LOOP, "python_loop", workload),
        Row(FIT, "keras_fit", workload),
        Row(FIT_100, "keras_fit", workload, {"steps_per_execution": 100}),
        Row(ORBIT, "orbit", workload),
    ]
    return [*made, *more]


def _with(name: str, workload: str, steps: int | None = None, jit: str = "auto", **options: Any) -> Row:
    return Row(name, "ours", workload, {"jit": jit, **options}, steps)


PARTS = (
    Part("regression", "linear regression of 16 features, batch 32", _contenders("regression"), checked=True),
    Part("digits", "digits, perceptron 64-128-10, batch 64, Adam", _contenders("digits"), checked=True),
    Part(
        "mlp10m",
        "perceptron of 10 million weights, batch 64, Adam",
        _contenders(
            "mlp10m",
            # Keras compiles nothing on a CPU unless it is told to.
            Row(FIT_COMPILED, "keras_fit", "mlp10m", {"jit": True}),
            Row(FIT_100_COMPILED, "keras_fit", "mlp10m", {"jit": True, "steps_per_execution": 100}),
        ),
        checked=True,
    ),
    Part(
        "embedding",
        "embedding of 50,000 × 64, mean of 32, batch 64, Adam",
        _contenders("embedding", _with("ours arrays auto with all rows", "embedding", sparse="all")),
        checked=True,
        others_below=3e-2,
    ),
    Part(
        "bytes",
        "transformer on bytes, 2 layers of 64, context 64, batch 16, Adam",
        _contenders("bytes"),
        checked=True,
        others_below=1e-2,
    ),
    Part(
        "logging",
        "what logging costs",
        [
            *(
                _with(f"digits {name}", "digits", jit="chunk", log=log)
                for name, log in ((NO_LOG, "never"), (LOG_100, "100"), (LOG_1, "1"))
            ),
            *(_with(f"mlp10m {name}", "mlp10m", log=log) for name, log in ((NO_LOG, "never"), (LOG_1, "1"))),
        ],
    ),
    Part(
        "saves",
        "saves of 10 million weights with Adam's moments, and memory",
        [
            # The last of the saves that are counted is written by then.
            _with(PLAIN, "mlp10m", 620, log="never"),
            _with(SAVING, "mlp10m", 620, log="10", save="100"),
            Row(FIT, "keras_fit", "mlp10m", steps=100),
        ],
        (Figure("us_per_step", "µs a step", "time"), Figure("peak_mb", "MB", "most memory")),
        # What the system writes of a file, it goes on writing while the process is stopped: most is written by then.
        moment_s=2,
    ),
    Part(
        "adam",
        "one update by Adam",
        [
            Row(f"{who} {shape}", "adam", options={"whose": who, "shape": shape})
            for owner, shapes in (("ours", SHAPES), ("Keras", LARGE))
            for who in (owner, f"{owner} compiled")
            for shape in shapes
        ],
        (Figure("ms_per_apply", "ms an update"),),
    ),
    Part(
        "flatness",
        "digits: ten times as much of it",
        [
            _with(FEW_STEPS, "digits", 20_000, jit="chunk"),
            _with(MANY_STEPS, "digits", 200_000, jit="chunk"),
            _with(FEW_RECORDS, "digits", 20_000, jit="chunk", log="1"),
            _with(MANY_RECORDS, "digits", 200_000, jit="chunk", log="1"),
            _with(KEEP_3, "digits", 40_000, jit="chunk", save="500", flags={"keep_last": 3}),
            _with(KEEP_30, "digits", 40_000, jit="chunk", save="500", flags={"keep_last": 30}),
        ],
    ),
    Part(
        "startup",
        "the command on digits, from the start of its process to its first step",
        [Row(COMMAND, "startup")],
        (
            Figure("import_tensorflow_s", "s", "import of TensorFlow, alone"),
            Figure("import_s", "s", "import"),
            Figure("build_s", "s", "build"),
            Figure("trace_s", "s", "trace"),
            Figure("compile_s", "s", "compile"),
            Figure("first_step_s", "s", "all up to the first step"),
        ),
        moment_s=None,
    ),
)
