"""A checkpoint's tensors: written, read back and restored by TensorFlow, whose errors become ours."""

from __future__ import annotations

import re

import tensorflow as tf

from trainer.checkpoint.objects import variable_of
from trainer.checkpoint.recovery import Damaged
from trainer.errors import ConfigError, Unusable, Unwritable

DAMAGE = (tf.errors.OpError, IndexError, ValueError)
"""What TensorFlow raises for a damaged checkpoint: a flipped byte, a missing or a truncated file."""
# What it raises when the machine is at fault, which says nothing of the checkpoint.
_SHORTAGE = (
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
)


def check_shards(checkpoint: tf.train.Checkpoint, max_shard: int) -> None:
    """Makes sure that every variable can be cut into pieces of at most `max_shard` bytes.

    TensorFlow cuts along one axis; where not even a piece of length 1 fits, it never comes to an end.

    Raises:
      ConfigError: one cannot be.
    """
    for variable in map(variable_of, tf.train.TrackableView(checkpoint).descendants()):
        if variable is None or not variable.shape.rank or not variable.shape.num_elements():
            continue
        least = variable.shape.num_elements() // max(variable.shape) * variable.dtype.size
        if least > max_shard:
            raise ConfigError(
                f"max_shard is {max_shard} bytes, and {variable.name} of shape {variable.shape} cannot be cut into "
                f"pieces of less than {least}; expected that or more"
            )


def write(checkpoint: tf.train.Checkpoint, prefix: str, *, step: int, max_shard: int | None) -> None:
    """Writes every variable of `checkpoint` to files that begin with `prefix`.

    Args:
      checkpoint: what to write.
      prefix: the path of the files without their suffixes.
      step: whose checkpoint it is, for the message.
      max_shard: how many bytes a data file may have; None writes one.

    Raises:
      Unwritable: it could not be written.
    """
    options = tf.train.CheckpointOptions(
        experimental_sharding_callback=max_shard and tf.train.experimental.MaxShardSizePolicy(max_shard)
    )
    try:
        checkpoint.write(prefix, options)
    except (tf.errors.OpError, OSError) as error:
        raise Unwritable(
            f"checkpoint {step} could not be written: {first_line(error)}; free space or mend the permissions, "
            "then run the same command again"
        ) from error


def read_back(prefix: str, *, step: int) -> None:
    """Reads every tensor once, one after the other; TensorFlow checks the CRC of each.

    Raises:
      Unwritable: what was written cannot be read.
    """
    try:
        for name, dtype in tf.compat.v1.train.NewCheckpointReader(prefix).get_variable_to_dtype_map().items():
            tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype])
    except DAMAGE as error:
        raise Unwritable(
            f"checkpoint {step} was written but does not read back: {first_line(error)}; the disk cannot be trusted: "
            "run the same command again, which falls back where it has to, or choose another disk"
        ) from error


def restore(checkpoint: tf.train.Checkpoint, prefix: str, *, step: int) -> None:
    """Loads every tensor, checking its CRC, and finds every variable of `checkpoint` in the files.

    Raises:
      Damaged: the files are not what such a checkpoint wrote.
      Unusable: they cannot be read now, for a reason that is not theirs.
    """
    try:
        checkpoint.read(prefix).assert_consumed()
    except _SHORTAGE as error:
        raise Unusable(
            f"checkpoint {step} cannot be read now: {first_line(error)}; mend that, then run again"
        ) from error
    except DAMAGE as error:
        raise Damaged(f"it does not restore: {first_line(error)}") from error
    except AssertionError as error:
        reason = " ".join(str(error).split())
        raise Damaged(f"it holds other variables than the model and optimizer have: {reason}") from error


def first_line(error: BaseException) -> str:
    """What an error says, without the names of the operations that TensorFlow puts around it."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:\w+\]", "", message).splitlines()[0]
