"""What short runs of an experiment show."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint.tensors import first_line
from trainer.errors import TrainerError
from trainer.ledger.directory import RunDirectory
from trainer.proof.build import tell
from trainer.proof.compare import first_tensor_difference
from trainer.proof.findings import Finding
from trainer.proof.fresh import MakeExperiment
from trainer.proof.options import cadences
from trainer.proof.python_state import PythonState, changes
from trainer.proof.resume import UNDISTURBED, Divergence, prove_resume, train
from trainer.proof.watch import Watch
from trainer.run.experiment import Experiment


def examine_runs(make: MakeExperiment, *, steps: int, options: Mapping[str, Any], folder: str) -> Iterator[Finding]:
    """Trains an experiment for some steps, undisturbed and resumed, and says what is wrong with that.

    Args:
      make: makes the experiment.
      steps: how long a run is.
      options: the trainer's options that the user gave.
      folder: an empty folder to work in.
    """
    proof = os.path.join(folder, "proof")
    yield from _proved(make, steps, options, proof)
    yield from _evaluated(make, options, RunDirectory(os.path.join(proof, UNDISTURBED)), os.path.join(folder, "other"))


def _proved(make: MakeExperiment, steps: int, options: Mapping[str, Any], folder: str) -> Iterator[Finding]:
    """That the runs end, that they resume exactly, and what changes in Python meanwhile."""
    watches: list[Watch] = []
    traced: list[PythonState] = []
    ended: list[PythonState] = []

    def watched() -> Experiment:
        if len(watches) == 1:
            # The first run, which is the undisturbed one, is over: the globals are still as it left them.
            ended.append(watches[0].python_state())
        states = [] if watches else traced
        watches.append(Watch(make(), on_traced=lambda watch: states.append(watch.python_state())))
        return watches[-1].experiment

    try:
        outcome = prove_resume(watched, steps=steps, cuts=None, run_dir=folder, options=options, keep=False)
    except Exception as error:
        failure = next((watch.failures[-1] for watch in watches if watch.failures), None)
        if failure is not None:
            yield tell(failure, error, kind="train")
        elif isinstance(error, (TrainerError, tf.errors.OpError)):
            yield Finding("train", f"it does not train: {_said(error)}", "mend this first, then prove it again")
        else:
            raise
        return
    for change in changes(traced[-1], ended[0]):
        yield Finding(
            "python_state",
            f"a Python value changes while the run goes on, and no checkpoint holds it: {change}",
            "hold it in a tf.Variable of the model, or do without it: a resume begins with its initial value again",
        )
    if isinstance(outcome, Divergence):
        yield Finding(
            "resume",
            outcome.describe(),
            "look at the other findings; if there are none, at whatever training depends on that is neither in the "
            "checkpoint nor follows from the run's seed",
        )


def _evaluated(
    make: MakeExperiment, options: Mapping[str, Any], undisturbed: RunDirectory, path: str
) -> Iterator[Finding]:
    """What an evaluation changes: the checkpoint of step 1 of a run that evaluates there, and of one that did not."""
    files = undisturbed.files
    log = files.read(undisturbed.metrics) if files.exists(undisturbed.metrics) else b""
    evaluated = [record["step"] for record in map(json.loads, log.splitlines()) if record["kind"] == "eval"]
    if not evaluated or min(evaluated) <= 1 or 1 not in undisturbed.committed_steps():
        return
    evaluating = RunDirectory(path)
    settings = {**cadences(2, (1,)), **options, "eval_every": "1step"}
    train(make(), evaluating.path, settings)
    difference = first_tensor_difference(undisturbed.state_prefix(1), evaluating.state_prefix(1))
    if difference:
        others = f", and {difference.others} other tensors" if difference.others else ""
        yield Finding(
            "evaluation",
            f"an evaluation changes the state: {difference.name}{others}",
            "change variables only where training is true: as it is, how often it is evaluated changes the training",
        )


def _said(error: Exception) -> str:
    """What an error says in one line, without where TensorFlow says that the operation was made."""
    lines = str(getattr(error, "message", error)).splitlines()
    preamble = ("Graph execution error", "Detected at", "Traceback", " ", "\t")
    return next((line for line in lines if line and not line.startswith(preamble)), first_line(error))
