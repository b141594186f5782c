"""The loop: chunks of steps, and what happens between them, in one order."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence

from trainer.data.sources import FAIL
from trainer.decide.decisions import Verdict
from trainer.errors import EXIT_DONE, Diverged, Unusable
from trainer.ledger.journal import EVALUATE, RESTORE, SAVE, STEP
from trainer.ledger.manifest import Manifest
from trainer.process.signals import reason_of
from trainer.run.asked import Asked, look
from trainer.run.assembly import Assembly
from trainer.run.auto_save import AutoSave
from trainer.run.config import CONTINUE
from trainer.run.delivery import Delivery
from trainer.run.evaluation import evaluate_splits
from trainer.run.host import Host
from trainer.run.outlets import Outlets
from trainer.run.pace import Pace
from trainer.run.place import PlaceInData
from trainer.run.segments import Continuation
from trainer.run.timing import start_line
from trainer.run.windows import Windows
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import EVALUATION, FLUSH, Due

EARLY_STOP = "early stop"
"""The reason to stop of a run whose monitored metric has not improved for too long."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """Why the loop ended, and what the process exits with."""

    reason: str
    exit_code: int


class Loop:
    """Trains from where the state stands until something says stop.

    Args:
      parts: the programs, the schedule and the decision.
      outlets: where records, checkpoints and messages go.
      host: what may ask to stop or to save, what watches the chunks, and the clock of the attempt.
      resumed: the checkpoint that the state was restored from, if any.
      going_on: the run's segments.
      auto_save: says when to save where `save_every=auto` leaves that to what is measured.
    """

    def __init__(
        self,
        parts: Assembly,
        outlets: Outlets,
        host: Host,
        *,
        resumed: Manifest | None,
        going_on: Continuation,
        auto_save: AutoSave | None = None,
    ) -> None:
        self._parts = parts
        self._segments = [segment.to_json() for segment in going_on.segments]
        self._to = outlets
        self._times = host.times
        self._records = Delivery(outlets, self._times, parts.decisions.fold_all)
        self._request = host.request
        self._watchdog = host.watchdog
        self._auto_save = auto_save
        self._pace = Pace(parts.config.seconds("tick"))
        self._evaluation_pace = Pace(parts.config.seconds("tick"))
        if resumed is None:
            self._now = Progress()
            window_start = 0
            self._pending = frozenset({EVALUATION} if parts.config.eval_at_start and parts.evaluators else ())
        else:
            control = resumed.control
            self._now = resumed.progress
            window_start = resumed.open_window["from"]
            if not resumed.open_window["steps"]:
                # The manifest has the last word: a completed checkpoint may have closed the window that its file holds.
                parts.program.clear_window()
            self._pending = frozenset(control.get("pending", ()))
            parts.decisions.restore(control, self._now, going_on.comparable)
        self._before = self._now
        self._windows = Windows(parts, window_start)
        self._evaluated_at: int | None = None
        self._closed_at: int | None = None
        # Data that has just been taken up is not at its end.
        fresh = self._now.examples == going_on.origin.examples
        self._ended = resumed is not None and bool(resumed.control.get("ended")) and not fresh
        self._place = PlaceInData(parts.program, parts.info.data["train"], warn=outlets.warn)
        with self._times(RESTORE):
            self._place.take_up(
                parts.config.seed,
                going_on.origin,
                self._now.examples,
                skipped=resumed.open_window.get("skipped", 0) if resumed else 0,
                tell=outlets.view.message,
                interrupted=lambda: bool(self._request),
            )
        # As if all attempts had been one: the seconds of those before count.
        self._entered = time.monotonic()
        self._began = self._entered - self._now.seconds

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return self._now

    def run(self) -> Stop:
        """Runs chunks of steps and the boundaries between them::

            while not stopped:
                until = schedule.next_boundary(...)         # cut by the tick
                rows  = program.run(until, closes)          # windows close inside
                log.append(rows)
                at a boundary, always in this order:  EVAL  DECIDE  SAVE  STOP

        Raises:
          Diverged: a loss or a weight is not finite.
          Unwritable: the log or a checkpoint could not be written.
        """
        with self._records:
            return self._run()

    def _run(self) -> Stop:
        parts, stop = self._parts, None
        if self._pending:
            stop = self._boundary(self._due())
        elif parts.schedule.finished(self._now) or self._ended or parts.decisions.stopped:
            stop = self._nothing_to_do()
        while stop is None:
            boundary = bool(self._request) or self._run_chunk()
            self._to.store.poll()
            self._records.hand_over()
            due = self._due()
            if boundary or due.anything or self._request or self._request.save:
                stop = self._boundary(due)
            else:
                # Looked at: nothing was due, or only what has to wait for a log step, which the next chunk has to know.
                self._before, self._pending = self._now, due.pending
        with self._times(SAVE):
            self._to.store.drain(verify=self._asked().fits_verified)
        self._to.lock.check()
        self._records.sync()
        return stop

    def _boundary(self, due: Due) -> Stop | None:
        """What happens at a boundary, in the order of the contract::

        LOG     if a window ends here that the chunk could not foresee: by a clock, or at an early end
        EVAL    if due   -> eval records, measured on the weights of this step
        DECIDE  best / conditional save / early stop: a pure fold over the records up to here
        SAVE    if any reason holds -> records fsynced, then the checkpoint committed
        STOP    target reached, early stop, or asked to
        """
        now = self._now
        self._records.settle()
        self._to.profile.at(now.step)
        due, verdict, evaluated = self._measure_and_decide(due)
        self._before = now
        self._pending = due.pending | ({EVALUATION} if due.evaluate and not evaluated else frozenset())

        # Looked at once: a signal that comes after this finds its own boundary, and its own save.
        asked = self._asked()
        if asked.save:
            self._request.taken()
        reasons = [*due.save, *verdict.reasons, *asked.reasons]
        saved = self._to.store.has(now.step)
        if verdict != Verdict() and (evaluated or not saved):
            self._to.journal.write("decide", step=now.step, **verdict.to_json())
        with self._times(SAVE):
            if not saved:
                if reasons and asked.fits:
                    self._save(reasons, last=due.stop)
            elif evaluated:
                # A signal had cut the evaluation of this step short, so that its checkpoint knew nothing of it.
                self._save(reasons, complete=True)

        self._note(asked, saved=saved)
        if due.stop and EVALUATION not in self._pending and (saved or asked.fits):
            reason = self._end()
            if reason == EARLY_STOP:
                self._to.view.message(f"{reason}: {self._why_early()}")
            return Stop(reason, EXIT_DONE)
        return Stop(reason_of(asked.exit_code), asked.exit_code) if asked.stop else None

    def _asked(self) -> Asked:
        """What is asked by now. In a process that others own the grace begins with the run at the earliest."""
        times, grace_s = self._to.store.times, self._watchdog.grace_s
        return look(self._request, times, grace_s=grace_s, earliest=self._entered)

    def _note(self, asked: Asked, *, saved: bool) -> None:
        """Notes what was asked and is obeyed; `saved` tells that there was nothing to save."""
        for details in asked.notes(self._now.step, there=saved):
            self._to.journal.write("signal", **details)
        if asked.stop and not asked.fits and not saved:
            self._to.warn(
                f"step {self._now.step} is not saved: {asked.left_s:.1f} s of grace={self._parts.config.grace} are "
                f"left, and saves took {asked.needed_s:.1f} s; {self._newest()}"
                + (", unless the save under way is done in time" if self._to.store.busy else "")
            )

    def _measure_and_decide(self, due: Due) -> tuple[Due, Verdict, bool]:
        """LOG, EVAL and DECIDE; again where what is decided ends the run or a window, as that measures more.

        Returns:
          What is due after all, what is decided, and whether the splits have been evaluated here.
        """
        now, flushes = self._now, self._parts.config.reconcile == FLUSH
        while True:
            if due.log and self._windows.start != now.step:
                self._records.write([self._windows.close(due.closed_by)])
            with self._times(EVALUATE):
                evaluated = due.evaluate and self._evaluate()
            verdict = self._parts.decisions.at(now.step)
            if verdict.stop and not due.stop:
                due = self._parts.schedule.at_end(due)
            elif verdict.reasons and flushes and self._windows.start != now.step:
                due = dataclasses.replace(due, log=True, closed_by="save")
            else:
                return due, verdict, evaluated

    def _end(self) -> str:
        """Why the run has come to its end."""
        if self._parts.schedule.finished(self._now):
            return "target reached"
        return "data ended" if self._ended else EARLY_STOP

    def _nothing_to_do(self) -> Stop:
        """The answer to a run that is called again after its end."""
        if self._end() == EARLY_STOP:
            self._to.view.message(f"the run has stopped early: {self._why_early()}; --early_stop=never goes on")
        return Stop("nothing to do", EXIT_DONE)

    def _why_early(self) -> str:
        early_stop = self._parts.decisions.early_stop
        return early_stop.why if early_stop else ""

    def _due(self) -> Due:
        ended = self._ended or self._parts.decisions.stopped
        due = self._parts.schedule.due(self._before, self._now, pending=self._pending, ended=ended)
        if self._closed_at == self._now.step:
            # The window that ends here closed in the chunk: its record is on its way, and nothing has to wait for it.
            due = dataclasses.replace(due, log=False)
        automatic = self._auto_save is not None and self._auto_save.due(self._now.step)
        return dataclasses.replace(due, save=(*due.save, "auto")) if automatic else due

    def _run_chunk(self) -> bool:
        """Trains to the next boundary or for a tick, logs the windows that closed, and says whether at a boundary."""
        parts = self._parts
        chunk = parts.schedule.next_chunk(
            self._now, pending=self._pending, max_steps=self._pace.steps, max_closes=parts.program.max_closes
        )
        self._records.start()
        saving, started = self._to.store.busy, time.monotonic()
        with self._times(STEP), self._watchdog.chunk():
            advance = parts.program.run(chunk.until, chunk.closes)
        ended = time.monotonic()
        steps = advance.open.step - self._now.step
        self._pace.learn(steps, ended - started)
        if self._auto_save:
            self._auto_save.chunk(steps, ended - started, saving=saving)
        if len(advance.closed):
            self._closed_at = int(advance.closed[-1, 0])
            closed_by = chunk.closed_by(self._closed_at)
            self._records.later(functools.partial(self._windows.records, advance, closed_by))
        self._windows.follow(advance.open)
        self._now = Progress(advance.open.step, advance.open.examples, ended - self._began)
        if self._times.trained(waited=min(advance.data_wait, ended - started)):
            self._tell_times()
        if advance.problem:
            raise self._diverged(
                f"{advance.problem} is not finite",
                "lower the learning rate, look at the data of that step, or use on_nonfinite=skip",
            )
        finished = parts.schedule.finished(self._now)
        if advance.ended:
            self._end_of_data(finished)
        # With an automatic interval only the clock knows.
        unknown = finished or self._auto_save is not None
        save = None if unknown else parts.schedule.next_save(self._now, pending=self._pending)
        self._to.view.update(
            step=self._now.step,
            epoch=parts.schedule.epoch(self._now.examples),
            examples=self._now.examples,
            next_save=None if save is None else f"step {save}",
        )
        # Where the data is slow, or at its end, the chunk does not come so far.
        return chunk.boundary and self._now.step == chunk.until

    def _end_of_data(self, finished: bool) -> None:
        """A finite stream has ended: that is the end of the run, or before the target an error."""
        if self._parts.config.on_data_end != FAIL:
            # Also where the target is reached at once: a later, larger one finds nothing to do.
            self._ended = True
        elif not finished:
            self._records.settle()
            self._to.store.drain()
            raise Unusable(
                f"the training data ended at step {self._now.step} after {self._now.examples} examples, before the "
                f"target; {self._newest()}: bring more data, or use on_data_end=stop or repeat in a new run"
            )

    def _evaluate(self) -> bool:
        """Evaluates every split, once a step; returns whether it came to the end."""
        if self._evaluated_at == self._now.step:
            return True
        parts = self._parts
        started = time.monotonic()
        with self._watchdog.chunk():
            records = evaluate_splits(parts, self._now, self._evaluation_pace, self._interrupted)
        if records is None:
            return False
        self._records.write(records)
        self._evaluated_at = self._now.step
        seconds = round(time.monotonic() - started, 6)
        self._to.journal.write("evaluate", step=self._now.step, splits=list(parts.evaluators), seconds=seconds)
        return True

    def _interrupted(self) -> bool:
        """Asked between two chunks of an evaluation."""
        self._watchdog.beat()
        return bool(self._request)

    def _save(self, reasons: Sequence[str], *, complete: bool = False, last: bool = False) -> None:
        """Saves this step, or completes its checkpoint with what was made up for."""
        parts, now, store = self._parts, self._now, self._to.store
        if parts.config.on_nonfinite != CONTINUE and not parts.state.all_finite():
            raise self._diverged(
                "a weight is not finite", "lower the learning rate, or look at the data before that step"
            )
        self._to.lock.check()
        self._to.events.flush()
        control = {
            **parts.decisions.to_json(),
            "cadence": {"seconds": now.seconds},
            "pending": sorted(self._pending),
            "segments": self._segments,
            **({"ended": True} if self._ended else {}),
            "events": self._to.events.position,
        }
        best_steps = parts.decisions.kept_steps
        window = self._windows.told()
        # Before the save: beside a writer that has filled the disk the journal has no room.
        self._tell_times()
        # Last: what is asked of the experiment before may change what it has registered.
        parts.state.capture()
        if complete:
            store.complete(reasons=reasons, open_window=window, control=control, best_steps=best_steps)
        else:
            store.save(
                now,
                reasons=reasons,
                epoch=parts.schedule.epoch(now.examples),
                open_window=window,
                control=control,
                data=self._place.note(),
                best_steps=best_steps,
                last=last,
            )
        if self._auto_save:
            self._auto_save.saved()
        self._records.saved()

    def _tell_times(self) -> None:
        """Notes where the time went so far, for whoever asks after a kill."""
        self._to.lock.check()
        told = self._times.told()
        self._to.journal.write("times", step=self._now.step, **told)
        if line := start_line(told):
            self._to.view.message(line)

    def _diverged(self, what: str, advice: str) -> Diverged:
        """The error that ends a run which must not be saved any more; what was being saved before is waited for."""
        self._records.settle()
        self._to.store.drain()
        return Diverged(f"{what} at step {self._now.step}; {self._newest()}: {advice}")

    def _newest(self) -> str:
        latest = self._to.store.latest
        return f"step {latest.step} stays the newest checkpoint" if latest else "there is no checkpoint"
