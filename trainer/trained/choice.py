"""Which checkpoint is exported, and the metric that speaks for it: by the log, or by evaluations made later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from trainer.checkpoint.selection import Selected, choose
from trainer.decide.best import Best
from trainer.decide.measured import MeasuredMetric, measured
from trainer.decide.monitor import AUTO, EXACT, Monitor, direction, group_of
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import group_evaluations
from trainer.ledger.manifest import BadManifest, Manifest, load_manifests
from trainer.ledger.run_info import RunInfo
from trainer.storage.files import reading

_Result = TypeVar("_Result")

_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Choice:
    """The checkpoint that is meant, and why."""

    selected: Selected
    manifest: Manifest
    metric: MeasuredMetric | None
    """The monitored metric; None where it was not measured yet."""
    why: str
    """For people, in a few words."""


def choose_by_log(directory: RunDirectory, which: str) -> Choice:
    """The checkpoint that `which` names; the best one is the first of the ranking in the newest manifest.

    Raises:
      ConfigError: `which` names none.
      Unusable: there is no such checkpoint, or it cannot be used.
    """
    with reading(directory.path):
        selected = choose(directory, which)
    assert selected.manifest is not None
    assert selected.newest is not None
    monitor = _monitor_of(selected.newest)
    metric = None if monitor is None else measured(selected.manifest, monitor)
    why = selected.explanation or {"best": "best by the log", "latest": "the latest"}.get(which, "as asked for")
    return Choice(selected, selected.manifest, metric, why)


def choose_by_evaluations(directory: RunDirectory, monitor: str | None, mode: str) -> Choice:
    """The best checkpoint that is there, of those that `evaluations.jsonl` knows.

    Of a split whose data was changed only the evaluations on one data count, as `group_evaluations` says. Of two equal
    values the earlier step is the better, and one that is not finite is never best.

    Args:
      directory: the run's.
      monitor: the metric. None: the run's own where it was evaluated, else the loss of the only split that was.
      mode: `auto`, `min` or `max`.

    Raises:
      ConfigError: it is not known which metric, or nothing was evaluated with it.
      Unusable: there are no evaluations of what is there, or no value is finite.
    """
    with reading(directory.path):
        latest = choose(directory, "latest")
        manifests, _ = load_manifests(directory)
        newest = latest.manifest
        assert newest is not None
        own = {step: manifest for step, manifest in manifests.items() if manifest.run == newest.run}
        made = group_evaluations(directory, own, RunInfo.load(directory))
    records = [evaluation.record for splits in made.of.values() for evaluation in splits.values()]
    if not records:
        only_others = f" on the run's data, only {_on_other_data(len(made.other_data))}" if made.other_data else ""
        with_it = ", with that data" if made.other_data else ""
        raise Unusable(
            f"{directory.path} has no evaluation of a checkpoint that is there{only_others}; make some with "
            f"python -m trainer.evaluate {directory.path}{with_it}, or use --from=log"
        )
    known = sorted({name for record in records for name in record.named_metrics()})
    asked = monitor or _monitor_of(newest)
    if asked not in known and any(asked in one.record.named_metrics() for one in made.other_data):
        raise Unusable(
            f"{asked} was evaluated on other data than the run's only; evaluate again with the run's data, or choose "
            "another --monitor"
        )
    name = monitor or _default_monitor(asked, known, directory)
    if name not in known:
        raise ConfigError(f"monitor={name} was not evaluated; expected one of {', '.join(known)}")
    best = Best(Monitor(name, direction(name) if mode == AUTO else mode))
    compared = [record for record in records if name in record.named_metrics()]
    for record in compared:
        best.fold(record)
    if not best.ranking:
        raise Unusable(f"{name} is finite in no evaluation of a checkpoint that is there; choose another --monitor")
    value, step = best.ranking[0].value, best.ranking[0].step
    count = f"{len(compared)} evaluated checkpoint{'' if len(compared) == 1 else 's'}"
    others = sum(evaluation.record.split == group_of(name) for evaluation in made.other_data)
    left_out = f", {_on_other_data(others)} left out" if others else ""
    return Choice(
        Selected(directory.state_prefix(step), own[step], directory.path, latest.skipped),
        own[step],
        MeasuredMetric(name, value, EXACT, step),
        f"best by {best.monitor}, of {count}{left_out}",
    )


def while_it_changes(directory: RunDirectory, act: Callable[[], _Result]) -> _Result:
    """What `act` returns; it is tried again when it fails while checkpoints come and go under a running trainer.

    Raises:
      Unusable: it failed and nothing had changed, or it failed too often.
    """
    for left in reversed(range(_TRIES)):
        before = _steps_of(directory)
        try:
            return act()
        except Unusable:
            if not left or _steps_of(directory) == before:
                raise
    raise AssertionError("the last try returns or raises")


def _steps_of(directory: RunDirectory) -> list[int]:
    with reading(directory.path):
        return directory.committed_steps()


def _on_other_data(count: int) -> str:
    return f"{count} evaluation{'' if count == 1 else 's'} on other data"


def _default_monitor(own: str | None, known: list[str], directory: RunDirectory) -> str:
    if own in known:
        return str(own)
    losses = [name for name in known if name.endswith("/loss")]
    if len(losses) == 1:
        return losses[0]
    raise ConfigError(
        f"which metric is best is not said, and {own or 'a monitor'} was not evaluated in {directory.path}; "
        f"expected --monitor, one of {', '.join(known)}"
    )


def _monitor_of(manifest: Manifest) -> str | None:
    """The run's own monitor: the first one; None beside someone's own loop, which has none."""
    try:
        return next(iter(manifest.rankings), None)
    except BadManifest:  # It matters to who asks for the best one, and is told then.
        return None
