"""Which step is best: a law of the records alone."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.decide.best import Best
from trainer.decide.monitor import Monitor
from trainer.errors import ConfigError
from trainer.ledger.record import Record

# Few different values, so that ties are common.
VALUES = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, math.nan, math.inf, -math.inf]), st.floats()))
LOSS = Monitor("validation/loss", "min")


def evaluation(step: int, value: float | None, *, split: str = "validation", name: str = "loss") -> Record:
    return Record("eval", step, step * 4, None, {name: value}, split=split, weights="raw")


def steps(best: Best) -> list[int]:
    return [candidate.step for candidate in best.ranking]


def folded(values: list[float | None], best: Best) -> list[bool]:
    """Whether each step, one after the other, is among the best when it has been folded."""
    entered = []
    for step, value in enumerate(values, start=1):
        best.fold(evaluation(step, value))
        entered.append(step in steps(best))
    return entered


@pytest.mark.parametrize("mode", ["min", "max"])
@settings(deadline=None)
@given(values=VALUES)
def test_the_best_step_is_the_first_that_no_later_one_strictly_improves(mode: str, values: list[float | None]) -> None:
    best = Best(Monitor("validation/loss", mode))
    entered = folded(values, best)
    champion: tuple[float, int] | None = None
    for step, (value, told) in enumerate(zip(values, entered, strict=True), start=1):
        finite = value is not None and math.isfinite(value)
        improves = finite and (champion is None or (value < champion[0] if mode == "min" else value > champion[0]))
        assert told == improves
        if improves:
            champion = (value, step)
    assert steps(best) == ([champion[1]] if champion else [])
    if champion:
        assert best.ranking[0].value == champion[0]


@pytest.mark.parametrize("mode", ["min", "max"])
@settings(deadline=None)
@given(values=VALUES, keep=st.integers(1, 4))
def test_several_best_steps_are_those_of_the_whole_history_best_first(
    mode: str, values: list[float | None], keep: int
) -> None:
    best = Best(Monitor("validation/loss", mode), keep=keep)
    entered = folded(values, best)
    sign = 1 if mode == "min" else -1

    def ranking(known: list[float | None]) -> list[int]:
        finite = [(sign * v, step) for step, v in enumerate(known, start=1) if v is not None and math.isfinite(v)]
        return [step for _, step in sorted(finite)[:keep]]

    assert steps(best) == ranking(values)
    assert entered == [step in ranking(values[:step]) for step in range(1, len(values) + 1)]


@settings(deadline=None)
@given(values=VALUES, cut=st.integers(0, 30), keep=st.integers(0, 3))
def test_a_resume_at_any_record_decides_as_if_it_had_never_stopped(
    values: list[float | None], cut: int, keep: int
) -> None:
    cut = min(cut, len(values))
    undisturbed, first, resumed = (Best(LOSS, keep=keep) for _ in range(3))
    folded(values, undisturbed)
    folded(values[:cut], first)
    resumed.restore(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    for step, value in enumerate(values[cut:], start=cut + 1):
        resumed.fold(evaluation(step, value))
    assert resumed.to_json() == undisturbed.to_json()


def test_what_is_kept_of_the_ranking_tells_values_steps_and_how_they_relate_to_the_checkpoints() -> None:
    best = Best(LOSS)
    folded([0.5, 0.36], best)
    assert best.to_json() == [{"value": 0.36, "step": 2, "relation": "exact"}]


def test_keeping_none_still_tells_the_best() -> None:
    best = Best(LOSS, keep=0)
    folded([0.5, 0.25, 0.75], best)
    assert steps(best) == [2]


def test_records_of_other_splits_and_of_windows_decide_nothing() -> None:
    best = Best(LOSS)
    best.fold(evaluation(1, 0.1, split="test"))
    best.fold(Record("train", 1, 4, None, {"loss": 0.1}, window=(0, 1)))
    assert steps(best) == []


def test_a_window_can_be_what_decides_and_says_so() -> None:
    best = Best(Monitor("train/loss", "min"))
    best.fold(Record("train", 3, 12, None, {"loss": 0.1}, window=(0, 3)))
    best.fold(evaluation(3, 0.01))
    assert best.to_json() == [{"value": 0.1, "step": 3, "relation": "window"}]


def test_a_monitor_that_the_split_does_not_have_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"validation/acuracy.*validation/loss") as caught:
        Best(Monitor("validation/acuracy", "max")).fold(evaluation(1, 0.1))
    assert "\n" not in str(caught.value)
