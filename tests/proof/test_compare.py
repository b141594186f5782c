"""Comparing runs: the first tensor and the first record that differ are named, with both values."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.proof.compare import compared_keys, first_record_difference, first_tensor_difference

TRAIN = b'{"kind":"train","step":4,"window":[0,4],"metrics":{"loss":0.5,"x":1.0}}\n'
EVAL = b'{"kind":"eval","step":7,"split":"validation","metrics":{"loss":0.25}}\n'


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[..., str]:
    """Writes a checkpoint of variables by name; returns its prefix."""

    def write(folder: str, **values: Any) -> str:
        variables = {name: tf.Variable(value) for name, value in values.items()}
        return str(tf.train.Checkpoint(**variables).write(str(tmp_path / folder / "state")))

    return write


def test_equal_checkpoints_have_no_difference(write: Callable[..., str]) -> None:
    values = {"a": [1.0, np.nan], "b": "text", "c": 3}
    assert first_tensor_difference(write("one", **values), write("other", **values)) is None


def test_first_element_that_differs_is_told_with_both_values(write: Callable[..., str]) -> None:
    one = write("one", a=1.0, kernel=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], z=1)
    other = write("other", a=1.0, kernel=[[1.0, 2.0, 3.0], [4.0, 5.5, 7.0]], z=2)
    difference = first_tensor_difference(one, other)
    assert difference is not None
    assert difference.name == "kernel"
    assert difference.detail == "[1, 1] is 5.0 undisturbed, 5.5 resumed (2 of 6 elements differ)"
    assert difference.others == 1


def test_bits_are_compared_and_not_values(write: Callable[..., str]) -> None:
    difference = first_tensor_difference(write("one", a=[0.0]), write("other", a=[-0.0]))
    assert difference is not None
    assert difference.detail == "[0] is 0.0 undisturbed, -0.0 resumed"
    payload = np.array(0x7FC00001, np.uint32).view(np.float32)
    difference = first_tensor_difference(write("nan", a=np.float32(np.nan)), write("other_nan", a=payload))
    assert difference is not None
    assert "0x0000c07f" in difference.detail
    assert "0x0100c07f" in difference.detail


def test_tensor_that_only_one_has_and_one_of_another_shape_are_differences(write: Callable[..., str]) -> None:
    difference = first_tensor_difference(write("one", a=1.0, b=2.0), write("other", a=1.0))
    assert difference is not None
    assert (difference.name, difference.detail) == ("b", "is only in the undisturbed checkpoint")
    difference = first_tensor_difference(write("short", a=[1.0]), write("long", a=[1.0, 2.0]))
    assert difference is not None
    assert difference.detail == "is float32 [1] undisturbed, float32 [2] resumed"


def test_strings_are_compared_by_content(write: Callable[..., str]) -> None:
    difference = first_tensor_difference(write("one", a=["x", "y"]), write("other", a=["x", "z"]))
    assert difference is not None
    assert difference.detail.startswith("[1] is b'y' undisturbed, b'z' resumed")


def test_position_of_an_iterator_and_the_object_graph_are_not_compared(write: Callable[..., str]) -> None:
    one, other = write("one", a=1.0, data_state="here"), write("other", a=1.0, data_state="there")
    assert first_tensor_difference(one, other) is None
    assert compared_keys(one) == ["a/.ATTRIBUTES/VARIABLE_VALUE"]


def test_first_value_of_a_record_that_differs_is_told_with_its_place() -> None:
    assert first_record_difference(TRAIN + EVAL, TRAIN + EVAL) is None
    difference = first_record_difference(TRAIN + EVAL, TRAIN + EVAL.replace(b"0.25", b"0.75"))
    assert difference is not None
    assert (difference.number, difference.step) == (2, 7)
    assert difference.detail == ("record 2 (validation, step 7): metrics.loss is 0.25 undisturbed, 0.75 resumed")
    difference = first_record_difference(TRAIN, TRAIN.replace(b',"x":1.0', b""))
    assert difference is not None
    assert difference.detail == "record 1 (train, window (0, 4]): metrics.x is 1.0 undisturbed, not there resumed"


def test_record_too_many_or_too_few_is_a_difference() -> None:
    for one, other, name in ((TRAIN + EVAL, TRAIN, "undisturbed"), (TRAIN, TRAIN + EVAL, "resumed")):
        difference = first_record_difference(one, other)
        assert difference is not None
        assert difference.step == 7
        assert difference.detail == f"record 2 (validation, step 7) is only in the {name} log"


def test_bytes_that_mean_the_same_are_a_difference_too() -> None:
    difference = first_record_difference(TRAIN, TRAIN.replace(b":0.5", b": 0.5"))
    assert difference is not None
    assert "record 1 (train, window (0, 4]) is b'{" in difference.detail
