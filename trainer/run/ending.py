"""How an attempt ends: noted in the journal once, by the thread that trains or by the watchdog that ends it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trainer.errors import EXIT_BUG, EXIT_INTERRUPTED, TrainerError, Unwritable
from trainer.ledger.journal import Journal
from trainer.process.lock import Lock
from trainer.process.watchdog import HUNG, Ending
from trainer.run.timing import Times


class LastWords:
    """Notes the end of an attempt.

    Args:
      journal: of the attempt.
      lock: whether the journal is still ours.
      times: where the attempt's time went.
      reached: the step that training has reached, None before it began, and that of the newest checkpoint.
      over: told the exit code when all is said.
    """

    def __init__(
        self,
        journal: Journal,
        lock: Lock,
        times: Times,
        reached: Callable[[], tuple[int | None, int | None]],
        *,
        over: Callable[[int], None] = lambda exit_code: None,
    ) -> None:
        self._journal = journal
        self._lock = lock
        self._times = times
        self._reached = reached
        self._over = over
        self._said = threading.Lock()

    def stop(self, reason: str, exit_code: int, *, step: int | None, saved: bool) -> None:
        """Notes the end, if nobody has.

        Raises:
          Unwritable: it cannot be written.
        """
        if self._said.acquire(blocking=False):
            self._write_stop(reason, exit_code, step=step, saved=saved)
            self._journal.sync()
        self._over(exit_code)

    @contextlib.contextmanager
    def of_faults(self) -> Iterator[None]:
        """Notes how the attempt ended when it ended badly, at which step, and where its time went."""
        try:
            yield
        except BaseException as error:
            try:
                self._lock.check()
            except Unwritable as gone:
                # The journal at that path is not ours; and here is why nothing else could be written.
                if isinstance(error, Unwritable):
                    raise gone from error
                raise error from None
            code = error.exit_code if isinstance(error, TrainerError) else EXIT_BUG
            if isinstance(error, KeyboardInterrupt):
                code = EXIT_INTERRUPTED
            if self._said.acquire(blocking=False):
                # The disk that refused a checkpoint may refuse this line too; the error itself says what matters.
                with contextlib.suppress(Unwritable):
                    self._journal.write("fault", error=type(error).__name__, message=str(error))
                    self._write_stop("error", code, step=self._reached()[0], saved=False)
            self._over(code)
            raise

    def farewell(self, ending: Ending) -> None:
        """Notes that the watchdog ends the process, and what is left undone by that."""
        step, newest = self._reached()
        where = "no checkpoint is there" if newest is None else f"step {newest} stays the newest checkpoint"
        with contextlib.suppress(OSError):
            # Past the buffer, whose lock another thread may hold.
            os.write(2, f"{ending.reason}: {ending.why}; {where}; run the same command again to go on\n".encode())
        if not self._said.acquire(blocking=False):
            return
        # What is being written may come to its commit beside these lines, and has none of its own then.
        saved = step is not None and step == newest
        with contextlib.suppress(Unwritable):
            self._lock.check()
            if ending.reason == HUNG:
                self._journal.write("fault", error="HangTimeout", message=ending.why, stacks=ending.stacks)
            else:
                self._journal.write("signal", signal=ending.cause, step=step, saved=saved, why=ending.why)
            self._write_stop(ending.reason, ending.exit_code, step=step, saved=saved, unfinished=True)
            self._journal.sync()

    def _write_stop(
        self, reason: str, exit_code: int, *, step: int | None, saved: bool, unfinished: bool = False
    ) -> None:
        details: dict[str, Any] = {"reason": reason, "exit_code": exit_code, "step": step, "saved": saved}
        if unfinished:
            details["unfinished"] = True
        self._journal.write("stop", **details, seconds=self._times.to_json(unfinished=unfinished))
