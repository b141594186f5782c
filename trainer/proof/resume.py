"""The proof that an experiment resumes exactly: stopped anywhere and gone on with, it leaves the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.errors import EXIT_INTERRUPTED, ConfigError, TrainerError
from trainer.ledger.directory import RunDirectory
from trainer.proof.compare import (
    RecordDifference,
    TensorDifference,
    compared_keys,
    first_record_difference,
    first_tensor_difference,
)
from trainer.proof.fresh import MakeExperiment, maker
from trainer.proof.options import DEFAULT_STEPS, SET_HERE, cadences
from trainer.run.experiment import Experiment
from trainer.run.result import Result
from trainer.run.trainer import Trainer
from trainer.timeline.schedule import ALIGN

UNDISTURBED = "undisturbed"
"""The folder of the run that is never stopped."""


@dataclasses.dataclass(frozen=True)
class ResumeReport:
    """What was compared, and found equal."""

    steps: int
    cuts: tuple[int, ...]
    """The steps from whose checkpoints the run was resumed; 0 is a run killed before its first checkpoint."""
    records: int
    """Lines of the metric log; each resumed run's were compared."""
    checkpoints: tuple[int, ...]
    """The steps whose checkpoints were compared."""
    tensors: int
    """How many tensors each of these holds that are compared."""
    run_dir: str | None
    """Where the runs are kept; None where they were temporary."""


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Where a resumed run first leaves the one that was never stopped."""

    cut: int
    step: int | None
    """The first step at which a checkpoint or a record differs; None where the run could not be resumed."""
    tensor: TensorDifference | None
    record: RecordDifference | None
    refusal: str | None = None
    """Why the run could not be resumed, if it could not."""

    def describe(self) -> str:
        """All of it in one line."""
        how = f"resumed from step {self.cut}" if self.cut else "started again from the beginning"
        if self.refusal is not None:
            return f"{how}, the run ends with an error: {self.refusal}"
        found = []
        if self.tensor:
            others = f", and {self.tensor.others} other tensors differ there" if self.tensor.others else ""
            found.append(f"tensor {self.tensor.name} {self.tensor.detail}{others}")
        if self.record:
            found.append(self.record.detail)
        return f"{how}, the run is another one, first at step {self.step}: {'; '.join(found)}"


def assert_resumes_exactly(
    experiment: Experiment | MakeExperiment,
    *,
    steps: int = DEFAULT_STEPS,
    cuts: Sequence[int] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ResumeReport:
    """Asserts that a run of `experiment` leaves the same bytes wherever it is stopped and resumed.

    It trains `steps` steps without a stop. Then, for each cut, it copies what was on the disk when that step had been
    saved, and goes on from there with a new experiment, model, optimizer and data. Every record, and every tensor of
    every later checkpoint, has to be the same byte for byte. What `NOT_COMPARED` names is left out.

    Everything happens in this process: what a module keeps in its globals, a resumed run finds as the run before left
    it.

    Args:
      experiment: what to train. Its fields are copied, so that each run begins with an object of its own; where they
        cannot be, give a function without arguments that makes the experiment, or its class.
      steps: how many steps to train.
      cuts: the steps to resume from, each less than `steps`. 0 stands for a run that is killed before its first
        checkpoint, and so proves that two runs are the same one. By default 0, the first step and the middle.
      run_dir: a folder, new or empty, where the runs are kept for inspection; by default they are temporary.
      **options: the trainer's options, such as `jit="chunk"` or `log_every=5`; by default windows straddle the cuts,
        and an evaluation lies after the middle. Those in `SET_HERE` cannot be given.

    Returns:
      What was compared.

    Raises:
      AssertionError: a run differs; the message names the first step, tensor and record that do, with both values.
      ConfigError: an argument is wrong, or the experiment cannot be trained.
      TrainerError: the run that is not stopped fails, as with a loss that is not finite.
    """
    outcome = prove_resume(
        experiment, steps=steps, cuts=cuts, run_dir=run_dir, options=options, keep=run_dir is not None
    )
    if isinstance(outcome, Divergence):
        raise AssertionError(
            f"{outcome.describe()}; something that training depends on is not in the checkpoint, or does not follow "
            "from the run's seed"
        )
    return outcome


def prove_resume(
    experiment: Experiment | MakeExperiment,
    *,
    steps: int,
    cuts: Sequence[int] | None,
    run_dir: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    keep: bool,
) -> ResumeReport | Divergence:
    """As `assert_resumes_exactly`, but returns the first divergence.

    With `keep` the resumed runs stay in `run_dir`, not only the one that is never stopped.
    """
    chosen = _check_cuts(steps, cuts)
    if given := sorted(set(SET_HERE).intersection(options)):
        raise ConfigError(f"the proof sets {', '.join(given)} by itself; leave that out")
    make = maker(experiment)
    first = make()
    settings = {**cadences(steps, chosen), **options}
    if {**first.suggested_flags, **options}.get("reconcile") == ALIGN and "log_every" not in options:
        # A scheduled save waits for a log step there.
        settings["log_every"] = settings["save_every"]
    with _folder(run_dir) as folder:
        undisturbed = RunDirectory(os.path.join(folder, UNDISTURBED))
        result = train(first, undisturbed.path, settings)
        saved = tuple(sorted(undisturbed.committed_steps()))
        if missing := [cut for cut in chosen if cut and cut not in saved]:
            raise ConfigError(
                f"the run has no checkpoint of step {missing[0]}: it ended at step {result.step} ({result.reason}) and "
                f"saved {', '.join(map(str, saved))}; choose cuts among these, or other steps"
            )
        for cut in chosen:
            path = os.path.join(folder, f"cut-{cut:010d}")
            if divergence := _resume(make, undisturbed, cut, path, settings):
                return divergence
            if not keep:
                # A large state, saved at every step of every run, would fill the disk.
                shutil.rmtree(path)
        return ResumeReport(
            steps=result.step,
            cuts=chosen,
            records=len(undisturbed.files.read(undisturbed.metrics).splitlines()),
            checkpoints=saved,
            tensors=len(compared_keys(undisturbed.state_prefix(saved[-1]))),
            run_dir=None if run_dir is None else folder,
        )


def train(experiment: Experiment, run_dir: str, settings: Mapping[str, Any]) -> Result:
    """Trains in `run_dir` to the end, silently.

    Raises:
      KeyboardInterrupt: the user asked to stop.
      SystemExit: the process was asked to stop otherwise.
    """
    try:
        result = Trainer(experiment, run_dir=run_dir, progress="never", **settings).run()
    finally:
        # The variables and programs of a run hang together in circles: several large models at a time may not fit.
        gc.collect()
    if result.exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if result.exit_code:
        raise SystemExit(result.exit_code)
    return result


def _check_cuts(steps: int, cuts: Sequence[int] | None) -> tuple[int, ...]:
    if type(steps) is not int or steps < 2:
        raise ConfigError(f"steps={steps!r} is too few; expected a whole number, 2 or more")
    chosen = tuple(sorted({0, 1, steps // 2} if cuts is None else set(cuts)))
    wrong = [cut for cut in chosen if type(cut) is not int or not 0 <= cut < steps]
    if wrong or not chosen:
        raise ConfigError(f"cuts={list(chosen)} cannot be; expected steps from 0 to {steps - 1}")
    return chosen


def _resume(
    make: MakeExperiment, undisturbed: RunDirectory, cut: int, path: str, settings: Mapping[str, Any]
) -> Divergence | None:
    """Goes on from the checkpoint of `cut` in a copy of the run; returns where it leaves the undisturbed one."""
    resumed = RunDirectory(path)
    _copy_until(undisturbed, resumed, cut)
    try:
        train(make(), path, settings)
    except TrainerError as error:
        return Divergence(cut, None, None, None, refusal=str(error))
    record = first_record_difference(undisturbed.files.read(undisturbed.metrics), resumed.files.read(resumed.metrics))
    later = sorted(step for step in {*undisturbed.committed_steps(), *resumed.committed_steps()} if step > cut)
    for step in later:
        tensor = _checkpoint_difference(undisturbed, resumed, step)
        if tensor:
            earlier = record is not None and record.step is not None and record.step < step
            return Divergence(cut, record.step if record and earlier else step, tensor, record)
    return Divergence(cut, record.step, None, record) if record else None


def _checkpoint_difference(undisturbed: RunDirectory, resumed: RunDirectory, step: int) -> TensorDifference | None:
    for directory, name in ((undisturbed, UNDISTURBED), (resumed, "resumed")):
        if step not in directory.committed_steps():
            return TensorDifference("any", f"is not there: the {name} run did not save step {step}", others=0)
    return first_tensor_difference(undisturbed.state_prefix(step), resumed.state_prefix(step))


def _copy_until(source: RunDirectory, target: RunDirectory, cut: int) -> None:
    """Copies what a kill would have left when the checkpoint of `cut` was the newest, records after it included."""
    others = {source.checkpoint(step) for step in source.committed_steps() if step != cut}
    # The lock is the other run's, and TensorFlow's own state file is made anew.
    skipped = {os.path.basename(path) for path in (*others, source.lock, source.state_file)}
    shutil.copytree(source.path, target.path, ignore=lambda _, names: skipped.intersection(names))


@contextlib.contextmanager
def _folder(run_dir: str | os.PathLike[str] | None) -> Iterator[str]:
    if run_dir is None:
        with tempfile.TemporaryDirectory(prefix="trainer-proof-") as folder:
            yield folder
        return
    path = os.fspath(run_dir)
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ConfigError(f"run_dir={path} is not an empty folder; expected one, or a path where one can be made")
    os.makedirs(path, exist_ok=True)
    yield path
