"""From the flags to what is decided by the records."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from trainer.decide.condition import Conditions
from trainer.decide.decisions import Decisions
from trainer.decide.early_stop import EarlyStop, parse_patience
from trainer.decide.monitor import TRAIN, Monitor, check_group, choose_monitors, direction, group_of
from trainer.errors import ConfigError
from trainer.run.config import Config
from trainer.timeline.plan import windows_meet_evaluations
from trainer.timeline.schedule import FLUSH, Schedule


def decisions_of(config: Config, schedule: Schedule, splits: Collection[str]) -> Decisions:
    """What is decided by the records of a run.

    Args:
      config: its configuration.
      schedule: when it logs and evaluates.
      splits: the names of its eval splits.

    Raises:
      ConfigError: it needs what is never measured, or never at the same step.
    """
    measured: dict[str, Any] = {
        "splits": splits,
        "evaluates": config.eval_every != "never",
        "logs": config.log_every != "never" or config.reconcile == FLUSH,
    }
    monitors = choose_monitors(config.monitor, config.mode, **measured)
    conditions = early_stop = None
    if config.save_if is not None:
        conditions = _conditions(config.save_if, monitors)
        for metric in conditions.metrics:
            check_group(metric, "save_if: ", **measured)
        groups = set(map(group_of, conditions.metrics))
        if TRAIN in groups and len(groups) > 1 and not windows_meet_evaluations(schedule):
            raise ConfigError(
                f"save_if={config.save_if} needs a train window that ends where an evaluation is due, and with "
                f"log_every={config.log_every} and eval_every={config.eval_every} none does; have them meet, as "
                "with --eval_every=200steps --log_every=100steps"
            )
    if patience := parse_patience(config.early_stop):
        early_stop = EarlyStop(
            monitors[0],
            patience,
            place=lambda duration: schedule.place(duration, "early_stop"),
            min_delta=config.min_delta,
            baseline=config.early_stop_baseline,
            warmup=config.warmup(),
        )
        check_group(monitors[0].metric, "early_stop on ", **measured)
    return Decisions(monitors, keep_best=config.keep_best, conditions=conditions, early_stop=early_stop)


def _conditions(text: str, monitors: Sequence[Monitor]) -> Conditions:
    """The conditions, in which the best of a monitored metric is what its monitor says."""
    modes = {monitor.metric: monitor.mode for monitor in monitors}
    return Conditions(text, lambda metric: modes.get(metric) or direction(metric))
