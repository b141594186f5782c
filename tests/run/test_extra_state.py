"""State that the user registers: found by name, saved with the rest, refused where it cannot be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.run.extra_state import ExtraState


class Text:
    """A Python object that is kept as text."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def serialize(self) -> str:
        return json.dumps(self.value)

    def deserialize(self, text: str) -> None:
        assert isinstance(text, str)
        self.value = json.loads(text)


class Bytes:
    """A Python object that is kept as bytes, such as a pickle's."""

    def __init__(self, value: bytes = b"") -> None:
        self.value = value

    def serialize(self) -> bytes:
        return self.value

    def deserialize(self, text: bytes) -> None:
        assert isinstance(text, bytes)
        self.value = text


class Counter(tf.Module):
    """A module with a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(0)


@pytest.fixture
def extra(linear: Any) -> Any:
    """What becomes of objects that an experiment returns as its extra state."""

    def build(objects: Any) -> ExtraState:
        @dataclasses.dataclass(frozen=True)
        class Extended(linear):
            def extra_state(self) -> Any:
                return objects

        return ExtraState(Extended())

    return build


def moved(saved: ExtraState, fresh: ExtraState, path: Any) -> None:
    """Saves one and restores it into the other, strictly."""
    saved.capture()
    prefix = tf.train.Checkpoint(extra=saved.trackable).write(str(path / "state"))
    tf.train.Checkpoint(extra=fresh.trackable).read(prefix).assert_consumed()
    fresh.restore()


def test_an_experiment_has_none_by_default(linear: Any) -> None:
    found = ExtraState(linear())
    assert (found.objects, found.trackable) == ({}, None)
    found.capture()
    found.restore()


def test_everything_comes_back_as_it_was_saved(extra: Any, tmp_path: Any) -> None:
    def objects() -> dict[str, Any]:
        return {
            "variable": tf.Variable([1.0, 2.0]),
            "module": Counter(),
            "generator": tf.random.Generator.from_seed(3, alg="philox"),
            "text": Text(),
            "bytes": Bytes(),
        }

    saved, fresh = extra(objects()), extra(objects())
    saved.objects["variable"].assign([3.0, 4.0])
    saved.objects["module"].count.assign(7)
    saved.objects["generator"].normal([5])
    saved.objects["text"].value = {"größe": [1, "β\n", None]}
    saved.objects["bytes"].value = bytes(range(256))
    moved(saved, fresh, tmp_path)
    assert fresh.objects["variable"].numpy().tolist() == [3, 4]
    assert fresh.objects["module"].count.numpy() == 7
    assert fresh.objects["text"].value == {"größe": [1, "β\n", None]}
    assert fresh.objects["bytes"].value == bytes(range(256))
    np.testing.assert_array_equal(
        fresh.objects["generator"].normal([3]).numpy(), saved.objects["generator"].normal([3]).numpy()
    )


def test_a_python_object_is_saved_as_it_is_when_it_is_captured(extra: Any, tmp_path: Any) -> None:
    saved, fresh = extra({"text": Text(1)}), extra({"text": Text()})
    saved.capture()
    saved.objects["text"].value = 2
    moved(saved, fresh, tmp_path)
    assert fresh.objects["text"].value == 2


def test_an_empty_text_is_a_state_too(extra: Any, tmp_path: Any) -> None:
    saved, fresh = extra({"bytes": Bytes(b"")}), extra({"bytes": Bytes(b"old")})
    moved(saved, fresh, tmp_path)
    assert fresh.objects["bytes"].value == b""


class Half:
    """An object that can only be written."""

    def serialize(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (None, r"extra_state\(\) returned NoneType.*objects by name"),
        ([tf.Variable(1.0)], "returned list.*objects by name"),
        ({1: tf.Variable(1.0)}, "returned dict.*objects by name"),
        ({"count": 3}, "returned count as int.*serialize"),
        ({"table": np.zeros(3)}, "returned table as ndarray"),
        ({"value": tf.constant(1.0)}, "returned value as EagerTensor.*tf.Variable"),
        ({"nothing": None}, "returned nothing as NoneType"),
        ({"half": Half()}, r"returned half as Half.*deserialize\(text\)"),
        ({"several": [tf.Variable(1.0)]}, "returned several as list"),
        ({"number": type("Odd", (Text,), {"serialize": lambda self: 3})()}, "number.*int.*text or bytes"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once_in_one_line(objects: Any, message: str, extra: Any) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        extra(objects)
    assert "\n" not in str(caught.value)
    assert "Extended" in str(caught.value)


def test_it_is_asked_for_once(linear: Any) -> None:
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Counted(linear):
        def extra_state(self) -> Mapping[str, Any]:
            asked.append(1)
            return {"text": Text()}

    state = ExtraState(Counted())
    state.capture()
    state.restore()
    assert asked == [1]
