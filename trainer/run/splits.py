"""The splits that an experiment has, by name."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.data import Source
from trainer.decide.monitor import TRAIN
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment

EVAL_DATA, TEST_DATA = "eval_data", "test_data"


def splits_of(experiment: Experiment, method: str = EVAL_DATA) -> dict[str, Source]:
    """What `eval_data` or `test_data` of an experiment returns.

    Raises:
      ConfigError: it is no mapping of sources, or a name in it is taken.
    """
    name, splits = f"{type(experiment).__name__}.{method}()", getattr(experiment, method)()
    if not isinstance(splits, Mapping) or not all(isinstance(split, Source) for split in splits.values()):
        raise ConfigError(f"{name} returned {type(splits).__name__}; expected sources by the split's name")
    if TRAIN in splits:
        raise ConfigError(f"{name} names a split {TRAIN!r}, which the train records are called; rename it")
    return dict(splits)
