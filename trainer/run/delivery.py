"""How records leave the loop: to the log and its views at once, to whoever listens once they are durable."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

from trainer.ledger.journal import LOG
from trainer.ledger.record import Record
from trainer.run.outlets import Outlets
from trainer.run.timing import Times

_SYNC_SECONDS = 1.0


class Delivery:
    """Hands records on.

    Those of a chunk are made, serialised, written, flushed and folded by a thread of its own, while the next chunk is
    trained: one chunk's at a time, in their order. About once a second it makes them durable. Whatever depends on them
    calls `settle` first. As a context manager it lets nothing get lost when the loop ends, however it does.

    Args:
      to: where they go.
      times: the clock that the waiting is charged to.
      fold: takes them into account, once they are in the log.
    """

    def __init__(self, to: Outlets, times: Times, fold: Callable[[Sequence[Record]], None]) -> None:
        self._to = to
        self._times = times
        self._fold = fold
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._made_later: Callable[[], Sequence[Record]] | None = None
        self._under_way: Future[None] | None = None
        self._waiting: collections.deque[Record] = collections.deque()
        self._delivered = to.log.durable
        self._synced = time.monotonic()

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.settle()
        except Exception as failure:
            if error is None:
                raise
            # What ended the loop comes first: this may be a consequence.
            self._to.warn(f"the last records were not written: {failure}")
        finally:
            self._thread.shutdown()

    def later(self, make: Callable[[], Sequence[Record]]) -> None:
        """Has the thread make records and hand them on, from `start` on.

        Raises:
          Unwritable: those before could not be written, or the run directory is not the one any more.
        """
        self.settle()
        self._made_later = make

    def start(self) -> None:
        """Has the thread begin with what is to be made or to be made durable, right before the next chunk runs.

        Not before: of two threads that both want the interpreter, one waits for up to 5 ms, and a chunk does without.

        Raises:
          Unwritable: those before could not be written, or the run directory is not the one any more.
        """
        if self._under_way is not None and self._under_way.done():
            self._finish()
        self._begin()
        if self._under_way is None and self._overdue():
            self._under_way = self._thread.submit(self._sync)

    def write(self, records: Sequence[Record]) -> None:
        """Hands `records` on here and now.

        Raises:
          Unwritable: they, or those before them, could not be written, or the run directory is not the one any more.
        """
        self.settle()
        with self._times(LOG):
            self._write(records)

    def settle(self) -> None:
        """Waits for all that the thread was to do, and raises what went wrong there."""
        self._begin()
        self._finish()

    def sync(self) -> None:
        """Makes what was written durable, and hands it over.

        Raises:
          Unwritable: it cannot be made durable.
        """
        self.settle()
        with self._times(LOG):
            self._sync()
        self.hand_over()

    def saved(self) -> None:
        """Hands over what a save has made durable; the next sync can wait."""
        self._synced = time.monotonic()
        self.hand_over()

    def hand_over(self) -> None:
        """Hands over the records that are durable now."""
        if self._to.on_record is None:
            return
        with self._times(LOG):
            for _ in range(self._to.log.durable - self._delivered):
                record = self._waiting.popleft()
                self._delivered += 1
                self._to.on_record(record)

    def _begin(self) -> None:
        """Has the thread begin with what is to be made. Nothing else is under way: `later` has waited for it."""
        make, self._made_later = self._made_later, None
        if make is not None:
            assert self._under_way is None
            self._under_way = self._thread.submit(self._write_made, make)

    def _finish(self) -> None:
        if self._under_way is None:
            return
        with self._times(LOG):
            # Whatever else ends the wait: how the thread's work ended is still to be told.
            wait([self._under_way])
        done, self._under_way = self._under_way, None
        done.result()

    def _overdue(self) -> bool:
        """Whether it is long ago that the log was made durable."""
        return time.monotonic() - self._synced > _SYNC_SECONDS

    def _write_made(self, make: Callable[[], Sequence[Record]]) -> None:
        self._write(make())
        if self._overdue():
            self._sync()

    def _write(self, records: Sequence[Record]) -> None:
        self._to.lock.check()
        # First: a save beside the thread may make them durable as soon as they are in the log.
        if self._to.on_record is not None:
            self._waiting.extend(records)
        self._to.log.append(records)
        self._to.events.add(records)
        self._to.view.records(records)
        self._fold(records)

    def _sync(self) -> None:
        self._to.events.flush()
        # Beside a save that is being written, a sync of the log would wait for the whole of it: later then.
        if not self._to.store.busy:
            self._to.log.sync()
        self._synced = time.monotonic()
