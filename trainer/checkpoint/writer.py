"""The writer: one thread that does one job at a time, and whose failures are not lost."""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from trainer.errors import EXIT_BUG, TrainerError

_Outcome = TypeVar("_Outcome")

_NICE = 19


class Writer(Generic[_Outcome]):
    """Does one job at a time in a thread of its own, while the caller goes on."""

    def __init__(self) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-writer", initializer=_give_way)
        self._job: concurrent.futures.Future[_Outcome] | None = None
        atexit.register(self._last_words)

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None and not self._job.done()

    def start(self, job: Callable[[], _Outcome]) -> None:
        """Starts `job`; the one before has been collected."""
        assert self._job is None
        self._job = self._thread.submit(job)

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
        return job.result()

    def close(self) -> None:
        """Ends the thread; the last job has been collected."""
        self._thread.shutdown()
        atexit.unregister(self._last_words)

    def _last_words(self) -> None:
        """Lets no process that never looked at a failure end as if all were well."""
        if self._job is not None and (error := self._job.exception()):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code if isinstance(error, TrainerError) else EXIT_BUG)


def _give_way() -> None:
    """Lets training have the processor first: what the writer computes is in no hurry."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
