"""What a batch's loss contributes to a mean: sums and weights in float64."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.data import Batch
from trainer.errors import ConfigError
from trainer.run.experiment import Loss

REGULARIZATION = "regularization"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each metric stands in a vector of totals: `[Σ weight, Σ weight·value …, non-finite batches …]`, float64.

    `sizes` gives each metric's length by name, in the order of the vector: None for a metric of one number, k for one
    of shape [batch, k]. The loss is first. Vectors of the same metrics add up elementwise.
    """

    sizes: tuple[tuple[str, int | None], ...]

    @functools.cached_property
    def width(self) -> int:
        """The length of the vector."""
        return 1 + sum(size or 1 for _, size in self.sizes) + len(self.sizes)

    @property
    def loss(self) -> int:
        """Where the sum of the loss stands."""
        return 1

    @property
    def regularization(self) -> int | None:
        """Where the sum of the regularization stands, which is the last of the sums; None without one."""
        return self.first_nonfinite - 1 if self.sizes[-1][0] == REGULARIZATION else None

    def objective_sum(self, totals: tf.Tensor) -> tf.Tensor:
        """Σ weight · what training makes small, a float64 scalar, of a vector of totals."""
        regularization = self.regularization
        return totals[self.loss] if regularization is None else totals[self.loss] + totals[regularization]

    @property
    def objective(self) -> str:
        """What training makes small, in words."""
        return "the loss" if self.regularization is None else "the loss with its regularization"

    @functools.cached_property
    def first_nonfinite(self) -> int:
        """Where the counts of non-finite batches begin; the loss's is first."""
        return self.width - len(self.sizes)

    def recorded(self) -> list[str]:
        """The metrics that are numbers, and so are recorded as they are."""
        return [name for name, size in self.sizes if size is None]

    def means(self, totals: np.ndarray) -> dict[str, Any]:
        """The means of a vector of totals: a float for each metric, or float64 [k]; NaN where the weight is 0."""
        weight, position, means = totals[0], 1, {}
        for name, size in self.sizes:
            total = totals[position : position + (size or 1)]
            mean = total / weight if weight else np.full_like(total, math.nan)
            means[name] = mean if size else float(mean[0])
            position += size or 1
        return means

    def nonfinite(self, totals: np.ndarray) -> dict[str, int]:
        """In how many batches each metric was not finite; only those that ever were."""
        counts = totals[self.first_nonfinite : self.width]
        return {name: int(count) for (name, _), count in zip(self.sizes, counts, strict=True) if count}


class Measured(NamedTuple):
    """A batch's loss, ready to be differentiated and added up."""

    weighted_loss: tf.Tensor
    """Σ weight · per_example, a scalar of the loss's dtype."""
    weight: tf.Tensor
    """Σ weight, a scalar of the loss's dtype."""
    regularization: tf.Tensor | None
    totals: tf.Tensor
    """float64 [layout.width]."""
    layout: Layout


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
def measure(loss: Loss, batch: Batch, batch_size: int, *, returned_by: str = "loss") -> Measured:
    """Checks what an experiment's `loss` or `train_step` returned, and adds it up.

    Args:
      loss: the loss.
      batch: the batch it was measured on; its padding weighs nothing.
      batch_size: rows of the batch.
      returned_by: the method, for the messages.

    Raises:
      ConfigError: a wrong type, shape or dtype.
    """
    if not isinstance(loss, Loss):
        kind = type(loss).__name__
        raise ConfigError(f"{returned_by}() returned {kind}; expected trainer.Loss(per_example=[batch], …)")
    per_example = _checked("per_example", loss.per_example, batch_size, returned_by)
    if per_example.dtype.size < 4:
        # A sum over the batch, the batch's size itself and a loss scale do not fit into 16 bits.
        per_example = tf.cast(per_example, tf.float32)
    weights = None if loss.weights is None else _checked("weights", loss.weights, batch_size, returned_by)
    if batch.weights is not None:
        padding = tf.cast(batch.weights, per_example.dtype)
        weights = padding if weights is None else tf.cast(weights, per_example.dtype) * padding
    values = {"loss": per_example}
    sizes: list[tuple[str, int | None]] = [("loss", None)]
    if not isinstance(loss.metrics, Mapping) or not all(isinstance(name, str) for name in loss.metrics):
        raise ConfigError(f"{returned_by}() returned metrics {_brief(loss.metrics)}; expected tensors by name")
    for name, value in sorted(loss.metrics.items()):
        if name in ("loss", REGULARIZATION):
            raise ConfigError(
                f"{returned_by}() returned a metric named {name!r}, which the trainer records itself; rename it"
            )
        tensor = _checked(name, value, batch_size, returned_by, columns=True)
        sizes.append((name, tensor.shape[1] if tensor.shape.rank == 2 else None))
        values[name] = tensor
    weight64 = tf.constant(batch_size, tf.float64) if weights is None else tf.reduce_sum(tf.cast(weights, tf.float64))
    sums = [_weighted_sums(list(values.values()), weights)]
    if loss.regularization is not None:
        regularization = tf.cast(_checked_scalar(loss.regularization, returned_by), tf.float64)
        sizes.append((REGULARIZATION, None))
        sums.append((regularization * weight64)[None])
    totals = tf.concat(sums, axis=0) if len(sums) > 1 else sums[0]
    if any(size for _, size in sizes):
        # Float64 has room for the sum of what is finite.
        parts = tf.split(totals, [size or 1 for _, size in sizes])
        witnesses = tf.stack([tf.reduce_sum(part) for part in parts])
    else:
        witnesses = totals
    nonfinite = tf.cast(~tf.math.is_finite(witnesses), tf.float64)
    return Measured(
        weighted_loss=tf.reduce_sum(
            per_example if weights is None else tf.cast(weights, per_example.dtype) * per_example
        ),
        weight=tf.cast(weight64, per_example.dtype),
        regularization=loss.regularization,
        totals=tf.concat([weight64[None], totals, nonfinite], axis=0),
        layout=Layout(tuple(sizes)),
    )


def recorded_metrics(means: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a record holds: the means that are numbers, and what `summarize` made of them all."""
    if not isinstance(summary, Mapping):
        raise ConfigError(f"summarize() returned {type(summary).__name__}; expected numbers by name")
    for name, value in summary.items():
        if not isinstance(name, str) or name == "loss":
            raise ConfigError(f"summarize() returned a metric named {name!r}; expected other names than the loss")
        if not isinstance(value, float | int | np.number) or isinstance(value, bool):
            raise ConfigError(f"summarize() returned {name} as {type(value).__name__}; expected a number")
    return {name: mean for name, mean in means.items() if not isinstance(mean, np.ndarray)} | dict(summary)


def _weighted_sums(values: Sequence[tf.Tensor], weights: tf.Tensor | None) -> tf.Tensor:
    """Σ weight · value over the batch, of all at once: float64 [Σ k] from tensors [batch] and [batch, k]."""
    if len({value.dtype for value in values}) == 1 and all(value.shape.rank == 1 for value in values):
        # The common case, in the fewest operations.
        table = tf.cast(tf.stack(values, axis=1), tf.float64)
    else:
        columns = [value if value.shape.rank == 2 else value[:, None] for value in values]
        table = tf.concat([tf.cast(column, tf.float64) for column in columns], axis=1)
    return tf.reduce_sum(table if weights is None else tf.cast(weights, tf.float64)[:, None] * table, axis=0)


def _checked(name: str, value: Any, batch_size: int, returned_by: str, *, columns: bool = False) -> tf.Tensor:
    expected = f"[{batch_size}]" + (f" or [{batch_size}, k]" if columns else "")
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{returned_by}() returned {name} as {type(value).__name__}; expected a tensor {expected}"
        ) from None
    ranks = (1, 2) if columns else (1,)
    if tensor.shape.rank not in ranks or tensor.shape[0] != batch_size or not tensor.shape.is_fully_defined():
        raise ConfigError(
            f"{returned_by}() returned {name} of shape {tensor.shape}; expected {expected}, one row an example: "
            "the framework takes the mean"
        )
    countable = name != "per_example" and (tensor.dtype.is_bool or tensor.dtype.is_integer)
    if not (tensor.dtype.is_floating or countable):
        raise ConfigError(
            f"{returned_by}() returned {name} of dtype {tensor.dtype.name}; expected a float such as float32"
        )
    return tf.cast(tensor, tf.float32) if tensor.dtype.is_bool else tensor


def _checked_scalar(value: Any, returned_by: str) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{returned_by}() returned regularization as {type(value).__name__}; expected a float scalar"
        ) from None
    if tensor.shape.rank != 0 or not tensor.dtype.is_floating:
        raise ConfigError(
            f"{returned_by}() returned regularization of shape {tensor.shape} and dtype {tensor.dtype.name}; "
            "expected a float scalar"
        )
    return tensor


def _brief(metrics: Any) -> str:
    """What the metrics are, without their tensors."""
    return f"named {', '.join(map(repr, metrics))}" if isinstance(metrics, Mapping) else f"as {type(metrics).__name__}"
