"""The telescoping sum: whatever was measured, it adds up and says what it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.proof.terms import NAMES, Measured, dominant, standard_error, terms_of

WORDS = {name: f"what {name} means" for name in NAMES}
numbers = st.floats(-1e6, 1e6)


@given(st.data())
def test_differences_lead_from_each_value_to_the_next_whatever_is_missing(data: st.DataObject) -> None:
    names = ["logged", *(name for name in NAMES[1:] if data.draw(st.booleans()))]
    measured = [Measured(name, data.draw(numbers)) for name in names]
    terms = terms_of(measured, WORDS)
    assert [term.name for term in terms] == names
    assert terms[0].difference == 0
    value = terms[0].value
    for term, one in zip(terms[1:], measured[1:], strict=True):
        value += term.difference
        assert math.isclose(value, one.value, rel_tol=1e-9, abs_tol=1e-3)
        assert term.value == one.value
    # Each term that there could be is told once, in its own line or in that of the next one.
    told = " ".join(f"{term.name} {term.meaning}" for term in terms).replace("own update", "own_update")
    last = NAMES.index(names[-1])
    assert all(name in told for name in NAMES[: last + 1])


def test_a_term_that_cannot_be_is_not_said_to_be_in_another() -> None:
    words = {name: text for name, text in WORDS.items() if name != "averaging"}
    terms = terms_of([Measured("logged", 1.0), Measured("mode", 2.0)], words)
    assert terms[1].meaning == "what mode means; with own update and motion in it"


def test_what_is_a_sample_has_its_standard_error_and_nothing_else() -> None:
    measured = [Measured(name, 1.0, stderr) for name, stderr in zip(NAMES, (None, 1, 2, 3, 4, 5, 6), strict=True)]
    assert [term.stderr for term in terms_of(measured, WORDS)] == [None, None, None, None, None, 4, 6]


def test_the_dominant_term_is_the_largest_either_way() -> None:
    terms = terms_of(
        [Measured(name, value) for name, value in zip(NAMES, (1, 2, -5, -4, -4, -4, 1), strict=True)], WORDS
    )
    assert dominant(terms) == "motion"
    assert dominant(terms[:1]) is None
    assert dominant(terms_of([Measured("logged", 1.0), Measured("mode", 1.0)], WORDS)) is None


@given(st.lists(numbers, min_size=2, max_size=50))
def test_the_standard_error_of_equal_weights_is_the_textbooks(values: list[float]) -> None:
    x = np.array(values)
    found = standard_error(x.mean(), np.mean(x**2), 1.0, len(x))
    assert found == pytest.approx(x.std(ddof=1) / math.sqrt(len(x)), rel=1e-6, abs=1e-7 * np.abs(x).max())


def test_examples_of_weight_zero_count_for_nothing_and_one_alone_tells_no_error() -> None:
    assert standard_error(1.0, 2.0, 1.0, 1.0) is None
    assert standard_error(1.0, math.nan, 1.0, 9.0) is None
    assert standard_error(1.0, 2.0, 0.0, 0.0) is None
