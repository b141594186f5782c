"""Early stopping: when the monitored metric has not improved for too long."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from trainer.decide.monitor import Monitor, value_in
from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.timeline.cadence import Grid, Progress
from trainer.timeline.duration import SECOND, STEP, Duration

EVAL = "eval"
"""The unit of a patience that counts measurements of the monitored metric."""
_EVALS = re.compile(r"\s*(\d{1,15}(?:_\d{1,3}){0,5})\s*(?:evals?|evaluations?)\s*", re.IGNORECASE)
_EXPECTED = "a number and evals, steps, epochs, examples or run, such as 5evals or 2epochs, several by comma, or never"


def parse_patience(text: str) -> tuple[Duration, ...]:
    """How long a metric may go without improvement, any of several durations; none of them: for ever.

    >>> [str(duration) for duration in parse_patience("5evals, 2epochs")]
    ['5evals', '2epochs']

    Raises:
      ConfigError: it does not parse, or counts seconds.
    """
    if text.strip() == "never":
        return ()
    return tuple(_parse(part) for part in text.split(","))


def _parse(text: str) -> Duration:
    if match := _EVALS.fullmatch(text):
        count = int(match[1])
        if not count:
            raise ConfigError(f"{text!r} is not positive; expected {_EXPECTED}")
        return Duration(Fraction(count), EVAL)
    try:
        duration = Duration.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{str(error).partition('; expected')[0]}; expected {_EXPECTED}") from None
    if duration.unit == SECOND:
        raise ConfigError(
            f"{text!r} counts seconds, so when the run ends would depend on a clock; expected {_EXPECTED}"
        )
    return duration


@dataclasses.dataclass
class _State:
    """What the measurements so far come to."""

    value: float | None = None
    """The value that has to be improved on; None before there is one."""
    step: int = 0
    examples: int = 0
    """Where the last improvement was, or what counts as it at first."""
    evals: int = 0
    """Measurements since then."""
    last_step: int = 0
    last_examples: int = 0
    """Where the last measurement was."""
    stopped: bool = False
    """Whether the run has been stopped there."""


class EarlyStop:
    """Says when a run has gone on for too long without an improvement of the monitored metric.

    It looks only where the metric is measured. An improvement is a value better than the last improvement's, or than
    the baseline, by more than `min_delta`; without a baseline the first finite value is one. In the warm-up nothing is
    looked at, and the patience begins with the last measurement in it. This is apart from which checkpoint is the best:
    there every strict improvement counts.

    Args:
      monitor: the metric, and what is better.
      patience: how long; any of these durations ends the run.
      place: from a duration in steps, examples, epochs or shares of the run to its length on the axis of its count.
      min_delta: by more than this a value has to be better.
      baseline: what the first improvement has to be better than.
      warmup: how long nothing is looked at.
    """

    def __init__(
        self,
        monitor: Monitor,
        patience: Sequence[Duration],
        *,
        place: Callable[[Duration], Grid],
        min_delta: float = 0.0,
        baseline: float | None = None,
        warmup: Duration | None = None,
    ) -> None:
        self.monitor = monitor
        self.patience = tuple(patience)
        self._limits = [
            Grid(EVAL, int(duration.number)) if duration.unit == EVAL else place(duration) for duration in patience
        ]
        self._warmup = None if warmup is None else place(warmup)
        self._min_delta = min_delta
        self._baseline = baseline
        self._state = _State()

    @property
    def stopped(self) -> bool:
        """Whether the run ends, or has ended, at the last measurement."""
        return self._state.stopped

    @property
    def why(self) -> str:
        """How it came to the end, in words."""
        bar = "" if self._bar is None else f" on {self._bar:.6g}"
        limits = " or ".join(map(str, self.patience))
        return f"{self.monitor.metric} has not improved{bar} since step {self._state.step}, for {limits}"

    def fold(self, record: Record) -> None:
        """Takes one more record into account.

        Raises:
          ConfigError: the record is of the monitored kind and split, and does not have the metric.
        """
        measured, value = value_in(record, self.monitor.metric)
        if not measured:
            return
        state, now = self._state, Progress(record.step, record.examples)
        state.last_step, state.last_examples = now.step, now.examples
        if self._warming_up(now):
            state.step, state.examples = now.step, now.examples
            return
        if value is not None and (self._bar is None or self.monitor.better(value, self._bar, by=self._min_delta)):
            self._state = _State(value, now.step, now.examples, 0, now.step, now.examples)
        else:
            state.evals += 1
            state.stopped = self._exhausted()

    @property
    def _bar(self) -> float | None:
        """What has to be improved on; None where any value is an improvement."""
        return self._baseline if self._state.value is None else self._state.value

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps under `control.early_stop`."""
        return {"monitor": self.monitor.metric, **dataclasses.asdict(self._state)}

    def begin(self, now: Progress) -> None:
        """Begins anew in the midst of a run."""
        self._state = _State(step=now.step, examples=now.examples)

    def restore(self, known: Mapping[str, Any]) -> None:
        """Goes on from what `to_json` gave for the same metric.

        A run that had stopped goes on where it is allowed more patience now, or a warm-up until later.
        """
        self._state = _State(**{item.name: known[item.name] for item in dataclasses.fields(_State)})
        last = Progress(self._state.last_step, self._state.last_examples)
        if self._warming_up(last):
            step, examples = max(self._state.step, last.step), max(self._state.examples, last.examples)
            self._state = _State(step=step, examples=examples, last_step=last.step, last_examples=last.examples)
        self._state.stopped &= self._exhausted()

    def _warming_up(self, now: Progress) -> bool:
        return self._warmup is not None and not self._warmup.index(_on(self._warmup, now))

    def _exhausted(self) -> bool:
        """Whether one of the limits is reached at the last measurement."""
        state = self._state
        since = Progress(state.last_step - state.step, state.last_examples - state.examples)
        return any((state.evals if grid.axis == EVAL else _on(grid, since)) >= _least(grid) for grid in self._limits)


def _on(grid: Grid, progress: Progress) -> int:
    """Where `progress` stands on the axis of `grid`, which is steps or examples."""
    return progress.step if grid.axis == STEP else progress.examples


def _least(grid: Grid) -> int:
    """The least whole length that is not shorter than the grid's period."""
    return grid.following(0)
