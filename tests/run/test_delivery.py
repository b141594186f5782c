"""Records leave the loop at once for the log, and for whoever listens once they are durable."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import Unwritable
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


def delivery(
    path: Path,
    heard: list[Record],
    lock: Any,
    *,
    busy: bool = False,
    warnings: list[str] | None = None,
    fold: Callable[[Sequence[Record]], None] = lambda records: None,
) -> Delivery:
    outlets = types.SimpleNamespace(
        lock=lock,
        log=MetricLog(path),
        events=View(),
        view=View(),
        store=types.SimpleNamespace(busy=busy),
        on_record=heard.append,
        warn=(warnings if warnings is not None else []).append,
    )
    return Delivery(outlets, Times(), fold)  # type: ignore[arg-type]


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


def test_what_a_thread_could_not_write_ends_the_loop_at_the_latest_when_it_ends(tmp_path: Path, record: Record) -> None:
    def fails() -> list[Record]:
        raise Unwritable("the disk is full")

    heard: list[Record] = []
    with locked(str(tmp_path / "lock")) as lock:
        with pytest.raises(Unwritable), delivery(tmp_path, heard, lock) as records:
            records.later(fails)
        with delivery(tmp_path, heard, lock) as records:
            records.later(fails)
            with pytest.raises(Unwritable):
                records.later(lambda: [record])


def test_what_ended_the_loop_comes_before_what_the_thread_could_not_write_and_that_is_told(tmp_path: Path) -> None:
    warnings: list[str] = []

    def fails() -> list[Record]:
        raise Unwritable("the disk is full")

    def interrupted(lock: Any) -> None:
        with delivery(tmp_path, [], lock, warnings=warnings) as records:
            records.later(fails)
            raise KeyboardInterrupt

    with locked(str(tmp_path / "lock")) as lock, pytest.raises(KeyboardInterrupt):
        interrupted(lock)
    assert warnings == ["the last records were not written: the disk is full"]


def test_records_of_a_thread_are_written_in_their_order_and_none_is_lost_when_the_loop_ends(tmp_path: Path) -> None:
    def one(step: int) -> list[Record]:
        return [Record("train", step, 4 * step, None, {"loss": 0.5}, window=(step - 1, step))]

    def failing(lock: Any) -> None:
        with delivery(tmp_path, [], lock) as records:
            for step in range(1, 20):
                records.later(functools.partial(one, step))
            records.write(one(20))
            records.later(functools.partial(one, 21))
            raise ZeroDivisionError

    with locked(str(tmp_path / "lock")) as lock, pytest.raises(ZeroDivisionError):
        failing(lock)
    assert [record.step for record in read_records(MetricLog(tmp_path).directory)] == list(range(1, 22))


def trained(step: int) -> list[Record]:
    """What a chunk might write: as many records as the step's last digit says."""
    return [Record("train", 10 * step + n, 4, None, {"loss": 0.5}, window=(step - 1, step)) for n in range(step % 10)]


def steps(records: list[Record]) -> list[int]:
    return [record.step for record in records]


def test_each_record_is_folded_once_and_in_order_and_after_it_is_in_the_log(tmp_path: Path) -> None:
    folded: list[Record] = []
    expected: list[int] = []

    def fold(records: Sequence[Record]) -> None:
        assert log.position.records >= len(folded) + len(records)
        folded.extend(records)

    with locked(str(tmp_path / "lock")) as lock, delivery(tmp_path, [], lock, fold=fold) as records:
        log = records._to.log
        for step in range(1, 300):
            records.later(functools.partial(trained, step))
            expected += steps(trained(step))
            if step % 3:
                records.start()
                assert steps(folded) == expected[: len(folded)]
            if step % 7 == 0:
                records.settle()
                assert steps(folded) == expected
            if step % 50 == 0:
                records.write(trained(step + 1))
                expected += steps(trained(step + 1))
                assert steps(folded) == expected
        records.settle()
        assert steps(folded) == expected


def test_records_are_made_from_the_start_on_beside_whoever_asked_for_them(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()
    waited_in_vain: list[bool] = []
    folded: list[Record] = []

    def held() -> list[Record]:
        asked.set()
        waited_in_vain.append(not go_on.wait(timeout=20))
        return trained(2)

    with locked(str(tmp_path / "lock")) as lock, delivery(tmp_path, [], lock, fold=folded.extend) as records:
        records.later(functools.partial(trained, 1))
        records.later(held)
        # Those before are through, and nothing is begun before it is started.
        assert steps(folded) == steps(trained(1))
        assert not asked.wait(timeout=0.05)
        records.start()
        assert asked.wait(timeout=20)
        assert steps(folded) == steps(trained(1))
        go_on.set()
        records.settle()
        assert steps(folded) == [*steps(trained(1)), *steps(trained(2))]
    assert waited_in_vain == [False]


def test_the_log_is_made_durable_by_the_thread_also_where_no_window_closes(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Record] = []
    with locked(str(tmp_path / "lock")) as lock, delivery(tmp_path, heard, lock) as records:
        log, by = records._to.log, []
        sync = log.sync
        monkeypatch.setattr(log, "sync", lambda: (by.append(threading.current_thread()), sync()))
        monkeypatch.setattr("trainer.run.delivery._SYNC_SECONDS", 1e9)
        records.later(lambda: [record])
        records.settle()
        records.start()
        records.settle()
        assert not by
        monkeypatch.setattr("trainer.run.delivery._SYNC_SECONDS", 0.0)
        # What waits for the thread has a sync of its own to make, and needs no other one before it.
        records.settle()
        assert not by
        for _ in range(3):
            records.start()
            records.settle()
        assert len(by) == 3
        assert threading.main_thread() not in by
        records.hand_over()
        assert heard == [record]


def test_what_the_thread_could_not_make_durable_ends_the_loop(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def fails() -> None:
        tried.set()
        raise Unwritable("the disk is full")

    with locked(str(tmp_path / "lock")) as lock, delivery(tmp_path, [], lock) as records:
        monkeypatch.setattr(records._to.log, "sync", fails)
        monkeypatch.setattr("trainer.run.delivery._SYNC_SECONDS", 0.0)
        records.start()
        assert tried.wait(timeout=20)
        # Known at the next start, once the thread is through: no chunk closes a window, and nothing else asks.
        concurrent.futures.wait([records._under_way])
        with pytest.raises(Unwritable):
            records.start()
        monkeypatch.undo()


def test_an_interrupt_of_the_wait_loses_no_error_of_the_thread(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise Unwritable("the disk is full")

    def interrupted(futures: list[concurrent.futures.Future[None]]) -> None:
        concurrent.futures.wait(futures)
        raise KeyboardInterrupt

    with locked(str(tmp_path / "lock")) as lock, delivery(tmp_path, [], lock) as records:
        monkeypatch.setattr(records._to.log, "sync", fails)
        monkeypatch.setattr("trainer.run.delivery._SYNC_SECONDS", 0.0)
        records.start()
        with monkeypatch.context() as patch:
            patch.setattr("trainer.run.delivery.wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                records.settle()
        with pytest.raises(Unwritable):
            records.settle()
        monkeypatch.undo()


@pytest.mark.parametrize(("seconds", "durable"), [(0.0, 1), (1e9, 0)])
def test_the_thread_makes_records_durable_where_that_is_long_ago(
    seconds: float, durable: int, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.run.delivery._SYNC_SECONDS", seconds)
    heard: list[Record] = []
    with locked(str(tmp_path / "lock")) as lock, delivery(tmp_path, heard, lock) as records:
        records.later(lambda: [record])
        records.settle()
        records.hand_over()
        assert len(heard) == durable
