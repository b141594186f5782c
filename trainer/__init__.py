"""Train TensorFlow models with checkpoints and a metric log that always agree.

Everything public is here, and imported when it is first used: `import trainer` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer import data, optim, testing
    from trainer.checkpoint.store import CheckpointStore
    from trainer.data.seeds import fold_in, random_bits
    from trainer.ledger.log import MetricLog
    from trainer.ledger.record import Record
    from trainer.run.experiment import Experiment, Loss, field
    from trainer.run.result import Result
    from trainer.run.trainer import Trainer
    from trainer.timeline.cadence import Progress
    from trainer.timeline.schedule import Schedule

_HOMES = {
    "CheckpointStore": "trainer.checkpoint.store",
    "Experiment": "trainer.run.experiment",
    "Loss": "trainer.run.experiment",
    "MetricLog": "trainer.ledger.log",
    "Progress": "trainer.timeline.cadence",
    "Record": "trainer.ledger.record",
    "Result": "trainer.run.result",
    "Schedule": "trainer.timeline.schedule",
    "Trainer": "trainer.run.trainer",
    "field": "trainer.run.experiment",
    "fold_in": "trainer.data.seeds",
    "random_bits": "trainer.data.seeds",
}

__all__ = [
    "CheckpointStore",
    "Experiment",
    "Loss",
    "MetricLog",
    "Progress",
    "Record",
    "Result",
    "Schedule",
    "Trainer",
    "data",
    "field",
    "fold_in",
    "optim",
    "random_bits",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("data", "optim", "testing"):
        return importlib.import_module(f"trainer.{name}")
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
