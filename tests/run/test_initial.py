"""A run that takes its first weights from another checkpoint."""

from __future__ import annotations

import pathlib
import re
import shutil
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.run_info import RunInfo
from trainer.process.signals import StopRequest
from trainer.run.config import Config
from trainer.run.initial import find_source

pytestmark = pytest.mark.slow

Train = Callable[..., trainer.Result]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, linear: Any) -> pathlib.Path:
    """A run of ten steps, with checkpoints at 5 and 10."""
    path = tmp_path_factory.mktemp("source") / "run"
    options = {"progress": "never", "jit": "none", "train_for": "10steps", "save_every": "5steps"}
    trainer.Trainer(linear(), run_dir=str(path), **options).run()
    return path


def kernel(prefix: pathlib.Path | str) -> np.ndarray:
    return tf.train.load_checkpoint(str(prefix)).get_tensor("model/kernel/.ATTRIBUTES/VARIABLE_VALUE")


def saved(run_dir: pathlib.Path, step: int) -> str:
    return str(run_dir / "checkpoints" / f"step-{step:010d}" / "state")


def plan_of(run_dir: pathlib.Path) -> list[str]:
    lines: list[str] = next(e for e in reversed(read_journal(RunDirectory(run_dir))) if e["event"] == "plan")["lines"]
    return lines


def stopped_at_once() -> dict[str, Any]:
    """Options of a run that a signal stops before its first step, and that therefore saves step 0."""
    request = StopRequest()
    request.note(signal.SIGTERM, None)
    return {"stop_request": request}


@pytest.mark.parametrize(("text", "step"), [("{}", 10), ("{}@5", 5)])
def test_a_new_run_begins_with_the_weights_of_the_checkpoint_that_is_named(
    linear: Any, train: Train, source: pathlib.Path, tmp_path: pathlib.Path, text: str, step: int
) -> None:
    named = text.format(source)
    train(linear(), train_for="20steps", init_from=named, **stopped_at_once())
    assert np.array_equal(kernel(saved(tmp_path / "run", 0)), kernel(saved(source, step)))
    assert f"init   {source} step {step}: 2 variables loaded" in plan_of(tmp_path / "run")
    info = RunInfo.load(RunDirectory(tmp_path / "run"))
    assert info is not None
    assert info.init_from is not None
    assert (info.init_from["step"], info.init_from["prefix"]) == (step, saved(source, step))


def test_the_weights_before_a_plateau_are_taken_and_the_choice_is_explained(
    linear: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    options = {"log_every": "2steps", "save_every": "2steps", "keep_last": 99, "keep_best": 0}
    source = tmp_path / "source"
    train(linear(), folder="source", train_for="60steps", **options)
    named = f"{source}@before-plateau"
    train(linear(), train_for="20steps", init_from=named, **stopped_at_once())
    info = RunInfo.load(RunDirectory(tmp_path / "run"))
    assert info is not None
    assert info.init_from is not None
    step, why = info.init_from["step"], info.init_from["why"]
    assert 10 <= step < 60
    assert re.fullmatch(
        rf"the smoothed train loss fell from \S+ at step 10 to \S+ at step \d+; .* was reached at step (\d+); "
        rf"step {step} is the newest checkpoint before that",
        why,
    )
    assert np.array_equal(kernel(saved(tmp_path / "run", 0)), kernel(saved(source, step)))
    told = plan_of(tmp_path / "run")
    first = told.index(f"init   {source} step {step}: 2 variables loaded")
    assert told[first + 1] == f"       {why}"


def test_a_run_with_a_checkpoint_of_its_own_resumes_with_the_same_command(
    linear: Any, train: Train, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    options = {"init_from": f"{source}@5", "save_every": "3steps"}
    train(linear(), train_for="6steps", **options)
    train(linear(), train_for="9steps", **options)
    assert not any(line.startswith("init") for line in plan_of(tmp_path / "run"))
    train(linear(), folder="undisturbed", train_for="9steps", **options)
    assert np.array_equal(kernel(saved(tmp_path / "run", 9)), kernel(saved(tmp_path / "undisturbed", 9)))


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_very_same_weights(
    linear: Any, train: Train, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(source, mine)
    train(linear(), train_for="5steps", init_from=str(mine), **stopped_at_once())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    # Meanwhile the source has gone on: its newest checkpoint is another one, and not the one that this run is about.
    train(linear(), folder="mine", train_for="15steps", save_every="5steps")
    train(linear(), train_for="5steps", init_from=str(mine), **stopped_at_once())
    assert np.array_equal(kernel(saved(tmp_path / "run", 0)), kernel(saved(source, 10)))


def test_a_source_that_has_become_another_is_refused_where_the_run_has_no_checkpoint(
    linear: Any, train: Train, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    prefix = tmp_path / "weights"
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(f"{saved(source, 10)}{suffix}", f"{prefix}{suffix}")
    train(linear(), train_for="5steps", init_from=str(prefix), **stopped_at_once())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(f"{saved(source, 5)}{suffix}", f"{prefix}{suffix}")
    with pytest.raises(Unusable, match="which are gone or others now"):
        train(linear(), train_for="5steps", init_from=str(prefix))


def test_a_full_match_can_be_demanded_and_a_refusal_makes_no_run(
    linear: Any, train: Train, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    class Scaled(linear):
        def model(self, seed: Any) -> Any:
            model = super().model(seed)
            model.scale = tf.Variable(1.0)
            return model

    with pytest.raises(ConfigError, match="missing 1: scale"):
        train(Scaled(), train_for="5steps", init_from=str(source), init_from_strict=True)
    assert not (tmp_path / "run").exists()
    train(Scaled(), train_for="5steps", init_from=str(source))
    assert "       missing 1: scale" in plan_of(tmp_path / "run")


def test_a_dry_run_says_what_would_be_loaded_and_makes_nothing(
    linear: Any, train: Train, source: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(linear(), train_for="5steps", init_from=f"{source}@best", dry_run=True)
    assert "2 variables loaded" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_run_that_began_without_another_checkpoint_does_not_take_one_later(
    linear: Any, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = RunDirectory(shutil.copytree(source, tmp_path / "run"))
    known = RunInfo.load(directory)
    asked = Config(init_from=str(source))
    # With a checkpoint of its own it resumes.
    assert find_source(asked, known, directory) is None
    shutil.rmtree(directory.checkpoints)
    with pytest.raises(ConfigError, match="began without it"):
        find_source(asked, known, directory)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nowhere", Unusable, "there is nothing at nowhere"),
        ("{}@7", Unusable, "no checkpoint of step 7; there are the steps 5, 10"),
        ("{}@newest", ConfigError, "'newest' names no checkpoint"),
    ],
)
def test_a_source_that_is_not_there_is_refused_before_anything_is_made(
    source: pathlib.Path, tmp_path: pathlib.Path, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_source(Config(init_from=text.format(source)), None, RunDirectory(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
