"""Which checkpoint is exported, and the metric that speaks for it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from trainer.checkpoint import folder
from trainer.decide.measured import MeasuredMetric
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, append_evaluation, checkpoint_identity
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.trained.choice import choose_by_evaluations, choose_by_log, while_it_changes


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    """A run with no checkpoint yet."""
    directory = RunDirectory(tmp_path / "run")
    MetricLog(directory).append([])
    directory.files.make_directory(directory.checkpoints)
    return directory


def save(
    directory: RunDirectory,
    step: int,
    *,
    best: Mapping[str, list[Any]] | None = None,
    train: Any = None,
    run: str | None = None,
    **splits: Any,
) -> None:
    folder.begin(directory, step)
    pathlib.Path(directory.state_prefix(step) + ".index").write_bytes(b"index of %d" % step)
    manifest = Manifest(
        step=step,
        examples=step * 4,
        epoch=None,
        run=run,
        reasons=("interval",),
        attempt=1,
        parent=None,
        files=folder.describe_files(directory, step),
        log=MetricLog(directory).position,
        train=train,
        open_window={"from": step, "steps": 0, "metrics": {}},
        eval=splits,
        control={} if best is None else {"best": best},
        data={},
    )
    folder.commit(directory, manifest)


def evaluate(
    directory: RunDirectory, step: int, split: str = "test", *, fingerprint: str = "f", of: str = "", **metrics: Any
) -> None:
    identity = of or checkpoint_identity(Manifest.load(directory, step))
    record = Record("eval", step, step * 4, None, metrics, split=split, weights="raw")
    append_evaluation(directory, Evaluation(record, identity, fingerprint))


def exact(step: int, **metrics: Any) -> dict[str, Any]:
    return {"relation": "exact", "step": step, "age": 0, "weights": "raw", "metrics": metrics}


def earlier(step: int, of: int, **metrics: Any) -> dict[str, Any]:
    return {**exact(of, **metrics), "relation": "earlier", "age": step - of}


def test_the_best_of_the_log_is_the_first_of_the_newest_ranking_by_the_first_monitor(directory: RunDirectory) -> None:
    ranking = {"validation/loss": [{"value": 0.5, "step": 10}], "train/loss": [{"value": 0.1, "step": 20}]}
    save(directory, 10, validation=exact(10, loss=0.5))
    save(directory, 20, best=ranking, validation=exact(20, loss=0.6))
    choice = choose_by_log(directory, "best")
    assert choice.manifest.step == 10
    assert choice.metric == MeasuredMetric("validation/loss", 0.5, "exact", 10)


@pytest.mark.parametrize("which", ["latest", "30"])
def test_another_one_has_what_its_manifest_says_of_the_monitored_metric(which: str, directory: RunDirectory) -> None:
    save(directory, 30, best={"validation/loss": []}, validation=earlier(30, 20, loss=0.25, accuracy=1.0))
    assert choose_by_log(directory, which).metric == MeasuredMetric("validation/loss", 0.25, "earlier", 20)


def test_a_window_says_that_it_is_one(directory: RunDirectory) -> None:
    train = {"relation": "window", "window": [20, 27], "lag": 3, "metrics": {"loss": 0.125}}
    save(directory, 30, best={"train/loss": []}, train=train)
    assert choose_by_log(directory, "latest").metric == MeasuredMetric("train/loss", 0.125, "window", 27)


@pytest.mark.parametrize("best", [None, {}, {"validation/loss": []}, {"train/loss": []}])
def test_without_a_metric_there_is_none(best: Any, directory: RunDirectory) -> None:
    save(directory, 10, best=best)
    assert choose_by_log(directory, "latest").metric is None


def test_the_best_evaluated_one_is_strictly_better_than_the_ones_before_it(directory: RunDirectory) -> None:
    for step, loss in ((30, 0.25), (10, 0.5), (20, 0.25), (40, None)):
        save(directory, step, best={"validation/loss": []})
        evaluate(directory, step, loss=loss)
    choice = choose_by_evaluations(directory, None, "auto")
    assert choice.manifest.step == choice.selected.step == 20
    assert choice.metric == MeasuredMetric("test/loss", 0.25, "exact", 20)
    assert choice.why == "best by test/loss, minimized, of 4 evaluated checkpoints"


@pytest.mark.parametrize(
    ("monitor", "mode", "step"),
    [
        ("test/accuracy", "auto", 20),
        ("test/accuracy", "min", 10),
        ("test/loss", "auto", 10),
        ("test/loss", "max", 20),
    ],
)
def test_the_metric_and_its_direction_can_be_chosen(
    monitor: str, mode: str, step: int, directory: RunDirectory
) -> None:
    for number in (10, 20):
        save(directory, number)
        evaluate(directory, number, loss=number / 100, accuracy=number / 50)
    assert choose_by_evaluations(directory, monitor, mode).manifest.step == step


def test_the_runs_own_monitor_comes_first_where_it_was_evaluated(directory: RunDirectory) -> None:
    for step in (10, 20):
        save(directory, step, best={"validation/accuracy": [], "validation/loss": []})
        evaluate(directory, step, "validation", loss=step, accuracy=step)
        evaluate(directory, step, "test", loss=step, accuracy=step)
    choice = choose_by_evaluations(directory, None, "auto")
    assert choice.metric == MeasuredMetric("validation/accuracy", 20, "exact", 20)


def test_of_several_splits_none_is_guessed(directory: RunDirectory) -> None:
    save(directory, 10, best={"train/loss": []})
    evaluate(directory, 10, "a", loss=1.0)
    evaluate(directory, 10, "b", loss=1.0, f1=0.5)
    with pytest.raises(ConfigError, match="expected --monitor, one of a/loss, b/f1, b/loss"):
        choose_by_evaluations(directory, None, "auto")
    with pytest.raises(ConfigError, match="monitor=b/f2 was not evaluated; expected one of a/loss, b/f1, b/loss"):
        choose_by_evaluations(directory, "b/f2", "auto")


def test_only_what_is_there_and_was_evaluated_counts(directory: RunDirectory) -> None:
    for step in (10, 20, 30, 40):
        save(directory, step)
    evaluate(directory, 10, loss=0.1)
    evaluate(directory, 20, loss=0.2, of="ffffffff")  # Another checkpoint of that step, which is gone.
    evaluate(directory, 30, loss=0.3)
    evaluate(directory, 40, loss=0.4)
    pathlib.Path(directory.manifest(10)).unlink()
    assert choose_by_evaluations(directory, None, "auto").metric == MeasuredMetric("test/loss", 0.3, "exact", 30)


def test_values_on_other_data_are_not_compared(directory: RunDirectory) -> None:
    for step, fingerprint, loss in ((10, "old", 0.1), (20, "new", 0.5), (30, "new", 0.4)):
        save(directory, step)
        evaluate(directory, step, loss=loss, fingerprint=fingerprint)
    assert choose_by_evaluations(directory, None, "auto").manifest.step == 30
    evaluate(directory, 10, loss=0.3, fingerprint="new")
    assert choose_by_evaluations(directory, None, "auto").metric == MeasuredMetric("test/loss", 0.3, "exact", 10)


def test_of_a_split_that_the_run_evaluates_its_own_data_counts_and_the_rest_is_told(directory: RunDirectory) -> None:
    facts = {"validation": {"fingerprint": "own"}, "train": {"fingerprint": "t"}}
    info = RunInfo("a:B", {}, 1, "none", False, {}, {}, {}, facts, None, False, run_id="r")
    pathlib.Path(directory.run_info).write_bytes(info.encode())
    for step, loss in ((10, 0.5), (20, 0.4)):
        save(directory, step, run="r", best={"validation/loss": []})
        evaluate(directory, step, "validation", loss=loss, fingerprint="own")
    evaluate(directory, 10, "validation", loss=0.1, fingerprint="other")
    evaluate(directory, 10, "test", loss=0.1, fingerprint="older")
    evaluate(directory, 10, "test", loss=0.1, fingerprint="newer")
    choice = choose_by_evaluations(directory, None, "auto")
    assert choice.metric == MeasuredMetric("validation/loss", 0.4, "exact", 20)
    assert choice.why == (
        "best by validation/loss, minimized, of 2 evaluated checkpoints, 1 evaluation on other data left out"
    )


def test_where_only_other_data_was_evaluated_there_is_nothing_to_compare(directory: RunDirectory) -> None:
    facts = {"validation": {"fingerprint": "own"}}
    info = RunInfo("a:B", {}, 1, "none", False, {}, {}, {}, facts, None, False, run_id="r")
    pathlib.Path(directory.run_info).write_bytes(info.encode())
    save(directory, 10, run="r")
    evaluate(directory, 10, "validation", loss=0.1, fingerprint="other")
    with pytest.raises(Unusable, match="on the run's data, only 1 evaluation on other data"):
        choose_by_evaluations(directory, None, "auto")


@pytest.mark.parametrize(
    ("which", "why"), [("best", "best by the log"), ("latest", "the latest"), ("20", "as asked for")]
)
def test_why_it_is_this_one_is_told(which: str, why: str, directory: RunDirectory) -> None:
    for step in (10, 20):
        save(directory, step, best={"validation/loss": [{"value": 0.5, "step": 10}]})
    assert choose_by_log(directory, which).why == why


def test_a_garbled_ranking_is_in_nobodys_way_who_does_not_ask_for_the_best(directory: RunDirectory) -> None:
    save(directory, 10, best={"validation/loss": [{}]})
    assert choose_by_log(directory, "latest").metric is None
    with pytest.raises(Unusable, match=r"control\.best"):
        choose_by_log(directory, "best")


def test_a_checkpoint_of_another_run_is_none_of_this_one(directory: RunDirectory) -> None:
    save(directory, 10, run="other")
    save(directory, 20, run="this")
    evaluate(directory, 10, loss=0.1)
    evaluate(directory, 20, loss=0.2)
    assert choose_by_evaluations(directory, None, "auto").manifest.step == 20


def test_without_evaluations_it_is_said_how_to_make_some(directory: RunDirectory) -> None:
    save(directory, 10)
    with pytest.raises(Unusable, match=r"python -m trainer\.evaluate"):
        choose_by_evaluations(directory, None, "auto")
    evaluate(directory, 10, loss=None)
    with pytest.raises(Unusable, match="test/loss is finite in no evaluation"):
        choose_by_evaluations(directory, None, "auto")


def test_it_is_chosen_again_while_checkpoints_come_and_go(directory: RunDirectory) -> None:
    save(directory, 10)
    tries = []

    def act() -> str:
        tries.append(len(tries))
        if len(tries) < 3:
            save(directory, 10 + len(tries))
            raise Unusable("it was removed")
        return "done"

    assert while_it_changes(directory, act) == "done"
    assert len(tries) == 3


def test_a_failure_that_nothing_explains_is_not_tried_again(directory: RunDirectory) -> None:
    save(directory, 10)
    tries = []

    def act() -> None:
        tries.append(len(tries))
        raise Unusable("it is damaged")

    with pytest.raises(Unusable, match="it is damaged"):
        while_it_changes(directory, act)
    assert len(tries) == 1


def test_it_does_not_go_on_for_ever(directory: RunDirectory) -> None:
    steps = iter(range(1, 1000))

    def act() -> None:
        save(directory, next(steps))
        raise Unusable("it was removed")

    with pytest.raises(Unusable):
        while_it_changes(directory, act)
    assert next(steps) < 20
