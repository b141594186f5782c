"""TensorFlow's start-up chatter, kept from the terminal."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator


def only_errors() -> None:
    """Has TensorFlow's own log tell errors alone, to the end of the process.

    It warns of each tensor of a checkpoint that was not restored when the objects go, which may be after an error has
    ended the work; it takes the programs of several runs for one that is traced again and again; and it tells where it
    writes. What of that matters is told by us.
    """
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Holds back what native code writes to stderr while it is open; an exception lets it out.

    TensorFlow logs a dozen lines at import that no log level silences, because they come before its logging is set up.
    Whoever sets `TF_CPP_MIN_LOG_LEVEL` wants to see them, and does.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or sys.stderr is None:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def start_beside_a_trainer() -> None:
    """Imports TensorFlow, quietly, for a command that may run beside a trainer on the same machine."""
    with quiet_start():
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):
            # A trainer on the same one is not to be short of it.
            tf.config.experimental.set_memory_growth(device, True)
        only_errors()
    # What was imported stays: the collector would look through all of it again and again while a step is traced.
    gc.freeze()
