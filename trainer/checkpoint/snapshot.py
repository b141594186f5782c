"""A snapshot: a second copy of every variable, which is written while training goes on."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer.checkpoint.listing import tensors_to_write
from trainer.checkpoint.objects import children_of, variable_of
from trainer.checkpoint.tensors import first_line
from trainer.errors import ConfigError


class NoSnapshot(Exception):
    """A checkpoint holds something other than variables, which cannot be copied."""


class _Root(tf.train.Checkpoint):  # type: ignore[misc]  # TensorFlow has no types.
    """A checkpoint that takes a counter of saves, which the original may have, for a part like others."""

    save_counter: Any = None


class Snapshot:
    """A shadow of a checkpoint's variables, under the same names, in the memory of the host.

    `take` copies all variables at one moment; `checkpoint` then writes that moment, whatever happens to the originals.
    What it writes restores into the originals: its object graph has the same names.

    Args:
      checkpoint: the checkpoint of the originals, all of whose variables exist.

    Raises:
      NoSnapshot: it holds an object with a state that is no variable, such as an iterator or a table.
    """

    def __init__(self, checkpoint: tf.train.Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._variables: list[tuple[tf.Variable, tf.Variable]] = []
        # With the originals: the identity of one that is gone can be another's.
        self._shadows: dict[int, tuple[Any, Any]] = {}
        try:
            with tf.device("CPU:0"):
                children = {name: self._shadow(child) for name, child in children_of(checkpoint).items()}
        except tf.errors.OpError as error:
            raise NoSnapshot(f"a variable of it has a type that cannot be: {first_line(error)}") from error
        self.checkpoint = _Root(**children)
        if lacking := _keys(checkpoint) - _keys(self.checkpoint):
            name = min(lacking).partition("/.ATTRIBUTES/")[0]
            raise NoSnapshot(f"{name} holds state that cannot be copied in memory")
        # The memory is touched now: its first use costs many times what a copy costs.
        self._copy()

    def take(self) -> None:
        """Copies every variable, as they are between two chunks.

        Raises:
          ConfigError: there are variables that were not there when the copy was set up.
        """
        found = map(variable_of, tf.train.TrackableView(self._checkpoint).descendants())
        late = [variable for variable in found if variable is not None and id(variable) not in self._shadows]
        if late:
            names = ", ".join(variable.name for variable in late[:3])
            raise ConfigError(
                f"variables were created after the first asynchronous save ({len(late)}: {names}); create all of them "
                "before, or use async_save=false"
            )
        self._copy()

    def _copy(self) -> None:
        # Operation by operation: to trace thousands of them takes longer at each start than it saves at a save.
        with tf.device("CPU:0"):
            zero, one = tf.constant([0]), tf.constant([1])
            for original, shadow in self._variables:
                if shadow.shape.rank and shadow.shape.is_fully_defined():
                    # Into the memory that is there. An assignment would share the original's until training writes
                    # to it, and have the next step pay for the copy, into memory that is new each time.
                    tf.raw_ops.ResourceStridedSliceAssign(
                        ref=shadow.handle, begin=zero, end=zero, strides=one, value=original, begin_mask=1, end_mask=1
                    )
                else:
                    shadow.assign(original)

    def _shadow(self, node: Any) -> Any:
        """The shadow of an object of the checkpoint's graph; of a shared object, the shared shadow."""
        variable = variable_of(node)
        original = node if variable is None else variable
        if id(original) in self._shadows:
            return self._shadows[id(original)][1]
        if variable is not None:
            shadow: Any = tf.Variable(tf.zeros_like(variable), trainable=False, shape=variable.shape)
            self._variables.append((variable, shadow))
            self._shadows[id(original)] = (original, shadow)
            return shadow
        children = children_of(node)
        # A part may have any name, also one that a module uses itself, such as `name` or `variables`.
        shadow = type("Shadow", (tf.Module,), dict.fromkeys(children))()
        self._shadows[id(original)] = (original, shadow)
        for name, child in children.items():
            setattr(shadow, name, self._shadow(child))
        return shadow


def _keys(checkpoint: tf.train.Checkpoint) -> set[str]:
    try:
        return set(tensors_to_write(checkpoint))
    except tf.errors.OpError as error:
        raise NoSnapshot(f"a part of it refuses to be saved: {first_line(error)}") from error
