"""Building an experiment under watch, and telling in one line why it cannot be built."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint.tensors import first_line
from trainer.errors import TrainerError
from trainer.proof.findings import Finding
from trainer.proof.fresh import MakeExperiment
from trainer.proof.graph import is_of_room, is_ours, is_rewritten, is_users, short_path
from trainer.proof.watch import Failure, Watch
from trainer.run.assembly import Assembly, assemble
from trainer.run.catalog import canonical_name
from trainer.run.config import make_config

_SYMBOLIC = re.compile(r"numpy|symbolic|Python bool", re.IGNORECASE)
"""How TensorFlow says that a traced tensor has no value yet."""
_FIRST = "mend this first: nothing else can be known"


@dataclasses.dataclass(frozen=True)
class Built:
    """An experiment with its programs traced, and nothing run."""

    watch: Watch
    parts: Assembly
    created: tuple[tf.Variable, ...]
    """Every variable that was made meanwhile."""


def build(make: MakeExperiment, settings: Mapping[str, Any]) -> Built | Finding:
    """Builds an experiment; where that fails by its own fault, the finding.

    Args:
      make: makes the experiment.
      settings: the trainer's options.
    """
    created: list[tf.Variable] = []
    watch = Watch(make())
    experiment = watch.experiment
    try:
        # What the step is does not depend on how it is compiled.
        config = make_config({**settings, "jit": "none"}, experiment.suggested_flags)
        with _noting(created):
            parts = assemble(experiment, config, name=canonical_name(type(experiment)), known=None)
    except Exception as error:
        if watch.failures:
            return tell(watch.failures[-1], error, kind="build")
        if isinstance(error, TrainerError):
            kind = "data" if is_of_room("data", _frames(error)[-1][0]) else "build"
            return Finding(kind, f"it cannot be built: {error}", _FIRST)
        raise
    return Built(watch, parts, tuple(created))


def tell(failure: Failure, raised: Exception, *, kind: str) -> Finding:
    """The finding that a method of the experiment raised.

    Args:
      failure: which one, and what.
      raised: the error as it came out of the trainer, with what autograph says of it.
      kind: of which kind it is, unless the method reads a value that is not there yet.

    Raises:
      Exception: `raised` itself, where the fault is one of this package.
    """
    cause = failure.error
    if _is_a_bug_here(cause):
        raise raised
    what = f"{failure.method} raises {type(cause).__name__}: {first_line(cause)} ({_place(cause, raised)})"
    if failure.method in ("loss", "train_step") and _SYMBOLIC.search(str(cause)):
        return Finding(
            "host",
            f"{what}: it reads the value of a tensor while it is traced",
            "compute with tensors, tf.cond and tf.where; a value leaves the program as a metric of the loss",
        )
    return Finding(kind, what, _FIRST)


@contextlib.contextmanager
def _noting(created: list[tf.Variable]) -> Iterator[None]:
    def creator(make: Any, **arguments: Any) -> tf.Variable:
        created.append(make(**arguments))
        return created[-1]

    with tf.variable_creator_scope(creator):
        yield


def _is_a_bug_here(error: Exception) -> bool:
    """Whether an error that came through a method of the experiment was raised in this package, and not on purpose."""
    if isinstance(error, TrainerError):
        return False
    # What autograph has rewritten is taken for the user's: it is what it rewrites most.
    files = [file for file, _ in _frames(error) if is_ours(file) or is_users(file) or is_rewritten(file)]
    return bool(files) and is_ours(files[-1])


def _place(cause: Exception, raised: Exception) -> str:
    """The last line of the user's code on the way to an error."""
    # Autograph runs code that it has rewritten, and says in the message where each line comes from.
    told = [(file, int(line)) for file, line in re.findall(r'File "(.+?)", line (\d+), in \S+', str(raised))]
    known = [(file, line) for file, line in (*told, *_frames(cause)) if is_users(file)]
    return f"{short_path(known[-1][0])}:{known[-1][1]}" if known else "in code that is not its own"


def _frames(error: Exception) -> list[tuple[str, int]]:
    """The files and lines that an error came through, outermost first."""
    found, traceback = [], error.__traceback__
    while traceback is not None:
        found.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return found
