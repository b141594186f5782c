"""The open window: weighted means in float64, and nothing lost when it travels through a manifest."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.ledger.record import compact_json
from trainer.ledger.window import Window

STEPS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.1, 1e3)), max_size=20)


def filled(steps: list[tuple[float, float]], window: Window | None = None) -> Window:
    window = window or Window(start=3)
    for loss, weight in steps:
        window.add({"loss": loss, "accuracy": -loss}, weight)
    return window


def test_the_mean_is_over_the_examples_and_not_over_the_batches() -> None:
    window = filled([(1.0, 64), (4.0, 32)])
    assert window.means() == {"loss": 2.0, "accuracy": -2.0}
    assert (window.steps, window.weight) == (2, 96)


def test_sums_are_float64() -> None:
    window = filled([(1e8, 1.0), *[(1.0, 1.0)] * 100])
    assert window.means()["loss"] == (1e8 + 100) / 101


@given(STEPS, st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_a_window_that_travels_through_json_goes_on_bit_for_bit(steps: list[tuple[float, float]], cut: int) -> None:
    travelled = Window.from_json(json.loads(compact_json(filled(steps[:cut]).to_json())))
    assert filled(steps[cut:], travelled) == filled(steps)


def test_what_is_not_finite_is_null_counted_and_travels_too() -> None:
    window = filled([(math.nan, 1.0), (1.0, 1.0), (math.inf, 1.0)])
    assert window.means() == {"loss": None, "accuracy": None}
    assert window.nonfinite == {"loss": 2, "accuracy": 2}
    travelled = Window.from_json(json.loads(compact_json(window.to_json())))
    assert travelled.nonfinite == {"loss": 2, "accuracy": 2}
    assert filled([(1.0, 1.0)], travelled).means() == {"loss": None, "accuracy": None}


def test_the_manifest_shows_its_start_steps_and_partial_means() -> None:
    value = filled([(1.0, 2.0)]).to_json()
    assert (value["from"], value["steps"], value["metrics"]) == (3, 1, {"loss": 1.0, "accuracy": -1.0})
    assert list(value["metrics"]) == ["loss", "accuracy"]


def test_an_empty_window_has_no_means() -> None:
    assert Window(start=500).means() == {}
    assert Window.from_json({"from": 500, "steps": 0, "metrics": {}}) == Window(start=500)


def test_steps_with_other_metrics_are_refused() -> None:
    window = Window()
    window.add({"loss": 1.0}, 1.0)
    with pytest.raises(ConfigError, match=r"\['accuracy', 'loss'\].*\['loss'\]"):
        window.add({"loss": 1.0, "accuracy": 1.0}, 1.0)
    with pytest.raises(ConfigError):
        window.add({}, 1.0)
    assert window == Window(steps=1, weight=1.0, sums={"loss": 1.0})
