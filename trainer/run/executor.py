"""Which of TensorFlow's executors runs a chunk: the one that hands operations to threads, or that of a single thread.

The usual one asks of every operation whether it can begin, and hands it to a thread: a microsecond or so for each. The
other one, which tf.data runs functions with, goes through them in one order that is fixed beforehand, and leaves work
in parallel to what is inside of an operation.

Of a step that XLA compiles it changes no bit. Of one that nobody compiles it may change the last ones: its loop is run
as it is written, where TensorFlow rewrites the usual one's (of a division by a constant it makes a product). What is
chosen depends on nothing but the program (the data's part, the step, what XLA compiles of it), the number of
parameters, and the kind of machine.
"""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf

from trainer.run import machine
from trainer.run.jit import NONE, STEP

USUAL, ONE_THREAD = "", "SINGLE_THREADED_EXECUTOR"
"""As `tf.experimental.function_executor_type` takes them, for the trace of a function and for each of its calls."""
_FEW_PARAMETERS, _SMALL_TENSOR = 1 << 15, 1 << 14
_LOOPS = ("While", "StatelessWhile")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOW_LEVEL = ("Enter", "Exit", "LoopCond", "Merge", "NextIteration", "RefSwitch", "Switch")


def choose(step: Any, jit: str, parameters: int) -> str:
    """The executor of a loop over a step, as far as the step tells: one thread has to be possible for all of the loop.

    Where XLA compiles each step, nothing is left that threads could share. A step of TensorFlow's operations has to be
    so small that handing them out costs more than two threads gain: measured on two cores, with 10,000 parameters and
    tensors of 8,000 values one thread takes a half to three quarters of the time, with four times as many it is slower.

    Args:
      step: traced, a concrete function.
      jit: one of `jit.MODES`.
      parameters: of the model.
    """
    # Whoever waits for a tensor of another device keeps the thread that is to send it. And where the one thread waits
    # for a batch, what makes that batch may need another one.
    if len(tf.config.list_logical_devices()) > 1 or machine.thread_counts()["inter_op"] < 2:
        return USUAL
    if jit == STEP:
        return ONE_THREAD
    small = jit == NONE and parameters < _FEW_PARAMETERS and _largest(step) <= _SMALL_TENSOR
    return ONE_THREAD if small and not any(map(_function_names, step.graph.as_graph_def().node)) else USUAL


def possible_in_one_thread(program: Any) -> bool:
    """Whether one thread can run a function that was traced for it.

    A branch or a call that is not part of a compiled program would be handed to another thread and waited for: as many
    threads would wait as such operations lie in one another, and TensorFlow may have no more than that.
    """
    graph = program.graph.as_graph_def()
    functions = {function.signature.name: function for function in graph.library.function}
    ahead, seen = [graph.node], set()
    while ahead:
        for node in ahead.pop():
            if node.op in _LOW_LEVEL or node.op == "EagerPyFunc" or node.attr["_lower_using_switch_merge"].b:
                return False
            names = _function_names(node)
            if node.op in _CALLS and functions[names[0]].attr["_XlaMustCompile"].b:
                continue
            if names and node.op not in _LOOPS:
                return False
            ahead.extend(functions[name].node_def for name in names if name not in seen)
            seen.update(names)
    return True


def _function_names(node: Any) -> list[str]:
    """The functions that an operation runs."""
    values = node.attr.values()
    one, many = [value.func for value in values if value.HasField("func")], [value.list.func for value in values]
    return [function.name for function in itertools.chain(one, *many)]


def _largest(step: Any) -> float:
    """How many values the largest tensor of a traced function has; infinite where that is not known of all."""
    sizes = [tensor.shape.num_elements() for operation in step.graph.get_operations() for tensor in operation.outputs]
    return float("inf") if None in sizes else max(sizes, default=0)
