"""The record: one line of the metric log."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

Number = float | None  # None: the value was not finite

# `json.dumps` with these arguments makes an encoder for each line.
_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
# What names there are repeats from record to record.
_text = functools.lru_cache(maxsize=4096)(_compact)


def _number(value: Number) -> str:
    """`value` as JSON, as `_compact` writes it."""
    return float.__repr__(value) if isinstance(value, float) and math.isfinite(value) else _compact(value)


def _numbers(values: Mapping[str, Number]) -> str:
    """`values` as a JSON object."""
    return "{" + ",".join([f"{_text(name)}:{_number(value)}" for name, value in values.items()]) + "}"


def recorded_rate(rates: Mapping[str, Number]) -> Number | Mapping[str, Number]:
    """The learning rates as a record has them: that of the only optimizer, which has no name, or all by name."""
    return rates[""] if rates.keys() == {""} else rates or None


def rate_text(rate: Number | Mapping[str, Number]) -> str:
    """What a train record's line says of its learning rate."""
    return f',"learning_rate":{_numbers(rate) if isinstance(rate, Mapping) else _number(rate)}'


@functools.lru_cache(maxsize=256)
def line_template(kind: str, split: str | None, weights: str | None, metrics: tuple[str, ...]) -> str:
    """The lines of such records with `%s` for what differs: step, examples, epoch, window, metrics, what follows them.

    Written out here, because a run that logs every step makes tens of thousands in a second.
    """
    of = '"window":[%s,%s]' if kind == "train" else f'"split":{_name(split)},"weights":{_name(weights)}'
    means = ",".join(f"{_name(name)}:%s" for name in metrics)
    return f'{{"kind":{_name(kind)},"step":%s,"examples":%s,"epoch":%s,{of},"metrics":{{{means}}}%s}}\n'


def _name(name: str | None) -> str:
    """`name` as a template has it."""
    return _text(name).replace("%", "%%")


def plain_number(value: Any) -> Number:
    """`value` as the float that is written: float32 by its own shortest form, a non-finite value as None."""
    if value is None or not math.isfinite(value):
        return None
    if getattr(value, "dtype", None) is None:
        return float(value)
    # Who only reads records has no arrays, and a command that answers at once no time to import this.
    import numpy as np

    return float(str(np.float32(value))) if value.dtype == np.float32 else float(value)


def in_order(metrics: Iterable[str]) -> list[str]:
    """The names of metrics in the order in which they are written: the loss first, then by name."""
    return sorted(metrics, key=lambda name: (name != "loss", name))


def ordered_metrics(metrics: Mapping[str, Any]) -> dict[str, Number]:
    """`metrics` as they are written."""
    return {name: plain_number(metrics[name]) for name in in_order(metrics)}


def compact_json(value: Any) -> str:
    """`value` as one line of JSON without spaces; a NaN in it is a bug, and raises."""
    return _compact(value)


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of `metrics.jsonl`: either a train window or an evaluation.

    Fields keep the order in which they are written; an optional one that is None, zero or empty is left out.
    """

    kind: str
    """`train` or `eval`."""
    step: int
    """Optimizer updates attempted: the end of the window, or the step of the weights that were evaluated."""
    examples: int
    """Training examples consumed up to `step`."""
    epoch: float | None
    """`examples` / epoch_examples; None when the data has no length and no `epoch_examples` was given."""
    metrics: Mapping[str, Number]
    """Means, the loss first; None where the mean was not finite."""
    window: tuple[int, int] | None = None
    """Train only, and there always: (a, b], the steps a+1 … b whose values are averaged."""
    split: str | None = None
    """Evaluation only: the name of the split."""
    weights: str | None = None
    """Evaluation only: `raw`, or `ema` for averaged weights."""
    learning_rate: Number | Mapping[str, Number] = None
    """Train only: the learning rate of the last update; by optimizer's name where there are several."""
    closed_by: str | None = None
    """Train only: `end` or `save` when something other than the log cadence closed the window."""
    skipped: int = 0
    """Train only: updates skipped in the window because they were not finite."""
    nonfinite: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """For each metric with a non-finite value: in how many batches."""

    def line(self) -> bytes:
        """The record as its line of the log, newline included: its keys in the order of the contract.

        Raises:
          ValueError: a train record has no window.
        """
        template = line_template(self.kind, self.split, self.weights, tuple(self.metrics))
        window: tuple[int, ...] = ()
        rest = ""
        if self.kind == "train":
            if self.window is None:
                raise ValueError(f"the train record of step {self.step} has no window; give it (a, b]")
            window, rest = self.window, rate_text(self.learning_rate)
        if self.closed_by:
            rest += f',"closed_by":{_text(self.closed_by)}'
        if self.skipped:
            rest += f',"skipped":{self.skipped}'
        if self.nonfinite:
            rest += f',"nonfinite":{_numbers(self.nonfinite)}'
        metrics = map(_number, self.metrics.values())
        return (template % (self.step, self.examples, _number(self.epoch), *window, *metrics, rest)).encode()

    def to_json(self) -> dict[str, Any]:
        """The record as the object that is written, its keys in the order of the contract."""
        return dict(json.loads(self.line()))

    @classmethod
    def parse(cls, line: bytes | str) -> Record:
        """The record of one line.

        Raises:
          ValueError: the line is not JSON, or not a record.
        """
        try:
            value = json.loads(line)
        except RecursionError as error:
            raise ValueError("not a record: nested too deeply") from error
        try:
            kind = value["kind"]
            if kind not in ("train", "eval"):
                raise ValueError(f"kind is {kind!r}; expected 'train' or 'eval'")
            return cls(
                kind=kind,
                step=int(value["step"]),
                examples=int(value["examples"]),
                epoch=value["epoch"],
                metrics=dict(value["metrics"]),
                window=(int(value["window"][0]), int(value["window"][1])) if kind == "train" else None,
                split=value["split"] if kind == "eval" else None,
                weights=value["weights"] if kind == "eval" else None,
                learning_rate=value.get("learning_rate"),
                closed_by=value.get("closed_by"),
                skipped=int(value.get("skipped", 0)),
                nonfinite=dict(value.get("nonfinite", {})),
            )
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a record: {error!r}") from error

    def named_metrics(self) -> dict[str, Number]:
        """The metrics under the names used by `--monitor` and the tools: `train/loss`, `validation/loss`."""
        prefix = "train" if self.kind == "train" else self.split
        return {f"{prefix}/{name}": value for name, value in self.metrics.items()}
