"""Whether a run directory holds the run that is asked for, and what of it is to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import (
    BATCH_SIZE,
    DATA,
    EVAL_DATA,
    KINDS,
    PARAMETERS,
    SEED,
    Segment,
    facts_in_force,
    plain,
)
from trainer.run.config import CADENCES, CHANGES, Config
from trainer.run.experiment import REFUSE, WARN, Experiment, resume_rules
from trainer.timeline.cadence import Cadence

_MACHINE_FLAGS = ("threads", "jit", "deterministic")
"""Flags of which only what they come to matters, which is part of the kind of machine."""
_SAME_DATA = ("fingerprint", "mode", "shuffle", "last")
"""What of a source has to stay, so that each example is seen when it would have been."""
_FLAG = "flag"
"""The kind of a flag that says what the state is made of: no segment can change it."""
_ALLOWED_BY = {PARAMETERS: "parameters", DATA: "data", EVAL_DATA: "data", SEED: "seed"}


@dataclasses.dataclass(frozen=True)
class Change:
    """A fact of the run that is another now."""

    kind: str
    """What a segment calls it; or that it is a flag which no segment can change."""
    name: str
    before: Any
    now: Any
    """Both are JSON values; None where there is none."""
    refused: bool
    """Whether it needs `allow_change`; otherwise it is warned of."""
    text: str
    """The change in words."""

    def to_json(self) -> dict[str, Any]:
        """The change as the journal tells it."""
        return {"name": self.name, "before": plain(self.before), "now": plain(self.now)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the run that is asked for differs from the one in the directory."""

    changes: tuple[Change, ...]
    """Those that begin a segment."""
    warnings: tuple[str, ...]
    """A line for each change that needs one."""

    @property
    def changed(self) -> tuple[str, ...]:
        """What a segment says has changed."""
        kinds = {change.kind for change in self.changes}
        return tuple(kind for kind in KINDS if kind in kinds)


def check_identity(
    known: RunInfo,
    asked: RunInfo,
    experiment: Experiment,
    directory: RunDirectory,
    *,
    segments: Sequence[Segment] = (),
    allowed: Collection[str] = (),
) -> Comparison:
    """Compares the run in the directory with the one asked for.

    Args:
      known: what `run.json` says.
      asked: what the experiment and the flags say now.
      experiment: whose fields have rules for a change.
      directory: the run directory, for the messages.
      segments: those that the run has gone through, the last of which is compared.
      allowed: what may have changed, of `CHANGES`.

    Raises:
      ConfigError: they are different runs, or differ in what is not allowed to change.
    """
    if known.experiment != asked.experiment:
        raise ConfigError(
            f"{directory.path} holds a run of {known.experiment}, not of {asked.experiment}; choose another run_dir"
        )
    then = f"since step {segments[-1].step}" if segments else "when the run began"
    changes = tuple(_compare(facts_in_force(known, segments), asked, experiment, then))
    refused = [change for change in changes if change.refused]
    if any(_ALLOWED_BY.get(change.kind) not in allowed for change in refused):
        raise ConfigError(_refusal(refused, directory))
    warnings = [change.text for change in changes if not change.refused]
    if another := another_machine(known, asked):
        warnings.append(another)
    return Comparison(changes, tuple(warnings))


def fixed_flags(config: Config) -> dict[str, Any]:
    """The flags that say what the state is made of: a run keeps them from its beginning to its end."""
    # The seed is a fact of its own, which a segment can change.
    return {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(Config)
        if item.metadata["on_resume"] == REFUSE and item.name != SEED
    }


def changed_flags(config: Config, directory: RunDirectory) -> list[str]:
    """A line for each flag that the last attempt had otherwise and whose change is worth one."""
    before = read_flags(directory)
    lines = []
    for item in dataclasses.fields(Config):
        value = getattr(config, item.name)
        if item.metadata["on_resume"] != WARN or not before or item.name in _MACHINE_FLAGS:
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


def _compare(before: RunInfo, now: RunInfo, experiment: Experiment, then: str) -> Iterator[Change]:
    yield from _compare_parameters(before.parameters, now.parameters, experiment, then)
    for split in sorted(before.data.keys() | now.data.keys()):
        yield from _compare_data(split, before.data.get(split, {}), now.data.get(split, {}), then)
    if before.seed != now.seed:
        yield _refused(SEED, "seed", before.seed, now.seed)
    # An older run.json does not have them all: then it was the default.
    defaults = {item.name: item.default for item in dataclasses.fields(Config)}
    for name in sorted(before.fixed.keys() | now.fixed.keys()):
        had, has = (info.fixed.get(name, defaults.get(name)) for info in (before, now))
        if had != has:
            yield _refused(_FLAG, name, had, has)


def _compare_parameters(
    before: Mapping[str, Any], now: Mapping[str, Any], experiment: Experiment, then: str
) -> Iterator[Change]:
    rules = resume_rules(experiment)
    for name in sorted(before.keys() | now.keys()):
        had, has = before.get(name), now.get(name)
        if plain(had) == plain(has):
            continue
        rule = rules.get(name, REFUSE)
        if rule == REFUSE:
            yield _refused(PARAMETERS, name, had, has)
        elif rule == WARN:
            yield Change(PARAMETERS, name, had, has, False, f"{name} was {had} {then} and is {has} now")


def _compare_data(split: str, before: Mapping[str, Any], now: Mapping[str, Any], then: str) -> Iterator[Change]:
    if any(before.get(fact) != now.get(fact) for fact in _SAME_DATA):
        kind = DATA if split == "train" else EVAL_DATA
        text = f"other data: {split} {_data(before)} there, {_data(now)} here"
        yield Change(kind, split, dict(before) or None, dict(now) or None, True, text)
    if before and now and before.get("batch_size") != now.get("batch_size"):
        had, has = before.get("batch_size"), now.get("batch_size")
        text = f"{split} had batches of {had} {then}, and of {has} now"
        yield Change(BATCH_SIZE, f"{split} batch_size", had, has, False, text)


def _refused(kind: str, name: str, before: Any, now: Any) -> Change:
    return Change(kind, name, before, now, True, f"{name}={before} there, {now} here")


def _refusal(refused: Sequence[Change], directory: RunDirectory) -> str:
    """The whole difference in one line, and how to go on."""
    differences = "; ".join(change.text for change in refused)
    fixed = [change.name for change in refused if change.kind == _FLAG]
    if fixed:
        stay = "stays as it was" if len(fixed) == 1 else "stay as they were"
        advice = (
            f"{' and '.join(fixed)} {stay} in a run: begin another one with its weights, "
            f"--init_from={directory.path} and another run_dir"
        )
    else:
        needed = {_ALLOWED_BY[change.kind] for change in refused}
        allow = ",".join(choice for choice in CHANGES if choice in needed)
        advice = (
            f"to go on with it as a new segment give --allow_change={allow}, else set it as it was, "
            "or choose another run_dir"
        )
    return f"{directory.path} holds another run ({differences}); {advice}"


def _same_cadence(before: str, now: str) -> bool:
    try:
        return Cadence.parse(before) == Cadence.parse(now)
    except ConfigError:
        return False  # what cannot be read any more has changed


def _data(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "missing"
    order = "shuffled" if facts["shuffle"] else "in order"
    length = "of no known length" if facts["examples"] is None else f"{facts['examples']} examples"
    return f"{length} ({facts['fingerprint']}, {facts['mode']}, {order}, last={facts['last']})"


def another_machine(known: RunInfo, asked: RunInfo) -> str | None:
    """The one line about all that may change the last bits; None where nothing may."""
    before, now = _kind_of_machine(known), _kind_of_machine(asked)
    if "environment" not in known.machine:
        # Written by an older version: what it did not note has not changed.
        now = {name: value for name, value in now.items() if name not in asked.machine.get("environment", {})}
    differences = [
        f"{name}: {before.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if not differences:
        return None
    return f"another kind of machine ({', '.join(differences)}): what follows may differ in the last bits"


def _kind_of_machine(info: RunInfo) -> dict[str, Any]:
    machine = {name: value for name, value in info.machine.items() if name != "environment"}
    environment = info.machine.get("environment", {})
    own = {"jit": info.jit, "deterministic": info.deterministic}
    return {**machine, **environment, **info.versions, **info.threads, **own}
