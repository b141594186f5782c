"""The windows of training: the one that is open, and the records of those that close."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.ledger.record import Record
from trainer.run.assembly import Assembly
from trainer.run.program import Advance, Row
from trainer.run.records import open_window, train_record, train_records


class Windows:
    """Makes a record of each window that closes.

    Args:
      parts: those of the run.
      start: the step at which the open window began.
    """

    def __init__(self, parts: Assembly, start: int) -> None:
        self._parts = parts
        self.start = start
        self._open: Row | None = None

    def follow(self, row: Row) -> None:
        """The open window is `row` now."""
        self._open = row

    def records(self, advance: Advance, closed_by: str | None) -> Sequence[Record]:
        """The records of the windows that closed in a chunk; `closed_by` says what closed the last of them."""
        parts = self._parts
        made = train_records(
            advance,
            layout=parts.program.layout,
            experiment=parts.experiment,
            schedule=parts.schedule,
            start=self.start,
            closed_by=closed_by,
        )
        self.start = made[-1].step
        return made

    def record(self, row: Row, closed_by: str | None) -> Record:
        """The record of the window that ends with `row`; the next one begins there."""
        parts = self._parts
        record = train_record(
            row,
            layout=parts.program.layout,
            experiment=parts.experiment,
            schedule=parts.schedule,
            start=self.start,
            closed_by=closed_by,
        )
        self.start = row.step
        return record

    def close(self, closed_by: str | None) -> Record:
        """The record of the open window, which ends here and now."""
        self._open = None
        return self.record(self._parts.program.close(), closed_by)

    def told(self) -> dict[str, object]:
        """What a manifest says of the open window."""
        if self._open is None:
            # Closed by hand, or nothing has run since the resume.
            self._open = self._parts.program.peek()
        return open_window(self._open, self.start, layout=self._parts.program.layout, experiment=self._parts.experiment)
