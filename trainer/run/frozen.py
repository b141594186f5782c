"""Freezing: the variables of a model that training leaves as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer.checkpoint.objects import variable_names
from trainer.errors import ConfigError
from trainer.run import guests

Values = Sequence[tuple[tf.Variable, tf.Tensor]]
"""Variables with their values."""

_SHOWN = 12
_READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp")
_ONLY_READ = "_read_only_resource_inputs"
"""The attribute in which TensorFlow notes which of its inputs a call of a function, a branch or a loop only reads."""


class Frozen:
    """The variables of a model whose names match a pattern; trainable or not, they keep their values.

    Args:
      model: whose variables exist.
      patterns: shell patterns of the names that a checkpoint has, `encoder/*`, several by comma; a `*` stands for any
        text, slashes included, and case matters. None freezes nothing. The names that Keras gives would not do: they
        count what a process has built before.

    Attributes:
      variables: what is frozen.

    Raises:
      ConfigError: a pattern matches nothing, or nothing is left to train.
    """

    def __init__(self, model: Any, patterns: str | None) -> None:
        self._patterns = patterns
        self.variables: tuple[tf.Variable, ...] = ()
        self._known: frozenset[int] = frozenset()
        if patterns is None:
            return
        named = _named(model)
        self.variables = _matched(patterns, named, model)
        self._known = frozenset(map(id, self.variables))
        self._of = len(named)
        if all(variable in self for variable in guests.trainable_variables_of(model)):
            raise ConfigError(
                f"freeze={patterns} matches every trainable variable of {type(model).__name__}, so that nothing is "
                "left to train; freeze fewer"
            )

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def values(self) -> Values:
        """Their values as they are here, while a graph is traced."""
        return [(variable, variable.read_value()) for variable in self.variables]

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def put_back(self, values: Values) -> None:
        """Undoes what the graph does to them after `values`, in the same graph, and before anything that follows."""
        for variable, value in values:
            read = value.op.inputs[0].op
            # An assignment may copy: only where there is something to undo.
            if any(_may_write(operation, read.inputs[0]) for operation in read.inputs[0].consumers()):
                variable.assign(value)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def __contains__(self, variable: Any) -> bool:
        return id(guests.tensor_variable(variable)) in self._known

    def __bool__(self) -> bool:
        return bool(self.variables)

    def __str__(self) -> str:
        """What the plan says of it: `freeze encoder/*: 4 of 10 variables`."""
        return f"freeze {self._patterns}: {len(self.variables)} of {self._of} variables" if self else "freeze nothing"


def _named(model: Any) -> Mapping[str, tf.Variable]:
    """The variables of a model that a checkpoint of it holds, by their names there."""
    names = variable_names(model)
    own = map(guests.tensor_variable, guests.variables_of(model))
    return {names[id(variable)]: variable for variable in own if id(variable) in names}


def _may_write(operation: Any, handle: tf.Tensor) -> bool:
    """Whether an operation may change the variable of a handle that it takes."""
    if operation.type in _READS:
        return False
    try:
        only_read = operation.get_attr(_ONLY_READ)
    except ValueError:  # It is no call.
        return True
    return any(given is handle and position not in only_read for position, given in enumerate(operation.inputs))


def _matched(patterns: str, named: Mapping[str, tf.Variable], model: Any) -> tuple[tf.Variable, ...]:
    """The variables whose names match one of the patterns, each of which matches some."""
    found: dict[str, tf.Variable] = {}
    for pattern in (part.strip() for part in patterns.split(",")):
        # Without the platform's rules for files, which may not tell upper from lower case.
        matches = {name: variable for name, variable in named.items() if fnmatch.fnmatchcase(name, pattern)}
        if not matches:
            more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
            raise ConfigError(
                f"freeze={patterns}: {pattern!r} matches no variable of {type(model).__name__}; expected patterns by "
                f"comma, such as 'encoder/*', of its variables {', '.join(_shown(named, model)[:_SHOWN])}{more}"
            )
        found |= matches
    return tuple(found.values())


def _shown(named: Mapping[str, tf.Variable], model: Any) -> list[str]:
    """The names, each with the one that Keras gives where there is one: it tells whose variable that is."""
    guests_own = {
        id(guests.tensor_variable(variable)): variable.path
        for variable in guests.variables_of(model)
        if guests.is_guest(variable)
    }
    return [
        f"{name} ({guests_own[id(variable)]})" if id(variable) in guests_own else name
        for name, variable in sorted(named.items())
    ]
