"""Durations: what users write is taken exactly, and what is no duration is refused in one line."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import EXIT_CONFIG, ConfigError
from trainer.timeline.duration import Duration


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("100", 100, "step"),
        (100, 100, "step"),
        ("100step", 100, "step"),
        ("100 steps", 100, "step"),
        (" 100steps ", 100, "step"),
        ("1_000steps", 1000, "step"),
        ("1e6examples", 10**6, "example"),
        ("1example", 1, "example"),
        ("2.5epochs", Fraction(5, 2), "epoch"),
        ("1epoch", 1, "epoch"),
        ("0.1epochs", Fraction(1, 10), "epoch"),
        ("1/15run", Fraction(1, 15), "run"),
        ("90s", 90, "second"),
        ("90sec", 90, "second"),
        ("1.5m", 90, "second"),
        ("10 min", 600, "second"),
        ("2h", 7200, "second"),
        ("1 hour", 3600, "second"),
        ("2 hours", 7200, "second"),
        ("3h50m", 13800, "second"),
    ],
)
def test_number_and_unit_are_exact(text: str | int, number: int | Fraction, unit: str) -> None:
    assert Duration.parse(text) == Duration(Fraction(number), unit)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "steps",
            "often",
            "never",
            "100furlongs",
            "100 steps!",
            "1/0run",
            "1/",
            "--3",
            "-5steps",
            "0",
            "0epochs",
        ),
        *("1e", "nan", "inf", "1..5epochs", "10steps5epochs", "1h30", "30 1h", "5 5", "1 epoch 3 epochs", "½run"),
    ],
)
def test_what_is_no_duration_is_refused_with_its_text_and_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Duration.parse(text)
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_CONFIG
    assert repr(text) in message
    assert "100steps" in message
    assert "\n" not in message


_NUMBERS = st.one_of(
    st.integers(1, 10**12).map(str),
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**10)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.tuples(st.integers(0, 999), st.integers(1, 10**6)).map(lambda pair: f"{pair[0]}.{pair[1]}"),
)


@given(_NUMBERS, st.sampled_from(["steps", "examples", "epochs", "s", "m", "h", "run"]))
@settings(max_examples=100, deadline=None)
def test_what_is_printed_means_the_same(number: str, unit: str) -> None:
    duration = Duration.parse(number + unit)
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize("exponent", [10, 24, 60])
def test_a_binary_fraction_that_a_float_holds_is_printed_without_loss(exponent: int) -> None:
    duration = Duration(Fraction(1, 2**exponent), "epoch")
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "printed"),
    [("100", "100steps"), ("1", "1step"), ("2.5epochs", "2.5epochs"), ("1epoch", "1epoch"), ("1/15run", "1/15run")],
)
def test_it_prints_as_users_write_it(text: str, printed: str) -> None:
    assert str(Duration.parse(text)) == printed
