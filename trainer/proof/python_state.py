"""The state that Python objects hold: attributes, globals and generators, which no checkpoint reaches."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import random
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_MOST_VALUES = 20_000
_MOST_BYTES = 1 << 24
"""Beyond, an array is data rather than state, and to digest it time after time takes long."""
_FRAMEWORKS = {"tensorflow", "keras", "tf_keras", "trainer", "numpy", "ml_dtypes", "absl"}
_MISSING = "nothing"
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclasses.dataclass
class PythonState:
    """What was found in Python objects, by paths such as `model.layers[0].count`."""

    values: dict[str, str] = dataclasses.field(default_factory=dict)
    """What stands for each value; equal where the value is."""
    variables: dict[int, str] = dataclasses.field(default_factory=dict)
    """The paths of the variables, by the identity of their handles."""
    functions: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The user's own `tf.function`s."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A value that is another than it was."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path} ({_short(self.before)}, then {_short(self.after)})"


def look(roots: Mapping[str, Any], *, aside: Sequence[Any] = ()) -> PythonState:
    """Looks through objects of the user's, their classes, and the globals of the modules of these classes.

    Args:
      roots: the objects, by what they are called.
      aside: objects that are not looked into.
    """
    state = PythonState()
    walk = _Walk(state, aside)
    for name, root in roots.items():
        walk.visit(name, root)
    for name in sorted(walk.modules):
        for key, value in list(vars(sys.modules[name]).items()):
            if not key.startswith("__") and not isinstance(value, type):
                walk.visit(f"{name}.{key}", value)
    state.values["numpy.random"] = _digest(repr(np.random.get_state(legacy=False)).encode())
    state.values["random"] = _digest(repr(random.getstate()).encode())
    return state


def changes(before: PythonState, after: PythonState) -> list[Change]:
    """What is another value than before; what is there for the first time is no state yet, unless it is a number."""
    found = []
    for path in [*before.values, *(path for path in after.values if path not in before.values)]:
        old, new = before.values.get(path, _MISSING), after.values.get(path, _MISSING)
        first = old in (_MISSING, "None") and not _is_number(new)
        if old != new and not first:
            found.append(Change(path, old, new))
    return found


class _Walk:
    def __init__(self, state: PythonState, aside: Sequence[Any]) -> None:
        self._state = state
        # With the objects: the identity of one that is gone can be another's.
        self._seen: dict[int, Any] = {id(value): value for value in aside}
        self.modules: set[str] = set()

    def visit(self, path: str, value: Any) -> None:
        if len(self._state.values) >= _MOST_VALUES:
            return
        if id(value) in self._seen:
            return
        if (text := _text(value)) is not None:
            self._state.values[path] = text
            return
        self._seen[id(value)] = value
        variable = value if isinstance(value, tf.Variable) else getattr(value, "value", None)
        if isinstance(variable, tf.Variable) and not isinstance(value, Mapping):
            self._state.variables[id(variable.handle)] = path
        elif isinstance(value, tf.types.experimental.PolymorphicFunction):
            self._state.functions[path] = value
        elif isinstance(value, Mapping):
            for key, item in list(value.items()):
                self.visit(f"{path}[{key!r}]", item)
        elif isinstance(value, list | tuple | collections.deque):
            for index, item in enumerate(value):
                self.visit(f"{path}[{index}]", item)
        elif isinstance(value, set | frozenset):
            self._state.values[path] = repr(sorted(map(repr, value)))
        elif _is_users(type(value)):
            self._object(path, value)

    def _object(self, path: str, value: Any) -> None:
        kinds = [kind for kind in type(value).__mro__ if _is_users(kind)]
        self.modules.update(kind.__module__ for kind in kinds if kind.__module__ in sys.modules)
        guest = any(kind.__module__.split(".")[0] in ("keras", "tf_keras") for kind in type(value).__mro__)
        for name, item in list(getattr(value, "__dict__", {}).items()):
            # What frameworks keep in the objects of classes that derive from theirs; and what is computed once.
            theirs = name.startswith("_self_") or (guest and (name.startswith("_") or name == "built"))
            if not theirs and not isinstance(_class_attribute(value, name), functools.cached_property):
                self.visit(f"{path}.{name}", item)
        for kind in kinds:
            for name, item in list(vars(kind).items()):
                if isinstance(item, tf.types.experimental.PolymorphicFunction):
                    self.visit(f"{path}.{name}", getattr(value, name))
                elif not name.startswith(("__", "_abc")):
                    self.visit(f"{kind.__name__}.{name}", item)


def _text(value: Any) -> str | None:
    """What stands for a value that is no object with parts; None for others."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject or array.nbytes > _MOST_BYTES:
            return f"an array of {array.dtype} {list(array.shape)}"
        if array.ndim == 0:
            return repr(array.item())
        return f"an array of {array.dtype} {list(array.shape)} with crc32 {_digest(array.tobytes())}"
    if isinstance(value, itertools.count):
        return repr(value)
    if isinstance(value, random.Random):
        return f"a generator in state {_digest(repr(value.getstate()).encode())}"
    if isinstance(value, np.random.Generator):
        return f"a generator in state {_digest(repr(value.bit_generator.state).encode())}"
    if isinstance(value, np.random.RandomState):
        return f"a generator in state {_digest(repr(value.get_state(legacy=False)).encode())}"
    return None


def _is_users(kind: type) -> bool:
    root = kind.__module__.split(".")[0]
    return root not in _FRAMEWORKS and root not in sys.stdlib_module_names


def _class_attribute(value: Any, name: str) -> Any:
    return next((vars(kind)[name] for kind in type(value).__mro__ if name in vars(kind)), None)


def _is_number(text: str) -> bool:
    try:
        complex(text)
    except ValueError:
        return False
    return True


def _digest(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def traced_numbers(function: Any) -> dict[str, list[str]]:
    """The Python numbers that a `tf.function` was traced for, one trace each, by the name of the argument."""
    found: dict[str, list[str]] = {}
    for name, value in _literals(function.pretty_printed_concrete_signatures()):
        if _is_number(value) and value not in ("True", "False") and value not in found.setdefault(name, []):
            found[name].append(value)
    return {name: values for name, values in found.items() if values}


def _literals(signatures: str) -> Iterator[tuple[str, str]]:
    for line in signatures.splitlines():
        head, literal, value = line.strip().partition("): Literal[")
        if literal:
            yield head.partition(" (")[0], value.removesuffix("]")
