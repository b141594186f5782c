"""Comparing what two runs left, byte for byte: their records and the tensors of their checkpoints."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

NOT_COMPARED = ("_CHECKPOINTABLE_OBJECT_GRAPH", "data_state")
"""How the keys begin of what may differ between equal states: the object graph holds names, which TensorFlow makes
unique within a process, and tf.data writes one and the same position of an iterator in different bytes."""
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


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
    return sorted(key for key in _reader(prefix).get_variable_to_shape_map() if not key.startswith(NOT_COMPARED))


def first_tensor_difference(expected: str, actual: str) -> TensorDifference | None:
    """Compares two TensorFlow checkpoints, given by their prefixes, by the bytes of every tensor."""
    readers = _reader(expected), _reader(actual)
    here, there = set(compared_keys(expected)), set(compared_keys(actual))
    found: list[tuple[str, str]] = []
    for key in sorted(here | there):
        if key not in there or key not in here:
            found.append((key, f"is only in the {'undisturbed' if key in here else 'resumed'} run's checkpoint"))
            continue
        detail = _element_difference(*(np.asarray(reader.get_tensor(key)) for reader in readers))
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
            return _record_difference(number, one, other)
    return None


def _reader(prefix: str) -> Any:
    return tf.train.load_checkpoint(prefix)


def _element_difference(expected: np.ndarray, actual: np.ndarray) -> str | None:
    """The first element that differs, by its bits; None when none does."""
    if (expected.shape, expected.dtype) != (actual.shape, actual.dtype):
        return f"is {_kind(expected)} undisturbed, {_kind(actual)} resumed"
    differs = _differing(expected.reshape(-1), actual.reshape(-1))
    if not differs.any():
        return None
    at = int(np.argmax(differs))
    place = (
        f"[{', '.join(str(int(index)) for index in np.unravel_index(at, expected.shape))}] " if expected.ndim else ""
    )
    values = _told_apart(expected.reshape(-1)[at], actual.reshape(-1)[at])
    size = f" ({int(differs.sum())} of {expected.size} elements differ)" if expected.size > 1 else ""
    return f"{place}is {values}{size}"


def _differing(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    if expected.dtype.hasobject:
        return np.array([one != other for one, other in zip(expected, actual, strict=True)], bool)
    width = expected.dtype.itemsize
    one, other = (np.frombuffer(values.tobytes(), np.uint8).reshape(-1, width) for values in (expected, actual))
    different: np.ndarray = (one != other).any(axis=1)
    return different


def _told_apart(expected: Any, actual: Any) -> str:
    if str(expected) == str(actual) and isinstance(expected, np.generic):
        # Two kinds of NaN, say.
        return f"{expected} (0x{expected.tobytes().hex()}) undisturbed, {actual} (0x{actual.tobytes().hex()}) resumed"
    return f"{expected} undisturbed, {actual} resumed"


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _record_difference(number: int, expected: bytes | None, actual: bytes | None) -> RecordDifference:
    one, other = _parsed(expected), _parsed(actual)
    known = one or other
    step = known.get("step")
    name = f"record {number} ({_title(known)})"
    if expected is None or actual is None:
        return RecordDifference(
            number, step, f"{name} is only in the {'resumed' if expected is None else 'undisturbed'} log"
        )
    here, there = dict(_flat(one)), dict(_flat(other))
    for key in [*here, *(key for key in there if key not in here)]:
        values = [json.dumps(values[key]) if key in values else "not there" for values in (here, there)]
        if values[0] != values[1]:
            return RecordDifference(number, step, f"{name}: {key} is {values[0]} undisturbed, {values[1]} resumed")
    return RecordDifference(number, step, f"{name} is {expected!r} undisturbed, {actual!r} resumed")


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
