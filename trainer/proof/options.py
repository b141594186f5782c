"""The trainer's options in the short runs of a proof. Without TensorFlow: the command's flags follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

DEFAULT_STEPS = 12
SET_HERE = (
    *("dry_run", "early_stop", "early_stop_baseline", "early_stop_warmup", "keep_last", "min_delta", "profile"),
    *("grace", "hang_timeout", "max_runtime", "mtbf", "progress", "resume", "run_dir", "save_every", "save_if"),
    *("save_overhead", "train_for"),
)
"""The options that a proof chooses by itself."""


def cadences(steps: int, cuts: Sequence[int]) -> dict[str, Any]:
    """The options of runs of `steps` steps: a checkpoint at each cut, none deleted, windows that straddle the cuts.

    >>> options = cadences(12, (0, 1, 6))
    >>> options["save_every"], options["log_every"], options["eval_every"]
    ('1steps', '4steps', '7steps')
    """
    stops = [cut for cut in cuts if cut]
    straddles = (window for window in range(3, steps) if all(cut % window for cut in stops))
    return {
        "train_for": f"{steps}steps",
        "log_every": f"{next(straddles, 3)}steps",
        "eval_every": f"{steps // 2 + 1}steps",
        "save_every": f"{math.gcd(*stops) or max(1, steps // 2)}steps",
        "save_if": None,
        "early_stop": "never",
        "keep_last": steps + 1,
        "profile": None,
        "dry_run": False,
        "resume": "auto",
    }
