"""Cadences: the rules that say when something is due, and the exact grids that they become."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from trainer.errors import ConfigError
from trainer.timeline.duration import EPOCH, EXAMPLE, RUN, SECOND, STEP, Duration

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Cadence:
    """Durations of which any fires; none of them: `never`, or for saves `auto`, where what is measured says when.

    >>> str(Cadence.parse("100steps, 1epoch"))
    '100steps,1epoch'
    >>> Cadence.parse("never")
    Cadence(durations=())
    """

    durations: tuple[Duration, ...]
    auto: bool = dataclasses.field(default=False, repr=False)

    @classmethod
    def parse(cls, text: str | int) -> Cadence:
        """The cadence that `text` says.

        Raises:
          ConfigError: a duration in it does not parse.
        """
        if str(text).strip() in ("never", AUTO):
            return cls((), auto=str(text).strip() == AUTO)
        if AUTO in (part.strip() for part in str(text).split(",")):
            raise ConfigError(f"{text!r} joins auto with others; auto stands alone")
        return cls(tuple(Duration.parse(part) for part in str(text).split(",")))

    def __str__(self) -> str:
        return ",".join(map(str, self.durations)) or (AUTO if self.auto else "never")

    def has(self, unit: str) -> bool:
        """Whether one of the durations is in `unit`."""
        return any(duration.unit == unit for duration in self.durations)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    `step` counts updates, `examples` training examples; `seconds` is time inside the run, over all its attempts.
    """

    step: int = 0
    examples: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Grid:
    """The multiples of a period on one axis, anchored at 0. `period` is exact: `numerator` / `denominator`.

    >>> third_of_ten = Grid(STEP, 10, 3)
    >>> [step for step in range(1, 11) if third_of_ten.crossed(step - 1, step)]
    [4, 7, 10]
    """

    axis: str
    numerator: int
    denominator: int = 1

    def index(self, position: int | float) -> int:
        """The number of grid points in (0, position]."""
        if isinstance(position, int):
            return position * self.denominator // self.numerator
        top, bottom = position.as_integer_ratio()
        return top * self.denominator // (bottom * self.numerator)

    def crossed(self, before: int | float, now: int | float) -> bool:
        """Whether a grid point lies in (before, now]."""
        return self.index(now) > self.index(before)

    def following(self, position: int) -> int:
        """The least whole position at or after the first grid point beyond `position`."""
        return -(-(self.index(position) + 1) * self.numerator // self.denominator)


def position_on(axis: str, progress: Progress) -> int | float:
    """Where `progress` stands on `axis`."""
    if axis == STEP:
        return progress.step
    return progress.examples if axis == EXAMPLE else progress.seconds


def resolve(duration: Duration, *, epoch_examples: int | None, run: Duration | None, flag: str) -> Grid:
    """`duration` on the axis on which it is counted: epochs in examples, a share of the run in what the run counts.

    Args:
      duration: what to place.
      epoch_examples: examples an epoch; None where the data has no known length.
      run: the whole run in steps, examples or epochs; None where it has no such target.
      flag: who asks, for the message.

    Raises:
      ConfigError: an epoch of data without a length, or a share of a run without a countable target.
    """
    number, unit = duration.number, duration.unit
    if unit == RUN:
        if run is None:
            raise ConfigError(
                f"{flag}={duration} is a share of the run, which needs one target in steps, examples or epochs; "
                "set train_for"
            )
        number, unit = number * run.number, run.unit
    if unit == EPOCH:
        if epoch_examples is None:
            raise ConfigError(f"{flag}={duration} counts epochs, but the data has no known length; set epoch_examples")
        number, unit = number * epoch_examples, EXAMPLE
    exact = Fraction(number)
    return Grid(unit, exact.numerator, exact.denominator)


def cadence_of(flag: str, text: str | int) -> Cadence:
    """The cadence that `text` says for `flag`.

    Raises:
      ConfigError: it does not parse, or is automatic where nothing is measured that could say when.
    """
    cadence = Cadence.parse(text)
    if cadence.auto and flag != "save_every":
        raise ConfigError(
            f"{flag}=auto cannot be: only save_every has an automatic interval; use steps, examples or epochs"
        )
    return cadence


def countable(cadence: Cadence) -> tuple[Duration, ...]:
    """The durations of `cadence` that do not depend on a clock."""
    return tuple(duration for duration in cadence.durations if duration.unit != SECOND)
