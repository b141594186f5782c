"""The writer: one thread that does one job at a time, and whose failures are not lost."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from trainer.errors import EXIT_BUG, TrainerError

_Outcome = TypeVar("_Outcome")

_NICE = 5


class Writer(Generic[_Outcome]):
    """Does one job at a time in a thread of its own, while the caller goes on."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-writer", initializer=_give_way)
        self._job: concurrent.futures.Future[_Outcome] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        # Read once: others ask too, while who trains collects it.
        job = self._job
        return job is not None and not job.done()

    def start(self, job: Callable[[], _Outcome]) -> None:
        """Starts `job`; the one before has been collected."""
        assert self._job is None
        self._job = self._thread.submit(job)
        atexit.register(self._last_words)

    def collect(self, *, wait: bool) -> _Outcome | None:
        """What the job that was started returned; None where there is none, or without `wait` while it is under way.

        Raises:
          What the job raised.
        """
        if self._job is None or not (wait or self._job.done()):
            return None
        # Kept until it is done: a wait that an interrupt breaks off loses nothing.
        concurrent.futures.wait([self._job])
        job, self._job = self._job, None
        atexit.unregister(self._last_words)
        return job.result()

    def close(self) -> None:
        """Ends the thread, once its job is done; what has not been collected is told at the end of the process."""
        self._thread.shutdown()

    def _last_words(self) -> None:
        """Lets no process that never looked at a failure end as if all were well.

        Handlers that were registered before it do not run then.
        """
        if self._job is not None and (error := self._job.exception()):
            print(f"error: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()  # `_exit` flushes nothing.
            os._exit(error.exit_code if isinstance(error, TrainerError) else EXIT_BUG)


def _give_way() -> None:
    """Lets training have the processor first: what the writer computes is in no hurry.

    Not by more: between calls into TensorFlow it holds Python's lock, and where other processes keep every core busy, a
    thread that never gets one would keep training waiting for it.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
