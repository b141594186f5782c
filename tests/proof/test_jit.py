"""The modes of compiling are measured, compared, and one is recommended."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import pytest
import zoo

from trainer.proof import jit
from trainer.proof.options import cadences
from trainer.run.config import Config


def test_modes_are_those_of_the_trainer() -> None:
    [option] = (item for item in dataclasses.fields(Config) if item.name == "jit")
    assert {"auto", *jit.MODES} == set(option.metadata["choices"])


@pytest.mark.slow
def test_modes_are_measured_and_the_one_that_does_not_compile_says_why(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_SECONDS", 0.01)
    measured = jit.measure_modes(zoo.Unevaluated, cadences(4, (1,)), str(tmp_path))
    assert list(measured) == ["none", "step", "chunk", "same_bits", "recommended"]
    assert all(measured[mode]["ms_per_step"] > 0 for mode in jit.MODES)
    assert isinstance(measured["same_bits"], bool)
    measured = jit.measure_modes(zoo.HostCounter, cadences(4, (1,)), str(tmp_path / "other"))
    assert measured["none"]["ms_per_step"] > 0
    for mode in ("step", "chunk"):
        assert measured[mode]["error"].startswith(f"jit={mode} does not compile here: XLA has no PyFunc (made in ")
        assert re.search(r"zoo.py, line \d+, in loss\); use --jit=none$", measured[mode]["error"])
    assert (measured["same_bits"], measured["recommended"]) == (None, "none")


@pytest.mark.parametrize(
    ("measured", "recommended"),
    [
        ({"none": {"ms_per_step": 1.0}, "chunk": {"ms_per_step": 0.5}}, "chunk"),
        ({"none": {"ms_per_step": 1.0}, "chunk": {"ms_per_step": 0.95}}, "none"),
        ({"none": {"ms_per_step": 1.0}, "chunk": {"ms_per_step": 2.0}}, "none"),
        ({"none": {"ms_per_step": 1.0}, "chunk": {"error": "no"}}, "none"),
        ({"none": {"ms_per_step": 1.0}, "step": {"ms_per_step": 0.6}, "chunk": {"ms_per_step": 0.5}}, "chunk"),
        ({"none": {"ms_per_step": 1.0}, "step": {"ms_per_step": 0.6}, "chunk": {"error": "no"}}, "step"),
        ({"none": {"error": "no"}, "chunk": {"ms_per_step": 2.0}}, "chunk"),
        ({"none": {"error": "no"}, "chunk": {"error": "no"}}, None),
    ],
)
def test_compiling_is_recommended_where_it_is_worth_it(measured: dict[str, Any], recommended: str | None) -> None:
    assert jit.recommended(measured) == recommended
