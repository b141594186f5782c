"""Records: the bytes of the metric log, as other tools rely on them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.ledger.record import Record, compact_json, ordered_metrics, plain_number

TRAIN_LINE = (
    b'{"kind":"train","step":300,"examples":19200,"epoch":12.8,"window":[200,300],'
    b'"metrics":{"loss":0.412,"accuracy":0.87},"learning_rate":0.001}\n'
)
TRAIN = Record("train", 300, 19200, 12.8, {"loss": 0.412, "accuracy": 0.87}, window=(200, 300), learning_rate=0.001)
EVAL_LINE = (
    b'{"kind":"eval","step":300,"examples":19200,"epoch":12.8,"split":"validation","weights":"raw",'
    b'"metrics":{"loss":0.398,"accuracy":0.88}}\n'
)
EVAL = Record("eval", 300, 19200, 12.8, {"loss": 0.398, "accuracy": 0.88}, split="validation", weights="raw")


@pytest.mark.parametrize(("record", "line"), [(TRAIN, TRAIN_LINE), (EVAL, EVAL_LINE)])
def test_lines_are_byte_for_byte_those_of_the_documentation(record: Record, line: bytes) -> None:
    assert record.line() == line
    assert Record.parse(line) == record


def test_optional_keys_stand_at_the_end_in_their_order() -> None:
    record = Record(
        "train",
        7,
        70,
        None,
        {"loss": None},
        window=(0, 7),
        learning_rate=None,
        closed_by="save",
        skipped=2,
        nonfinite={"loss": 3},
    )
    line = (
        b'{"kind":"train","step":7,"examples":70,"epoch":null,"window":[0,7],"metrics":{"loss":null},'
        b'"learning_rate":null,"closed_by":"save","skipped":2,"nonfinite":{"loss":3}}\n'
    )
    assert record.line() == line
    assert Record.parse(line) == record


def test_a_train_record_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the train record of step 3 has no window; give it \(a, b\]"):
        Record("train", 3, 12, None, {"loss": 0.5}).line()


def test_an_evaluation_that_was_not_finite_says_so_at_its_end() -> None:
    record = Record("eval", 1, 1, 1.0, {"loss": None}, split="test", weights="ema", nonfinite={"loss": 1})
    assert record.line().endswith(b'"split":"test","weights":"ema","metrics":{"loss":null},"nonfinite":{"loss":1}}\n')
    assert Record.parse(record.line()) == record


def test_several_learning_rates_are_written_by_optimizer() -> None:
    record = Record("train", 1, 1, 1.0, {}, window=(0, 1), learning_rate={"generator": 0.1, "critic": 0.2})
    assert b'"learning_rate":{"generator":0.1,"critic":0.2}' in record.line()
    assert Record.parse(record.line()) == record


def test_the_loss_comes_first_and_the_others_by_name() -> None:
    assert list(ordered_metrics({"b": 1.0, "loss": 2.0, "Z": 3.0, "a/loss": 4.0})) == ["loss", "Z", "a/loss", "b"]
    assert list(ordered_metrics({"b": 1.0, "a": 2.0})) == ["a", "b"]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_float32_is_written_in_its_own_shortest_form(value: float) -> None:
    single = np.float32(value)
    written = plain_number(single)
    text = json.dumps(written)
    assert np.float32(float(text)) == single
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    digits = len(
        str(np.format_float_scientific(single, unique=True, trim="-")).partition("e")[0].strip("-").replace(".", "")
    )
    assert len(repr(written).partition("e")[0].strip("-").replace(".", "").strip("0")) <= digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.1), "0.1"),
        (np.float32(1e-7), "1e-07"),
        (np.float32(16777216), "16777216.0"),
        (np.array(0.1, np.float32), "0.1"),
        (np.float64(0.1), "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1, "1.0"),
    ],
)
def test_numbers_are_written_in_the_shortest_form_of_their_type(value: Any, text: str) -> None:
    assert json.dumps(plain_number(value)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float32("inf"), None])
def test_what_is_not_finite_is_null(value: Any) -> None:
    assert ordered_metrics({"loss": value}) == {"loss": None}


def test_a_nan_never_reaches_a_file() -> None:
    with pytest.raises(ValueError, match="JSON"):
        compact_json({"loss": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        Record("train", 1, 1, None, {"loss": math.inf}, window=(0, 1)).line()


NAMES = st.text(min_size=1, max_size=8)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**60)
METRICS = st.dictionaries(NAMES, NUMBERS, max_size=4).map(ordered_metrics)
NONFINITE = st.dictionaries(NAMES, st.integers(1, 9), max_size=2)
TRAIN_RECORDS = st.builds(
    Record,
    st.just("train"),
    COUNTS,
    COUNTS,
    NUMBERS,
    METRICS,
    window=st.tuples(COUNTS, COUNTS),
    learning_rate=NUMBERS | st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=2),
    closed_by=st.sampled_from([None, "end", "save"]),
    skipped=st.integers(0, 9),
    nonfinite=NONFINITE,
)
EVAL_RECORDS = st.builds(
    Record,
    st.just("eval"),
    COUNTS,
    COUNTS,
    NUMBERS,
    METRICS,
    split=NAMES,
    weights=st.sampled_from(["raw", "ema"]),
    nonfinite=NONFINITE,
)


@given(TRAIN_RECORDS | EVAL_RECORDS)
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_again_and_written_the_same(record: Record) -> None:
    line = record.line()
    assert line.count(b"\n") == 1
    assert compact_json(json.loads(line)).encode() + b"\n" == line
    assert Record.parse(line) == record
    assert Record.parse(line).line() == line


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"\n", b"{", b"[]", b"3", b"null", b'"train"', b"\xff\xfe", b"{}", TRAIN_LINE[:-9], TRAIN_LINE * 2),
        TRAIN_LINE.replace(b'"train"', b'"training"'),
        TRAIN_LINE.replace(b'"step":300', b'"step":"three"'),
        TRAIN_LINE.replace(b'"step":300', b'"step":1e999'),
        TRAIN_LINE.replace(b'"step":300,', b""),
        TRAIN_LINE.replace(b"[200,300]", b"[200]"),
        TRAIN_LINE.replace(b"[200,300]", b"null"),
        TRAIN_LINE.replace(b'{"loss":0.412,"accuracy":0.87}', b"7"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        EVAL_LINE.replace(b'"split":"validation",', b""),
    ],
)
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one, JSON's or ours, makes no difference to the callers
        Record.parse(line)


def test_metrics_are_named_as_flags_and_conditions_name_them() -> None:
    assert TRAIN.named_metrics() == {"train/loss": 0.412, "train/accuracy": 0.87}
    assert EVAL.named_metrics() == {"validation/loss": 0.398, "validation/accuracy": 0.88}
