"""The decisions about a step, all of them together."""

from __future__ import annotations

import json

import pytest

from trainer.decide.condition import Conditions
from trainer.decide.decisions import Decisions, Verdict
from trainer.decide.early_stop import EarlyStop, parse_patience
from trainer.decide.monitor import Monitor
from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.timeline.cadence import Grid, Progress
from trainer.timeline.duration import STEP, Duration

ACCURACY, LOSS = Monitor("validation/accuracy", "max"), Monitor("train/loss", "min")


def window(step: int, loss: float) -> Record:
    return Record("train", step, step * 4, None, {"loss": loss}, window=(step - 1, step))


def evaluation(step: int, accuracy: float) -> Record:
    return Record("eval", step, step * 4, None, {"loss": 1.0, "accuracy": accuracy}, split="validation", weights="raw")


def place(duration: Duration) -> Grid:
    return Grid(STEP, int(duration.number))


def decisions(*, keep_best: int = 1) -> Decisions:
    return Decisions(
        [ACCURACY, LOSS],
        keep_best=keep_best,
        conditions=Conditions("train/loss<0.3"),
        early_stop=EarlyStop(ACCURACY, parse_patience("2evals"), place=place),
    )


def fold(decided: Decisions, *records: Record) -> Verdict:
    for record in records:
        decided.fold(record)
    return decided.at(records[-1].step)


def test_each_question_has_its_own_answer_at_each_step() -> None:
    decided = decisions()
    assert fold(decided, window(1, 0.5)) == Verdict(best=("train/loss",))
    assert fold(decided, evaluation(2, 0.7)) == Verdict(best=("validation/accuracy",))
    assert fold(decided, window(3, 0.25), evaluation(3, 0.7)) == Verdict(best=("train/loss",), condition=True)
    assert decided.at(4) == Verdict()
    assert fold(decided, window(5, 0.25), evaluation(5, 0.6)) == Verdict(condition=True, stop=True)
    assert decided.stopped
    assert decided.kept_steps == {2, 3}


def test_the_reasons_to_save_are_those_of_the_manifest() -> None:
    assert Verdict(best=("a/b", "c/d"), condition=True, stop=True).reasons == ("best", "condition")
    assert Verdict(stop=True).reasons == ()


def test_keeping_none_ranks_and_saves_nothing() -> None:
    decided = decisions(keep_best=0)
    assert fold(decided, evaluation(2, 0.7)) == Verdict()
    assert decided.best.ranking[0].step == 2
    assert decided.kept_steps == frozenset()


def test_what_is_kept_of_them_brings_a_resume_to_the_same_answers() -> None:
    first, resumed = decisions(keep_best=2), decisions(keep_best=2)
    fold(first, evaluation(2, 0.7), window(3, 0.25), evaluation(3, 0.6))
    kept = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert kept["best"] == {
        "validation/accuracy": [
            {"value": 0.7, "step": 2, "relation": "exact"},
            {"value": 0.6, "step": 3, "relation": "exact"},
        ],
        "train/loss": [{"value": 0.25, "step": 3, "relation": "window"}],
    }
    assert kept["early_stop"]["monitor"] == "validation/accuracy"
    resumed.restore(kept, Progress(3, 12))
    assert resumed.at(3) == first.at(3)
    assert fold(resumed, evaluation(4, 0.6)) == fold(first, evaluation(4, 0.6))
    assert resumed.to_json() == first.to_json()


def test_a_manifest_of_an_older_version_is_gone_on_from() -> None:
    resumed = decisions()
    resumed.restore({"best": {"train/loss": [{"value": 0.5, "step": 3}]}, "early_stop": {}}, Progress(3, 12))
    assert resumed.kept_steps == {3}
    resumed.restore({}, Progress(3, 12))


def test_a_ranking_in_the_other_direction_or_of_other_data_begins_anew() -> None:
    first = Decisions([Monitor("validation/loss", "max")])
    fold(first, evaluation(2, 0.7))
    other, same = Decisions([Monitor("validation/loss", "min")]), Decisions([Monitor("validation/loss", "max")])
    other.restore(first.to_json(), Progress(2, 8))
    same.restore(first.to_json(), Progress(2, 8), lambda metric: False)
    assert not other.kept_steps
    assert not same.kept_steps


def test_log_steps_are_boundaries_only_where_a_train_record_can_decide() -> None:
    assert decisions().needs_train_records
    assert Decisions([LOSS]).needs_train_records
    assert not Decisions([LOSS], keep_best=0).needs_train_records
    assert not Decisions([ACCURACY]).needs_train_records
    assert Decisions([ACCURACY], conditions=Conditions("mean5(train/loss)<1")).needs_train_records
    assert not Decisions([ACCURACY], conditions=Conditions("validation/loss<1")).needs_train_records
    patience = EarlyStop(LOSS, parse_patience("5evals"), place=place)
    assert Decisions([LOSS], keep_best=0, early_stop=patience).needs_train_records


def test_metrics_that_there_are_not_are_refused_by_the_flag_that_asks_for_them() -> None:
    names = ["validation/accuracy", "validation/loss"]
    with pytest.raises(ConfigError, match=r"monitor=train/loss is in no record; expected one of validation/accuracy"):
        decisions().check(names)
    with pytest.raises(ConfigError, match=r"save_if: train/loss is in no record"):
        Decisions([ACCURACY], conditions=Conditions("train/loss<1")).check(names)


def test_a_patience_that_is_not_taken_over_begins_at_the_step_that_is_resumed_from() -> None:
    def patient(monitor: Monitor) -> Decisions:
        patience = EarlyStop(monitor, parse_patience("5steps"), place=place, baseline=0.5)
        return Decisions([monitor], early_stop=patience)

    first = patient(Monitor("train/loss", "min"))
    fold(first, window(8, 0.9))
    # Another metric, the other direction, other data, and none before.
    for resumed, control, comparable in (
        (patient(Monitor("validation/loss", "min")), first.to_json(), True),
        (patient(Monitor("train/loss", "max")), first.to_json(), True),
        (patient(Monitor("train/loss", "min")), first.to_json(), False),
        (patient(Monitor("train/loss", "min")), {}, True),
    ):
        resumed.restore(control, Progress(8, 32), lambda metric, answer=comparable: answer)  # type: ignore[misc]
        assert resumed.early_stop is not None
        state = resumed.early_stop.to_json()
        assert (state["step"], state["examples"], state["evals"], state["stopped"]) == (8, 32, 0, False)
    assert not fold(resumed, window(12, 0.9)).stop
    assert fold(resumed, window(13, 0.9)).stop
