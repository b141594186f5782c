"""Records leave the loop at once for the log, and for whoever listens once they are durable."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from trainer.ledger.log import MetricLog, read_records
from trainer.ledger.record import Record
from trainer.process.lock import locked
from trainer.run.delivery import Delivery
from trainer.run.timing import Times


class View:
    def add(self, records: list[Record]) -> None:
        pass

    def records(self, records: list[Record]) -> None:
        pass

    def flush(self) -> None:
        pass


@pytest.fixture
def record() -> Record:
    return Record("train", 1, 4, None, {"loss": 0.5}, window=(0, 1))


def delivery(path: Path, heard: list[Record], lock: Any, *, busy: bool = False) -> Delivery:
    outlets = types.SimpleNamespace(
        lock=lock,
        log=MetricLog(path),
        events=View(),
        view=View(),
        store=types.SimpleNamespace(busy=busy),
        on_record=heard.append,
    )
    return Delivery(outlets, Times())  # type: ignore[arg-type]


def test_a_record_is_handed_over_once_and_only_when_it_is_durable(tmp_path: Path, record: Record) -> None:
    heard: list[Record] = []
    with locked(str(tmp_path / "lock")) as lock:
        records = delivery(tmp_path, heard, lock)
        records.write([record])
        records.hand_over()
        assert [one.step for one in read_records(MetricLog(tmp_path).directory)] == [1]
        assert heard == []
        records.sync()
        records.sync()
    assert heard == [record]


def test_beside_a_save_that_is_being_written_nothing_is_made_durable(tmp_path: Path, record: Record) -> None:
    heard: list[Record] = []
    with locked(str(tmp_path / "lock")) as lock:
        records = delivery(tmp_path, heard, lock, busy=True)
        records.write([record])
        records.sync()
    assert heard == []
