"""The audit of runs that nobody has touched: of every sort there is it has nothing to say."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from audited import Loose, Slope, train

import trainer
from trainer.checkpoint.rewind import rewind
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.process.signals import StopRequest
from trainer.proof.audit.engine import Audit, audit
from trainer.run.evaluate import Evaluator
from trainer.run.pace import Pace
from trainer.views.tensorboard import rewind_events

TESTS = pathlib.Path(__file__).parents[1]
BASE = {"train_for": "40steps", "log_every": 7, "eval_every": "10steps", "save_every": "8steps"}


def outcomes(found: Audit) -> dict[str, bool | None]:
    return {outcome.name: outcome.ok for outcome in found.outcomes}


def check(folder: pathlib.Path, *not_checked: str) -> Audit:
    """Audits a run of which everything holds, and everything is checked but what is named."""
    found = audit(str(folder))
    told = {outcome.name: outcome.failures for outcome in found.outcomes if outcome.ok is False}
    assert not told
    assert {name for name, ok in outcomes(found).items() if ok is None} == {"evaluations", *not_checked}
    return found


def signalled_and_killed(folder: pathlib.Path) -> None:
    train(folder, eval_at_start=True, stop=13, **BASE)
    check(folder)
    train(folder, eval_at_start=True, kill=29, **BASE)
    check(folder)
    train(folder, **BASE)


def killed_before_its_first_checkpoint(folder: pathlib.Path) -> None:
    train(folder, kill=7, **BASE)
    check(folder, "files", "tensors")
    train(folder, async_save=False, verify_saves="all", keep_last=1, keep_best=0, **BASE)


def signal_within_an_evaluation(folder: pathlib.Path) -> None:
    """Trains to step 20, which is then to be evaluated by whoever goes on."""
    run = Evaluator.run

    def cut(evaluator: Evaluator, pace: Pace, interrupted: Callable[[], bool]) -> Any:
        return None if interrupted() else run(evaluator, pace, interrupted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "run", cut)
        train(folder, stop=20, **BASE)


def signalled_within_an_evaluation(folder: pathlib.Path) -> None:
    signal_within_an_evaluation(folder)
    check(folder)
    # With other flags from there on, so that the two legs meet where something was left to do.
    train(folder, **{**BASE, "log_every": 5})


def with_flushes(folder: pathlib.Path) -> None:
    train(folder, kill=21, reconcile="flush", ema=0.9, **BASE)
    train(folder, reconcile="flush", ema=0.9, **BASE)


def aligned(folder: pathlib.Path) -> None:
    train(folder, stop=9, reconcile="align", **BASE)
    check(folder)
    train(folder, reconcile="align", **BASE)


def with_conditions_and_an_early_stop(folder: pathlib.Path) -> None:
    options = {
        **BASE,
        "log_every": 5,
        "save_if": "mean2(train/loss)<5,validation/loss<best(validation/loss)",
        "early_stop": "2evals",
        "min_delta": 0.5,
        "train_for": "200steps",
    }
    train(folder, **options)
    check(folder)
    assert b"early stop" in (folder / "journal.jsonl").read_bytes()
    train(folder, **{**options, "early_stop": "4evals"})


def with_two_monitors(folder: pathlib.Path) -> None:
    experiment = Slope(others=True)
    options = {"keep_best": 2, "monitor": "validation/loss,train/absolute", "keep_every": "16steps", **BASE}
    train(folder, experiment, stop=23, **options)
    check(folder)
    train(folder, experiment, monitor="other/loss", **{**BASE, "train_for": "60steps"})


def of_a_stream_that_repeats(folder: pathlib.Path) -> None:
    experiment = Slope(stream=True, examples=18)
    train(folder, experiment, stop=13, **BASE)
    check(folder)
    train(folder, experiment, **BASE)


def to_the_end_of_a_stream(folder: pathlib.Path) -> None:
    train(folder, Slope(stream=True, examples=90), on_data_end="stop", **BASE)
    assert b"data ended" in (folder / "journal.jsonl").read_bytes()


def with_short_batches_and_epochs(folder: pathlib.Path) -> None:
    options = {"train_for": "7epochs", "log_every": "1/3epoch", "eval_every": "1epoch", "save_every": "1/5run"}
    train(folder, Slope(last="short", examples=18), **options)


def with_virtual_epochs_and_no_evaluation(folder: pathlib.Path) -> None:
    options = {"train_for": "3epochs", "log_every": "1epoch", "eval_every": "never", "save_every": "1/2epoch"}
    train(folder, epoch_examples=33, **options)


def with_other_flags_later(folder: pathlib.Path) -> None:
    train(folder, **{**BASE, "log_every": "never"})
    check(folder, "learning_rate")
    train(folder, stop=47, **{**BASE, "train_for": "60steps", "log_every": 9, "eval_every": "4steps"})
    train(folder, **{**BASE, "train_for": "60steps", "log_every": "never", "save_every": "never", "reconcile": "flush"})


def with_segments(folder: pathlib.Path) -> None:
    train(folder, stop=13, **BASE)
    train(folder, Slope(rate=0.02), allow_change="parameters", kill=15, **BASE)
    # It has begun and is in no manifest: what comes after step 13 is not known yet.
    check(folder)
    train(folder, Slope(rate=0.02, examples=26, batch_size=5), allow_change="data,parameters", seed=17, **BASE)


def with_a_parameter_that_is_free(folder: pathlib.Path) -> None:
    train(folder, Loose(), stop=13, **BASE)
    check(folder)
    train(folder, Loose(rate=0.02), **BASE)


def with_retention_of_every_kind(folder: pathlib.Path) -> None:
    options = {**BASE, "keep_every": "16steps", "train_for": "60steps"}
    train(folder, stop=13, **{**options, "keep_last": 2, "keep_best": 0})
    check(folder)
    train(folder, kill=30, **{**options, "keep_last": 1, "keep_best": 2})
    check(folder)
    train(folder, stop=45, **{**options, "keep_last": 3, "keep_every": "1/4run"})
    check(folder)
    # Somebody makes room.
    directory = RunDirectory(folder)
    shutil.rmtree(directory.checkpoint(directory.committed_steps()[1]))
    train(folder, **{**options, "keep_last": 3})
    check(folder)
    train(folder, **{**options, "keep_last": 1})  # Nothing to do.


def rewound(folder: pathlib.Path) -> None:
    train(folder, keep_last=9, **BASE)
    directory = RunDirectory(folder)
    _, manifest = rewind(directory, 24)
    position = manifest.control.get("events")
    rewind_events(folder / "events", 24, position=position, earlier=lambda: read_records(directory))
    check(folder)
    train(folder, **{**BASE, "log_every": 5})


SORTS = [
    signalled_and_killed,
    killed_before_its_first_checkpoint,
    signalled_within_an_evaluation,
    with_flushes,
    aligned,
    with_conditions_and_an_early_stop,
    with_two_monitors,
    of_a_stream_that_repeats,
    to_the_end_of_a_stream,
    with_short_batches_and_epochs,
    with_virtual_epochs_and_no_evaluation,
    with_other_flags_later,
    with_segments,
    with_a_parameter_that_is_free,
    with_retention_of_every_kind,
    rewound,
]


@pytest.mark.slow
@pytest.mark.parametrize("sort", SORTS, ids=lambda sort: sort.__name__)
def test_a_run_that_nobody_has_touched(sort: Callable[[pathlib.Path], None], tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    sort(folder)
    check(folder, *(("learning_rate",) if sort is with_a_parameter_that_is_free else ()))


@pytest.mark.slow
def test_an_evaluation_made_up_for_with_flags_that_decide_otherwise_is_not_checked_and_said(
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "run"
    signal_within_an_evaluation(folder)
    # Killed soon, it is of no step; the checkpoint has its decisions.
    train(folder, kill=20, monitor="train/loss", save_if="validation/loss<9", **BASE)
    found = check(folder, "grids", "decisions")
    [grids] = [outcome for outcome in found.outcomes if outcome.name == "grids"]
    assert grids.detail == "what a signal cut short at step 20 was made up for with flags that decide otherwise"


@pytest.mark.slow
def test_a_clock_in_the_log_is_not_checked_and_said(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    train(folder, **{**BASE, "train_for": "1h,20steps"})
    check(folder, "grids")
    [grids] = [outcome for outcome in audit(str(folder)).outcomes if outcome.name == "grids"]
    assert grids.detail == "train_for=3600s,20steps has a clock decide what is in the log"


@pytest.mark.parametrize("name", ["format-1"])
def test_a_run_of_every_format_there_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(TESTS / "golden" / name, "learning_rate")
    monkeypatch.syspath_prepend(str(TESTS / "golden"))
    [rates] = [outcome for outcome in audit(str(TESTS / "golden" / name)).outcomes if outcome.name == "learning_rate"]
    assert rates.detail == "the run is of a version that did not note when parameters changed"


@pytest.mark.slow
def test_a_loop_of_ones_own(tmp_path: pathlib.Path) -> None:
    parts = importlib.util.spec_from_file_location("parts_alone", TESTS / "parts_alone.py")
    assert parts
    assert parts.loader
    module = importlib.util.module_from_spec(parts)
    parts.loader.exec_module(module)
    module.main(str(tmp_path / "run"))
    check(tmp_path / "run", "identity", "grids", "decisions", "learning_rate", "journal", "tensorboard")


@pytest.mark.slow
def test_a_run_that_is_being_written(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    request = StopRequest()
    options = {**BASE, "train_for": "1e9steps", "save_every": "40steps", "keep_last": 1, "log_every": 10}
    run = trainer.Trainer(Slope(), run_dir=str(folder), progress="never", jit="none", stop_request=request, **options)
    writer = threading.Thread(target=run.run)
    writer.start()
    try:
        while not RunDirectory(folder).committed_steps():
            time.sleep(0.01)
        for _ in range(10):
            check(folder)
    finally:
        request.note(signal.SIGTERM, None)
        writer.join()
    check(folder)
