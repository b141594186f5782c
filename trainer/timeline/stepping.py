"""How steps consume examples."""

from __future__ import annotations

import dataclasses


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


@dataclasses.dataclass(frozen=True)
class Stepping:
    """How many examples each step takes.

    `wrap`: every step takes `batch_size`. `short`: the last step of a pass over `data_examples` takes what is left.
    Passes begin at `origin`, the examples that had been consumed when the data was taken up.
    """

    batch_size: int
    data_examples: int | None = None
    last: str = "wrap"
    origin: int = 0

    def advance(self, examples: int, steps: int) -> int:
        """The examples consumed `steps` steps after `examples` had been.

        >>> Stepping(4, data_examples=10, last="short").advance(0, 3)
        10
        >>> Stepping(4, data_examples=10, last="short", origin=7).advance(7, 3)
        17
        """
        if self.last != "short" or self.data_examples is None:
            return examples + steps * self.batch_size
        length, batch = self.data_examples, self.batch_size
        border = examples - (examples - self.origin) % length + length
        to_border = _ceil_divide(border - examples, batch)
        if steps < to_border:
            return examples + steps * batch
        passes, rest = divmod(steps - to_border, _ceil_divide(length, batch))
        return border + passes * length + rest * batch

    def steps_to(self, examples: int, target: int) -> int:
        """The fewest steps after `examples` that reach `target` examples.

        >>> Stepping(4, data_examples=10, last="short").steps_to(0, 11)
        4
        """
        if target <= examples:
            return 0
        if self.last != "short" or self.data_examples is None:
            return _ceil_divide(target - examples, self.batch_size)
        length, batch = self.data_examples, self.batch_size
        border = examples - (examples - self.origin) % length + length
        if target <= border:
            return _ceil_divide(target - examples, batch)
        passes, rest = divmod(target - border, length)
        return _ceil_divide(border - examples, batch) + passes * _ceil_divide(length, batch) + _ceil_divide(rest, batch)
