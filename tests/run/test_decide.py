"""What the records of a run decide: which steps are saved and kept, and when it ends."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest
from trainer.run.config import make_config
from trainer.run.decide import decisions_of
from trainer.timeline.schedule import Schedule

Train = Callable[..., trainer.Result]
Course = Callable[[str], dict[int, Any]]
StopAt = Callable[[int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Scripted(trainer.Experiment):
    """Its losses are written down: that of step k is the k-th, and what an evaluation at step s finds is the s-th."""

    train: tuple[float, ...] = (0.0,)
    validation: tuple[float, ...] = (0.0,)

    def model(self, seed: Any) -> tf.Module:
        model = tf.Module()
        model.step = tf.Variable(0.0)
        return model

    def optimizer(self) -> trainer.optim.SGD:
        return trainer.optim.SGD(1.0)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays({"x": np.zeros(8, np.float32)}, batch_size=1, shuffle=False)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {"validation": trainer.data.arrays({"x": np.zeros(1, np.float32)}, batch_size=1, shuffle=False)}

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        # Steps from 1, evaluations from 0: before a step the model has counted one less.
        values = tf.constant(self.train if training else (0.0, *self.validation))
        value = tf.gather(values, tf.minimum(tf.cast(model.step, tf.int32), len(values) - 1))
        # The gradient is -1 in each step.
        return trainer.Loss(per_example=batch["x"] + value - (model.step - tf.stop_gradient(model.step)))


def saves(commits: list[Manifest]) -> dict[int, list[str]]:
    return {manifest.step: list(manifest.reasons) for manifest in commits}


def ends(result: trainer.Result) -> list[tuple[str, int, str | None]]:
    """Kind, step and what closed each record."""
    return [(record.kind, record.step, record.closed_by) for record in result.records]


FALLING = (0.9, 0.5, 0.7, 0.4, 0.6, 0.3, 0.8, 0.8)


@pytest.mark.slow
def test_without_a_cadence_only_conditional_best_and_final_saves_are_made(
    train: Train, commits: list[Manifest]
) -> None:
    options = {"train_for": 8, "log_every": 1, "eval_every": 2, "save_every": "never"}
    experiment = Scripted(train=FALLING, validation=(0.0, 0.5, 0.0, 0.6, 0.0, 0.4, 0.0, 0.5))
    train(experiment, save_if="train/loss<0.45", **options)
    assert saves(commits) == {2: ["best"], 4: ["condition"], 6: ["best", "condition"], 8: ["final"]}
    commits.clear()
    train(experiment, folder="none", keep_best=0, save_if="train/loss<0.45,validation/loss<0.45", **options)
    assert saves(commits) == {6: ["condition"], 8: ["final"]}


@pytest.mark.slow
def test_several_monitors_each_keep_their_best_and_the_first_is_the_best(
    train: Train, commits: list[Manifest], manifests: Callable[..., dict[int, Manifest]], tmp_path: pathlib.Path
) -> None:
    experiment = Scripted(train=FALLING, validation=(0.0, 0.5, 0.0, 0.6, 0.0, 0.7, 0.0, 0.8))
    result = train(
        experiment,
        monitor="validation/loss,train/loss",
        train_for=8,
        log_every=1,
        eval_every=2,
        save_every="never",
        keep_last=1,
    )
    assert saves(commits)[6] == ["best"]
    assert list(manifests()) == [2, 6, 8]
    assert (result.monitor, result.best) == ("validation/loss", result.best_by["validation/loss"])
    told = {metric: (best.step, best.value, best.relation) for metric, best in result.best_by.items()}
    assert told == {"validation/loss": (2, 0.5, "exact"), "train/loss": (6, pytest.approx(0.3), "window")}
    assert result.last is not None
    assert (result.last.step, result.last.value, result.last.relation) == (8, pytest.approx(0.8), "exact")


@pytest.mark.slow
def test_an_early_stop_is_an_end_like_any_other_and_names_both_best_and_last(
    train: Train, commits: list[Manifest], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"train_for": 100, "log_every": 5, "eval_every": 2, "save_every": "never", "early_stop": "2evals"}
    experiment = Scripted(train=(0.5,), validation=(0.0, 0.5, 0.0, 0.4, 0.0, 0.6, 0.0, 0.4))
    result = train(experiment, progress="plain", **options)
    assert (result.reason, result.exit_code, result.step) == ("early stop", 0, 8)
    assert ends(result)[-3:] == [("eval", 6, None), ("eval", 8, None), ("train", 8, "end")]
    assert saves(commits) == {2: ["best"], 4: ["best"], 8: ["final"]}
    assert result.best is not None
    assert result.last is not None
    assert (result.best.step, result.last.step) == (4, 8)
    said = capsys.readouterr().out
    assert "early stop: validation/loss has not improved on 0.4 since step 4, for 2evals" in said
    assert "stop   early, when validation/loss has not improved for 2 evals" in said

    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = train(experiment, progress="plain", **options)
    assert (again.reason, again.exit_code, again.step) == ("nothing to do", 0, 8)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert "--early_stop=never" in capsys.readouterr().out
    # With more patience it goes on from where it was, and ends when that is over.
    longer = train(experiment, **{**options, "early_stop": "3evals"})
    assert (longer.reason, longer.step) == ("early stop", 10)
    assert train(experiment, **{**options, "early_stop": "never", "train_for": 13}).step == 13
    stops = [entry["reason"] for entry in read_journal(RunDirectory(tmp_path / "run")) if entry["event"] == "stop"]
    assert stops == ["early stop", "nothing to do", "early stop", "target reached"]


@pytest.mark.slow
def test_windows_can_stop_a_run_early_and_then_it_is_evaluated_once_more(train: Train, commits: list[Manifest]) -> None:
    options = {"train_for": 100, "log_every": 2, "eval_every": 50, "save_every": "never", "monitor": "train/loss"}
    result = train(Scripted(train=(0.9, 0.9, 0.5, 0.5, 0.6)), early_stop="4steps", keep_best=0, **options)
    assert (result.reason, result.step) == ("early stop", 8)
    assert ends(result) == [*(("train", step, None) for step in (2, 4, 6, 8)), ("eval", 8, None)]
    assert saves(commits) == {8: ["final"]}


@pytest.mark.slow
def test_under_flush_the_record_that_a_save_makes_is_decided_on_as_well(train: Train, commits: list[Manifest]) -> None:
    options = {"train_for": 9, "log_every": 4, "eval_every": 3, "save_every": "never", "reconcile": "flush"}
    experiment = Scripted(train=(0.9, 0.9, 0.1, 0.9), validation=(0.0, 0.0, 0.5, 0.0, 0.0, 0.6))
    result = train(experiment, save_if="mean1(train/loss)<0.65", **options)
    # The evaluation at 3 is the best so far: its save closes (0, 3], whose mean then is what the condition asks for.
    assert saves(commits)[3] == ["best", "condition"]
    assert ends(result)[:2] == [("eval", 3, None), ("train", 3, "save")]


def without_closed_windows(course: dict[int, Any]) -> dict[int, Any]:
    """Of a checkpoint that was completed later the file may hold a window that its manifest says is closed."""
    return {
        step: {**said, "files": said["files"] if said["open_window"]["steps"] else None}
        for step, said in course.items()
    }


DECIDING = {
    "conditions": {
        "save_if": "mean3(train/loss)<=ema0.7(train/loss),validation/loss<best(validation/loss)",
        "monitor": "validation/loss,train/loss",
        "keep_best": 2,
        "train_for": 10,
    },
    "early stop": {"early_stop": "2evals", "min_delta": 0.05, "train_for": 50, "monitor": "validation/loss"},
    "early stop by windows": {
        "early_stop": "5steps",
        "early_stop_warmup": "3steps",
        "early_stop_baseline": 0.6,
        "train_for": 50,
        "monitor": "train/loss,validation/loss",
        "keep_best": 3,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "reconcile"),
    [
        ("conditions", "carry"),
        ("conditions", "flush"),
        ("early stop", "align"),
        ("early stop by windows", "carry"),
    ],
)
def test_a_run_that_is_stopped_at_every_step_decides_as_one_that_never_was(
    what: str, reconcile: str, train: Train, course: Course, stop_at: StopAt, tmp_path: pathlib.Path
) -> None:
    losses = np.random.default_rng(5).choice([0.25, 0.4, 0.5, 0.6, 0.75], [2, 60]).tolist()
    experiment = Scripted(train=tuple(losses[0]), validation=tuple(losses[1]))
    options = {"reconcile": reconcile, "log_every": 2, "eval_every": 3, "save_every": "5steps", "keep_last": 2}
    options |= DECIDING[what]
    undisturbed = train(experiment, folder="undisturbed", **options)
    reason = "early stop" if "early_stop" in options else "target reached"
    assert undisturbed.reason == reason
    result = undisturbed
    for step in itertools.count(1):
        # Where an evaluation is due the signal cuts it short, and the next attempt makes up for it.
        result = train(experiment, folder="stopped", **options, **stop_at(step))
        if result.exit_code == 0:
            break
        assert (result.exit_code, result.step) == (75, step)
    assert result.step == undisturbed.step > 7
    logs = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in ("undisturbed", "stopped")]
    assert logs[0] == logs[1]
    assert without_closed_windows(course("stopped")) == without_closed_windows(course("undisturbed"))
    assert [best.step for best in result.best_by.values()] == [best.step for best in undisturbed.best_by.values()]


@pytest.mark.slow
def test_the_journal_tells_what_was_decided_and_where(train: Train, tmp_path: pathlib.Path) -> None:
    experiment = Scripted(train=(0.5,), validation=(0.5, 0.4, 0.6, 0.7))
    train(experiment, train_for=50, log_every=1, eval_every=1, save_if="validation/loss<0.45", early_stop="2evals")
    journal = read_journal(RunDirectory(tmp_path / "run"))
    told = [
        (line["step"], line["best"], line["condition"], line["stop"]) for line in journal if line["event"] == "decide"
    ]
    best = ["validation/loss"]
    assert told == [(1, best, False, False), (2, best, True, False), (4, [], False, True)]


@pytest.mark.slow
def test_a_metric_that_only_the_records_know_is_refused_at_the_first_of_them(train: Train) -> None:
    class Summarizing(Scripted):
        def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
            return {"root": means["loss"] ** 0.5}

    options = {"train_for": 4, "eval_every": 2, "log_every": 2}
    assert train(Summarizing(), monitor="validation/root", **options).best is not None
    for flags in ({"monitor": "validation/rot"}, {"save_if": "validation/rot<1"}):
        with pytest.raises(ConfigError, match=r"validation/rot is in no record; expected one of .*validation/root"):
            train(Summarizing(), folder="other", **flags, **options)


def decided(splits: tuple[str, ...] = ("validation",), **options: Any) -> Any:
    config = make_config({"train_for": 1000, "log_every": 100, "eval_every": 200, **options}, {})
    schedule = Schedule(
        train_for=str(config.train_for),
        log_every=config.log_every,
        eval_every=config.eval_every if splits else "never",
        reconcile=config.reconcile,
        save_every=config.save_every,
        epoch_examples=1500,
        batch_size=64,
        clock_in_log=config.clock_in_log,
    )
    return decisions_of(config, schedule, splits)


BOTH = "train/loss<0.1,validation/loss<0.15"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_if": BOTH, "eval_every": "150steps", "train_for": "299steps"}, "none does; have them meet"),
        ({"save_if": BOTH, "eval_every": "1epoch", "log_every": "7steps", "train_for": "3epochs"}, "none does"),
        ({"save_if": BOTH, "eval_every": "1000steps"}, "none does"),  # only at the end, where there is a save anyway
        ({"save_if": BOTH, "log_every": "never"}, "save_if: train/loss is no metric.*log_every=never"),
        ({"save_if": BOTH, "eval_every": "never"}, "save_if: validation/loss is no metric.*eval_every=never"),
        ({"save_if": "test/loss<1"}, "save_if: test/loss is no metric of this run"),
        ({"monitor": "train/loss", "log_every": "never"}, "monitor=train/loss.*log_every=never"),
        (
            {"early_stop": "5evals", "log_every": "never", "eval_every": "never"},
            "early_stop on train/loss is no metric",
        ),
        ({"early_stop": "90s"}, "early_stop: '90s' counts seconds"),
        ({"early_stop": "5"}, None),
        ({"early_stop": "5evals", "early_stop_warmup": "2h"}, "early_stop_warmup=2h counts seconds"),
        ({"early_stop": "5evals", "early_stop_baseline": float("nan")}, "early_stop_baseline=nan"),
        ({"early_stop": "5evals", "min_delta": -0.5}, "min_delta=-0.5 is too small"),
        ({"mode": "avg"}, "mode=avg: 'avg' is no mode"),
        ({"monitor": "validation/loss", "mode": "min,max"}, "2 modes for 1"),
        ({"min_delta": 0.1}, "min_delta=0.1 is set, but no early_stop"),
        ({"early_stop_baseline": 0}, "early_stop_baseline=0.0 is set, but no early_stop"),
        # Who says never, as to go on after an early stop, may leave the rest as it was.
        ({"early_stop_warmup": "2epochs", "min_delta": 0.5, "early_stop": "never "}, None),
        ({"save_if": BOTH}, None),
        ({"save_if": BOTH, "eval_every": "150steps"}, None),
        ({"save_if": BOTH, "eval_every": "1epoch", "log_every": "1epoch"}, None),
        ({"save_if": BOTH, "eval_every": "90s", "clock_in_log": True}, None),
        ({"save_if": BOTH, "log_every": "never", "reconcile": "flush", "save_every": "200steps"}, None),
        ({"save_if": "validation/loss<0.15,validation/auc>1", "eval_every": "150steps"}, None),
    ],
)
def test_what_can_never_be_decided_is_refused_before_anything_is_built(
    options: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert decided(**options)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        decided(**options)
    assert "\n" not in str(caught.value)


def test_without_a_split_the_windows_are_what_is_monitored() -> None:
    assert str(decided(()).best.monitor) == "train/loss, minimized"


def test_the_best_of_a_monitored_metric_is_what_its_mode_says() -> None:
    for mode, expected in (("min", "minimized"), ("max", "maximized")):
        found = decided(monitor="validation/loss", mode=mode, save_if="validation/loss>best(validation/loss)")
        assert str(found.best.monitor) == f"validation/loss, {expected}"
        record = trainer.Record("eval", 1, 64, None, {"loss": 1.0}, split="validation", weights="raw")
        found.fold(record)
        assert found.at(1).condition == (mode == "max")


def test_what_suits_another_metric_is_not_suggested_for_the_users() -> None:
    suggested = {"monitor": "validation/score", "mode": "max", "early_stop": "5evals", "early_stop_baseline": 0.8}
    config = make_config({"train_for": 10, "monitor": "validation/loss"}, suggested)
    assert (config.mode, config.early_stop, config.early_stop_baseline) == ("auto", "5evals", None)


def test_with_evaluations_off_what_the_experiment_would_look_at_is_dropped() -> None:
    suggested = {
        "monitor": "validation/accuracy",
        "mode": "max",
        "save_if": "validation/loss<1",
        "early_stop": "5evals",
    }
    config = make_config({"train_for": 10, "eval_every": "never"}, suggested)
    assert (config.monitor, config.mode, config.save_if, config.early_stop) == (None, "auto", None, "never")
    kept = make_config({"train_for": 10, "eval_every": "never", "early_stop": "100steps"}, suggested)
    assert (kept.monitor, kept.early_stop) == (None, "100steps")
