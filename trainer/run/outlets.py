"""Where the results of a loop go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from trainer.checkpoint.store import CheckpointStore
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog
from trainer.ledger.record import Record
from trainer.process.lock import Lock
from trainer.run.profile import Profile
from trainer.views.progress import Progress as ProgressView
from trainer.views.tensorboard import EventWriter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlets:
    """Where the loop's results go."""

    lock: Lock
    log: MetricLog
    store: CheckpointStore
    journal: Journal
    events: EventWriter
    view: ProgressView
    profile: Profile
    on_record: Callable[[Record], None] | None
    warn: Callable[[str], None]
