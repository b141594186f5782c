"""How records leave the loop: to the log and its views at once, to whoever listens once they are durable."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trainer.ledger.journal import LOG
from trainer.ledger.record import Record
from trainer.run.outlets import Outlets
from trainer.run.timing import Times

_SYNC_SECONDS = 1.0


class Delivery:
    """Hands records on.

    Args:
      to: where they go.
      times: the clock that this is charged to.
    """

    def __init__(self, to: Outlets, times: Times) -> None:
        self._to = to
        self._times = times
        self._waiting: list[Record] = []
        self._delivered = to.log.durable
        self._synced = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether it is long ago that the log was made durable."""
        return time.monotonic() - self._synced > _SYNC_SECONDS

    def append(self, records: Sequence[Record]) -> None:
        """Writes `records` to the log, and shows them.

        Raises:
          Unwritable: the log could not be written, or the run directory is not the one any more.
        """
        with self._times(LOG):
            self._to.lock.check()
            self._to.log.append(records)
            self._to.events.add(records)
            self._to.view.records(records)
            self._waiting.extend(records)

    def sync(self) -> None:
        """Makes what was written durable, and hands it over.

        Raises:
          Unwritable: it cannot be made durable.
        """
        with self._times(LOG):
            self._to.events.flush()
            # Beside a save that is being written, a sync of the log would wait for the whole of it: later then.
            if not self._to.store.busy:
                self._to.log.sync()
        self.saved()

    def saved(self) -> None:
        """Hands over what a save has made durable; the next sync can wait."""
        self._synced = time.monotonic()
        self.hand_over()

    def hand_over(self) -> None:
        """Hands over the records that are durable now."""
        with self._times(LOG):
            ready = self._to.log.durable - self._delivered
            delivered, self._waiting = self._waiting[:ready], self._waiting[ready:]
            self._delivered += ready
            if self._to.on_record:
                for record in delivered:
                    self._to.on_record(record)
