"""The optimizer: gradients in, variables updated in place by TensorFlow's fused kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim.gradients import dense, of_its_dtype
from trainer.optim.rows import Rows, read_rows, rows_of, write_rows
from trainer.optim.schedules import Schedule, as_schedule

ROWS, ALL = "rows", "all"
"""What slices of a gradient update: the rows that they name, or all, of which the others have gradient 0."""


@dataclasses.dataclass(frozen=True)
class _Built:
    """What an optimizer was built for.

    A plain object, because `tf.train.Checkpoint` does not look into one: the model's variables and the run's step are
    others' to save, and must not be saved a second time under the optimizer.
    """

    variables: tuple[tf.Variable, ...]
    step: tf.Variable

    def check_same(self, variables: Sequence[tf.Variable], step: tf.Variable | None) -> None:
        """Refuses what is not what the optimizer was built for; a step of None is no claim."""
        if len(variables) != len(self.variables):
            raise ConfigError(
                f"the optimizer was built for {len(self.variables)} variables and is given {len(variables)}; "
                "use one optimizer for each list of variables"
            )
        for position, (before, now) in enumerate(zip(self.variables, variables, strict=True)):
            if before is not now:
                raise ConfigError(
                    f"the optimizer was built for {before.name!r} at position {position} and is given {now.name!r}; "
                    "use one optimizer for each list of variables, and keep their order"
                )
        if step is not None and step is not self.step:
            raise ConfigError("the optimizer was built with another step; call build once, before the first apply")


class Optimizer(tf.Module):  # type: ignore[misc]  # TensorFlow ships no types.
    """Base of the optimizers: owns the slots, counts the updates, knows the learning rate.

    A checkpoint of an optimizer holds `iterations` and, for each kind of slot, a list in the order of the variables:
    `momentum/0`, `momentum/1`, … The learning rate is never in it: a resumed run follows the constructor's argument.

    A subclass says in hooks which slots it keeps, which scalars its kernel takes and how it updates a variable; one
    that is asked for `sparse="rows"` says in a fourth how it updates some rows.

    Variables are addressed by their `handle`, which in a replica of `tf.distribute` is the local copy. There, create
    the optimizer in the strategy's scope, and sum the gradients over the replicas before `apply`: nothing here would
    notice replicas that drift apart.

    Attributes:
      iterations: int64 scalar variable, the updates applied. An update that the caller skips does not count.
    """

    def __init__(self, learning_rate: float | Schedule, *, sparse: str = ALL, name: str | None = None):
        """Constructs what all optimizers share.

        Args:
          learning_rate: A number, or a schedule: from the int64 step to a scalar.
          sparse: What a gradient of `tf.IndexedSlices` updates: `"rows"`, those that the slices name, or `"all"`.
          name: Name of the module.

        Raises:
          ConfigError: `learning_rate` is neither a schedule nor a finite number of 0 or more, or `sparse` is neither
            of its values.
        """
        super().__init__(name)
        if sparse not in (ROWS, ALL):
            raise ConfigError(
                f"{type(self).__name__}: sparse is {sparse!r}; give {ROWS!r}, to update the rows that slices name, or "
                f"{ALL!r}"
            )
        self._sparse = sparse
        self._schedule = as_schedule(learning_rate)
        self._built: _Built | None = None
        self.iterations = tf.Variable(0, dtype=tf.int64, trainable=False, name="iterations")

    @property
    def learning_rate(self) -> tf.Tensor:
        """The learning rate of the next update, float32 scalar: the schedule at the step's present value."""
        step = self._built.step if self._built else self.iterations
        return tf.cast(self._schedule(step.read_value()), tf.float32)

    @property
    def scratch(self) -> Sequence[tf.Variable]:
        """Variables that mean nothing outside of one update, so that no checkpoint holds them."""
        return ()

    def build(self, variables: Sequence[tf.Variable], step: tf.Variable | None = None) -> None:
        """Creates all slots, as zeros. Once: again for the same variables it does nothing.

        `apply` does it by itself where it was not done, but a restore is strict only after it.

        Args:
          variables: What will be updated, in the order in which `apply` will get it.
          step: int64 scalar variable that the schedule reads. It holds k − 1 during update k; the caller advances it
            and saves it. Without one the schedule reads `iterations`.

        Raises:
          ConfigError: the optimizer was built for other variables or another step, or `step` is not int64.
        """
        if self._built:
            self._built.check_same(variables, step)
            return
        if step is not None and step.dtype != tf.int64:
            raise ConfigError(f"step {step.name!r} is {step.dtype.name}; give an int64 variable")
        with tf.init_scope():
            self._create_slots(variables)
        self._built = _Built(tuple(variables), self.iterations if step is None else step)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # TensorFlow ships no types.
    def apply(self, gradients: Sequence[tf.Tensor | tf.IndexedSlices | None], variables: Sequence[tf.Variable]) -> None:
        """Updates each variable in place by its gradient.

        Args:
          gradients: Of the variables' shapes and dtypes. `tf.IndexedSlices` are summed by index; with `sparse="rows"`
            what they do not name stays as it is, to the bit, in the variable and in its slots. A variable whose
            gradient is None stays as it is, and so do its slots.
          variables: The same ones in the same order in each call.

        Raises:
          ConfigError: there is no gradient at all, the numbers differ, or the variables are not those of the build.
        """
        if len(gradients) != len(variables):
            raise ConfigError(f"{len(gradients)} gradients for {len(variables)} variables; give one for each, or None")
        if all(gradient is None for gradient in gradients):
            raise ConfigError(f"none of the {len(variables)} variables has a gradient; does the loss depend on them?")
        self.build(variables)
        rate = self.learning_rate
        dtypes = [tf.as_dtype(variable.dtype) for variable in variables]
        scalars = {dtype: self._scalars(rate, dtype) for dtype in dict.fromkeys(dtypes)}
        for position, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            if gradient is not None:
                self._apply_one(position, variable, gradient, scalars[dtypes[position]])
        # By its handle, as the variables: `assign_add` of a mirrored variable would meet the other replicas.
        tf.raw_ops.AssignAddVariableOp(resource=self.iterations.handle, value=tf.constant(1, tf.int64))

    def _apply_one(self, position: int, variable: tf.Variable, gradient: Any, scalars: dict[str, Any]) -> None:
        gradient = of_its_dtype(gradient, variable)
        if self._sparse == ALL or not isinstance(gradient, tf.IndexedSlices):
            self._update(position, variable, dense(gradient, variable), scalars)
        elif gradient.indices.shape[0] != 0:
            rows = rows_of(gradient, variable.shape[0])
            weights = read_rows(variable, rows.indices)
            write_rows(variable, rows.indices, self._updated_rows(position, variable, weights, rows, scalars))

    def _create_slots(self, variables: Sequence[tf.Variable]) -> None:
        """Creates the slots, each list an attribute of its own."""
        raise NotImplementedError

    def _scalars(self, rate: tf.Tensor, dtype: tf.DType) -> dict[str, Any]:
        """The kernel's scalar arguments by name, in the variables' dtype; once an update, not once a variable."""
        raise NotImplementedError

    def _update(self, position: int, variable: tf.Variable, gradient: tf.Tensor, scalars: dict[str, Any]) -> None:
        """Updates one variable and its slots at `position`."""
        raise NotImplementedError

    def _updated_rows(
        self, position: int, variable: tf.Variable, weights: tf.Tensor, rows: Rows, scalars: dict[str, Any]
    ) -> tf.Tensor:
        """Updates those rows of the slots at `position`; returns what becomes of `weights`, theirs of the variable."""
        raise NotImplementedError


def zeros_like(variables: Sequence[tf.Variable], name: str) -> list[tf.Variable]:
    """One slot of zeros for each variable, of its shape and dtype and on its device."""
    slots = []
    for variable in variables:
        # Of a mirrored variable only the device can be asked, of a Keras variable only the handle.
        device = variable.device if isinstance(variable, tf.Variable) else variable.handle.device
        with tf.device(device):
            zeros = tf.zeros(variable.shape, variable.dtype)
            slot = tf.Variable(
                zeros,
                trainable=False,
                name=f"{name}/{variable.name.split(':')[0]}",
                # A tf.function that lifts variables is traced twice, and may make none after its first call.
                experimental_enable_variable_lifting=False,
            )
            slots.append(slot)
    return slots
