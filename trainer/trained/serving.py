"""What an exported model answers: a function of the tensors that its answer depends on, and what that function uses."""

from __future__ import annotations

import dataclasses
import gc
import keyword
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer.checkpoint.objects import variable_names
from trainer.checkpoint.tensors import first_line
from trainer.data.sources import REPEAT, RESTART
from trainer.data.stateful import operations_in
from trainer.data.streams import StreamSource
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment
from trainer.run.feed import make_feed
from trainer.trained.guest_call import call_of_guest

OUTPUT = "output"
"""The name of a tensor that is returned without one."""

_PYTHON = ("EagerPyFunc", "PyFunc", "PyFuncStateless")
"""Operations that call Python, which is not saved."""

Tensors = Mapping[str, tf.Tensor]
Specs = Mapping[str, tf.TensorSpec]
Answer = Callable[[Tensors], Any]


@dataclasses.dataclass(frozen=True)
class Serving:
    """A traced function, ready to be saved."""

    function: Any
    """Takes the inputs by name, and returns the outputs by name."""
    inputs: Specs
    """Their batch dimension is None where a batch may have any size."""
    outputs: Specs
    uses: tuple[Any, ...]
    """The variables and the tables that it reads."""
    notes: tuple[str, ...]
    """What whoever exports it should know, a line each."""


def trace_serving(experiment: Experiment, model: Any) -> Serving:
    """Traces what `predict` makes of a training batch, or else what a Keras model makes of the inputs that it knows.

    What the answer depends on becomes an input, whatever else of the batch is looked at.

    Raises:
      ConfigError: there is neither, it cannot be traced, or what it returns cannot be served.
    """
    kind, notes = type(experiment).__name__, list[str]()
    if type(experiment).predict is not Experiment.predict:
        what = f"{kind}.predict()"
        specs = _batch_specs(experiment)
        traced = _on_any_batch(lambda batch: experiment.predict(model, batch), specs, what, notes)
    elif (call := call_of_guest(model)) is not None:
        what = f"the call of {type(model).__name__}"
        traced = _traced(call.answer, call.specs, what)
    else:
        raise ConfigError(
            f"{kind} does not say what its model answers; write predict(self, model, batch), which returns tensors by "
            'name such as {"logits": model(batch["x"])}, or export with --weights_only'
        )
    graph = traced.concrete.graph
    if called := {operation.name for operation in operations_in(graph, _PYTHON)}:
        raise ConfigError(
            f"{what} calls Python ({', '.join(sorted(called))}), which cannot be exported; use TensorFlow's own "
            "operations, or export with --weights_only"
        )
    needed = traced.needed()
    if not needed:
        raise ConfigError(
            f"what {what} returns depends on none of {', '.join(traced.specs)}; expected an answer to a batch"
        )
    names = _served_names(needed)
    notes += [f"the input {own!r} is served as {served!r}" for own, served in names.items() if own != served]
    notes += _strangers(traced.concrete.variables, model, what)
    return Serving(
        function=_by_name(traced, names),
        inputs={served: traced.specs[own] for own, served in names.items()},
        outputs={
            name: tf.TensorSpec(tensor.shape, tensor.dtype)
            for name, tensor in traced.concrete.structured_outputs.items()
        },
        uses=(*traced.concrete.variables, *_tables(graph)),
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A function of a batch, traced; it returns tensors by name."""

    concrete: Any
    specs: Specs
    """Of all tensors of the batch."""
    batch: Tensors
    """They themselves, in the graph."""

    def needed(self) -> list[str]:
        """The names of the tensors without which there is no answer, in the order of the batch."""
        # What has to run whatever is returned, such as an assertion, comes before what is returned.
        pending = [tensor.op for tensor in self.concrete.graph.outputs]
        reached = set(pending)
        while pending:
            operation = pending.pop()
            before = {*(tensor.op for tensor in operation.inputs), *operation.control_inputs} - reached
            reached |= before
            pending += before
        return [name for name in self.specs if self.batch[name].op in reached]


def _batch_specs(experiment: Experiment) -> Specs:
    """The shapes of a training batch."""
    try:
        source = experiment.train_data()
        if isinstance(source, StreamSource):
            # Of where it stands nothing is asked, so nothing has to be saved.
            source = source.resumed_by(RESTART, on_end=REPEAT)
        return make_feed(source).specs[0]
    except OSError as error:
        raise ConfigError(
            f"{type(experiment).__name__}.train_data() raises {type(error).__name__}: {error}; a batch's shapes are "
            "needed: bring the data back, or export with --weights_only"
        ) from error


def _on_any_batch(answer: Answer, specs: Specs, what: str, notes: list[str]) -> _Traced:
    """Traces it on batches of any size; where that cannot be, on those of training, which is noted."""
    any_size = {name: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for name, spec in specs.items()}
    try:
        return _traced(answer, any_size, what)
    except ConfigError as error:
        reason = error
    traced = _traced(answer, specs, what)
    size = next(iter(specs.values())).shape[0]
    notes.append(f"only batches of exactly {size} are served: with any number of rows {reason}")
    return traced


def _traced(answer: Answer, specs: Specs, what: str) -> _Traced:
    batch: dict[str, tf.Tensor] = {}

    def on_batch(given: dict[str, tf.Tensor]) -> Any:
        batch.update(given)
        return _checked(answer(dict(given)), what)

    try:
        concrete = tf.function(on_batch).get_concrete_function(dict(specs))
    except Exception as error:
        # Autograph raises an error again, with pages of its own around it.
        inner = error.__context__
        cause = inner if inner is not None and hasattr(inner, "ag_error_metadata") else error
        if isinstance(cause, ConfigError):
            raise cause from None
        said = f"{type(cause).__name__}: {first_line(cause)}{_place(error)}"
        raise ConfigError(f"{what} cannot be traced: {said}") from error
    return _Traced(concrete, specs, batch)


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
def _checked(answer: Any, what: str) -> dict[str, tf.Tensor]:
    """What was returned, as tensors by name.

    Raises:
      ConfigError: it is something else.
    """
    expected = 'expected tensors by name, such as {"logits": …}, or one tensor'
    named = answer if isinstance(answer, Mapping) else {OUTPUT: answer}
    if not named:
        raise ConfigError(f"{what} returned nothing; {expected}")
    tensors = {}
    for name, value in named.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{what} returned something by the name {name!r}; {expected}")
        known = isinstance(value, tf.Tensor | tf.Variable) or hasattr(value, "__array__")
        if not known:
            given = type(value).__name__ if value is answer else f"{name} as {type(value).__name__}"
            raise ConfigError(f"{what} returned {given}; {expected}")
        tensors[name] = tf.convert_to_tensor(value)
    return tensors


def _place(error: Exception) -> str:
    """The last line of the user's code that autograph tells of."""
    found = re.findall(r'(?m)^\s*File "(.+?)", line (\d+), in \S+  \*$', str(error))
    places = [(file, line) for file, line in found if not os.path.samefile(file, __file__)]
    return f" ({os.path.basename(places[-1][0])}:{places[-1][1]})" if places else ""


def _served_names(names: Sequence[str]) -> dict[str, str]:
    """The names of a signature's inputs, which are those of arguments: `image/raw` is `image_raw`, `class` `arg_class`.

    Raises:
      ConfigError: two would be the same.
    """
    served: dict[str, str] = {}
    for name in names:
        word = re.sub(r"\W", "_", name, flags=re.ASCII)
        word = word if re.match(r"[A-Za-z]", word) and not keyword.iskeyword(word) and word != "self" else f"arg_{word}"
        if word in served.values():
            raise ConfigError(f"the inputs {', '.join(map(repr, names))} cannot be told apart as {word}; rename one")
        served[name] = word
    return served


def _by_name(traced: _Traced, names: Mapping[str, str]) -> Any:
    """The function of the inputs alone, by the names that they are served as."""

    def serve(**inputs: tf.Tensor) -> Tensors:
        batch = {name: inputs[names[name]] if name in names else _nothing(spec) for name, spec in traced.specs.items()}
        answer: Tensors = traced.concrete(batch)
        return answer

    served = {names[name]: spec for name, spec in traced.specs.items() if name in names}
    return tf.function(serve, autograph=False).get_concrete_function(**served)


def _nothing(spec: tf.TensorSpec) -> tf.Tensor:
    """A tensor that nothing depends on; it has a place in the batch."""
    return tf.zeros([size or 0 for size in spec.shape], spec.dtype)


def _strangers(variables: Sequence[Any], model: Any, what: str) -> list[str]:
    """A note where variables are read that are no part of the model, and so of no checkpoint's model."""
    known = variable_names(model)
    names = [variable.name for variable in variables if id(variable) not in known]
    if not names:
        return []
    return [f"{what} reads variables outside the model, which are exported as they are made: {', '.join(names)}"]


def _tables(graph: Any) -> list[Any]:
    """The lookup tables and the like that a graph reads, wherever Python keeps them."""
    handles = {id(external) for external, internal in graph.captures if internal.dtype == tf.resource}
    kind = tf.saved_model.experimental.TrackableResource
    # By its type: what an object says of its class may be a proxy's answer, of something that is gone.
    resources = [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
    return [resource for resource in resources if id(resource.resource_handle) in handles]
