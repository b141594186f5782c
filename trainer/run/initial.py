"""Where the weights of a new run come from, when another checkpoint is to give them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from trainer.checkpoint.selection import fingerprint, select
from trainer.checkpoint.warm_start import lines, warm_start
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.run_info import RunInfo
from trainer.run.config import Config
from trainer.run.state import TrainState


def find_source(config: Config, known: RunInfo | None, directory: RunDirectory) -> Mapping[str, Any] | None:
    """What a run that has no checkpoint yet takes its weights from, as `run.json` keeps it; None for nothing.

    A run that was killed before its first checkpoint begins again from the very same checkpoint.

    Raises:
      ConfigError: the run began without one, or the text names none.
      Unusable: the checkpoint is not there, or not the one any more that the run began with.
    """
    if directory.committed_steps():
        return known.init_from if known else None
    if known is None:
        if config.init_from is None:
            return None
        source = select(config.init_from)
        prefix = os.path.abspath(source.prefix)
        passed_over = ", ".join(f"{step} ({reason})" for step, reason in source.skipped)
        name = f"{source}, newer ones cannot be used: {passed_over}" if passed_over else str(source)
        found = {"name": name, "prefix": prefix, "step": source.step, "fingerprint": fingerprint(prefix)}
        return found if source.explanation is None else {**found, "why": source.explanation}
    if known.init_from is None:
        if config.init_from is not None:
            raise ConfigError(
                f"init_from={config.init_from}, but {directory.path} holds a run that began without it; "
                "choose another run_dir"
            )
        return None
    prefix = known.init_from["prefix"]
    try:
        same = fingerprint(prefix) == known.init_from["fingerprint"]
    except Unusable:
        same = False
    if not same:
        raise Unusable(
            f"{directory.path} holds a run that began with the weights in {prefix}, which are gone or others now; "
            "bring them back, or choose another run_dir"
        )
    return known.init_from


def load_weights(state: TrainState, source: Mapping[str, Any], *, strict: bool) -> list[str]:
    """Loads into the model what fits it; returns the lines that say what did and what did not.

    Raises:
      ConfigError: nothing fits, or with `strict` not everything.
      Unusable: the checkpoint cannot be read.
    """
    report = warm_start(state.model, source["prefix"], strict=strict)
    state.begin_ema()
    return lines(report, source["name"], source.get("why"))
