"""The process that a run lives in: what may be asked of it, what watches it, where its time goes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.process.birth import process_age
from trainer.process.signals import StopRequest, stop_requests
from trainer.process.watchdog import Watchdog
from trainer.run.timing import Times

if TYPE_CHECKING:
    from trainer.run.config import Config


@dataclasses.dataclass(frozen=True)
class Host:
    """What a run needs of its process."""

    request: StopRequest
    watchdog: Watchdog
    times: Times

    def set_limits(self, config: Config) -> None:
        """Has the process end when it is to: `max_runtime` counts from here."""
        self.watchdog.grace_s = config.seconds("grace")
        if config.hang_timeout is not None:
            self.watchdog.hang_s = config.seconds("hang_timeout")
        if config.max_runtime is not None:
            self.request.end_at(time.monotonic() + config.seconds("max_runtime"))


@contextlib.contextmanager
def own_process() -> Iterator[Host]:
    """The host of a command, whose process there is for nothing but the run."""
    times = Times(since=process_age())
    with stop_requests() as request, Watchdog(request, owner=True) as watchdog:
        yield Host(request, watchdog, times)


@contextlib.contextmanager
def guest(config: Config, request: StopRequest | None) -> Iterator[Host]:
    """The host of a run in a process that is not its own: of who calls the trainer as a library.

    Args:
      config: the run's.
      request: what others ask; None to have signals ask, where this is the main thread.
    """
    times = Times()
    with contextlib.ExitStack() as stack:
        if request is None:
            request = stack.enter_context(stop_requests())
        watchdog = Watchdog(request, owner=False)
        if config.hang_timeout is not None:
            stack.enter_context(watchdog)
        # The caller's request outlives the run, whose time is its own.
        stack.callback(request.end_at, None)
        yield Host(request, watchdog, times)
