"""State that the user registers: random generators, further variables, and Python objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer.checkpoint.objects import is_trackable
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment


class ExtraState:
    """What `Experiment.extra_state` returned, and how a checkpoint holds it.

    A Python object is kept as the string that its `serialize` gives, and gets it back through `deserialize`.

    Args:
      experiment: whose state.

    Attributes:
      objects: what was returned, by name.
      trackable: what a checkpoint holds of it, None for nothing.

    Raises:
      ConfigError: something of it is neither TensorFlow's to track nor can be serialized.
    """

    def __init__(self, experiment: Experiment) -> None:
        name = type(experiment).__name__
        objects = experiment.extra_state()
        if not isinstance(objects, Mapping) or not all(isinstance(key, str) for key in objects):
            raise ConfigError(f"{name}.extra_state() returned {type(objects).__name__}; expected objects by name")
        self.objects = dict(objects)
        self._python: list[tuple[Any, tf.Variable]] = []
        parts: dict[str, Any] = {}
        for key, value in self.objects.items():
            if callable(getattr(value, "serialize", None)) and callable(getattr(value, "deserialize", None)):
                text = value.serialize()
                if not isinstance(text, str | bytes):
                    raise ConfigError(
                        f"{name}.extra_state(): {key}.serialize() returned {type(text).__name__}; "
                        "expected text or bytes"
                    )
                with tf.device("CPU:0"):
                    parts[key] = tf.Variable("", trainable=False, name=key)
                self._python.append((value, parts[key]))
            elif is_trackable(value):
                parts[key] = value
            else:
                raise ConfigError(
                    f"{name}.extra_state() returned {key} as {type(value).__name__}; expected a tf.Variable, "
                    "tf.Module, tf.random.Generator, or an object with serialize() and deserialize(text)"
                )
        self.trackable = parts or None

    def capture(self) -> None:
        """Takes down what the Python objects hold."""
        for value, variable in self._python:
            variable.assign(value.serialize())

    def restore(self) -> None:
        """Gives the Python objects what was taken down of them."""
        for value, variable in self._python:
            text = variable.numpy()
            # What serialize() gave: text where it was text.
            value.deserialize(text.decode() if isinstance(value.serialize(), str) else text)
