"""Adam: steps scaled by running moments of the gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim.kernels import is_without_xla
from trainer.optim.optimizer import ROWS, Optimizer, zeros_like
from trainer.optim.rows import Rows, read_rows, write_rows
from trainer.optim.schedules import Schedule

_PACKET_BYTES, _FEW_PARTS, _ONE_THREAD = 32, 50, 2**15


@dataclasses.dataclass(frozen=True)
class _Scratch:
    """Variables that no checkpoint holds: `tf.train.Checkpoint` does not look into a plain object."""

    variables: dict[int, tf.Variable] = dataclasses.field(default_factory=dict)


class Adam(Optimizer):
    """Adam of D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Update t = `iterations` + 1 with gradient g and learning rate η computes, moments m and v starting at 0:

        m ← m + (1 − β₁)·(g − m)
        v ← v + (1 − β₂)·(g² − v)
        θ ← θ − η·√(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε)

    This is the paper's second form, before its section 2.1, whose epsilon is "ε hat": it is added before the bias is
    corrected, and so weighs like an ε of ε / √(1 − β₂ᵗ) in the paper's Algorithm 1.

    Of a sparse gradient, with `sparse="rows"`, the rule is that of the rows that its slices name, t still the count of
    all updates: what is not named keeps θ, m and v. The paper's rule, which is `sparse="all"`, lets every row's moments
    decay at every update, and so moves rows for a while after they were named; it costs as much as the whole table.

    Attributes:
      first_moment: The slots m, one for each variable.
      second_moment: The slots v.
    """

    first_moment: list[tf.Variable]
    second_moment: list[tf.Variable]

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        sparse: str = ROWS,
        name: str | None = None,
    ):
        """Constructs the optimizer.

        Args:
          learning_rate: η, a number or a schedule.
          beta1: β₁, in [0, 1).
          beta2: β₂, in [0, 1).
          epsilon: ε, positive.
          sparse: What a gradient of `tf.IndexedSlices`, such as an embedding's, updates: `"rows"`, those that it names,
            or `"all"`.
          name: Name of the module.

        Raises:
          ConfigError: an argument is out of its range.
        """
        super().__init__(learning_rate, sparse=sparse, name=name)
        for symbol, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0.0 <= beta < 1.0:
                raise ConfigError(f"{type(self).__name__}: {symbol} is {beta!r}; give a number in [0, 1)")
        if not epsilon > 0.0:
            raise ConfigError(f"{type(self).__name__}: epsilon is {epsilon!r}; give a positive number")
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._scratch = _Scratch()

    @property
    def scratch(self) -> Sequence[tf.Variable]:
        return tuple(self._scratch.variables.values())

    def _create_slots(self, variables: Sequence[tf.Variable]) -> None:
        for variable in variables:
            self._check_precision(variable)
        self.first_moment = zeros_like(variables, "first_moment")
        self.second_moment = zeros_like(variables, "second_moment")

    def _scalars(self, rate: tf.Tensor, dtype: tf.DType) -> dict[str, Any]:
        count = tf.cast(self.iterations + 1, tf.float64)
        # Powers of the betas as the kernel rounds them, or the correction would not undo the decay: in bfloat16 0.99
        # is 0.988. Taken in float64, because powers taken in float32 differ between a graph and XLA.
        beta1, beta2 = _rounded(self._beta1, dtype), _rounded(self._beta2, dtype)
        return {
            "beta1_power": tf.cast(tf.pow(tf.constant(beta1, tf.float64), count), dtype),
            "beta2_power": tf.cast(tf.pow(tf.constant(beta2, tf.float64), count), dtype),
            "lr": tf.cast(rate, dtype),
            "beta1": tf.constant(beta1, dtype),
            "beta2": tf.constant(beta2, dtype),
            "epsilon": tf.constant(self._epsilon, dtype),
        }

    def _update(self, position: int, variable: tf.Variable, gradient: tf.Tensor, scalars: dict[str, Any]) -> None:
        inputs = {
            "var": variable.handle,
            "m": self.first_moment[position].handle,
            "v": self.second_moment[position].handle,
            "grad": gradient,
            **scalars,
        }
        if not (_suits_one_thread(variable) and is_without_xla()):
            tf.raw_ops.ResourceApplyAdam(**inputs)
            return
        # The kernel of AMSGrad computes the same bits, as the largest v so far is this one when it begins at 0; but for
        # a v that is not a number, which `without_xla` leaves out.
        largest = self._largest(position, variable)
        tf.raw_ops.AssignVariableOp(resource=largest.handle, value=tf.zeros(variable.shape, largest.dtype))
        tf.raw_ops.ResourceApplyAdamWithAmsgrad(vhat=largest.handle, **inputs)

    def _largest(self, position: int, variable: tf.Variable) -> tf.Variable:
        """Room for the largest v of a variable in one update; it means nothing outside of it."""
        if position not in self._scratch.variables:
            with tf.init_scope():
                [self._scratch.variables[position]] = zeros_like([variable], "scratch")
        return self._scratch.variables[position]

    def _updated_rows(
        self, position: int, variable: tf.Variable, weights: tf.Tensor, rows: Rows, scalars: dict[str, Any]
    ) -> tf.Tensor:
        # In the kernel's order of operations.
        first, second = self.first_moment[position], self.second_moment[position]
        mean, square = read_rows(first, rows.indices), read_rows(second, rows.indices)
        mean += (rows.gradient - mean) * (1 - scalars["beta1"])
        square += (tf.square(rows.gradient) - square) * (1 - scalars["beta2"])
        write_rows(first, rows.indices, mean)
        write_rows(second, rows.indices, square)
        rate = scalars["lr"] * tf.sqrt(1 - scalars["beta2_power"]) / (1 - scalars["beta1_power"])
        return weights - mean * rate / (tf.sqrt(square) + scalars["epsilon"])

    def _check_precision(self, variable: tf.Variable) -> None:
        # Unnoticed, β = 1 would stop the training of a bfloat16 variable, and ε = 0 divide 0 by 0 in a float16 one.
        dtype, kind = tf.as_dtype(variable.dtype), type(self).__name__
        for symbol, beta in (("beta1", self._beta1), ("beta2", self._beta2)):
            if _rounded(beta, dtype) == 1.0:
                raise ConfigError(
                    f"{kind}: {symbol} {beta!r} is 1 in {dtype.name}, the type of {variable.name!r}; "
                    "give a smaller one or keep the variable in float32"
                )
        if _rounded(self._epsilon, dtype) == 0.0:
            raise ConfigError(
                f"{kind}: epsilon {self._epsilon!r} is 0 in {dtype.name}, the type of {variable.name!r}; "
                "give a larger one or keep the variable in float32"
            )


def _suits_one_thread(variable: tf.Variable) -> bool:
    """Whether Adam's own kernel would spread over threads what is done sooner by one.

    It takes the cost of all for that of each of its parts, which are packets of values where the size is a multiple of
    one and else single values. Measured on two cores, it spreads more than 50 parts: 100 values, or 1,000, then take
    14 µs instead of 8. From 33,000 values on the threads pay.
    """
    size, dtype = variable.shape.num_elements() or 0, tf.as_dtype(variable.dtype)
    packet = _PACKET_BYTES // dtype.size
    parts = size if size % packet else size // packet
    spread = parts > _FEW_PARTS and size <= _ONE_THREAD
    return spread and dtype in (tf.float32, tf.float64) and "CPU" in variable.handle.device


def _rounded(value: float, dtype: tf.DType) -> float:
    return float(dtype.as_numpy_dtype(value))
