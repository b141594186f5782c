"""What a run is about to do, a line each."""

from __future__ import annotations

import dataclasses

from trainer.ledger.run_info import RunInfo
from trainer.run.assembly import Assembly
from trainer.run.config import Config
from trainer.views.plan import in_words, plan_lines


def planned(parts: Assembly, info: RunInfo) -> list[str]:
    """The plan of a run, of which `info` is what `run.json` says."""
    return plan_lines(
        parts.schedule,
        dataclasses.replace(info, seed=parts.info.seed, data=parts.info.data),
        monitors=[str(best.monitor) for best in parts.decisions.rankings],
        save_if=parts.config.save_if,
        early_stop=_early_stop(parts),
        state_bytes=parts.state.size(),
        keep_last=parts.config.keep_last,
        keep_best=parts.config.keep_best,
        async_save=parts.config.async_save,
        update=[*_update_settings(parts.config), *([str(parts.state.frozen)] if parts.state.frozen else [])],
    )


def _early_stop(parts: Assembly) -> str | None:
    """When the run ends early, in words; None where it does not."""
    early_stop, config = parts.decisions.early_stop, parts.config
    if early_stop is None:
        return None
    patience = " or ".join(map(in_words, early_stop.patience))
    more = f" by more than {config.min_delta:g}" if config.min_delta else ""
    than = "" if config.early_stop_baseline is None else f", on {config.early_stop_baseline:g} at first"
    warmup = config.warmup()
    after = f", after a warm-up of {in_words(warmup)}" if warmup else ""
    return f"when {early_stop.monitor.metric} has not improved{more} for {patience}{than}{after}"


def _update_settings(config: Config) -> list[str]:
    """How the weights are updated, where it is not as usual."""
    usual = {item.name: item.default for item in dataclasses.fields(config)}
    names = ("precision", "accumulate", "clip_norm", "ema", "on_nonfinite")
    return [f"{name} {getattr(config, name)}" for name in names if getattr(config, name) != usual[name]]
