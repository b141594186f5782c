"""A warm start: a fresh model takes the weights that another checkpoint has for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from trainer.checkpoint import tensors
from trainer.checkpoint.objects import children_of, variable_names, variable_of, walk
from trainer.errors import ConfigError, Unusable

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The tensor in which TensorFlow keeps the graph of the saved objects."""
_VALUE = "VARIABLE_VALUE"
"""The attribute of a saved object that is a variable."""


@dataclasses.dataclass(frozen=True)
class Unlike:
    """A variable that the model and the checkpoint have under one name, and that is not the same kind of tensor."""

    name: str
    model: str
    """Its shape or dtype in the model."""
    checkpoint: str
    """Its shape or dtype in the checkpoint."""

    def __str__(self) -> str:
        return f"{self.name} ({self.model} in the model, {self.checkpoint} in the checkpoint)"


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What a warm start loaded and what not. Names are paths of attributes from the model: `layers/0/kernel`."""

    prefix: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """Variables of the model that the checkpoint does not have: they keep their initial values."""
    extra: tuple[str, ...]
    """What the checkpoint has under the model and the model does not."""
    other_shape: tuple[Unlike, ...]
    """Variables of another shape: they keep their initial values."""
    other_dtype: tuple[Unlike, ...]
    """Variables of the same shape and another dtype: they keep their initial values."""

    @property
    def complete(self) -> bool:
        """Whether model and checkpoint match in full."""
        return not any(names for _, names in self.differences())

    def differences(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Each kind of difference, with what differs in this way."""
        yield "missing", self.missing
        yield "extra", self.extra
        yield "other shape", self.other_shape
        yield "other dtype", self.other_dtype


def warm_start(model: tf.Module, prefix: str, *, strict: bool) -> WarmStart:
    """Loads every variable of `model` that the checkpoint has under the same path, of the same shape and dtype.

    The model in the checkpoint is what `tf.train.Checkpoint(model=…)` wrote under `model`, or what
    `tf.train.Checkpoint(model)` wrote as a whole, whichever matches more. All else in it, the optimizer and the step
    among it, is left alone. One tensor is in memory at a time. Each is read twice: TensorFlow checks a tensor's CRC as
    it reads it and not before, and what is damaged has to be found before the first variable is changed.

    Args:
      model: whose variables all exist.
      prefix: the TensorFlow checkpoint's, of any number of shards.
      strict: whether anything but a full match is refused.

    Raises:
      ConfigError: nothing matches, or with `strict` not everything; no variable has been changed.
      Unusable: the checkpoint is damaged or cannot be read; no variable has been changed, unless it went bad between
        the two reads.
    """
    saved = _SavedObjects(prefix)
    report, values = max(
        (_match(model, saved, root) for root in saved.model_roots()), key=lambda found: len(found[0].loaded)
    )
    if not report.loaded:
        raise ConfigError(
            f"no variable of the model is in {prefix} under the same name, shape and dtype ({_told(report)}); "
            "choose another checkpoint or model"
        )
    if strict and not report.complete:
        raise ConfigError(
            f"{prefix} does not match the model in full ({_told(report)}); make the model as it was, or allow the "
            "rest to keep its initial values"
        )
    for key in {key for _, key in values}:
        saved.check(key)
    for variable, key in values:
        variable.assign(saved.read(key))
    return report


def lines(report: WarmStart, source: object, why: str | None = None) -> list[str]:
    """What the user is told.

    Args:
      report: what was loaded, and what was not: the latter where there is anything.
      source: from what.
      why: why just this checkpoint was chosen, where that needs words.
    """
    count = len(report.loaded)
    first = f"init   {source}: {count} variable{'' if count == 1 else 's'} loaded"
    differences = [f"{kind} {_cut(names)}" for kind, names in report.differences() if names]
    return [first, *(f"       {line}" for line in ([why] if why else []) + differences)]


class _SavedObjects:
    """The objects in a TensorFlow checkpoint, by their numbers, and its tensors, by their keys."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        try:
            self._reader = tf.compat.v1.train.NewCheckpointReader(prefix)
            self._shapes = self._reader.get_variable_to_shape_map()
            self._dtypes = self._reader.get_variable_to_dtype_map()
        except tensors.DAMAGE as error:
            raise self._unusable(error) from error
        if _GRAPH not in self._shapes:
            raise Unusable(
                f"{prefix} does not tell which objects its variables belong to; expected a checkpoint that "
                "tf.train.Checkpoint wrote"
            )
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(self.check(_GRAPH))
        self._children = [{child.local_name: child.node_id for child in node.children} for node in graph.nodes]
        self._attributes: list[dict[str, str]] = [
            {item.name: item.checkpoint_key for item in node.attributes} for node in graph.nodes
        ]

    def model_roots(self) -> list[int]:
        """The objects that may be the model: the child of that name first, then the whole."""
        return [*([self._children[0]["model"]] if "model" in self._children[0] else []), 0]

    def children(self, node: int) -> Mapping[str, int]:
        """The objects below `node`, by name."""
        # The root's counter of saves is the checkpoint's own.
        return {name: child for name, child in self._children[node].items() if node or name != "save_counter"}

    def children_beside(self, pair: tuple[Any, int]) -> dict[str, tuple[Any, int]]:
        """The pairs of objects below a pair of one of the model's and a saved one, where both have the name."""
        there = self.children(pair[1])
        return {name: (child, there[name]) for name, child in children_of(pair[0]).items() if name in there}

    def key(self, node: int) -> str:
        """The key of the tensor of a variable."""
        return self._attributes[node][_VALUE]

    def kind(self, node: int) -> tf.TensorSpec | None:
        """The shape and dtype of a variable; None for another object."""
        if _VALUE not in self._attributes[node]:
            return None
        key = self.key(node)
        return tf.TensorSpec(self._shapes[key], self._dtypes[key])

    def holds_values(self, node: int) -> bool:
        """Whether something is saved for `node` itself: a variable's value, or the content of a table."""
        return bool(self._attributes[node])

    def check(self, key: str) -> Any:
        """Reads a tensor, as an array, whose CRC TensorFlow checks."""
        try:
            return self._reader.get_tensor(key)
        except tensors.DAMAGE as error:
            raise self._unusable(error, key) from error

    def read(self, key: str) -> tf.Tensor:
        """A tensor, which a variable can take over as it is: an array of the reader's would be copied twice more."""
        try:
            return tf.raw_ops.RestoreV2(
                prefix=self.prefix, tensor_names=[key], shape_and_slices=[""], dtypes=[self._dtypes[key]]
            )[0]
        except tensors.DAMAGE as error:
            raise self._unusable(error, key) from error

    def _unusable(self, error: BaseException, key: str | None = None) -> Unusable:
        what = "" if key is None or key == _GRAPH else f" at {key.partition('/.ATTRIBUTES/')[0]}"
        return Unusable(f"{self.prefix} cannot be read{what}: {tensors.first_line(error)}; choose another checkpoint")


class _Pair(NamedTuple):
    """A variable of the model, the number of the saved one under the same name, and that one's shape and dtype."""

    variable: tf.Variable
    number: int
    kind: tf.TensorSpec


def _match(model: tf.Module, saved: _SavedObjects, root: int) -> tuple[WarmStart, list[tuple[tf.Variable, str]]]:
    """Compares the model with the saved object `root`; with the keys of the variables that can be loaded."""
    names = variable_names(model)
    fitting: dict[int, _Pair] = {}
    unlike: dict[int, _Pair] = {}
    for _, (node, number) in walk((model, root), saved.children_beside, lambda pair: (id(pair[0]), pair[1])):
        variable, kind = variable_of(node), saved.kind(number)
        if variable is None or kind is None:
            continue
        fits = variable.shape.is_compatible_with(kind.shape) and variable.dtype == kind.dtype
        # Of a variable that the checkpoint has under two names, as two, the first that fits is taken: one is extra.
        (fitting if fits else unlike).setdefault(id(variable), _Pair(variable, number, kind))
    unlike = {known: pair for known, pair in unlike.items() if known not in fitting}
    shapes, dtypes = [], []
    for known, (variable, _, kind) in unlike.items():
        if variable.shape.is_compatible_with(kind.shape):
            dtypes.append(Unlike(names[known], variable.dtype.name, kind.dtype.name))
        else:
            shapes.append(Unlike(names[known], str(variable.shape), str(kind.shape)))
    met = {pair.number for pair in (*fitting.values(), *unlike.values())}
    report = WarmStart(
        prefix=saved.prefix,
        loaded=tuple(names[known] for known in fitting),
        missing=tuple(name for known, name in names.items() if known not in fitting and known not in unlike),
        extra=tuple(
            path for path, number in walk(root, saved.children, int) if saved.holds_values(number) and number not in met
        ),
        other_shape=tuple(shapes),
        other_dtype=tuple(dtypes),
    )
    return report, [(pair.variable, saved.key(pair.number)) for pair in fitting.values()]


def _told(report: WarmStart) -> str:
    """What does not match, on one line."""
    return "; ".join(f"{kind} {_cut(names, 3)}" for kind, names in report.differences() if names)


def _cut(names: Sequence[object], shown: int = 6) -> str:
    """How many, and the first `shown` of them."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)}: {', '.join(map(str, names[:shown]))}{more}"
