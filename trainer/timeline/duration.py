"""Durations: a number and a unit, exact."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from trainer.errors import ConfigError

STEP, EXAMPLE, EPOCH, SECOND, RUN = "step", "example", "epoch", "second", "run"

# Every spelling of a unit, with the unit that it means and how many of it one is.
_UNITS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("", "step", "steps"), (STEP, 1)),
    **dict.fromkeys(("example", "examples"), (EXAMPLE, 1)),
    **dict.fromkeys(("epoch", "epochs"), (EPOCH, 1)),
    **dict.fromkeys(("run",), (RUN, 1)),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), (SECOND, 1)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), (SECOND, 60)),
    **dict.fromkeys(("h", "hour", "hours"), (SECOND, 3600)),
}

_PART = re.compile(r"\s*(\d+(?:_\d+)*(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:/\d+(?:_\d+)*)?)\s*([A-Za-z]*)\s*")

_EXPECTED = "a number and step(s), example(s), epoch(s), s, m, h or run, such as 100steps, 2.5epochs, 1/15run or 90s"


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training: `number` of `unit`, where `unit` is step, example, epoch, second or run (a fraction of it).

    >>> Duration.parse("1_000 examples")
    Duration(number=Fraction(1000, 1), unit='example')
    >>> str(Duration.parse("1/15run")), str(Duration.parse("3h50m")), str(Duration.parse(100))
    ('1/15run', '13800s', '100steps')
    """

    number: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str | int) -> Duration:
        """The duration that `text` says; a bare number means steps, and clock units may be chained (`3h50m`).

        Raises:
          ConfigError: it does not parse, or is not positive.
        """
        offending = str(text)
        position, total, unit = 0, Fraction(0), ""
        while position < len(offending) or position == 0:
            part = _PART.match(offending, position)
            if part is None:
                raise ConfigError(f"{offending!r} is no duration; expected {_EXPECTED}")
            digits, spelled = part.groups()
            if spelled.lower() not in _UNITS:
                raise ConfigError(f"{offending!r} has the unknown unit {spelled!r}; expected {_EXPECTED}")
            this_unit, scale = _UNITS[spelled.lower()]
            if position and not unit == this_unit == SECOND:
                raise ConfigError(f"{offending!r} mixes units; join durations with a comma: 100steps,1epoch")
            try:
                total += _number(digits) * scale
            except ZeroDivisionError:
                raise ConfigError(f"{offending!r} divides by zero; expected {_EXPECTED}") from None
            except ValueError:  # Python reads no whole number of more than some thousand digits.
                raise ConfigError(f"{offending[:40]!r}… is too large; expected {_EXPECTED}") from None
            unit, position = this_unit, part.end()
        if total >= 2**62:
            raise ConfigError(f"{offending!r} is too large; expected {_EXPECTED}")
        if total <= 0:
            raise ConfigError(f"{offending!r} is not positive; expected {_EXPECTED}")
        return cls(total, unit)

    def __str__(self) -> str:
        number = str(self.number)
        if "/" in number and Fraction(decimal := repr(float(self.number))) == self.number:
            number = decimal
        if self.unit == SECOND:
            return f"{number}s"
        plural = "" if self.number == 1 or self.unit == RUN else "s"
        return f"{number}{self.unit}{plural}"


def _number(digits: str) -> Fraction:
    numerator, _, denominator = digits.replace("_", "").partition("/")
    return Fraction(numerator) / Fraction(denominator or 1)
