"""Numbers as people see them."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from trainer.errors import Unwritable
from trainer.views import formatting


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.0000"),
        (-0.25, "-0.2500"),
        (12.3456, "12.346"),
        (99_999.0, "99999"),
        (1e5, "1.00e+05"),
        (1e-9, "1.00e-09"),
    ],
)
def test_numbers_keep_their_width_where_they_can(value: float, expected: str) -> None:
    assert formatting.number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.25, "0.25"), (9.996, "10.0"), (99.96, "100"), (999.6, "1.00k"), (2.5e9, "2.50G")]
)
def test_counts_have_three_digits(value: float, expected: str) -> None:
    assert formatting.count(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-1, "0s"), (59.6, "1m 00s"), (3599.6, "1h 00m"), (86_400, "1d 00h")]
)
def test_durations_carry_into_the_next_unit(seconds: float, expected: str) -> None:
    assert formatting.duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (999, "999 B"), (999_999, "1.0 MB"), (2 * 10**12, "2.0 TB")]
)
def test_sizes_are_decimal(count: int, expected: str) -> None:
    assert formatting.size(count) == expected


def test_what_a_stream_cannot_encode_is_a_question_mark() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert formatting.printable("précision → 1", stream) == "pr?cision ? 1"
    assert formatting.printable("précision → 1", io.StringIO()) == "précision → 1"


class Full(io.StringIO):
    """A stream on a disk that is full, or that nobody reads any more."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


FULL, BROKEN = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), BrokenPipeError()


@pytest.mark.parametrize("error", [FULL, BROKEN], ids=["full", "broken"])
def test_a_line_that_cannot_be_written_is_no_reason_to_fail(error: OSError) -> None:
    formatting.print_line("done", Full(error))


def test_an_object_that_a_script_asked_for_and_that_cannot_be_written_is_74(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Full(FULL), None):
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(Unwritable, match="cannot write to stdout") as caught:
            formatting.print_json({"a": 1})
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(sys, "stdout", Full(BROKEN))
    formatting.print_json({"a": 1})


def test_an_object_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    formatting.print_json({"a": [1, None]})
    assert capsys.readouterr().out == '{"a": [1, null]}\n'
