"""Whether a run directory holds the run that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.run_info import RunInfo
from trainer.run.config import CADENCES, Config
from trainer.run.experiment import REFUSE, WARN, Experiment, resume_rules
from trainer.timeline.cadence import Cadence

_MACHINE = ("machine", "versions", "threads", "jit", "deterministic")
"""What may change the last bits and nothing else."""
_SAME_DATA = ("fingerprint", "mode", "shuffle", "last")
"""What of a source has to stay, so that each example is seen when it would have been."""


def check_identity(known: RunInfo, asked: RunInfo, experiment: Experiment, directory: RunDirectory) -> list[str]:
    """Compares the run in the directory with the one asked for.

    Returns:
      A line for each change that is only warned of.

    Raises:
      ConfigError: they are different runs.
    """
    if known.experiment != asked.experiment:
        raise ConfigError(
            f"{directory.path} holds a run of {known.experiment}, not of {asked.experiment}; choose another run_dir"
        )
    if known.seed != asked.seed:
        raise ConfigError(
            f"{directory.path} holds a run with seed={known.seed}, not {asked.seed}; "
            "choose another run_dir, or that seed"
        )
    refused, warnings = [], []
    rules = resume_rules(experiment)
    for name in sorted(known.parameters.keys() | asked.parameters.keys()):
        before, now = known.parameters.get(name), asked.parameters.get(name)
        if before == now:
            continue
        rule = rules.get(name, REFUSE)
        if rule == REFUSE:
            refused.append(f"{name}={before} there, {now} here")
        elif rule == WARN:
            warnings.append(f"{name} was {before} when the run began and is {now} now")
    if refused:
        raise ConfigError(
            f"{directory.path} holds a run with other parameters ({'; '.join(refused)}); "
            "choose another run_dir, or set them as they were"
        )
    for split in sorted(known.data.keys() | asked.data.keys()):
        before, now = known.data.get(split, {}), asked.data.get(split, {})
        if any(before.get(fact) != now.get(fact) for fact in _SAME_DATA):
            raise ConfigError(
                f"{directory.path} holds a run on other data: {split} was {_data(before)} and is {_data(now)}; "
                "choose another run_dir, or bring that data back"
            )
        if before.get("batch_size") != now.get("batch_size"):
            warnings.append(
                f"{split} had batches of {before['batch_size']} when the run began, and of {now['batch_size']} now"
            )
    changed = [name for name in _MACHINE if getattr(known, name) != getattr(asked, name)]
    if changed:
        details = "; ".join(_difference(name, getattr(known, name), getattr(asked, name)) for name in changed)
        warnings.append(f"another kind of machine ({details}): what follows may differ in the last bits")
    return warnings


def changed_flags(config: Config, directory: RunDirectory) -> list[str]:
    """A line for each flag that the last attempt had otherwise and whose change is worth one."""
    before = read_flags(directory)
    lines = []
    for item in dataclasses.fields(Config):
        value = getattr(config, item.name)
        if item.metadata["on_resume"] != WARN or not before or item.name in _MACHINE:
            continue
        text = str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
        if item.name in CADENCES and text and item.name in before:
            same = _same_cadence(before[item.name], text)
        else:
            same = before.get(item.name) == text
        if not same:
            lines.append(
                f"{item.name} was {before.get(item.name, 'not set')} in the last attempt and is {text or 'not set'} now"
            )
    return lines


def _same_cadence(before: str, now: str) -> bool:
    try:
        return Cadence.parse(before) == Cadence.parse(now)
    except ConfigError:
        return False  # what cannot be read any more has changed


def _data(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "not there"
    order = "shuffled" if facts["shuffle"] else "in order"
    return f"{facts['examples']} examples ({facts['fingerprint']}, {order}, last={facts['last']})"


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        return ", ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in keys)
    return f"{name}: {before} then, {now} now"
