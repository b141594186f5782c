"""Where the time of attempts went: read from the journal, summed, and put in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.ledger.journal import DATA_WAIT, EVALUATE, LOG, PARTS, RESTORE, SAVE, START, STEP, TOTAL
from trainer.views.formatting import duration

_WORDS = {
    STEP: "steps",
    DATA_WAIT: "waiting for data",
    LOG: "logging",
    EVALUATE: "evaluating",
    SAVE: "saving",
    START: "starting",
    RESTORE: "restoring",
}


def read_times(seconds: Any) -> dict[str, float] | None:
    """The `seconds` of a line of the journal; None where it has none, or what is no such thing."""
    if not isinstance(seconds, Mapping):
        return None
    values = {part: seconds.get(part, 0.0) for part in (*PARTS, TOTAL)}
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values.values()):
        return None
    if not all(math.isfinite(value) and value >= 0 for value in values.values()):
        return None
    return {part: float(value) for part, value in values.items()}


def sum_of(times: Iterable[Mapping[str, float] | None]) -> dict[str, float] | None:
    """The sums of those that are known; None where none is."""
    known = [one for one in times if one is not None]
    return {part: round(sum(one[part] for one in known), 6) for part in (*PARTS, TOTAL)} if known else None


def in_words(times: Mapping[str, float]) -> str:
    """The shares of the time, the largest first; what is less than half a percent of it goes into the rest.

    >>> in_words({"start": 6, "restore": 0, "step": 91, "data_wait": 0, "log": 0, "evaluation": 1, "save": 2,
    ...           "total": 100})
    '91% steps, 6% starting, 2% saving, 1% evaluating of 1m 40s'
    """
    total = times[TOTAL]
    if not total:
        return duration(0)
    shares = sorted(((times[part] / total, word) for part, word in _WORDS.items()), key=lambda share: -share[0])
    shown = [(share, word) for share, word in shares if share >= 0.005]
    rest = 1 - sum(share for share, _ in shown)
    if rest >= 0.005:
        shown.append((rest, "other"))
    return f"{', '.join(f'{share:.0%} {word}' for share, word in shown)} of {duration(total)}"
