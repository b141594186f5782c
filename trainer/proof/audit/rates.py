"""The check `learning_rate`: each record tells the rate that the experiment's schedule gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import facts_in_force
from trainer.optim.optimizer import Optimizer
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, counted
from trainer.run.experiment import FREE, at_precision, resume_rules
from trainer.trained.run import experiment_of

TOLERANCE = 1e-6
"""How far a rate may be off, relatively: a graph and XLA may round the last bit otherwise."""


def learning_rate(evidence: Evidence) -> Findings:
    """The schedule at the last update of each window, by the parameters in force there."""
    info, records = evidence.needs_info(), [record for record in evidence.records if record.window]
    if not records:
        raise NotChecked("there is no train record")
    segments = evidence.segments
    starts = [0, *(segment.step for segment in segments)]
    compared = 0
    for number, start in enumerate(starts):
        end = min((other for other in starts[number + 1 :]), default=None)
        part = [record for record in records if start < record.step and (end is None or record.step <= end)]
        if part:
            yield from _compared(part, facts_in_force(info, segments[:number]), evidence)
            compared += len(part)
    return f"{counted(compared, 'record')}, each within {TOLERANCE:g} of the schedule"


def _compared(records: Sequence[Record], info: RunInfo, evidence: Evidence) -> Iterator[str]:
    experiment, optimizers = _optimizers(info)
    steps = np.array([record.step - 1 for record in records])
    for name, optimizer in optimizers.items():
        rates = _rates(optimizer, steps)
        for record, rate in zip(records, rates, strict=True):
            told = record.learning_rate
            told = told.get(name) if isinstance(told, Mapping) else told
            if told is not None and abs(told - rate) <= TOLERANCE * abs(rate):
                continue
            if evidence.newest and "segments" not in evidence.newest.control:
                raise NotChecked("the run is of a version that did not note when parameters changed")
            free = [field for field, rule in resume_rules(experiment).items() if rule == FREE]
            if free:
                raise NotChecked(f"it follows from the parameters now, and {', '.join(free)} may have been others then")
            number = evidence.records.index(record) + 1
            which = f" of {name}" if name else ""
            shown = np.format_float_positional(np.float32(rate), trim="-", min_digits=1)
            yield (
                f"record {number}, the window ({record.window[0] if record.window else 0}, {record.step}], has the "
                f"learning rate{which} {told}, and the schedule gives {shown} for step {record.step}"
            )


def _optimizers(info: RunInfo) -> tuple[Any, dict[str, Optimizer]]:
    """The experiment, and its optimizers by the names that records give their rates; `""` for the only one.

    Raises:
      NotChecked: they are none of ours, or cannot be made.
    """
    try:
        experiment = at_precision(experiment_of(info), str(info.fixed.get("precision", "float32")))
        made = experiment.optimizer()
    except ConfigError as error:
        raise NotChecked(f"the experiment cannot be made: {error}") from error
    except Exception as error:  # It is the user's code, of another day.
        raise NotChecked(f"{info.experiment}.optimizer() fails: {type(error).__name__}: {error}") from error
    optimizers = dict(made) if isinstance(made, Mapping) else {"": made}
    for optimizer in optimizers.values():
        if not isinstance(optimizer, Optimizer):
            raise NotChecked(f"{type(optimizer).__name__} is no optimizer of trainer.optim")
    return experiment, optimizers


def _rates(optimizer: Optimizer, steps: np.ndarray) -> np.ndarray:
    """The learning rate at each of the steps, float32 [n], in one program."""

    def rate(step: tf.Tensor) -> tf.Tensor:
        # Not built for a run's step, the schedule reads this.
        optimizer.iterations.assign(step)
        return optimizer.learning_rate

    def at(steps: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(rate, steps, parallel_iterations=1, fn_output_signature=tf.float32)

    with tf.device("CPU:0"):
        found: np.ndarray = tf.function(at)(tf.constant(steps, tf.int64)).numpy()
    return found
