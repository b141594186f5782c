"""Experiments made anew: each run of a proof begins with an object that no other run has touched."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

from trainer.errors import ConfigError
from trainer.run.experiment import Experiment

MakeExperiment = Callable[[], Experiment]


def maker(experiment: Experiment | MakeExperiment) -> MakeExperiment:
    """A function that makes the experiment anew, with fields as they are now.

    Raises:
      ConfigError: it is neither an experiment nor a function, or a field cannot be copied.
    """
    if not isinstance(experiment, Experiment):
        if not callable(experiment):
            raise ConfigError(
                f"{type(experiment).__name__} is no experiment; expected one, or a function that makes one"
            )
        return experiment
    kind, fields = type(experiment), {}
    for name in (field.name for field in dataclasses.fields(experiment) if field.init):
        try:
            fields[name] = copy.deepcopy(getattr(experiment, name))
        except (TypeError, copy.Error) as error:
            raise ConfigError(
                f"the field {name} of {kind.__name__} cannot be copied ({error}); give a function that makes the "
                "experiment"
            ) from error
    return lambda: kind(**copy.deepcopy(fields))
