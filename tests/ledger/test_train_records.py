"""The train records of many windows at once are those of each alone, wherever they go."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.decide.best import Best
from trainer.decide.condition import Conditions
from trainer.decide.decisions import Decisions
from trainer.decide.early_stop import EarlyStop, parse_patience
from trainer.decide.monitor import Monitor
from trainer.errors import ConfigError
from trainer.ledger.log import MetricLog
from trainer.ledger.record import Record
from trainer.ledger.train_records import TrainRecords
from trainer.timeline.schedule import Schedule
from trainer.views.tensorboard import EventWriter

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def train_records(draw: st.DrawFn) -> TrainRecords:
    start = draw(st.integers(0, 200))
    # Of an event, the steps from 2^14 on take a byte more.
    end = st.integers(start + 1, start + 300) | st.integers(2**14 - 1, 2**14 + 1)
    ends = sorted(draw(st.sets(end, min_size=1)))
    count = len(ends)
    column = st.lists(FINITE, min_size=count, max_size=count)
    # One and the same object, equal ones, and others: 0 and -0 are equal, and written otherwise.
    rates = column | FINITE.map(lambda rate: [rate] * count) | st.just([0.0] * (count - 1) + [-0.0])
    metrics = draw(st.sampled_from([("loss",), ("loss", "a%s", 'q"ü'), ()]))
    return TrainRecords(
        start=start,
        steps=ends,
        examples=[4 * end for end in ends],
        epochs=draw(st.none() | column),
        metrics={name: draw(column) for name in metrics},
        learning_rates={name: draw(rates) for name in draw(st.sampled_from([("",), (), ("b", "a%d")]))},
        skipped=draw(st.just([0] * count) | st.lists(st.integers(0, 2), min_size=count, max_size=count)),
        closed_by=draw(st.sampled_from([None, "save", "end"])),
    )


def one_by_one(records: TrainRecords) -> list[Record]:
    """The records, put together anew from the columns."""
    made, start = [], records.start
    for place, end in enumerate(records.steps):
        rates = {name: values[place] for name, values in records.learning_rates.items()}
        made.append(
            Record(
                "train",
                end,
                records.examples[place],
                records.epochs[place] if records.epochs else None,
                {name: values[place] for name, values in records.metrics.items()},
                (start, end),
                learning_rate=rates.get("", rates or None),
                closed_by=records.closed_by if end == records.steps[-1] else None,
                skipped=records.skipped[place],
            )
        )
        start = end
    return made


@given(train_records())
def test_they_are_the_sequence_of_their_records(records: TrainRecords) -> None:
    expected = one_by_one(records)
    assert list(records) == expected
    assert len(records) == len(expected)
    assert records[-1] == expected[-1]
    assert records[-2:] == expected[-2:]
    assert records[::-1] == expected[::-1]
    with pytest.raises(IndexError):
        records[len(expected)]


@given(train_records())
def test_their_lines_are_those_of_each_alone(records: TrainRecords) -> None:
    assert records.lines() == b"".join(record.line() for record in one_by_one(records))


def columns(**changed: object) -> TrainRecords:
    records = TrainRecords(
        start=0,
        steps=[1, 2, 3],
        examples=[4, 8, 12],
        epochs=[0.25, 0.5, 0.75],
        metrics={"loss": [0.3, 0.2, 0.1]},
        learning_rates={"": [0.1, 0.1, 0.01]},
        skipped=[0, 1, 0],
        closed_by="end",
    )
    return dataclasses.replace(records, **changed)  # type: ignore[arg-type]


def test_the_log_of_them_is_that_of_each_alone(tmp_path: Path) -> None:
    at_once, alone = MetricLog(tmp_path / "at_once"), MetricLog(tmp_path / "alone")
    at_once.append(columns())
    for record in one_by_one(columns()):
        alone.append([record])
    assert at_once.position == alone.position
    assert at_once.last_train == alone.last_train == columns()[-1]
    assert (tmp_path / "at_once/metrics.jsonl").read_bytes() == (tmp_path / "alone/metrics.jsonl").read_bytes()


@given(records=train_records())
def test_the_events_of_them_are_those_of_each_alone(
    tmp_path_factory: pytest.TempPathFactory, records: TrainRecords
) -> None:
    folder = tmp_path_factory.mktemp("events")
    for name, added in (("at_once", records), ("alone", one_by_one(records))):
        writer = EventWriter(folder / name, 1, -1, clock=lambda: 12.5)
        writer.add(added)
        writer.close()
    at_once, alone = (next((folder / name).iterdir()).read_bytes() for name in ("at_once", "alone"))
    assert at_once == alone


def patience_of(metric: str) -> EarlyStop:
    schedule = Schedule(train_for="100steps", batch_size=4, data_examples=40)
    monitor, patience = Monitor(metric, "min"), parse_patience("2evals")
    return EarlyStop(monitor, patience, place=lambda duration: schedule.place(duration, "early_stop"))


def by_loss() -> list[Decisions]:
    """Decisions that go by the train loss, each in another way, and one that tells the best of it and saves none."""
    accuracy, loss = Monitor("validation/accuracy", "max"), Monitor("train/loss", "min")
    return [
        Decisions([accuracy, loss]),
        Decisions([loss], keep_best=0),
        Decisions([accuracy], conditions=Conditions("train/loss<0.15")),
        Decisions([loss], keep_best=0, early_stop=patience_of("train/loss")),
        Decisions(
            [loss], keep_best=0, conditions=Conditions("validation/loss<1"), early_stop=patience_of("validation/loss")
        ),
    ]


@pytest.mark.parametrize("way", range(5))
def test_what_goes_by_them_is_folded_as_by_each_alone(way: int) -> None:
    at_once, alone = by_loss()[way], by_loss()[way]
    before = alone.to_json()
    at_once.fold_all(columns())
    for record in one_by_one(columns()):
        alone.fold(record)
    assert at_once.to_json() == alone.to_json() != before


@given(
    records=train_records().filter(lambda records: records.metrics),
    known=st.lists(FINITE, max_size=4),
    keep=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_best_of_them_are_those_of_each_alone(
    records: TrainRecords, known: list[float], keep: int, mode: str
) -> None:
    at_once, alone = (Best(Monitor("train/loss", mode), keep=keep) for _ in range(2))
    for best in (at_once, alone):
        for step, value in enumerate(known, start=-len(known)):
            best.fold(Record("train", step, 0, None, {"loss": value}, window=(step - 1, step)))
    at_once.fold_windows(records)
    for record in records:
        alone.fold(record)
    assert at_once.ranking == alone.ranking


def test_a_metric_that_they_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="train/acuracy is in no record"):
        Decisions([Monitor("train/acuracy", "max")], keep_best=0).fold_all(columns())


def test_none_is_made_that_nothing_goes_by(tmp_path: Path) -> None:
    made = []

    class Looked(TrainRecords):
        def _record(self, place: int) -> Record:
            made.append(place)
            return super()._record(place)

    records = Looked(**{**vars(columns()), "skipped": [0, 0, 0], "closed_by": None})
    accuracy, loss = Monitor("validation/accuracy", "max"), Monitor("train/loss", "min")
    MetricLog(tmp_path).append(records)
    assert made == [2]
    Decisions([accuracy]).fold_all(records)
    assert made == [2]
    Decisions([loss], keep_best=0).fold_all(records)
    assert made == [2, 2]
