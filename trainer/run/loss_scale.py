"""The loss scale: what keeps small gradients of float16 from vanishing."""

from __future__ import annotations

import tensorflow as tf

INITIAL, LEAST, MOST = 2.0**15, 1.0, 2.0**24
GROWTH_STEPS = 2000


class LossScale(tf.Module):  # type: ignore[misc]  # TensorFlow ships no types.
    """The factor by which the objective is multiplied before it is differentiated, and its gradients divided after.

    It doubles after 2,000 finite updates in a row and halves after one that overflowed, which is skipped: the dynamic
    scaling of P. Micikevicius et al., "Mixed Precision Training", ICLR 2018.

    Attributes:
      scale: float32 scalar variable, a power of 2.
      finite_steps: int64 scalar variable, the finite updates since it last changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = tf.Variable(INITIAL, trainable=False, name="scale")
        self.finite_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="finite_steps")

    def can_halve(self) -> tf.Tensor:
        """Whether there is still room below: what overflows with a scale of 1 is not the scale's fault."""
        return self.scale > LEAST

    def update(self, finite: tf.Tensor) -> None:
        """Notes whether an update was finite, bool scalar."""
        steps = tf.where(finite, self.finite_steps + 1, tf.zeros([], tf.int64))
        grows = steps >= GROWTH_STEPS
        grown = tf.where(grows, tf.minimum(self.scale * 2, MOST), self.scale.read_value())
        self.scale.assign(tf.where(finite, grown, tf.maximum(self.scale / 2, LEAST)))
        self.finite_steps.assign(tf.where(grows, tf.zeros([], tf.int64), steps))
