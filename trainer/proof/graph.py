"""What the graph of a step tells: its random operations, its calls of Python, the variables it uses."""

from __future__ import annotations

import dataclasses
import os
import sysconfig
from collections.abc import Collection, Iterator
from typing import Any

import tensorflow as tf

from trainer.data.stateful import operations_in

PYTHON = frozenset({"EagerPyFunc", "PyFunc", "PyFuncStateless"})
"""Operations that call Python."""
PRINTS = frozenset({"Print", "PrintV2"})
_CHANGES = ("Assign", "ResourceApply", "ResourceSparseApply", "ResourceScatter", "ResourceStridedSliceAssign")
_HOUSE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_FOREIGN = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a graph, and where in the user's code it comes from."""

    type: str
    name: str
    place: str

    def __str__(self) -> str:
        return f"{self.type} ({self.place})"


@dataclasses.dataclass(frozen=True)
class Use:
    """A variable that a graph uses."""

    handle: Any
    changes: bool
    """Whether an operation of the graph itself, and not of a branch or loop in it, assigns to it."""
    place: str


def operations(graph: Any, types: Collection[str]) -> list[Operation]:
    """The operations of these types in a graph, in its loops, its branches and the functions that it calls."""
    found = {}
    for operation in operations_in(graph, types):
        if isinstance(operation, tf.Operation):
            found[operation.type, place_of(operation)] = operation.name
        else:
            # Where in the code is not known of those inside; their names begin as the user's scopes do.
            found.setdefault((operation.op, f"{operation.name}, inside a branch, loop or function"), operation.name)
    return [Operation(kind, name, place) for (kind, place), name in found.items()]


def uses(graph: Any) -> Iterator[Use]:
    """The variables that a graph, or a function it calls, reads or changes."""
    for external, internal in graph.captures:
        if internal.dtype != tf.resource or tf.is_symbolic_tensor(external):
            continue
        # Tables and iterators are resources too.
        if bool(tf.raw_ops.VarIsInitializedOp(resource=external)):
            consumers = internal.consumers()
            changing = [consumer for consumer in consumers if consumer.type.startswith(_CHANGES)]
            places = map(place_of, changing or consumers)
            yield Use(external, bool(changing), next(places, "nowhere"))


def constants(graph: Any) -> dict[str, bytes]:
    """The values that are fixed in a graph, by the names of their operations."""
    return {
        operation.name: operation.get_attr("value").SerializeToString()
        for operation in graph.get_operations()
        if operation.type == "Const"
    }


def structure(graph: Any) -> set[tuple[str, str]]:
    """The operations of a graph, its arguments aside: their names and types."""
    found = {(operation.name, operation.type) for operation in graph.get_operations()}
    # TensorFlow names what it captures by numbers of its own.
    return {(name, kind) for name, kind in found if kind != "Placeholder"}


def place_of(operation: Any) -> str:
    """The line of the user's code that an operation comes from; its name where there is none."""
    for frame in reversed(list(operation.traceback)):
        if is_users(frame.filename):
            return f"{short_path(frame.filename)}:{frame.lineno} in {frame.name}"
    return str(operation.name)


def short_path(file: str) -> str:
    """A file as the user would name it: from where the command runs, if it is below."""
    near = os.path.relpath(file)
    return os.path.abspath(file) if near.startswith(os.pardir) else near


def is_users(file: str) -> bool:
    """Whether a file is the user's: neither ours, nor of Python, nor installed, nor made by autograph."""
    path = os.path.abspath(file)
    return os.path.exists(path) and not path.startswith((_HOUSE, *_FOREIGN)) and not is_rewritten(path)


def is_ours(file: str) -> bool:
    """Whether a file is of this package; the watch, which stands before all that is the user's, is not meant."""
    path = os.path.abspath(file)
    return path.startswith(_HOUSE) and os.path.basename(path) != "watch.py"


def is_of_room(room: str, file: str) -> bool:
    """Whether a file is of one room of this package."""
    return os.path.abspath(file).startswith(os.path.join(_HOUSE, room, ""))


def is_rewritten(file: str) -> bool:
    """Whether a file is what autograph made of another."""
    return "__autograph_generated" in file
