"""What training changes, and what a checkpoint therefore holds."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.checkpoint.objects import is_trackable, variable_of
from trainer.data import fold_in, run_seed
from trainer.errors import ConfigError
from trainer.optim import Optimizer
from trainer.run import guests
from trainer.run.config import FLOAT32, MIXED_FLOAT16
from trainer.run.experiment import Experiment
from trainer.run.extra_state import ExtraState
from trainer.run.frozen import Frozen
from trainer.run.loss_scale import LossScale

WEIGHTS_STREAM, TRAIN_STREAM, EVALUATION_STREAM = 1, 2, 3
"""What the run's seed is folded with first, so that no two uses of it share a stream."""


def build_model(experiment: Experiment, seed: int, precision: str) -> Any:
    """The experiment's model, which begins the same each time.

    Args:
      experiment: whose model.
      seed: the run's seed.
      precision: one of `PRECISIONS`.

    Raises:
      ConfigError: it is no model.
    """
    weights_seed = _weights_seed(seed)
    with guests.seeded(weights_seed), guests.dtype_policy(precision):
        model = experiment.model(weights_seed)
    if not (isinstance(model, tf.Module) or guests.is_guest(model)):
        raise ConfigError(
            f"{type(experiment).__name__}.model() returned {type(model).__name__}; "
            "expected a tf.Module or a Keras model"
        )
    return model


def _weights_seed(seed: int) -> np.ndarray:
    """The seed of the initial weights, int32 [2]."""
    return np.asarray(fold_in(run_seed(seed), WEIGHTS_STREAM))


class TrainState:
    """The model, the optimizer or optimizers, and the run's own variables.

    Args:
      experiment: whose model and optimizer.
      seed: the run's seed.
      ema: the decay of the moving average of the weights; 0 for none.
      precision: one of `PRECISIONS`.
      freeze: patterns of the names of variables that training leaves as they are; see `Frozen`.

    Attributes:
      model: what `Experiment.model` returned.
      optimizer: what `Experiment.optimizer` returned.
      step: int64 scalar, updates attempted.
      examples: int64 scalar, training examples consumed.
      window: float64 [width], the open window's totals and the last learning rates; made by `add_window`.
      ema_model: a second model, whose weights are the moving average; None without.
      loss_scale: for float16, None otherwise.
      data_state: string scalar, the position in a stream whose state is saved; None otherwise.
      extra: what `Experiment.extra_state` returned, by name.
      frozen: the variables of the model that training leaves as they are.
      slots_ready: whether the optimizer's slots exist already.
    """

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        *,
        ema: float = 0.0,
        precision: str = FLOAT32,
        freeze: str | None = None,
    ) -> None:
        name = type(experiment).__name__
        self._decay = ema
        self.model = build_model(experiment, seed, precision)
        self.frozen = Frozen(self.model, freeze)
        with guests.seeded(_weights_seed(seed)), guests.dtype_policy(precision):
            self.optimizer = experiment.optimizer()
        if isinstance(self.optimizer, Mapping) and not hasattr(experiment, "train_step"):
            raise ConfigError(
                f"{name}.optimizer() returned {len(self.optimizer)} optimizers, and there is no train_step that says "
                "which updates what; return one, or write train_step"
            )
        for optimizer in self.optimizers().values():
            self._check_optimizer(optimizer, name)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.examples = tf.Variable(0, dtype=tf.int64, trainable=False, name="examples")
        self.window: tf.Variable | None = None
        self.data_state: tf.Variable | None = None
        self.loss_scale = LossScale() if precision == MIXED_FLOAT16 else None
        self.ema_model = build_model(experiment, seed, precision) if ema else None
        reached = {id(node) for node in tf.train.TrackableView(self.model).descendants()}
        self._check_reached(reached)
        own = ((v, guests.tensor_variable(v)) for v in guests.variables_of(self.model))
        self._reached = [(variable, tensor) for variable, tensor in own if id(variable) in reached]
        self._ema_pairs = self._paired()
        # Whatever a second model() may have drawn.
        self.begin_ema()
        self._unreached = guests.unreached_variables(self.model)
        self._extra = ExtraState(experiment)
        self.extra = self._extra.objects
        self.slots_ready = self._build_slots()
        rates = map(guests.constant_learning_rate, self.optimizers().values())
        self._constant_rates = [(variable, variable.numpy()) for variable in rates if variable is not None]
        # A concrete function: many states in one process are no reason to warn of many traces.
        self._all_finite = tf.function(self._check_finite, autograph=False).get_concrete_function()

    def optimizers(self) -> Mapping[str, Any]:
        """The optimizers by name; a single one has the empty name."""
        return self.optimizer if isinstance(self.optimizer, Mapping) else {"": self.optimizer}

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def trainable_variables(self) -> Sequence[Any]:
        """The variables that training updates.

        Raises:
          ConfigError: there are none.
        """
        return tuple(variable for variable in self._trainable_variables() if variable not in self.frozen)

    def parameters(self) -> int:
        """How many numbers the trainable variables hold, frozen ones among them."""
        return int(sum(np.prod(variable.shape) for variable in self._trainable_variables()))

    def size(self) -> int:
        """Bytes of everything that a checkpoint holds, strings aside."""
        # A view keeps nothing alive.
        checkpoint = self.checkpoint()
        found = map(variable_of, tf.train.TrackableView(checkpoint).descendants())
        variables = {id(variable): variable for variable in found if variable is not None}
        sizes = (np.prod(v.shape) * v.dtype.size for v in variables.values() if v.shape.is_fully_defined())
        return int(sum(sizes))

    def add_window(self, width: int) -> None:
        """Makes the open window's variable, once the metrics are known."""
        self.window = tf.Variable(tf.zeros([width], tf.float64), trainable=False, name="window")

    def follow_ema(self) -> None:
        """Moves the average one step towards the weights, ē ← d·ē + (1 − d)·θ; the other variables are copied."""
        # What is frozen was copied when the average began.
        for average, variable, trained in [pair for pair in self._ema_pairs if pair[1] not in self.frozen]:
            if trained:
                share = tf.cast(1.0 - self._decay, average.dtype)
                average.assign_sub(share * (average.read_value() - variable.read_value()))
            else:
                average.assign(variable.read_value())

    def moments(self) -> list[tf.Variable]:
        """The variables of the model that a loss itself may change, such as the moments of a batch normalisation."""
        trained = {id(variable) for variable in self._trainable_variables()}
        return [
            tensor for variable, tensor in self._reached if id(variable) not in trained and variable not in self.frozen
        ]

    def begin_ema(self) -> None:
        """Has the average begin with the weights as they are."""
        for average, variable, _ in self._ema_pairs:
            average.assign(variable)

    def checkpoint(self) -> tf.train.Checkpoint:
        """The checkpoint of everything here. Called when every variable exists, so that a restore is strict."""
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "step": self.step,
            "examples": self.examples,
            "window": self.window,
            "ema": self.ema_model,
            "loss_scale": self.loss_scale,
            "keras_seeds": self._unreached or None,
            "data_state": self.data_state,
            "extra": self._extra.trackable,
        }
        return tf.train.Checkpoint(**{name: part for name, part in parts.items() if part is not None})

    def capture(self) -> None:
        """Notes in variables what the user's Python objects hold, for a save."""
        self._extra.capture()

    def restored(self) -> None:
        """Does what a restore leaves to do: Python objects, and learning rates, which follow the flags alone."""
        self._extra.restore()
        for variable, rate in self._constant_rates:
            variable.assign(rate)

    def all_finite(self) -> bool:
        """Whether every trainable variable is finite."""
        return bool(self._all_finite())

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _trainable_variables(self) -> Sequence[Any]:
        """Those that the model calls trainable, frozen ones among them."""
        variables = tuple(guests.trainable_variables_of(self.model))
        if not variables:
            raise ConfigError(
                f"the model {type(self.model).__name__} has no trainable variables; create them in model(), "
                "not at the first call"
            )
        return variables

    def _check_finite(self) -> tf.Tensor:
        checks = [tf.reduce_all(tf.math.is_finite(variable)) for variable in self._trainable_variables()]
        return tf.reduce_all(tf.stack(checks))

    def _check_reached(self, reached: Container[int]) -> None:
        """Refuses weights that training would change and no checkpoint would hold."""
        lost = [variable for variable in self._trainable_variables() if id(variable) not in reached]
        if lost:
            names = ", ".join(getattr(variable, "path", variable.name) for variable in lost[:3])
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise ConfigError(
                f"no checkpoint of {type(self.model).__name__} would hold its weights {names}{more}: TensorFlow finds "
                "no attribute that leads there; keep the layers in attributes of their own, and not in a Python list"
            )

    def _check_optimizer(self, optimizer: Any, experiment: str) -> None:
        kind = type(optimizer).__name__
        if not callable(getattr(optimizer, "apply", None)):
            raise ConfigError(
                f"{experiment}.optimizer() returned {kind}; expected something with apply(gradients, variables)"
            )
        if not is_trackable(optimizer):
            raise ConfigError(
                f"{experiment}.optimizer() returned {kind}, which no checkpoint can hold; derive it from tf.Module"
            )
        if (
            guests.is_guest(optimizer)
            and callable(getattr(optimizer, "scale_loss", None))
            and hasattr(optimizer, "inner_optimizer")
        ):
            raise ConfigError(
                f"{experiment}.optimizer() returned {kind}, which expects a loss that it has scaled itself; return its "
                "inner optimizer, and use --precision=mixed_float16, which scales the loss"
            )

    def _paired(self) -> list[tuple[tf.Variable, tf.Variable, bool]]:
        """Each variable of the average, with what it follows, and whether that is trained."""
        if self.ema_model is None:
            return []
        trained = {id(variable) for variable in self._trainable_variables()}
        own = [variable for variable, _ in self._reached]
        reached = {id(node) for node in tf.train.TrackableView(self.ema_model).descendants()}
        averages = [variable for variable in guests.variables_of(self.ema_model) if id(variable) in reached]
        if [v.shape for v in own] != [v.shape for v in averages]:
            raise ConfigError(
                "the experiment's model() builds other variables the second time, and ema needs a second model; "
                "have it build the same ones each time"
            )
        return [
            (guests.tensor_variable(average), guests.tensor_variable(variable), id(variable) in trained)
            for variable, average in zip(own, averages, strict=True)
        ]

    def _build_slots(self) -> bool:
        """Has the optimizer make its slots, where it can before it is used; returns whether it could."""
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.build(self.trainable_variables(), step=self.step)
        elif not isinstance(self.optimizer, Mapping):
            build: Callable[[Sequence[Any]], None] | None = getattr(self.optimizer, "build", None)
            if build is None:
                return False
            build(self.trainable_variables())
        return True
