"""Learning-rate schedules: pure functions of the step.

A schedule is a callable `schedule(step)`, from an int64 scalar tensor to a float32 scalar tensor. Update k, which takes
step k − 1 to k, calls it with k − 1: the first update sees `schedule(0)`. A schedule holds no state, so that a resumed
run follows whatever its flags say now, and it has no Python branch on the step, so that it works op by op, in a graph
and under XLA.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from trainer.errors import ConfigError

Schedule: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


def constant(value: float) -> Schedule:
    """The same learning rate `value` at every step.

    Raises:
      ConfigError: `value` is negative or not finite.
    """
    rate = _rate("constant", value)

    def schedule(step: tf.Tensor) -> tf.Tensor:
        del step
        return tf.constant(rate, tf.float32)

    return schedule


def cosine(peak: float, steps: int, *, final: float = 0.0) -> Schedule:
    """Half a cosine from `peak` at step 0 down to `final` at step `steps`, and `final` from there on.

    final + (peak − final) · (1 + cos(π · min(step / steps, 1))) / 2: equation 5 of I. Loshchilov and F. Hutter, "SGDR:
    Stochastic Gradient Descent with Warm Restarts", ICLR 2017, without restarts.

    Raises:
      ConfigError: a rate is negative or not finite, or `steps` is no positive integer.
    """
    peak, final = _rate("cosine", peak), _rate("cosine", final)
    steps = _steps("cosine", steps, least=1)

    def schedule(step: tf.Tensor) -> tf.Tensor:
        progress = tf.minimum(_float64(step) / steps, 1.0)
        return tf.cast(final + (peak - final) * 0.5 * (1.0 + tf.cos(math.pi * progress)), tf.float32)

    return schedule


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[0]` for the first `boundaries[0]` updates, then `values[1]` up to update `boundaries[1]`, and so on.

    Args:
      boundaries: Steps, positive and increasing. From step `boundaries[i]` on the rate is `values[i + 1]`.
      values: Learning rates, one more than there are boundaries.

    Raises:
      ConfigError: the boundaries do not increase, the numbers do not fit, or a rate is negative or not finite.
    """
    borders = [_steps("piecewise", boundary, least=1) for boundary in boundaries]
    rates = [_rate("piecewise", value) for value in values]
    if len(rates) != len(borders) + 1:
        raise ConfigError(
            f"piecewise: {len(borders)} boundaries and {len(rates)} values; give {len(borders) + 1} values"
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(borders)):
        raise ConfigError(f"piecewise: boundaries {borders} do not increase; give each step once, in order")

    def schedule(step: tf.Tensor) -> tf.Tensor:
        passed = tf.reduce_sum(tf.cast(tf.cast(step, tf.int64) >= tf.constant(borders, tf.int64), tf.int32))
        return tf.gather(tf.constant(rates, tf.float32), passed)

    return schedule


def warmup(steps: int, schedule: float | Schedule) -> Schedule:
    """A straight line over the first `steps` updates up to `schedule`, which then takes over.

    Update k ≤ `steps` gets `schedule(steps)` · k / `steps`: never 0, and no jump where the line ends. `schedule` sees
    the absolute step, not the steps since the warm-up: `warmup(100, cosine(peak, 1000))` ends with step 1000.

    Args:
      steps: Length of the warm-up; 0 is none.
      schedule: What to warm up to: a schedule, or a number for a constant one.

    Raises:
      ConfigError: `steps` is negative or no integer, or `schedule` is neither a schedule nor a learning rate.
    """
    steps = _steps("warmup", steps, least=0)
    target = as_schedule(schedule)
    if steps == 0:
        return target

    def warmed(step: tf.Tensor) -> tf.Tensor:
        share = tf.minimum((_float64(step) + 1.0) / steps, 1.0)
        rate = target(tf.maximum(tf.cast(step, tf.int64), steps))
        return tf.cast(_float64(rate) * share, tf.float32)

    return warmed


def as_schedule(learning_rate: float | Schedule) -> Schedule:
    """`learning_rate` itself if it is a schedule, and a constant one if it is a number.

    Raises:
      ConfigError: it is neither. A `tf.Variable` is refused too: restored, it would override what the user asks for.
    """
    if callable(learning_rate):
        return learning_rate
    return constant(_rate("learning_rate", learning_rate))


def _float64(value: Any) -> tf.Tensor:
    # Only the result is rounded to float32: so the corners are exact, and a graph and XLA agree to the last bit.
    return tf.cast(value, tf.float64)


def _rate(where: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where}: {value!r} is no learning rate; give a finite number, 0 or larger")
    return float(value)


def _steps(where: str, value: Any, *, least: int) -> int:
    if not isinstance(value, numbers.Integral) or value < least:
        raise ConfigError(f"{where}: {value!r} is no number of steps; give an integer, {least} or larger")
    return int(value)
