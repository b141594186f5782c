"""Exporting a checkpoint: a SavedModel or the weights alone, in a folder of their own with what tells where from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint.tensors import first_line
from trainer.decide.measured import MeasuredMetric
from trainer.errors import ConfigError, Unwritable
from trainer.ledger.directory import MANIFEST, STATE
from trainer.ledger.segments import plain
from trainer.run import machine
from trainer.storage.files import Files
from trainer.trained.destination import EXPORT, FORMAT
from trainer.trained.run import TrainedRun
from trainer.trained.serving import Serving, Specs, trace_serving

SAVED_MODEL, WEIGHTS = "saved_model", "weights"
SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class Export:
    """What is exported, as `export.json` says it."""

    run: str
    experiment: str
    parameters: Mapping[str, Any]
    step: int
    kind: str
    """`saved_model` or `weights`."""
    weights: str
    """`raw` or `ema`."""
    metric: MeasuredMetric | None
    inputs: Specs
    outputs: Specs
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that is written."""
        return {
            "format": FORMAT,
            "run": self.run,
            "experiment": self.experiment,
            "parameters": plain(self.parameters),
            "step": self.step,
            "kind": self.kind,
            "weights": self.weights,
            "metric": None if self.metric is None else dataclasses.asdict(self.metric),
            "inputs": _described(self.inputs),
            "outputs": _described(self.outputs),
            "versions": dict(self.versions),
        }


def write_export(
    folder: str, trained: TrainedRun, manifest: bytes, *, step: int, metric: MeasuredMetric | None, weights_only: bool
) -> Export:
    """Writes the weights that `trained` has loaded to a folder that is there and empty, `export.json` last.

    Args:
      folder: where to.
      trained: the run, with the weights of the checkpoint.
      manifest: the checkpoint's manifest, which is copied.
      step: the checkpoint's.
      metric: what speaks for it.
      weights_only: write no SavedModel but a TensorFlow checkpoint of the model alone.

    Raises:
      ConfigError: the model cannot be served.
      Unwritable: the disk is full, or the like.
    """
    serving = None if weights_only else trace_serving(trained.experiment, trained.model)
    with _saving(folder):
        if serving is None:
            tf.train.Checkpoint(model=trained.model).write(os.path.join(folder, STATE))
        else:
            _save(serving, folder)
    files = Files()
    files.write(os.path.join(folder, MANIFEST), manifest)
    export = Export(
        run=trained.info.run_id,
        experiment=trained.info.experiment,
        parameters=trained.info.parameters,
        step=step,
        kind=WEIGHTS if serving is None else SAVED_MODEL,
        weights=trained.weights,
        metric=metric,
        inputs={} if serving is None else serving.inputs,
        outputs={} if serving is None else serving.outputs,
        versions=machine.versions(),
        notes=() if serving is None else serving.notes,
    )
    content = json.dumps(export.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    files.write(os.path.join(folder, EXPORT), content.encode() + b"\n")
    return export


def _save(serving: Serving, folder: str) -> None:
    module = tf.Module()
    # Only what it uses: a model may hold much that no answer needs, and functions that cannot be saved.
    module.uses = list(serving.uses)
    tf.saved_model.save(module, folder, signatures={SIGNATURE: serving.function})


@contextlib.contextmanager
def _saving(folder: str) -> Iterator[None]:
    """Has what TensorFlow refuses come out as one line."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise Unwritable(
            f"cannot write {folder}: {first_line(error)}; free space or mend the permissions, then run the same "
            "command again"
        ) from error
    except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            f"TensorFlow cannot save what predict() uses: {first_line(error)}; compute it from tensors, variables and "
            "lookup tables, or export with --weights_only"
        ) from error


def _described(specs: Specs) -> dict[str, dict[str, Any]]:
    return {
        name: {"shape": None if spec.shape.rank is None else spec.shape.as_list(), "dtype": spec.dtype.name}
        for name, spec in specs.items()
    }
