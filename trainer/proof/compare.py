"""Comparing what two runs left, byte for byte: their records and the tensors of their checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

NOT_COMPARED = ("_CHECKPOINTABLE_OBJECT_GRAPH", "data_state")
"""How the keys begin of what may differ between equal states: the object graph holds names, which TensorFlow makes
unique within a process, and tf.data writes one and the same position of an iterator in different bytes."""
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"

TOLERANCE = 1e-4
"""How far apart, relatively, the numbers of another kind of machine may be."""


@dataclasses.dataclass(frozen=True)
class Sides:
    """What the two that are compared are called, and how far apart their numbers may be."""

    expected: str = "undisturbed"
    actual: str = "resumed"
    tolerance: float = 0.0
    """Relative; of a tensor, to the largest of its elements. 0 compares bits."""


RUNS = Sides()


@dataclasses.dataclass(frozen=True)
class TensorDifference:
    """The first tensor, by name, in which two checkpoints differ."""

    name: str
    detail: str
    """The first element that differs with both its values, or which checkpoint lacks the tensor."""
    others: int
    """How many tensors differ beside it."""


@dataclasses.dataclass(frozen=True)
class RecordDifference:
    """The first record in which two logs differ."""

    number: int
    """Its place in the log, from 1."""
    step: int | None
    """The step that it ends at; None where it cannot be read."""
    detail: str
    """What record it is, and the first value that differs with both its values."""


def compared_keys(prefix: str) -> list[str]:
    """The keys of the tensors that are compared of a checkpoint, sorted."""
    return sorted(filter(is_compared, _reader(prefix).get_variable_to_shape_map()))


def is_compared(key: str) -> bool:
    """Whether the tensor of this key is the same in equal states."""
    return not key.startswith(NOT_COMPARED)


def first_tensor_difference(expected: str, actual: str) -> TensorDifference | None:
    """Compares two TensorFlow checkpoints, given by their prefixes, by the bytes of every tensor."""
    return first_difference(tensors_in(expected), tensors_in(actual))


def tensors_in(prefix: str) -> dict[str, Callable[[], Any]]:
    """The tensors of a TensorFlow checkpoint that are compared, by their keys; each is read when it is called."""
    reader = _reader(prefix)
    return {key: lambda key=key: reader.get_tensor(key) for key in compared_keys(prefix)}  # type: ignore[misc]


def first_difference(
    expected: Mapping[str, Callable[[], Any]], actual: Mapping[str, Callable[[], Any]], sides: Sides = RUNS
) -> TensorDifference | None:
    """Compares two sets of tensors by their keys, one after the other."""
    found: list[tuple[str, str]] = []
    for key in sorted({*expected, *actual}):
        if key not in actual or key not in expected:
            found.append((key, f"is only in the {sides.expected if key in expected else sides.actual} checkpoint"))
            continue
        detail = _element_difference(np.asarray(expected[key]()), np.asarray(actual[key]()), sides)
        if detail:
            found.append((key, detail))
    if not found:
        return None
    key, detail = found[0]
    return TensorDifference(key.removesuffix(_VALUE), detail, others=len(found) - 1)


def first_record_difference(expected: bytes, actual: bytes) -> RecordDifference | None:
    """Compares two metric logs line by line."""
    pairs = itertools.zip_longest(expected.splitlines(), actual.splitlines())
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            return record_difference(number, one, other)
    return None


def record_difference(
    number: int, expected: bytes | None, actual: bytes | None, sides: Sides = RUNS
) -> RecordDifference | None:
    """Compares two lines of a log, of which one may be missing.

    Args:
      number: their place in the log, from 1.
      expected: the one, without its end.
      actual: the other.
      sides: what they are called.
    """
    if expected == actual:
        return None
    one, other = _parsed(expected), _parsed(actual)
    known = one or other
    step = known.get("step")
    name = f"record {number} ({_title(known)})"
    if expected is None or actual is None:
        return RecordDifference(
            number, step, f"{name} is only in the {sides.actual if expected is None else sides.expected} log"
        )
    detail = first_value_difference(one, other, sides)
    if detail is None and sides.tolerance:
        return None
    return RecordDifference(
        number,
        step,
        f"{name}: {detail}" if detail else f"{name} is {expected!r} {sides.expected}, {actual!r} {sides.actual}",
    )


def first_value_difference(expected: Mapping[str, Any], actual: Mapping[str, Any], sides: Sides) -> str | None:
    """The first value in which two JSON objects differ, by its dotted name, with both its values."""
    here, there = dict(_flat(expected)), dict(_flat(actual))
    for key in [*here, *(key for key in there if key not in here)]:
        if key in here and key in there and _agree(here[key], there[key], sides.tolerance):
            continue
        values = [json.dumps(values[key]) if key in values else "not there" for values in (here, there)]
        if values[0] != values[1]:
            return f"{key} is {values[0]} {sides.expected}, {values[1]} {sides.actual}"
    return None


def _reader(prefix: str) -> Any:
    return tf.train.load_checkpoint(prefix)


def _element_difference(expected: np.ndarray, actual: np.ndarray, sides: Sides) -> str | None:
    """The first element that differs, by its bits or by more than the tolerance; None when none does."""
    if (expected.shape, expected.dtype) != (actual.shape, actual.dtype):
        return f"is {_kind(expected)} {sides.expected}, {_kind(actual)} {sides.actual}"
    if not expected.dtype.hasobject and expected.tobytes() == actual.tobytes():
        return None  # As it is nearly always, and quickly known.
    differs = _differing(expected.reshape(-1), actual.reshape(-1))
    if differs.any() and sides.tolerance and np.issubdtype(expected.dtype, np.floating):
        differs = _apart(expected.reshape(-1), actual.reshape(-1), sides.tolerance)
    if not differs.any():
        return None
    at = int(np.argmax(differs))
    place = (
        f"[{', '.join(str(int(index)) for index in np.unravel_index(at, expected.shape))}] " if expected.ndim else ""
    )
    values = _told_apart(expected.reshape(-1)[at], actual.reshape(-1)[at], sides)
    size = f" ({int(differs.sum())} of {expected.size} elements differ)" if expected.size > 1 else ""
    return f"{place}is {values}{size}"


def _differing(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    if expected.dtype.hasobject:
        return np.array([one != other for one, other in zip(expected, actual, strict=True)], bool)
    width = expected.dtype.itemsize
    one, other = (np.frombuffer(values.tobytes(), np.uint8).reshape(-1, width) for values in (expected, actual))
    different: np.ndarray = (one != other).any(axis=1)
    return different


def _apart(expected: np.ndarray, actual: np.ndarray, tolerance: float) -> np.ndarray:
    one, other = expected.astype(np.float64), actual.astype(np.float64)
    finite = one[np.isfinite(one)]
    most = tolerance * np.abs(finite).max(initial=0.0)
    return ~np.isclose(one, other, rtol=tolerance, atol=most, equal_nan=True)


def _told_apart(expected: Any, actual: Any, sides: Sides) -> str:
    if str(expected) == str(actual) and isinstance(expected, np.generic):
        # Two kinds of NaN, say.
        bits = [f"{value} (0x{value.tobytes().hex()})" for value in (expected, actual)]
    else:
        bits = [str(expected), str(actual)]
    return f"{bits[0]} {sides.expected}, {bits[1]} {sides.actual}"


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _agree(expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether two JSON values are the same within the tolerance."""
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(
            _agree(*pair, tolerance) for pair in zip(expected, actual, strict=True)
        )
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(_agree(expected[k], actual[k], tolerance) for k in expected)
    if isinstance(expected, float) and isinstance(actual, float) and tolerance:
        return math.isclose(expected, actual, rel_tol=tolerance)
    return type(expected) is type(actual) and expected == actual


def _parsed(line: bytes | None) -> Mapping[str, Any]:
    try:
        value = json.loads(line) if line else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _title(record: Mapping[str, Any]) -> str:
    if record.get("kind") == "train" and isinstance(record.get("window"), list):
        start, end = record["window"]
        return f"train, window ({start}, {end}]"
    return f"{record.get('split', record.get('kind', 'unreadable'))}, step {record.get('step')}"


def _flat(record: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """The values of a record by their dotted names, in their order."""
    pairs: list[tuple[str, Any]] = []
    for key, value in record.items():
        pairs += _flat(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]
    return pairs
