"""What tells one `tf.data` pipeline from another: its operations, their settings and the constants in them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError

_NAMES_ONLY = frozenset({"metadata", "_class", "config_proto", "container", "shared_name"})
"""Attributes that hold nothing but names of this process, and hints of how to run."""
_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""Operations that call Python by a token, which is a number of this process."""
_IGNORE_STATE = 1
"""TensorFlow's number for: describe the pipeline though it may keep a state elsewhere."""


def pipeline_fingerprint(dataset: tf.data.Dataset) -> str:
    """Returns 16 hexadecimal digits that change with the pipeline's operations, and not with the names of functions.

    TensorFlow's own `DatasetFingerprint` gives the same pipeline other numbers from call to call.

    Raises:
      ConfigError: the pipeline cannot be described, such as one that holds more than 2 GiB of constants.
    """
    return _Digest(_graph_of(dataset)).of_graph()[:16]


def check_order(dataset: tf.data.Dataset) -> None:
    """Makes sure that nothing in a pipeline gives its elements in whatever order they are ready.

    Raises:
      ConfigError: something does; the message names it.
    """
    graph = _graph_of(dataset)
    inside = (node for function in graph.library.function for node in function.node_def)
    for node in itertools.chain(graph.node, inside):
        if node.attr["deterministic"].s == b"false" or node.attr["sloppy"].b:
            raise ConfigError(
                f"the stream's elements come in another order each time: {node.op.removesuffix('DatasetV2')} has "
                "deterministic=False; leave that out, or set data_resume=restart to do without the promise"
            )


def _graph_of(dataset: tf.data.Dataset) -> Any:
    """The pipeline as a `GraphDef`."""
    try:
        serialized = tf.raw_ops.DatasetToGraphV2(
            input_dataset=dataset._variant_tensor, external_state_policy=_IGNORE_STATE, strip_device_assignment=True
        )
        return tf.compat.v1.GraphDef.FromString(serialized.numpy())
    except (tf.errors.OpError, ValueError) as error:
        raise ConfigError(
            f"the stream's pipeline cannot be looked into ({type(error).__name__}); does it hold 2 GiB of constants?"
        ) from error


class _Digest:
    """Digests of the nodes and functions of a graph, each by what it computes."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._known: dict[str, str] = {}

    def of_graph(self) -> str:
        """The digest of what the graph returns, which is its last node's input."""
        nodes = {node.name: node for node in self._graph.node}
        found: dict[str, str] = {}
        returned = [node for node in self._graph.node if node.op == "_Retval"]
        return _hash(*(self._of_node(node.name, nodes, {}, found) for node in returned))

    def _of_function(self, name: str) -> str:
        if name not in self._known:
            function = self._functions[name]
            nodes = {node.name: node for node in function.node_def}
            arguments = {argument.name: f"argument {i}" for i, argument in enumerate(function.signature.input_arg)}
            found: dict[str, str] = {}
            outputs = [function.ret[output.name] for output in function.signature.output_arg]
            effects = sorted(self._of_node(node, nodes, arguments, found) for node in function.control_ret.values())
            for output in outputs:
                if output.partition(":")[0] not in arguments:
                    self._of_node(output.partition(":")[0], nodes, arguments, found)
            parts = [_of_input(output, arguments, found) for output in outputs]
            self._known[name] = _hash(*parts, "effects", *effects)
        return self._known[name]

    def _of_node(self, name: str, nodes: Mapping[str, Any], arguments: Mapping[str, str], found: dict[str, str]) -> str:
        # By a stack of our own: a chain of operations can be longer than Python's.
        waiting = [name]
        while waiting:
            node = nodes[waiting[-1]]
            givers = {given.lstrip("^").partition(":")[0] for given in node.input}
            missing = sorted(givers - arguments.keys() - found.keys())
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if node.name not in found:
                found[node.name] = self._of_settled(node, arguments, found)
        return found[name]

    def _of_settled(self, node: Any, arguments: Mapping[str, str], found: Mapping[str, str]) -> str:
        """The digest of a node whose inputs' digests are known."""
        ignored = {*_NAMES_ONLY, "token"} if node.op in _PYTHON else _NAMES_ONLY
        attributes = [f"{key}={self._of_attribute(node.attr[key])}" for key in sorted(node.attr) if key not in ignored]
        inputs = [_of_input(given, arguments, found) for given in node.input if given[0] != "^"]
        after = sorted(_of_input(given[1:], arguments, found) for given in node.input if given[0] == "^")
        return _hash(node.op, *attributes, *inputs, "after", *after)

    def _of_attribute(self, value: Any) -> str:
        if value.HasField("func"):
            settings = [f"{key}={self._of_attribute(value.func.attr[key])}" for key in sorted(value.func.attr)]
            return _hash(self._of_function(value.func.name), *settings)
        if value.HasField("list") and value.list.func:
            return _hash(*(self._of_function(function.name) for function in value.list.func))
        if value.HasField("tensor") and value.tensor.dtype == tf.resource.as_datatype_enum:
            return "a handle, of this process"
        return hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()


def _of_input(given: str, arguments: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What an input is: an argument of the function, or an output of a node whose digest is known."""
    name, _, output = given.partition(":")
    return arguments[name] if name in arguments else f"{found[name]}:{output}"


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()
