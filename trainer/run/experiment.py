"""What a user writes: an experiment, and the loss that it returns."""

from __future__ import annotations

import abc
import copy
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import ConfigError

if TYPE_CHECKING:
    import tensorflow as tf

    from trainer.data import Source

FREE, WARN, REFUSE = RESUME_RULES = ("free", "warn", "refuse")
"""What a resume does when a parameter or flag has changed."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a step measured on its batch; the framework takes the means.

    The objective is Σ weights · per_example ÷ Σ weights over the global batch, plus `regularization`.
    """

    per_example: tf.Tensor
    """The loss of each example, a float of shape [batch]."""
    metrics: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    """Other values of each example, by name: [batch], or [batch, k] for counts that only `summarize` reads."""
    weights: tf.Tensor | None = None
    """The weight of each example, [batch]; None weighs all alike."""
    regularization: tf.Tensor | None = None
    """A scalar added to the objective, and recorded apart from the loss as the metric `regularization`."""


def field(default: Any = dataclasses.MISSING, *, on_resume: str = REFUSE) -> Any:
    """An experiment's parameter with its own rule for a resume under another value.

    Args:
      default: the default value.
      on_resume: `free` (nothing happens), `warn` (a line says so) or `refuse` (exit code 64, the rule of plain fields).
    """
    if on_resume not in RESUME_RULES:
        raise ConfigError(f"on_resume={on_resume!r} is unknown; expected one of {', '.join(RESUME_RULES)}")
    return dataclasses.field(default=default, metadata={"on_resume": on_resume})


@dataclasses.dataclass(frozen=True)
class Experiment(abc.ABC):
    """A model, its data and its loss. A subclass is a frozen dataclass whose fields the command line can set."""

    suggested_flags: ClassVar[Mapping[str, Any]] = {}
    """Defaults for the trainer's flags that suit this experiment; a flag that the user gives wins."""

    @abc.abstractmethod
    def model(self, seed: Any) -> Any:
        """The model, its variables built and initialised from `seed`, a stateless seed: int32 [2].

        A `tf.Module` or a Keras model; what Keras initialises without a seed follows the run's seed too.
        """

    @abc.abstractmethod
    def optimizer(self) -> Any:
        """Anything with `apply(gradients, variables)`; with a `train_step`, also a mapping of several."""

    @abc.abstractmethod
    def train_data(self) -> Source:
        """The data to train on."""

    def eval_data(self) -> Mapping[str, Source]:
        """The data to evaluate on, by the name of the split."""
        return {}

    def test_data(self) -> Mapping[str, Source]:
        """More splits, by name, which only `trainer.evaluate` looks at: training never does."""
        return {}

    @abc.abstractmethod
    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> Loss:
        """The loss of `model` on a batch of tensors [batch, …].

        Args:
          model: what `model` returned.
          batch: the tensors by name.
          training: whether this is a train step, or an evaluation.
          seed: a stateless seed, int32 [2], of this step; the only source of randomness.
        """

    def predict(self, model: Any, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        """What an exported model answers. The tensors of `batch` that the answer depends on become the inputs.

        Optional, and called once, while it is traced: it has to be TensorFlow's operations, as the loss is.

        Args:
          model: what `model` returned, with the weights that evaluations are made with.
          batch: the tensors of a training batch by name, [batch, …]. How many rows there are is not known then; where
            that cannot be traced, they are as many as in a training batch, and so in every request.

        Returns:
          Tensors by name; or a single one, which is then called `output`.
        """
        raise NotImplementedError

    def extra_state(self) -> Mapping[str, Any]:
        """What else a checkpoint has to hold, by name, beyond what the model and the optimizer own.

        Called once. A `tf.Variable`, `tf.Module` or `tf.random.Generator`; or any object with `serialize()`, which
        returns text or bytes, and `deserialize(text)`. A `train_step` finds them in `state.extra`. What `summarize`
        changes depends on how often the run saves, because it is asked for the open window of each save too.
        """
        return {}

    @property
    def compute_dtype(self) -> str:
        """The dtype to compute in, which `--precision` sets: float32, float16 or bfloat16. Weights stay float32."""
        return str(self.__dict__.get("_compute_dtype", "float32"))

    def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
        """Metrics that are no means, from the means of a window or an evaluation: perplexity, F1, AUC.

        Args:
          means: the loss and each metric: a float, or for a metric of shape [batch, k] an array float64 [k].

        Returns:
          More metrics to record, by name.
        """
        return {}


def at_precision(experiment: Experiment, precision: str) -> Experiment:
    """A copy of the experiment that computes as `precision` says: float32, mixed_float16 or mixed_bfloat16."""
    made = copy.copy(experiment)
    # It is no field: as a parameter it would have two masters.
    made.__dict__["_compute_dtype"] = precision.removeprefix("mixed_")
    return made


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The values of the experiment's fields, as JSON values."""
    return {item.name: _as_json(getattr(experiment, item.name)) for item in dataclasses.fields(experiment)}


def resume_rules(experiment: Experiment) -> dict[str, str]:
    """What a resume does about each changed field."""
    return {item.name: item.metadata.get("on_resume", REFUSE) for item in dataclasses.fields(experiment)}


def make_experiment(kind: type[Experiment], settings: Mapping[str, str]) -> Experiment:
    """An experiment with the fields named in `settings` set from text.

    Raises:
      ConfigError: an unknown field, a value of another type, or an experiment that refuses its values.
    """
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind) if item.init}
    values = {}
    for name, text in settings.items():
        if name not in known:
            fields = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"set={name}={text}: {kind.__name__} has no field {name!r}; its fields are {fields}")
        try:
            values[name] = _parse(text, hints[name])
        except ValueError:
            raise ConfigError(f"set={name}={text}: expected {_type_name(hints[name])} for {name}") from None
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__} cannot be made: {error}; give its fields with --set NAME=VALUE") from error


def _parse(text: str, kind: Any) -> Any:
    """`text` as a value of `kind`: bool, int, float, str, one of these or None, or a tuple of one of these."""
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise ValueError(text)
    if kind is int:
        return int(text)
    if kind is float:
        return float(text)
    if kind is str:
        return text
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if types.NoneType in arguments and text.lower() == "none":
            return None
        for choice in arguments:
            try:
                return _parse(text, choice)
            except ValueError:
                continue
    elif origin is tuple and arguments[1:] == (Ellipsis,):
        return tuple(_parse(part, arguments[0]) for part in text.split(",") if part)
    elif origin is typing.Literal and text in map(str, arguments):
        return next(choice for choice in arguments if str(choice) == text)
    raise ValueError(text)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)
