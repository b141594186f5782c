"""The records of many windows at once are those of each alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import trainer
from trainer.ledger.train_records import TrainRecords
from trainer.run.measure import Layout
from trainer.run.program import Advance, Row
from trainer.run.records import train_record, train_records
from trainer.timeline.schedule import Schedule

SCHEDULE = Schedule(train_for=1000, batch_size=4, data_examples=10)
NAMES = ("", "other")


class Plain(trainer.Experiment):
    def model(self, seed: Any) -> Any: ...

    def optimizer(self) -> Any: ...

    def train_data(self) -> Any: ...

    def loss(self, *arguments: Any, **named: Any) -> Any: ...


class Summarizing(Plain):
    def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
        return {"perplexity": math.exp(min(means["loss"], 700.0))}


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a row as a program does."""

    layout: Layout
    rates: tuple[str, ...]

    def __call__(self, vector: np.ndarray) -> Row:
        end = 2 + self.layout.width
        with np.errstate(over="ignore"):
            rates = dict(zip(self.rates, vector[end:-2].astype(np.float32), strict=True))
        return Row(int(vector[0]), int(vector[1]), vector[2:end], rates, int(vector[-2]))


FLOATS = st.floats(-1e9, 1e9) | st.sampled_from([0.0, math.nan, math.inf])


@st.composite
def advances(draw: st.DrawFn) -> tuple[Advance, Layout]:
    sizes: list[tuple[str, int | None]] = [("loss", None), ("b", None), ("a", draw(st.sampled_from([None, 2])))]
    layout = Layout(tuple(sizes))
    rates = NAMES[: draw(st.integers(0, 2))]
    vectors, step = [], 0
    odd = draw(st.booleans())
    for _ in range(draw(st.integers(1, 6))):
        step += draw(st.integers(1, 9))
        weight = draw(st.sampled_from([0.0, 4.0, 7.0]) if odd else st.sampled_from([4.0, 7.0]))
        sums = [draw(FLOATS if odd else st.floats(-1e9, 1e9)) for _ in range(layout.first_nonfinite - 1)]
        counts = [float(not math.isfinite(value)) for value in sums[: len(sizes)]]
        # 0 and -0 are equal, and written otherwise.
        told = [draw(st.sampled_from([0.001, 0.1, 3e-5, 0.0, -0.0, *([1e39] if odd else [])])) for _ in rates]
        vectors.append(np.array([step, 4 * step, weight, *sums, *counts, *told, draw(st.integers(0, 2)), 0]))
    reader = Reader(layout, rates)
    return Advance(np.stack(vectors), reader, reader(vectors[-1])), layout


def plain(advance: Advance, layout: Layout) -> bool:
    """Whether all metrics and learning rates are finite numbers."""
    numbers = all(size is None for _, size in layout.sizes)
    return numbers and all(
        row.totals[0] and np.isfinite([*row.totals, *row.learning_rates.values()]).all() for row in advance.rows
    )


def test_a_learning_rate_beyond_float32_leaves_no_columns() -> None:
    layout, vector = Layout((("loss", None),)), np.array([1.0, 4.0, 4.0, 2.0, 0.0, 1e39, 0.0, 0.0])
    reader = Reader(layout, ("",))
    advance = Advance(vector[None], reader, reader(vector))
    made = train_records(advance, layout=layout, experiment=Plain(), schedule=SCHEDULE, start=0, closed_by=None)
    assert not isinstance(made, TrainRecords)
    assert [record.learning_rate for record in made] == [None]


@given(advances(), st.sampled_from([Plain, Summarizing]), st.sampled_from([None, "save", "end"]))
def test_the_records_of_a_chunk_are_those_of_its_windows_one_by_one(
    made: tuple[Advance, Layout], kind: Any, closed_by: str | None
) -> None:
    advance, layout = made
    common: dict[str, Any] = {"layout": layout, "experiment": kind(), "schedule": SCHEDULE}
    at_once = train_records(advance, start=0, closed_by=closed_by, **common)
    # A test that makes no columns would say nothing of them.
    assert isinstance(at_once, TrainRecords) == (kind is Plain and plain(advance, layout))
    start, one_by_one = 0, []
    for row in advance.rows:
        cause = closed_by if row is advance.rows[-1] else None
        one_by_one.append(train_record(row, start=start, closed_by=cause, **common))
        start = row.step
    assert [record.line() for record in at_once] == [record.line() for record in one_by_one]
