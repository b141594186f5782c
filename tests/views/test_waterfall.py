"""The waterfall of an explanation shows each difference where it lies, with its sign, and which one dominates."""

from __future__ import annotations

import math
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from trainer.errors import ConfigError, Unwritable
from trainer.views.waterfall import draw_waterfall, draw_waterfall_on, labels, terms_of


def make(*terms: tuple[str, float | None, float | None, float | None], **fields: Any) -> dict[str, Any]:
    known = ("name", "value", "difference", "stderr")
    told = [{**dict(zip(known, term, strict=True)), "meaning": "in words"} for term in terms]
    return {"step": 20, "metric": "loss", "split": "validation", "gap": 0.1, "terms": told, **fields}


FULL = make(
    ("logged", 0.248155, 0.0, None),
    ("own_update", 0.245269, -0.002886, None),
    ("motion", 0.198432, -0.046837, None),
    ("averaging", 0.198432, 0.0, None),
    ("mode", 0.167021, -0.031411, None),
    ("sampling", 0.168217, 0.001196, 0.004),
    ("generalization", 0.396466, 0.228249, 0.021),
    dominant="generalization",
    open_steps=[],
)


@pytest.fixture
def axes() -> Iterator[Any]:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(9, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield figure.add_subplot()


def bars(axes: Any) -> dict[str, tuple[float, float]]:
    return {
        patch.get_gid().removeprefix("waterfall-"): (patch.get_x(), patch.get_x() + patch.get_width())
        for patch in axes.patches
    }


@pytest.mark.slow
def test_each_bar_lies_between_the_value_before_and_its_own(axes: Any) -> None:
    draw_waterfall_on(axes, FULL)
    values = [term["value"] for term in FULL["terms"]]
    names = [term["name"] for term in FULL["terms"]]
    assert bars(axes) == {
        name: pytest.approx((before, after)) for name, before, after in zip(names[1:], values, values[1:], strict=False)
    }


@pytest.mark.slow
def test_the_dominant_term_alone_is_solid_and_bold(axes: Any) -> None:
    draw_waterfall_on(axes, FULL)
    solid = [patch.get_gid() for patch in axes.patches if patch.get_facecolor()[3] == 1]
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert (solid, bold) == (["waterfall-generalization"], ["generalization"])


@pytest.mark.slow
def test_values_and_signed_differences_are_written_inside_the_axes(axes: Any) -> None:
    draw_waterfall_on(axes, FULL)
    axes.figure.canvas.draw()
    told = {text.get_text() for text in axes.texts}
    assert {"0.248155", "−0.046837", "+0.228249", "0.396466"} <= told
    inside = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1, text.get_text()


@pytest.mark.slow
def test_a_standard_error_is_a_line_to_both_sides_and_only_where_there_is_one(axes: Any) -> None:
    draw_waterfall_on(axes, FULL)
    spans = [collection.get_segments()[0][:, 0].tolist() for collection in axes.collections]
    assert spans == [pytest.approx([0.164217, 0.172217]), pytest.approx([0.375466, 0.417466])]


@pytest.mark.slow
@pytest.mark.parametrize("missing", [1, 2])
def test_a_value_that_is_not_finite_is_said_and_the_rest_is_drawn(axes: Any, missing: int) -> None:
    terms = [dict(term) for term in FULL["terms"]]
    terms[missing].update(value=None, difference=None)
    draw_waterfall_on(axes, {**FULL, "terms": terms})
    assert len(bars(axes)) == 4
    assert [text.get_text() for text in axes.texts].count("not finite") == 2


@pytest.mark.slow
def test_terms_that_all_agree_are_drawn(axes: Any) -> None:
    draw_waterfall_on(axes, make(("logged", 0.0, 0.0, None), ("motion", 0.0, 0.0, None), dominant=None))
    assert [text.get_text() for text in axes.texts].count("+0.000000") <= 1


def test_the_differences_that_are_written_add_up_to_the_gap_that_is_written() -> None:
    shown = labels(
        terms_of(make(("logged", 0.12345649, 0, None), ("motion", 0.3333335, 0.2, None), ("mode", 0.1, 0, None)))
    )
    values = [float(value) for value, _ in shown]
    steps = [float(difference.replace("−", "-")) for _, difference in shown[1:]]
    assert math.isclose(values[0] + sum(steps), values[-1], abs_tol=1e-12)
    assert shown[0][1] == ""


@pytest.mark.parametrize(
    "garbled",
    [
        {},
        {"terms": []},
        {"terms": None},
        {"terms": [{"name": "logged", "value": 1, "difference": 0}]},
        {"terms": [{"name": "logged", "value": "1", "difference": 0}] * 2},
        {"terms": [{"name": "logged", "value": 1}] * 2},
        {"terms": ["logged", "motion"]},
    ],
)
def test_what_is_no_explanation_is_refused(garbled: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^it (lacks|has)"):
        terms_of(garbled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gap.svg", "gap.png", "gap.PDF"])
def test_the_same_explanation_gives_the_same_file(tmp_path: pathlib.Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    contents = []
    for _ in range(2):
        draw_waterfall(FULL, tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0]


@pytest.mark.parametrize("name", ["gap", "gap.txt", "gap.html"])
def test_another_ending_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.svg, \.png, \.pdf"):
        draw_waterfall(FULL, tmp_path / name)


@pytest.mark.slow
def test_what_cannot_be_written_is_74(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Unwritable, match=r"cannot write .*file"):
        draw_waterfall(FULL, tmp_path / "file" / "gap.svg")
