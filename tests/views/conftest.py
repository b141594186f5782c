"""What the tests of the views share: records to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trainer.ledger.record import Record

MakeRecord = Callable[..., Record]


@pytest.fixture
def train() -> MakeRecord:
    """Makes the record of the window that ends at a step; 64 examples a step, 1500 an epoch."""

    def make(step: int, *, loss: float | None = 0.412, window: int = 100, **fields: Any) -> Record:
        metrics = {"loss": loss, "accuracy": 0.87}
        fields = {"learning_rate": 0.001, "epoch": step * 64 / 1500, **fields}
        return Record("train", step, step * 64, metrics=metrics, window=(step - window, step), **fields)

    return make


@pytest.fixture
def evaluation() -> MakeRecord:
    """Makes the record of an evaluation at a step."""

    def make(step: int, *, loss: float | None = 0.398, **fields: Any) -> Record:
        metrics = {"loss": loss, "accuracy": 0.88}
        fields = {"split": "validation", "weights": "raw", "epoch": step * 64 / 1500, **fields}
        return Record("eval", step, step * 64, metrics=metrics, **fields)

    return make
