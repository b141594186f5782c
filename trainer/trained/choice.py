"""Which checkpoint is exported, and the metric that speaks for it: by the log, or by evaluations made later."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trainer.checkpoint.selection import Selected, choose
from trainer.decide.monitor import AUTO, EXACT, TRAIN, Monitor, direction
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, checkpoint_identity, read_evaluations
from trainer.ledger.manifest import BadManifest, Manifest, load_manifests
from trainer.ledger.record import Number, Record
from trainer.storage.files import reading

_Result = TypeVar("_Result")

_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric, and how it relates to a checkpoint."""

    name: str
    """With its group, such as `validation/loss`."""
    value: Number
    """None where it was not finite."""
    relation: str
    """`exact`: measured on its weights; `window`: a mean over earlier ones; `earlier`: measured on earlier ones."""
    step: int
    """Of the weights that it was measured on; of a window, where it ends."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The checkpoint that is meant, and why."""

    selected: Selected
    manifest: Manifest
    metric: Metric | None
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
        newest = choose(directory, "latest").manifest
    assert selected.manifest is not None
    assert newest is not None
    monitor = _monitor_of(newest)
    metric = None if monitor is None else _known_by(selected.manifest, monitor)
    return Choice(selected, selected.manifest, metric, selected.explanation or f"{which} by the log")


def choose_by_evaluations(directory: RunDirectory, monitor: str | None, mode: str) -> Choice:
    """The best checkpoint that is there, of those that `evaluations.jsonl` knows.

    Where a split's data was changed, evaluations of the data as it is in the newest line count. Of two equal values the
    earlier step is the better, and one that is not finite is never best.

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
    records = _comparable(_of_those_there(directory, own))
    if not records:
        raise Unusable(
            f"{directory.path} has no evaluation of a checkpoint that is there; make some with "
            f"python -m trainer.evaluate {directory.path}, or use --from=log"
        )
    known = sorted({name for record in records for name in record.named_metrics()})
    name = monitor or _default_monitor(_monitor_of(newest), known, directory)
    if name not in known:
        raise ConfigError(f"monitor={name} was not evaluated; expected one of {', '.join(known)}")
    compared = Monitor(name, direction(name) if mode == AUTO else mode)
    best: tuple[float, int] | None = None
    values = {record.step: record.named_metrics()[name] for record in records if name in record.named_metrics()}
    for step, value in sorted(values.items()):
        if value is not None and (best is None or compared.better(value, best[0])):
            best = value, step
    if best is None:
        raise Unusable(f"{name} is finite in no evaluation of a checkpoint that is there; choose another --monitor")
    value, step = best
    count = f"{len(values)} evaluated checkpoint{'' if len(values) == 1 else 's'}"
    return Choice(
        Selected(directory.state_prefix(step), own[step], directory.path, latest.skipped),
        own[step],
        Metric(name, value, EXACT, step),
        f"best by {compared}, of {count}",
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


def _of_those_there(directory: RunDirectory, manifests: Mapping[int, Manifest]) -> list[Evaluation]:
    """The evaluations of these very checkpoints, in the order that they were made in."""
    identities = {}
    for step, manifest in manifests.items():
        with contextlib.suppress(BadManifest):  # Without an index it is no checkpoint.
            identities[step] = checkpoint_identity(manifest)
    with reading(directory.evaluations):
        found = read_evaluations(directory)
    return [made for made in found if identities.get(made.record.step) == made.checkpoint]


def _comparable(evaluations: list[Evaluation]) -> list[Record]:
    """Those of each split that were made on its newest data."""
    newest = {made.record.split: made.fingerprint for made in evaluations}
    return [made.record for made in evaluations if made.fingerprint == newest[made.record.split]]


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
    best: Any = manifest.control.get("best")
    return next(iter(best), None) if isinstance(best, dict) else None


def _known_by(manifest: Manifest, monitor: str) -> Metric | None:
    """What a checkpoint's manifest says of a metric."""
    group, _, name = monitor.partition("/")
    known = manifest.train if group == TRAIN else manifest.eval.get(group)
    if known is None or name not in known["metrics"]:
        return None
    step = known["window"][1] if group == TRAIN else known["step"]
    return Metric(monitor, known["metrics"][name], known["relation"], step)
