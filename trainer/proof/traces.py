"""What the traces of an experiment tell before a step is run."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import tensorflow as tf

from trainer.checkpoint.objects import variable_of
from trainer.data.stateful import RANDOM
from trainer.optim.optimizer import Optimizer
from trainer.proof.build import Built
from trainer.proof.findings import Finding
from trainer.proof.graph import PRINTS, PYTHON, Operation, constants, operations, place_of, structure, uses
from trainer.proof.python_state import changes, traced_numbers
from trainer.proof.watch import Watch
from trainer.run.experiment import Experiment

_TRACES_AT_MOST = 2
"""For how many values of a Python number a function may be traced: `training` as 0 and 1, say."""


def examine_traces(built: Built, fresh: Experiment) -> Iterator[Finding]:
    """Everything below, but for the warnings.

    Args:
      built: the experiment, with its programs traced.
      fresh: the same experiment, made anew.
    """
    watch = built.watch
    yield from unsaved(built)
    yield from changing_data(built, fresh)
    yield from random_operations(watch)
    yield from retraced(watch)
    yield from changing_traces(watch)
    yield from calls_of_python(watch)


def unsaved(built: Built) -> Iterator[Finding]:
    """The variables that the step uses and the checkpoint does not reach."""
    # The view does not keep it alive.
    checkpoint = built.parts.state.checkpoint()
    nodes = tf.train.TrackableView(checkpoint).descendants()
    found = [variable for variable in map(variable_of, nodes) if variable is not None]
    # An optimizer may stand within another.
    found += [variable for node in nodes if isinstance(node, Optimizer) for variable in node.scratch]
    reached = {id(variable.handle) for variable in found}
    # A variable that no attribute holds has at least the name that it was made with.
    names = {id(variable.handle): variable.name for variable in built.created}
    names |= built.watch.python_state().variables
    told = set()
    for call in built.watch.calls:
        for use in uses(call.graph) if call.training else ():
            if id(use.handle) in reached or id(use.handle) in told:
                continue
            told.add(id(use.handle))
            name = names.get(id(use.handle), "made outside of the experiment, and in no attribute of it")
            if use.changes:
                what, fix = "changes", "make it an attribute of the model, or of a tf.Module in it"
            else:
                what, fix = "uses", "make it an attribute of the model, or a tf.constant if it never changes"
            yield Finding(
                "unsaved",
                f"the step {what} a variable that no checkpoint holds: {name} ({use.place})",
                f"{fix}: a resume begins with its initial value again",
            )


def changing_data(built: Built, fresh: Experiment) -> Iterator[Finding]:
    """Data that cannot be resumed, or is other data each time it is made."""
    if built.parts.source.mode == "restart":
        yield Finding(
            "data",
            "the training data begins again at every resume (mode restart): examples come twice, and others never",
            "let its position be saved or counted, without --data_resume=restart",
        )
    first = {"train": built.watch.returned["train_data"], **built.watch.returned.get("eval_data", {})}
    second = {"train": fresh.train_data(), **fresh.eval_data()}
    for split, source in first.items():
        if split not in second or source.fingerprint != second[split].fingerprint:
            yield Finding(
                "data",
                f"the {split} data is other data each time it is made, by its fingerprint",
                "make it from files and constants alone: no global, clock or unseeded generator",
            )


def random_operations(watch: Watch) -> Iterator[Finding]:
    """The operations that draw random numbers from a generator of their own."""
    for where, operation in _found(watch, RANDOM):
        yield Finding(
            "random",
            f"{where} draws from a generator that no checkpoint holds, seeded or not: {operation}",
            "use tf.random.stateless_… with the seed that the method is given, trainer.fold_in(seed, n) for several",
        )


def calls_of_python(watch: Watch) -> Iterator[Finding]:
    """The operations that leave the program for Python in every step."""
    for where, operation in _found(watch, PYTHON):
        yield Finding(
            "host",
            f"{where} calls Python: {operation}",
            "write it with TensorFlow's operations, or do it in the data: Python is slow there and cannot be compiled, "
            "and what it remembers is not saved",
        )


def prints(watch: Watch) -> Iterator[str]:
    """Warnings of what is printed in every step."""
    for where, operation in _found(watch, PRINTS):
        yield f"{where} prints in every step, which takes time and cannot be compiled: {operation}"


def changing_traces(watch: Watch) -> Iterator[Finding]:
    """Python values that the step depends on and that are others each time it is traced.

    Each call is traced twice more: what is made at first use is there by then.
    """
    told = set()
    for call in _one_of_each(watch):
        first = watch.trace_again(call)
        before = watch.python_state()
        second = watch.trace_again(call)
        for change in changes(before, watch.python_state()):
            if change.path not in told:
                told.add(change.path)
                yield Finding(
                    "python_state",
                    f"{call.method} changes a Python value when it is traced: {change}",
                    "a program is traced once and then keeps the value that it found: hold it in a tf.Variable of the "
                    "model, or compute it from the seed and the batch",
                )
        # If what differs follows from a value that was just named, it is the same fault.
        if not told and (difference := _difference(first, second)):
            told.add(difference)
            yield Finding(
                "python_state",
                f"{call.method} is another program each time it is traced: {difference}",
                "use no clock, no Python or NumPy random numbers and no counter in it; randomness comes from the seed",
            )


def retraced(watch: Watch) -> Iterator[Finding]:
    """The user's own functions that are traced again and again, for Python numbers; before and after one more trace."""
    state = watch.python_state()
    before = {path: function.experimental_get_tracing_count() for path, function in state.functions.items()}
    for call in _one_of_each(watch):
        watch.trace_again(call)
    for path, function in state.functions.items():
        numbers = {name: values for name, values in traced_numbers(function).items() if len(values) > _TRACES_AT_MOST}
        for name, values in numbers.items():
            yield Finding(
                "retracing",
                f"{path} is traced anew for each value of the Python number {name}: {', '.join(values[:5])}"
                f"{', …' if len(values) > 5 else ''}",
                "give it as a tensor, tf.constant(…), or take @tf.function away: the step is one program already",
            )
        count = function.experimental_get_tracing_count()
        if count > before[path] and not numbers:
            yield Finding(
                "retracing",
                f"{path} is traced anew with every trace of the step, {count} times by now",
                "call it with tensors of one shape, or take @tf.function away: the step is one program already",
            )


def _found(watch: Watch, types: Collection[str]) -> Iterator[tuple[str, Operation]]:
    """The operations of these types in the traces, each once, with what was traced."""
    told = set()
    for call in watch.calls:
        for operation in operations(call.graph, types):
            if operation not in told:
                told.add(operation)
                yield ("the step" if call.training else "the evaluation"), operation


def _one_of_each(watch: Watch) -> list[Any]:
    return list({(call.method, call.training): call for call in watch.calls}.values())


def _difference(first: Any, second: Any) -> str | None:
    """What differs between two traces of the same function."""
    if others := structure(first) ^ structure(second):
        name, kind = min(others)
        return f"one trace has an operation {kind} ({name}) that the other has not"
    here, there = constants(first), constants(second)
    names = [name for name in here if here[name] != there[name]]
    if not names:
        return None
    place = next(place_of(operation) for operation in first.get_operations() if operation.name == names[0])
    return f"a value computed in Python is fixed in it, at {place}"
