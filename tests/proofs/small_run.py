"""A small run over the log and the store alone: 24 steps with records, evaluations, saves, and whatever is asked of it.

Everything in it follows from the step, so that two runs can be compared byte by byte.

As a script it is a server of lives that imports TensorFlow once: for each line of its input it forks a process, which
resumes the run and goes on with it, until it ends or kills itself. See `Life`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

import tensorflow as tf
from disk import Recorder

from trainer.checkpoint import tensors
from trainer.checkpoint.recovery import Recovery
from trainer.checkpoint.store import CheckpointStore
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog
from trainer.ledger.record import Record
from trainer.timeline.cadence import Progress

STEPS = 24
RECORD_EVERY, SAVE_EVERY, EVALUATE_EVERY, KEEP_EVERY = 3, 4, 6, 10
BATCH = 32
SCORES = {6: 0.5, 12: 0.6, 18: 0.3, 24: 0.4}
"""What the evaluations measure: the best step is 6, later 18."""


class Model(tf.Module):
    """Momentum on a parabola."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable([1.0, -2.0, 3.0])
        self.velocity = tf.Variable([0.0, 0.0, 0.0])

    def update(self, step: int) -> float:
        """Moves the weights; returns the loss before."""
        target = [0.1 * step, 1.0, -0.3]
        error = self.weights - target
        self.velocity.assign(0.9 * self.velocity - 0.03 * error)
        self.weights.assign_add(self.velocity)
        return float(tf.reduce_sum(error**2))

    def content(self) -> bytes:
        """All that training changes."""
        return b"".join(variable.numpy().tobytes() for variable in (self.weights, self.velocity))


class SmallRun:
    """One process' life in the run of `directory`."""

    def __init__(self, directory: RunDirectory, **options: Any) -> None:
        self.model = Model()
        self.log = MetricLog(directory)
        self.store = CheckpointStore(
            tf.train.Checkpoint(model=self.model),
            self.log,
            **{"keep_last": 2, "keeps_for_good": _for_good, **options},
        )
        self.now = Progress()
        self._best: tuple[float, int] | None = None
        self._pending = False

    def resume(self) -> Recovery:
        """Goes back to the newest checkpoint."""
        recovery = self.store.recover()
        if recovery.manifest:
            self.now = recovery.manifest.progress
            control = recovery.manifest.control
            self._best = control["best"] and tuple(control["best"])
            self._pending = control["pending"]
        return recovery

    def go_on(
        self, *, until: int = STEPS, signals: Collection[int] = (), evaluation_cut_short: int | None = None
    ) -> None:
        """Trains up to the step `until`.

        Args:
          until: where this process ends.
          signals: steps at which a signal asks for a checkpoint.
          evaluation_cut_short: the step at which a signal ends the process before the evaluation.
        """
        with self.store:
            if self._pending:
                self._make_up()
            while self.now.step < until:
                self.log.add({"loss": self.model.update(self.now.step)}, weight=BATCH)
                step = self.now.step + 1
                self.now = Progress(step, step * BATCH)
                if step % RECORD_EVERY == 0:
                    self.log.close(self.now, learning_rate=0.03)
                asked = step in signals or step == evaluation_cut_short
                self._pending = step == evaluation_cut_short
                best = not self._pending and self._evaluate()
                due = {
                    "interval": step % SAVE_EVERY == 0,
                    "best": best,
                    "final": step == STEPS,
                    "signal": asked,
                }
                if reasons := [reason for reason, holds in due.items() if holds]:
                    self.store.save(
                        self.now,
                        reasons=reasons,
                        control=self._control(),
                        best_steps=self._best_steps(),
                        last=step == until or self._pending,
                    )
                if self._pending:
                    return

    def _make_up(self) -> None:
        best, self._pending = self._evaluate(), False
        self.store.complete(
            reasons=["best"] if best else [],
            open_window=self.log.window.to_json(),
            control=self._control(),
            best_steps=self._best_steps(),
        )

    def _evaluate(self) -> bool:
        """Evaluates where that is due, and says whether the step is the best so far."""
        step = self.now.step
        if step % EVALUATE_EVERY:
            return False
        metrics = {"loss": SCORES[step]}
        self.log.append([Record("eval", step, self.now.examples, None, metrics, split="validation", weights="raw")])
        if self._best and SCORES[step] >= self._best[0]:
            return False
        self._best = (SCORES[step], step)
        return True

    def _control(self) -> dict[str, Any]:
        return {
            "cadence": {"seconds": 0.0},
            "best": list(self._best) if self._best else None,
            "pending": self._pending,
        }

    def _best_steps(self) -> tuple[int, ...]:
        return (self._best[1],) if self._best else ()


def _for_good(before: Progress, now: Progress) -> bool:
    return now.step // KEEP_EVERY > before.step // KEEP_EVERY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Life:
    """One process' life, as the server is asked for it."""

    path: str
    """The run directory."""
    signals: tuple[int, ...] = ()
    kill_at: int | None = None
    """The number of the operation on files at which the process kills itself: before it, or halfway through."""
    kill_in_write: int | None = None
    """The number of the checkpoint whose tensors TensorFlow writes when the process is killed."""
    delay_s: float = 0.0
    """How long after the beginning of that write."""


class _Deadly(Recorder):
    """Files of a process that kills itself at one operation, having done half of it where it has a half."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.path)
        self._life = life

    def _note(self, name: str, path: str, **details: Any) -> None:
        if len(self.operations) == self._life.kill_at:
            if name in ("write", "append"):
                with open(path, "ab" if name == "append" else "wb", buffering=0) as file:
                    file.write(details["data"][: len(details["data"]) // 2])
            _die(f"{name} {os.path.basename(path)}")
        super()._note(name, path, **details)


def _die(where: str) -> None:
    os.write(sys.stdout.fileno(), f"{where}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _live(life: Life) -> None:
    files = _Deadly(life)
    directory = RunDirectory(life.path, files)
    files.make_directory(life.path)
    if life.kill_in_write is not None:
        _kill_in_write(life)
    run = SmallRun(directory, async_save=True, journal=Journal(directory))
    run.resume()
    run.go_on(signals=life.signals)


def _kill_in_write(life: Life) -> None:
    """Has the process killed while TensorFlow writes; or soon after, where it was done before."""
    write, writes = tensors.write, iter(range(STEPS))

    def die() -> None:
        time.sleep(life.delay_s)
        _die("TensorFlow's write")

    def watched(*arguments: Any, **options: Any) -> None:
        if next(writes) == life.kill_in_write:
            threading.Thread(target=die).start()
        write(*arguments, **options)

    tensors.write = watched


def _serve() -> None:
    """Answers each life with a line that says where it was killed, if it was, and one with its exit code."""
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            _live(Life(**json.loads(line)))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
