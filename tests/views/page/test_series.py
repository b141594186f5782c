"""The metric log as curves: every number in its place, whatever else the log holds."""

from __future__ import annotations

import pathlib
import tracemalloc

import numpy as np
import pytest

from trainer.ledger.directory import RunDirectory
from trainer.ledger.record import Record
from trainer.views.page.series import Series, read_series


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def write(directory: RunDirectory, *lines: Record | bytes) -> Series:
    data = b"".join(line.line() if isinstance(line, Record) else line for line in lines)
    pathlib.Path(directory.metrics).write_bytes(data)
    return read_series(directory)


def window(step: int, loss: float | None, **fields: object) -> Record:
    metrics = fields.pop("metrics", {"loss": loss})
    return Record("train", step, step * 4, None, metrics, window=(step - 10, step), **fields)  # type: ignore[arg-type]


def test_windows_evaluations_and_learning_rates_become_curves(directory: RunDirectory) -> None:
    series = write(
        directory,
        window(10, 2.0, learning_rate=0.1),
        Record("eval", 10, 40, None, {"loss": 1.9}, split="validation", weights="raw"),
        window(20, None, learning_rate={"generator": 0.1, "critic": 0.2}, skipped=3),
        Record("eval", 20, 80, None, {"loss": 1.8}, split="validation", weights="ema"),
    )
    loss = series.train["loss"]
    assert loss.starts is not None
    assert (loss.starts.tolist(), loss.steps.tolist()) == ([0, 10], [10, 20])
    assert np.array_equal(loss.values, [2.0, np.nan], equal_nan=True)
    assert {name: known["loss"].steps.tolist() for name, known in series.evaluations.items()} == {
        "validation": [10],
        "validation ema": [20],
    }
    assert {name: known.values.tolist() for name, known in series.learning_rates.items()} == {
        "": [0.1],
        "generator": [0.1],
        "critic": [0.2],
    }
    assert (series.records, series.last_step, series.skipped) == (4, 20, 3)
    assert series.examples.values.tolist() == [40, 40, 80, 80]


def test_no_log_is_an_empty_one(directory: RunDirectory) -> None:
    series = read_series(directory)
    assert (series.records, series.last_step, dict(series.train)) == (0, 0, {})


def test_a_line_that_is_still_being_written_is_ignored(directory: RunDirectory) -> None:
    series = write(directory, window(10, 2.0), window(20, 1.0).line()[:-1])
    assert (series.records, series.damaged) == (1, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"kind":"other","step":1,"examples":1,"metrics":{}}',
        b'{"kind":"train","step":1,"examples":1,"metrics":{"loss":"low"},"window":[0,1]}',
        b'{"kind":"train","step":1,"examples":1,"metrics":{"loss":true},"window":[0,1]}',
        b'{"kind":"train","step":1,"examples":1,"metrics":{"loss":1},"window":[2,1]}',
        b'{"kind":"train","step":1,"examples":1,"metrics":{"loss":1},"window":[1]}',
        b'{"kind":"train","step":-1,"examples":1,"metrics":{"loss":1},"window":[0,1]}',
        b'{"kind":"train","step":%d,"examples":1,"metrics":{"loss":1},"window":[0,1]}' % 10**400,
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_left_out_and_counted(directory: RunDirectory, line: bytes) -> None:
    series = write(directory, window(10, 2.0), line + b"\n", window(20, 1.0))
    assert (series.records, series.damaged, series.first_damaged) == (2, 1, 2)
    assert series.train["loss"].steps.tolist() == [10, 20]


def test_numbers_that_no_float_holds_are_not_finite(directory: RunDirectory) -> None:
    values = (b"Infinity", b"NaN", b"1e999", b"%d" % 10**400)
    form = b'{"kind":"train","step":%d,"examples":4,"metrics":{"loss":%b},"window":[0,%d]}\n'
    series = write(directory, *(form % (step, value, step) for step, value in enumerate(values, 1)))
    assert np.isnan(series.train["loss"].values).tolist() == [True] * 4


def test_records_out_of_order_are_put_in_order(directory: RunDirectory) -> None:
    loss = write(directory, window(30, 3.0), window(10, 1.0), window(20, 2.0)).train["loss"]
    assert loss.steps.tolist() == [10, 20, 30]
    assert loss.values.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.slow
def test_memory_holds_the_numbers_and_not_the_text(directory: RunDirectory) -> None:
    count = 40_000
    text = b"".join(window(step, 1.0, learning_rate=0.1).line() for step in range(10, count + 10))
    tracemalloc.start()
    try:
        write(directory, text)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        read_series(directory)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    numbers = count * 8 * 7  # three of the window, two of the learning rate, two of the examples
    assert peak < 3 * numbers + 20e6
