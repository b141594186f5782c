"""Where the results of a loop go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from trainer.checkpoint.save_times import SaveTimes
from trainer.ledger.journal import Journal, NoJournal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.run.profile import Profile
from trainer.timeline.cadence import Progress as Place
from trainer.views.progress import Progress as ProgressView


class Guard(Protocol):
    """What knows whether the run directory is still ours, as the lock does."""

    def check(self) -> None:
        """Raises where it is not."""


class Store(Protocol):
    """Where the loop saves: a `CheckpointStore`, or what stands for it where a run is repeated."""

    @property
    def latest(self) -> Manifest | None: ...

    @property
    def busy(self) -> bool: ...

    @property
    def times(self) -> SaveTimes: ...

    def has(self, step: int) -> bool: ...

    def save(
        self,
        progress: Place,
        *,
        reasons: Iterable[str],
        epoch: float | None = None,
        open_window: Mapping[str, Any] | None = None,
        control: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        best_steps: Collection[int] = (),
        last: bool = False,
    ) -> None: ...

    def complete(
        self,
        *,
        reasons: Iterable[str],
        open_window: Mapping[str, Any],
        control: Mapping[str, Any],
        best_steps: Collection[int] = (),
    ) -> None: ...

    def poll(self) -> None: ...

    def drain(self, *, verify: bool = True) -> None: ...


class Events(Protocol):
    """TensorBoard's view, as an `EventWriter` keeps it."""

    @property
    def position(self) -> Mapping[str, Any]: ...

    def add(self, records: Sequence[Record]) -> None: ...

    def flush(self) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlets:
    """Where the loop's results go."""

    lock: Guard
    log: MetricLog
    store: Store
    journal: Journal | NoJournal
    events: Events
    view: ProgressView
    profile: Profile
    on_record: Callable[[Record], None] | None
    warn: Callable[[str], None]
