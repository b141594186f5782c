"""Which step is best: a law of the records alone."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.run.decide import Best, choose_monitor, direction

# Few different values, so that ties are common.
VALUES = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, math.nan, math.inf, -math.inf]), st.floats()))


def evaluation(step: int, value: float | None, *, split: str = "validation", name: str = "loss") -> Record:
    return Record("eval", step, step * 4, None, {name: value}, split=split, weights="raw")


def folded(values: list[float | None], best: Best) -> list[bool]:
    return [best.fold(evaluation(step, value)) for step, value in enumerate(values, start=1)]


@pytest.mark.parametrize("mode", ["min", "max"])
@settings(deadline=None)
@given(values=VALUES)
def test_the_best_step_is_the_first_that_no_later_one_strictly_improves(mode: str, values: list[float | None]) -> None:
    best = Best("validation/loss", mode=mode)
    entered = folded(values, best)
    champion: tuple[float, int] | None = None
    for step, (value, told) in enumerate(zip(values, entered, strict=True), start=1):
        finite = value is not None and math.isfinite(value)
        improves = finite and (champion is None or (value < champion[0] if mode == "min" else value > champion[0]))
        assert told == improves
        if improves:
            champion = (value, step)
    assert best.steps == ([champion[1]] if champion else [])
    if champion:
        assert best.ranking[0].value == champion[0]


@pytest.mark.parametrize("mode", ["min", "max"])
@settings(deadline=None)
@given(values=VALUES, keep=st.integers(1, 4))
def test_several_best_steps_are_those_of_the_whole_history_best_first(
    mode: str, values: list[float | None], keep: int
) -> None:
    best = Best("validation/loss", mode=mode, keep=keep)
    entered = folded(values, best)
    sign = 1 if mode == "min" else -1

    def ranking(known: list[float | None]) -> list[int]:
        finite = [(sign * v, step) for step, v in enumerate(known, start=1) if v is not None and math.isfinite(v)]
        return [step for _, step in sorted(finite)[:keep]]

    assert best.steps == ranking(values)
    assert entered == [step in ranking(values[:step]) for step in range(1, len(values) + 1)]


@settings(deadline=None)
@given(values=VALUES, cut=st.integers(0, 30), keep=st.integers(0, 3))
def test_a_resume_at_any_record_decides_as_if_it_had_never_stopped(
    values: list[float | None], cut: int, keep: int
) -> None:
    cut = min(cut, len(values))
    undisturbed = Best("validation/loss", keep=keep)
    decisions = folded(values, undisturbed)
    first = Best("validation/loss", keep=keep)
    for step, value in enumerate(values[:cut], start=1):
        first.fold(evaluation(step, value))
    resumed = Best("validation/loss", keep=keep)
    resumed.restore(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    later = [resumed.fold(evaluation(step, value)) for step, value in enumerate(values[cut:], start=cut + 1)]
    assert later == decisions[cut:]
    assert resumed.to_json() == undisturbed.to_json()


def test_what_is_kept_of_the_decision_has_the_shape_of_the_manifest() -> None:
    best = Best("validation/loss")
    folded([0.5, 0.36], best)
    assert best.to_json() == {"validation/loss": [{"value": 0.36, "step": 2}]}


def test_the_ranking_by_another_metric_is_not_taken_over() -> None:
    other = Best("validation/accuracy")
    other.fold(evaluation(1, 0.9, name="accuracy"))
    best = Best("validation/loss")
    best.restore(other.to_json())
    assert best.steps == []


def test_keeping_none_still_tells_the_best() -> None:
    best = Best("validation/loss", keep=0)
    assert folded([0.5, 0.25, 0.75], best) == [True, True, False]
    assert best.steps == [2]


def test_records_of_other_splits_and_of_windows_decide_nothing() -> None:
    best = Best("validation/loss")
    assert not best.fold(evaluation(1, 0.1, split="test"))
    assert not best.fold(Record("train", 1, 4, None, {"loss": 0.1}, window=(0, 1)))
    assert best.steps == []


def test_a_window_can_be_what_decides() -> None:
    best = Best("train/loss")
    assert best.fold(Record("train", 3, 12, None, {"loss": 0.1}, window=(0, 3)))
    assert not best.fold(evaluation(3, 0.01))
    assert best.steps == [3]


def test_a_monitor_that_the_split_does_not_have_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"validation/acuracy.*validation/loss") as caught:
        Best("validation/acuracy").fold(evaluation(1, 0.1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["loss", "error", "perplexity", "wer", "mean_absolute_error", "latency"])
def test_auto_minimizes_what_is_a_cost(name: str) -> None:
    assert direction(f"validation/{name}") == "min"


@pytest.mark.parametrize(
    "name", ["accuracy", "acc", "top5", "top_5_accuracy", "auc", "f1", "precision", "recall", "bleu", "iou", "Accuracy"]
)
def test_auto_maximizes_what_is_a_success(name: str) -> None:
    assert direction(f"validation/{name}") == "max"
    assert Best(f"validation/{name}").mode == "max"
    assert Best(f"validation/{name}", mode="min").mode == "min"


def test_the_name_of_the_split_does_not_say_which_way_is_better() -> None:
    assert direction("accuracy_test/loss") == "min"


@pytest.mark.parametrize(
    ("splits", "evaluates", "expected"),
    [
        (["test", "validation"], True, "validation/loss"),
        (["test", "dev"], True, "test/loss"),
        ([], True, "train/loss"),
        (["validation"], False, "train/loss"),
    ],
)
def test_the_monitor_defaults_to_validation_then_the_first_split_then_the_windows(
    splits: list[str], evaluates: bool, expected: str
) -> None:
    assert choose_monitor(None, splits, evaluates=evaluates) == expected


@pytest.mark.parametrize("monitor", ["loss", "nope/loss", "validation/", "/loss", ""])
def test_a_monitor_of_no_split_is_refused_with_those_that_there_are(monitor: str) -> None:
    with pytest.raises(ConfigError, match=r"train/METRIC, validation/METRIC"):
        choose_monitor(monitor, ["validation"], evaluates=True)


def test_a_monitor_of_a_split_that_is_never_evaluated_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="eval_every=never"):
        choose_monitor("validation/loss", ["validation"], evaluates=False)


def test_the_monitor_that_was_asked_for_is_taken() -> None:
    assert choose_monitor("train/accuracy", ["validation"], evaluates=True) == "train/accuracy"
    assert choose_monitor("test/f1", ["validation", "test"], evaluates=True) == "test/f1"
