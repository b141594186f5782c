"""One train step: the loss, its gradient, the update."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trainer.checkpoint.objects import variable_names
from trainer.data import Batch
from trainer.errors import ConfigError
from trainer.optim.kernels import without_xla
from trainer.run.config import CONTINUE, SKIP, STOP
from trainer.run.experiment import Experiment
from trainer.run.gradients import Gradients, accumulated, clipped, each_once, whole
from trainer.run.guests import tensor_variable
from trainer.run.health import Health
from trainer.run.measure import Layout, Measured, measure
from trainer.run.state import TrainState
from trainer.run.tracing import converted

SKIPPED = -1
"""What a step reports that made no update and lets the run go on."""


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
def alone(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over the replicas, where there is one replica."""
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """How a step updates the weights."""

    accumulate: int = 1
    """Micro-batches that the batch is taken in."""
    clip_norm: float = 0.0
    """The gradients are scaled down to this global norm where theirs is larger; 0 leaves them as they are."""
    on_nonfinite: str = STOP
    """One of `NONFINITE_MODES`."""


class TrainStep:
    """Updates the model once, and says what it measured before the update.

    It makes no assumption about where it runs: what has to be summed over the replicas of a distribution strategy goes
    through `reduce`, explicitly, and every replica then makes the same update.

    Args:
      experiment: whose loss, or whose own `train_step`.
      state: what is updated.
      batch_size: rows of a batch, on this replica.
      update: how.
      compiled: whether XLA compiles it.
      reduce: sums a tensor over the replicas.
      replicas: how many there are.

    Raises:
      ConfigError: the update is not possible with this experiment or this batch.
    """

    def __init__(
        self,
        experiment: Experiment,
        state: TrainState,
        batch_size: int,
        update: Update,
        *,
        compiled: bool = False,
        reduce: Callable[[tf.Tensor], tf.Tensor] = alone,
        replicas: int = 1,
    ) -> None:
        self._experiment = experiment
        self._state = state
        self._batch_size = batch_size
        self._how = update
        self._compiled = compiled
        self._reduce = reduce
        self._replicas = replicas
        self._custom = getattr(experiment, "train_step", None)
        self.layout: Layout | None = None
        self.rate_names: tuple[str, ...] = ()
        self.unconnected: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        """What can be wrong with a step, in words: of problem number 1 and so on."""
        self.may_skip = update.on_nonfinite == SKIP or state.loss_scale is not None
        """Whether there are steps that make no update."""
        self._check()

    def __call__(
        self, values: dict[str, tf.Tensor], weights: tf.Tensor | None, seeds: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Makes one update.

        Args:
          values: the batch by name, each [batch, …].
          weights: of its rows, float32 [batch]; None weighs all alike.
          seeds: a stateless seed for each micro-batch, int32 [accumulate, 2].

        Returns:
          The totals of this step, float64 [layout.width]; the learning rates of the update, float64
          [len(rate_names)]; and the number of the problem that forbids to go on, int64: 0 for none, or `SKIPPED`.
        """
        batch = Batch(values, weights, examples=None)
        rates = self._learning_rates()
        # Kernels for what XLA does not compile, which take for granted that the gradients are looked at.
        looked_at = self._custom is None and self._how.on_nonfinite != CONTINUE
        with without_xla() if looked_at and not self._compiled else contextlib.nullcontext():
            if self._custom is None:
                totals, problem = self._update(batch, seeds)
            else:
                totals, problem = self._own_update(self._custom, batch, seeds[0])
        return totals, rates, problem

    def _update(self, batch: Batch, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        state, how = self._state, self._how
        variables = state.trainable_variables()
        loss_scale = state.loss_scale
        options: dict[str, Any] = {
            "scale": None if loss_scale is None else loss_scale.scale.read_value(),
            "reduce": self._reduce,
            "replicas": self._replicas,
        }
        frozen = state.frozen.values()
        # The loss itself changes these, before anyone knows whether the step is to be skipped.
        before = [(moment, moment.read_value()) for moment in (state.moments() if self.may_skip else ())]
        if how.accumulate == 1:
            found = whole(self._measured_on, batch, seeds[0], variables, **options)
        else:
            parts = tf.unstack(seeds, how.accumulate)
            found = accumulated(self._measured_on, batch, parts, variables, rows=self._batch_size, **options)
        # What is computed again for the gradients assigns again.
        state.frozen.put_back(frozen)
        self._note(found.layout, variables, found.gradients)
        if how.clip_norm:
            # Slices of the same row are one gradient: the norm is that of their sum.
            found = found._replace(gradients=each_once(found.gradients, variables))
        # The learning rates are the same on every replica; only what was measured is summed.
        totals = self._reduce(found.totals)
        counted, problem = self._apply_where_healthy(found, variables, totals, before)
        return counted, problem

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _apply_where_healthy(
        self,
        found: Gradients,
        variables: Sequence[Any],
        totals: tf.Tensor,
        before: Sequence[tuple[tf.Variable, tf.Tensor]],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the weights where it may; returns the totals that count, and the problem's number.

        A step that stops the run needs no protection, which would cost a branch around the update in every step:
        nothing of it is saved.
        """
        state, how = self._state, self._how
        names = [f"the gradient of {name}" for name in self._names(variables)]
        # The objective of all replicas, and as it is recorded: whoever computed it once more would compute it twice.
        objective = found.layout.objective_sum(totals)
        health = Health(objective, found.gradients, names, compiled=self._compiled, clipped=bool(how.clip_norm))
        self.problems = (*health.problems[:-1], found.layout.objective)

        def update() -> None:
            gradients = found.gradients
            if how.clip_norm:
                gradients = clipped(gradients, health.half_squares(), how.clip_norm)
            state.optimizer.apply(gradients, variables)
            state.follow_ema()

        def put_back() -> None:
            for moment, value in before:
                moment.assign(value)

        if not self.may_skip:
            update()
            return totals, health.problem() if how.on_nonfinite == STOP else tf.zeros([], tf.int64)

        problem = health.problem()
        finite = problem == 0
        skipped = tf.constant(how.on_nonfinite == SKIP)
        if state.loss_scale is not None:
            # An overflow of scaled gradients is no fault of the model's, as long as the scale can be lowered.
            skipped |= health.objective_finite & state.loss_scale.can_halve()
            state.loss_scale.update(finite)
        skipped &= ~finite
        tf.cond(skipped, lambda: _then(put_back), lambda: _then(update))
        first = found.layout.first_nonfinite
        # What was skipped is counted, and weighs nothing in the means.
        counted = tf.concat([tf.where(skipped, tf.zeros_like(totals[:first]), totals[:first]), totals[first:]], axis=0)
        problem = tf.where(skipped, tf.constant(SKIPPED, tf.int64), problem)
        return counted, problem if how.on_nonfinite != CONTINUE else tf.minimum(problem, 0)

    def _own_update(self, custom: Callable[..., Any], batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The update of an experiment that applies its own gradients."""
        loss = converted(custom)(self._state, batch.values, seed)
        measured = measure(loss, batch, self._batch_size, returned_by="train_step")
        self._note(measured.layout, (), ())
        self._state.follow_ema()
        totals = self._reduce(measured.totals)
        if self._how.on_nonfinite != STOP:
            return totals, tf.zeros([], tf.int64)
        # Its gradients are its own affair: what became of the weights is seen at once.
        weights = {name: tensor_variable(variable).read_value() for name, variable in self._named_weights()}
        layout = measured.layout
        # By their values: the square of a weight may overflow where the weight is no fault.
        health = Health(layout.objective_sum(totals), list(weights.values()), list(weights), compiled=True)
        self.problems = (*health.problems[:-1], layout.objective)
        return totals, health.problem()

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _named_weights(self) -> list[tuple[str, Any]]:
        variables = self._state.trainable_variables()
        return [
            (f"the weight {name}", variable) for name, variable in zip(self._names(variables), variables, strict=True)
        ]

    def _measured_on(self, batch: Batch, seed: tf.Tensor) -> Measured:
        frozen = self._state.frozen.values()
        loss = converted(self._experiment.loss)(self._state.model, batch.values, training=True, seed=seed)
        # A batch normalisation changes its moments itself. At once: the next micro-batch may read them.
        self._state.frozen.put_back(frozen)
        measured: Measured = measure(loss, batch, self._batch_size // self._how.accumulate)
        return measured

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _learning_rates(self) -> tf.Tensor:
        rates = {
            name: getattr(optimizer, "learning_rate", None) for name, optimizer in self._state.optimizers().items()
        }
        known = {name: rate for name, rate in rates.items() if rate is not None and not callable(rate)}
        self.rate_names = tuple(known)
        rates64 = [tf.cast(tf.convert_to_tensor(rate), tf.float64) for rate in known.values()]
        return tf.stack(rates64) if rates64 else tf.zeros([0], tf.float64)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def _note(self, layout: Layout, variables: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Keeps what only tracing tells."""
        self.layout = layout
        self.unconnected = tuple(n for n, g in zip(self._names(variables), gradients, strict=True) if g is None)

    def _names(self, variables: Sequence[Any]) -> list[str]:
        """The variables' names: their paths in the model, as in a checkpoint."""
        known = variable_names(self._state.model)
        return [known[id(tensor_variable(variable))] for variable in variables]

    def _check(self) -> None:
        how, name = self._how, type(self._experiment).__name__
        if self._batch_size % how.accumulate:
            raise ConfigError(
                f"accumulate={how.accumulate} does not divide the batch of {self._batch_size} rows; "
                "expected a number of micro-batches that does"
            )
        own = [
            flag
            for flag, given in (
                ("accumulate", how.accumulate > 1),
                ("clip_norm", how.clip_norm > 0),
                ("on_nonfinite=skip", how.on_nonfinite == SKIP),
                ("precision=mixed_float16", self._state.loss_scale is not None),
                ("freeze", bool(self._state.frozen)),
            )
            if given
        ]
        if self.may_skip and not self._state.slots_ready:
            raise ConfigError(
                "to skip an update needs an optimizer whose slots exist before the first step; give "
                f"{type(self._state.optimizer).__name__} a build(variables), or use on_nonfinite=stop and no float16"
            )
        if self._custom is not None and own:
            raise ConfigError(
                f"{name}.train_step applies its own gradients, so {own[0]} has nothing to act on; do that in "
                "train_step, or write loss() instead of it"
            )


def _then(act: Callable[[], None]) -> tf.Tensor:
    act()
    return tf.ones([], tf.bool)
