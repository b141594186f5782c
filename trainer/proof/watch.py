"""Watching an experiment while the trainer uses it: what it returns, where its step is traced, what it raises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from trainer.proof.python_state import PythonState, look
from trainer.run.experiment import Experiment

_METHODS = ("model", "optimizer", "train_data", "eval_data", "extra_state", "loss", "train_step", "summarize")
_STEPS = ("loss", "train_step")


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of `loss` or `train_step` by a program that was being traced."""

    method: str
    training: bool
    graph: Any
    """The outermost graph that was being made; complete when the program is."""
    arguments: tuple[Any, ...]
    """What it was called with: the model or the state; the types of the batch's tensors; the type of the seed."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """What a method of the experiment raised."""

    method: str
    error: Exception


class Watch:
    """Notes how an experiment is used, which is made to be of a class that derives from its own and is called the same.

    Args:
      experiment: a fresh one; it, and what is copied from it, is watched from now on.
      on_traced: called with the watch after each call of `loss` or `train_step`.

    Attributes:
      experiment: that experiment, or the copy that was used last.
      returned: what the methods that are called once returned, by the method's name; of `model` the first.
      calls: the calls that traced the step and the evaluation.
      failures: what its methods raised.
    """

    def __init__(self, experiment: Experiment, *, on_traced: Callable[[Watch], None] | None = None) -> None:
        self.experiment = experiment
        self.returned: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.failures: list[Failure] = []
        self._on_traced = on_traced
        kind = type(experiment)
        # Nothing is watched that the experiment leaves as it is: what it does not have, the trainer does without.
        own = [name for name in _METHODS if getattr(kind, name, None) is not getattr(Experiment, name, None)]
        names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        self._kind: Any = type(kind.__name__, (kind,), {**names, **{name: self._watched(name) for name in own}})
        if "__dataclass_params__" in vars(kind):
            # Frozen as it was: Python asks for the very class.
            frozen = vars(kind)["__dataclass_params__"].frozen
            self._kind = dataclasses.dataclass(frozen=frozen, init=False, repr=False, eq=False)(self._kind)
        object.__setattr__(experiment, "__class__", self._kind)

    def python_state(self) -> PythonState:
        """What the user's objects hold now, but for those that the experiment has registered to be saved."""
        roots: dict[str, Any] = {"experiment": self.experiment}
        roots |= {name: self.returned[name] for name in ("model", "optimizer") if name in self.returned}
        if self.calls:
            first = self.calls[0].arguments[0]
            roots["model"] = first if self.calls[0].method == "loss" else first.model
        registered = list(self.returned.get("extra_state", {}).values())
        return look(roots, aside=registered)

    def trace_again(self, call: Call) -> Any:
        """Traces one call once more, into a graph of its own, and returns that graph. Nothing is executed."""
        method, (first, batch, seed) = self._bound(self.experiment, call.method), call.arguments

        def loss(values: Mapping[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
            return method(first, values, training=call.training, seed=seed).per_example

        def train_step(values: Mapping[str, tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
            return method(first, values, seed).per_example

        function = loss if call.method == "loss" else train_step
        return tf.function(function).get_concrete_function(batch, seed).graph

    def _watched(self, name: str) -> Callable[..., Any]:
        def watched(experiment: Experiment, *arguments: Any, **named: Any) -> Any:
            method = self._enter(experiment, name, arguments, named)
            try:
                returned = method(*arguments, **named)
            except Exception as error:
                self.failures.append(Failure(name, error))
                raise
            self._leave(name, returned)
            return returned

        return watched

    def _bound(self, experiment: Experiment, name: str) -> Callable[..., Any]:
        """The experiment's own method."""
        method: Callable[..., Any] = getattr(super(self._kind, experiment), name)
        return method

    # Not converted: autograph follows the calls of a step, and would rewrite these too.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _enter(
        self, experiment: Experiment, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """Notes a call; returns the experiment's own method."""
        self.experiment = experiment
        if name in _STEPS:
            self._note(name, arguments, named)
        return self._bound(experiment, name)

    def _note(self, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given = {**dict(zip(("model", "batch", "seed"), arguments, strict=False)), **named}
        first = given.get("model", given.get("state"))
        types = tf.nest.map_structure(tf.type_spec_from_value, (given["batch"], given["seed"]))
        training = bool(given.get("training", True))
        self.calls.append(Call(name, training, _outermost(tf.compat.v1.get_default_graph()), (first, *types)))

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _leave(self, name: str, returned: Any) -> None:
        if name not in _STEPS:
            # A second model is the average of the first.
            self.returned.setdefault(name, returned)
        elif self._on_traced:
            self._on_traced(self)


def _outermost(graph: Any) -> Any:
    """The graph of the function that is being traced, from inside of its loops and branches."""
    while getattr(graph.outer_graph, "outer_graph", None) is not None:
        graph = graph.outer_graph
    return graph
