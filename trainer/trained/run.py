"""A run that was trained: its experiment as the run directory tells it, and the weights of its checkpoints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint import tensors
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import as_text, read_flags
from trainer.ledger.manifest import Manifest
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import facts_in_force, plain, read_segments
from trainer.run import machine
from trainer.run.catalog import find_experiment
from trainer.run.config import FLOAT32
from trainer.run.experiment import Experiment, at_precision, make_experiment, parameters
from trainer.run.state import build_model

_VALUES = re.compile(r",? numpy=[^>]*")
"""Where TensorFlow's text of a variable goes on with what is in it."""


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run, with a model for the weights that its evaluations are made with."""

    directory: RunDirectory
    info: RunInfo
    """What identifies it where the checkpoint was saved that it was opened for."""
    experiment: Experiment
    model: Any
    weights: str
    """Which weights `load` gives the model: `raw`, or `ema` where the run averages them."""

    def at(self, manifest: Manifest) -> TrainedRun:
        """The run for the checkpoint of `manifest`: this one, unless its seed or parameters were others there.

        Raises:
          ConfigError: the experiment cannot be made with those.
          Unusable: the directory does not say what was trained.
        """
        info = _identity(self.directory, manifest)
        same = all(
            plain(getattr(info, fact)) == plain(getattr(self.info, fact)) for fact in ("run_id", "parameters", "seed")
        )
        return dataclasses.replace(self, info=info) if same else _made(self.directory, info)

    def load(self, step: int) -> None:
        """Gives the model the weights that evaluations of the checkpoint of `step` are made with.

        Raises:
          Unusable: the checkpoint cannot be read, or is of another model.
        """
        saved = tf.train.Checkpoint(**{"ema" if self.weights == "ema" else "model": self.model})
        try:
            status = saved.read(self.directory.state_prefix(step))
            status.assert_existing_objects_matched()
        except AssertionError as error:
            reason = " ".join(_VALUES.sub("", str(error)).split())
            raise Unusable(
                f"checkpoint {step} of {self.directory.path} holds another model than the experiment makes ({reason}); "
                "use the code that it was trained with"
            ) from error
        except tensors.DAMAGE as error:
            raise Unusable(
                f"checkpoint {step} of {self.directory.path} cannot be read: {tensors.first_line(error)}; name another"
            ) from error
        status.expect_partial()


def open_run(directory: RunDirectory, manifest: Manifest) -> TrainedRun:
    """Makes the experiment and the model of a run, as they were when the checkpoint of `manifest` was saved.

    TensorFlow is set up as it was for the run: what is evaluated has the same bits. `load` then gives the weights.

    Raises:
      ConfigError: the experiment cannot be imported or made.
      Unusable: the directory does not say what was trained.
    """
    info = _identity(directory, manifest)
    set_up_machine(directory, info)
    return _made(directory, info)


def set_up_machine(directory: RunDirectory, info: RunInfo) -> None:
    """Sets TensorFlow up as it was for the last attempt of a run, before its first operation.

    Raises:
      ConfigError: TensorFlow has already run something with other threads.
    """
    threads = read_flags(directory).get("threads", "")
    machine.configure(threads=int(threads) if threads.isdecimal() else 0, deterministic=str(info.deterministic).lower())


def _identity(directory: RunDirectory, manifest: Manifest) -> RunInfo:
    """What identifies the run where the checkpoint of `manifest` was saved."""
    info = RunInfo.load(directory)
    if info is None:
        raise Unusable(f"{directory.path} has no run.json, so that its experiment is not known; name another run")
    return facts_in_force(info, read_segments(manifest))


def _made(directory: RunDirectory, info: RunInfo) -> TrainedRun:
    """The experiment and the model of a run that is identified by `info`."""
    precision = str(info.fixed.get("precision", FLOAT32))
    experiment = at_precision(experiment_of(info), precision)
    model = build_model(experiment, info.seed, precision)
    return TrainedRun(directory, info, experiment, model, "ema" if info.fixed.get("ema") else "raw")


def experiment_of(info: RunInfo) -> Experiment:
    """The experiment with the parameters that the run has.

    Raises:
      ConfigError: it cannot be made so.
    """
    kind = find_experiment(info.experiment)
    defaults = _defaults(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := sorted(info.parameters.keys() - fields):
        given = ", ".join(f"{name}={as_text(info.parameters[name])}" for name in unknown)
        raise ConfigError(
            f"{info.experiment} was trained with {given}, and {kind.__name__} has no such field now; use the code that "
            "it was trained with"
        )
    settings = {
        name: as_text(value)
        for name, value in info.parameters.items()
        # What is no argument follows from those that are.
        if fields[name].init and (name not in defaults or defaults[name] != value)
    }
    return make_experiment(kind, settings)


def _defaults(kind: type[Experiment]) -> Mapping[str, Any]:
    """The parameters of an experiment that is made without any, as JSON values; none where it needs some."""
    try:
        return parameters(kind())
    except (TypeError, ValueError, ConfigError):
        return {}
