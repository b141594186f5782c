"""A TensorFlow profile of some steps."""

from __future__ import annotations

import tensorflow as tf


class Profile:
    """Profiles the steps between two boundaries; for TensorBoard's profile page, among others.

    Args:
      directory: where the profile is written.
      steps: (a, b]: the steps to profile; None for none.
    """

    def __init__(self, directory: str, steps: tuple[int, int] | None) -> None:
        self._directory = directory
        self._steps = steps
        self._running = False

    def at(self, step: int) -> None:
        """Starts or stops where `step` says so."""
        if self._steps is None:
            return
        first, last = self._steps
        if not self._running and first <= step < last:
            tf.profiler.experimental.start(self._directory)
            self._running = True
        elif self._running and step >= last:
            self.close()

    def close(self) -> None:
        """Ends a profile that is under way."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
