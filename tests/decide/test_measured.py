"""What a checkpoint's manifest says of a metric, and how it relates to the checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.decide.measured import MeasuredMetric, measured
from trainer.ledger.manifest import LogPosition, Manifest

OPEN = {"from": 30, "steps": 0, "metrics": {}}
TRAIN = {"relation": "window", "window": [20, 27], "lag": 3, "metrics": {"loss": 0.125}}
EVAL = {"relation": "earlier", "step": 20, "age": 10, "weights": "raw", "metrics": {"loss": None, "accuracy": 1.0}}


def manifest(**sections: Any) -> Manifest:
    known = {"train": None, "eval": {}, **sections}
    return Manifest(
        30, 120, None, None, ("final",), 1, None, (), LogPosition(0, 0, ""), known["train"], OPEN, known["eval"], {}, {}
    )


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("train/loss", MeasuredMetric("train/loss", 0.125, "window", 27)),
        ("validation/loss", MeasuredMetric("validation/loss", None, "earlier", 20)),
        ("validation/accuracy", MeasuredMetric("validation/accuracy", 1.0, "earlier", 20)),
        ("validation/f1", None),
        ("test/loss", None),
    ],
)
def test_it_is_that_of_the_newest_record_before_it(metric: str, expected: MeasuredMetric | None) -> None:
    assert measured(manifest(train=TRAIN, eval={"validation": EVAL}), metric) == expected


def test_without_a_window_there_is_none() -> None:
    assert measured(manifest(), "train/loss") is None
