"""Conditions on the metrics, such as `mean5(train/loss)<0.1`: their grammar, and whether they hold at a step.

```
conditions = condition { "," condition }                      all of them have to hold
condition  = value ("<" | "<=" | ">" | ">=") value
value      = NUMBER | METRIC | FUNCTION "(" value ")"
METRIC     = GROUP "/" NAME                                    train/loss, validation/accuracy; no spaces <>=(),
FUNCTION   = "mean" COUNT | "ema" DECAY | "best"               mean5, ema0.9, best
```
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.decide.expression import BestBefore, Expression, Mean, Metric, MovingAverage, Number
from trainer.decide.monitor import direction
from trainer.errors import ConfigError
from trainer.ledger.record import Record

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOKEN = re.compile(r"\s*(<=|>=|[<>(),]|[^\s<>(),]+)\s*")
_MEAN = re.compile(r"mean([1-9]\d{0,11})")
_EMA = re.compile(r"ema(0?\.\d+|0)")
_MOST_VALUES, _MOST_NESTED = 10_000, 10
"""Values that a mean may remember, as each manifest keeps them; and functions that may be inside one another."""
_EXPECTED = (
    "comparisons by comma, such as train/loss<0.1, mean5(train/loss)<=0.1, ema0.9(train/loss)<0.1 or "
    "validation/loss<best(validation/loss)"
)


class Conditions:
    """What has to hold for a conditional save.

    Args:
      text: the conditions, by comma.
      mode_of: from a metric's name to what is better of it, `min` or `max`, for `best`; by default its name tells.

    Raises:
      ConfigError: the text is not of the grammar.
    """

    def __init__(self, text: str, mode_of: Callable[[str], str] = direction) -> None:
        self.text = text
        self._comparisons = tuple(_Parser(text, mode_of).conditions())
        # By its text, each part once: they all see the same records.
        self._parts = {part.text: part for side in self._sides() for part in side.parts()}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it needs."""
        return tuple(part.text for part in self._parts.values() if isinstance(part, Metric))

    def fold(self, record: Record) -> None:
        """Takes one more record into account.

        Raises:
          ConfigError: a metric is not in a record of its group.
        """
        for side in self._sides():
            side.fold(record)

    def hold(self, step: int) -> bool:
        """Whether all of them hold by what was measured at `step` itself."""
        return all(
            left.measured_at(step)
            and right.measured_at(step)
            and left.value is not None
            and right.value is not None
            and compare(left.value, right.value)
            for left, compare, right in self._comparisons
        )

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps under `control.save_if`: the state of each part, by its text."""
        return {text: state for text, part in self._parts.items() if (state := part.to_json())}

    def restore(self, known: Mapping[str, Any], comparable: Callable[[str], bool] = lambda metric: True) -> None:
        """Goes on from what `to_json` gave, for the parts that were there and whose metrics can be compared."""
        for side in self._sides():
            for part in side.parts():
                metrics = [inner.text for inner in part.parts() if isinstance(inner, Metric)]
                if part.text in known and all(map(comparable, metrics)):
                    part.restore(known[part.text])

    def _sides(self) -> Iterator[Expression]:
        for left, _, right in self._comparisons:
            yield left
            yield right


class _Parser:
    """Reads conditions from left to right."""

    def __init__(self, text: str, mode_of: Callable[[str], str]) -> None:
        self._text = text
        self._mode_of = mode_of
        self._words = _TOKEN.findall(text)
        self._next = 0

    def conditions(self) -> Iterator[tuple[Expression, Callable[[float, float], bool], Expression]]:
        while True:
            left = self._value()
            word = self._take()
            if word not in _COMPARISONS:
                raise self._unexpected(word, "<, <=, > or >=")
            right = self._value()
            if not any(isinstance(part, Metric) for side in (left, right) for part in side.parts()):
                raise ConfigError(
                    f"save_if={self._text!r} compares {left.text} with {right.text}, and neither is measured; "
                    f"expected {_EXPECTED}"
                )
            yield left, _COMPARISONS[word], right
            word = self._take()
            if not word:
                return
            if word != ",":
                raise self._unexpected(word, "a comma or the end")

    def _value(self, nested: int = 0) -> Expression:
        word = self._take()
        if not word or not _is_word(word):
            raise self._unexpected(word, "a metric, a number or a function of one")
        if self._peek() != "(":
            return self._plain(word)
        self._take()
        if nested == _MOST_NESTED:
            raise self._unexpected("(", f"no more than {_MOST_NESTED} functions inside one another")
        inner = self._value(nested + 1)
        if (closing := self._take()) != ")":
            raise self._unexpected(closing, ")")
        if not any(isinstance(part, Metric) for part in inner.parts()):
            raise self._unexpected(inner.text, f"a metric for {word}")
        if (match := _MEAN.fullmatch(word)) and int(match[1]) <= _MOST_VALUES:
            return Mean(int(match[1]), inner)
        if (match := _EMA.fullmatch(word)) and float(match[1]) < 1:
            return MovingAverage(float(match[1]), inner)
        if word == "best":
            metric = next(part.text for part in inner.parts() if isinstance(part, Metric))
            return BestBefore(self._mode_of(metric), inner)
        raise self._unexpected(word, f"meanN such as mean5 (up to {_MOST_VALUES}), emaD such as ema0.9, or best")

    def _plain(self, word: str) -> Expression:
        try:
            number = float(word)
        except ValueError:
            group, slash, name = word.partition("/")
            if group and slash and name and "=" not in word:
                return Metric(word)
            raise self._unexpected(word, "a number, or a metric such as train/loss") from None
        if not math.isfinite(number):
            raise self._unexpected(word, "a finite number")
        return Number(number)

    def _peek(self) -> str:
        return self._words[self._next] if self._next < len(self._words) else ""

    def _take(self) -> str:
        word = self._peek()
        self._next += 1
        return word

    def _unexpected(self, word: str, wanted: str) -> ConfigError:
        found = f"has {word!r}" if word else "ends"
        return ConfigError(f"save_if={self._text!r} {found} where {wanted} should be; expected {_EXPECTED}")


def _is_word(word: str) -> bool:
    return word not in _COMPARISONS and word not in "(),"
