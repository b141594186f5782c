"""How much of a run XLA compiles: the modes of `--jit`, the rule of `auto`, and what does not compile."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer.data import Source
from trainer.data.sources import GraphSource
from trainer.errors import ConfigError
from trainer.run import guests
from trainer.run.state import TrainState

NONE, STEP, CHUNK = "none", "step", "chunk"
MODES = (NONE, STEP, CHUNK)
"""Nothing; each step, from the arrival of its batch on; the whole chunk, with the order and the batches of the data."""
AUTO = "auto"
LARGE = 20_000_000
"""Models of so many parameters and more `auto` does not compile: a step takes so long that the loop costs nothing."""
SLOW = ("Conv", "DepthwiseConv", "MaxPool", "Cholesky", "Eig", "MatrixInverse", "MatrixSolve", "SelfAdjointEig", "Svd")
"""How the names of the operations begin that `auto` does not compile; they stand beside those of their gradients.

In a compiled loop XLA has loops of its own for them on a CPU. Measured on two cores, convolutions of 32 channels with
their gradients take 25 to 700 times as long as TensorFlow's, the others 5 to 30 times; only where there is hardly
anything to compute are they faster.
"""

_OF_THE_MOMENT = (
    *(tf.errors.ResourceExhaustedError, tf.errors.CancelledError, tf.errors.AbortedError),
    *(tf.errors.UnavailableError, tf.errors.DeadlineExceededError),
)
"""What says nothing of the program: the same one may compile at another time, and `auto` would choose by chance."""
_AROUND = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", "File ", "Node: ")
"""How the lines begin that TensorFlow puts before what went wrong."""
_NO_KERNEL = re.compile(r"No registered '(?P<op>\w+)' OpKernel for XLA")
_MADE = re.compile(r"The op is created at: *\n(?P<trace>(?:File .*\n)+)")
_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)')


def choose(asked: str, state: TrainState, source: Source, *, known: str | None) -> str:
    """The mode of a run. The rule of `auto` is fixed and never measures: the choice changes the bits.

    Which operations there are is known when they are traced: `auto` then still has to ask for a `slow_operation`.

    Args:
      asked: one of `MODES`, or `auto`.
      state: with the model, whose size matters, and whether it has Keras layers.
      source: the training data.
      known: the mode of the run that the directory holds, which stands; None where there is none yet.

    Raises:
      ConfigError: the data cannot be read in a compiled chunk.
    """
    in_memory = isinstance(source, GraphSource)
    if asked == CHUNK and not in_memory:
        raise ConfigError(
            "jit=chunk compiles no reading of data; use jit=step, which compiles what follows, or trainer.data.arrays"
        )
    if asked != AUTO:
        return asked
    if known is not None and (in_memory or known != CHUNK):
        return known
    small = state.parameters() < LARGE
    return CHUNK if in_memory and small and not guests.has_guests(state.model) else NONE


def slow_operation(program: Any) -> str | None:
    """The first operation of a traced function, or of what it calls, that `auto` does not compile; None for none."""
    graph = program.graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    return next((node.op for node in nodes if node.op.startswith(SLOW)), None)


@contextlib.contextmanager
def refusing(mode: str, *, ahead: bool = False) -> Iterator[None]:
    """Has what XLA cannot compile come out as one line; any other error is one of the program itself.

    Args:
      mode: what XLA is to compile.
      ahead: whether it does nothing else, so that what TensorFlow fails with is XLA's, but for a lack of memory and the
        like.

    Raises:
      DoesNotCompile: XLA cannot.
    """
    try:
        yield
    except (tf.errors.OpError, ValueError) as error:
        of_xla = ahead and isinstance(error, tf.errors.OpError)
        if isinstance(error, _OF_THE_MOMENT) or not (of_xla or _about_compiling(str(error))):
            raise
        raise DoesNotCompile(mode, str(error)) from error


def _about_compiling(message: str) -> bool:
    """Whether XLA says so: "compile", "Compilation", "uncompilable"; a file may be called like that, too."""
    return any("ompil" in line for line in message.splitlines() if not line.startswith("File "))


class DoesNotCompile(ConfigError):
    """XLA cannot compile what it is to.

    Args:
      mode: what it was to.
      message: XLA's.

    Attributes:
      why: that, in a few words.
    """

    def __init__(self, mode: str, message: str) -> None:
        self.why = _in_a_few_words(message)
        super().__init__(f"jit={mode} does not compile here: {self.why}; use --jit=none")


def _in_a_few_words(message: str) -> str:
    """What XLA said: the operation that it has not, and where that was made."""
    found = _NO_KERNEL.search(message)
    lines = [line.strip() for line in message.splitlines()]
    said = next((line for line in lines if line and not line.startswith(_AROUND)), "")
    what = f"XLA has no {found['op']}" if found else said[:300]
    made = _MADE.search(message)
    places = _LINE.findall(made["trace"]) if made else []
    return what + (" (made in {}, line {}, in {})".format(*places[-1]) if places else "")
