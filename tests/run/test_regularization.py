"""A penalty on the weights: part of what training makes small, and no part of the loss that is logged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import Diverged
from trainer.optim import l2
from trainer.run.experiment import at_precision
from trainer.run.program import Program
from trainer.run.state import TrainState
from trainer.run.step import Update

pytestmark = pytest.mark.slow

RATE, SCALE = 0.125, 0.5
Train = Callable[..., trainer.Result]


@pytest.fixture(scope="module")
def penalized(linear: Any) -> Any:
    """Least squares with an L2 penalty on the kernel, in float64 unless told otherwise."""

    @dataclasses.dataclass(frozen=True)
    class Penalized(linear):
        dtype: str = "float64"
        scale: float = SCALE
        poisoned: bool = False
        weighted: bool = True

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            penalty = l2([model.kernel], self.scale)
            # Of the batch that begins with example 8, the third.
            bad = tf.logical_and(self.poisoned, batch["index"][0] == 8)
            penalty = tf.where(bad, tf.constant(np.nan, penalty.dtype), penalty)
            return dataclasses.replace(loss, metrics={}, regularization=penalty)

    return Penalized


@pytest.fixture(scope="module")
def own_step(penalized: Any) -> Any:
    """The same, with a step that applies its own gradients."""

    @dataclasses.dataclass(frozen=True)
    class OwnStep(penalized):
        def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
            with tf.GradientTape() as tape:
                loss = self.loss(state.model, batch, training=True, seed=seed)
                mean = tf.reduce_sum(loss.weights * loss.per_example) / tf.reduce_sum(loss.weights)
                # Where the penalty is spoiled, the weights are not.
                objective = mean + l2([state.model.kernel], self.scale)
            variables = state.model.trainable_variables
            state.optimizer.apply(tape.gradient(objective, variables), variables)
            return loss

    return OwnStep


def program_of(
    experiment: Any, *, jit: str = "none", precision: str = "float32", freeze: str | None = None, **update: Any
) -> tuple[TrainState, Program]:
    experiment = at_precision(experiment, precision)
    state = TrainState(experiment, 17, precision=precision, freeze=freeze)
    made = Program(experiment, state, experiment.train_data(), seed=17, jit=jit, update=Update(**update))
    return state, made


def descended(experiment: Any, kernel: np.ndarray, steps: int) -> tuple[np.ndarray, list[float], list[float]]:
    """The kernel after some steps by the analytic gradients, with the loss and the penalty of each step."""
    data, bias, losses, penalties = experiment.arrays(), 0.0, [], []
    for step in range(steps):
        rows = np.arange(4 * step, 4 * step + 4) % experiment.examples
        x, y, weight = (data[name][rows].astype(np.float64) for name in ("x", "y", "weight"))
        error, share = x @ kernel + bias - y, weight / weight.sum()
        losses.append(float(share @ error**2))
        penalties.append(0.5 * experiment.scale * float(kernel @ kernel))
        gradient = 2 * (share * error) @ x + experiment.scale * kernel
        kernel, bias = kernel - RATE * gradient, bias - RATE * 2 * float(share @ error)
    return kernel, losses, penalties


@pytest.mark.parametrize(
    ("jit", "options", "rtol"),
    [
        ("none", {}, 1e-7),
        ("chunk", {}, 1e-7),
        ("none", {"accumulate": 2}, 1e-7),
        ("chunk", {"accumulate": 4}, 1e-7),
        ("none", {"on_nonfinite": "skip"}, 1e-7),
        ("none", {"precision": "mixed_float16"}, 1e-7),
    ],
)
def test_the_updates_are_those_of_the_analytic_gradients_and_the_loss_is_without_the_penalty(
    jit: str, options: dict[str, Any], rtol: float, penalized: Any
) -> None:
    experiment = penalized()
    state, program = program_of(experiment, jit=jit, **options)
    kernel, losses, penalties = descended(experiment, state.model.kernel.numpy(), 6)
    rows = program.run(6, [1, 2, 3, 4, 5]).rows
    means = [program.layout.means(row.totals) for row in (*rows, program.peek())]
    np.testing.assert_allclose([mean["loss"] for mean in means], losses, rtol=rtol)
    np.testing.assert_allclose([mean["regularization"] for mean in means], penalties, rtol=rtol)
    np.testing.assert_allclose(state.model.kernel.numpy(), kernel, rtol=rtol)


def test_a_step_of_the_user_s_own_records_its_penalty_as_any_other(own_step: Any) -> None:
    experiment = own_step()
    state, program = program_of(experiment)
    kernel, losses, penalties = descended(experiment, state.model.kernel.numpy(), 3)
    mean = program.layout.means(program.run(3, []).open.totals)
    assert mean.keys() == {"loss", "regularization"}
    assert mean["regularization"] == pytest.approx(_weighted(experiment, penalties), rel=1e-6)
    assert mean["loss"] == pytest.approx(_weighted(experiment, losses), rel=1e-6)
    np.testing.assert_allclose(state.model.kernel.numpy(), kernel, rtol=1e-6)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_train_and_eval_records_have_the_penalty_beside_the_loss(ema: float, penalized: Any, train: Train) -> None:
    experiment = penalized()
    options = {"log_every": "1step", "eval_every": "3steps", "ema": ema}
    records = train(experiment, train_for="3steps", **options).records
    windows = [record for record in records if record.kind == "train"]
    (evaluation,) = [record for record in records if record.kind == "eval"]
    assert [list(record.metrics) for record in records] == [["loss", "regularization"]] * 4
    state = TrainState(experiment, 17)
    kernels = [descended(experiment, state.model.kernel.numpy(), steps)[0] for steps in range(4)]
    average = kernels[0]
    for kernel in kernels[1:]:
        average = ema * average + (1 - ema) * kernel
    told = [record.metrics["regularization"] for record in windows]
    np.testing.assert_allclose(told, [0.5 * SCALE * kernel @ kernel for kernel in kernels[:3]], rtol=1e-6)
    assert evaluation.metrics["regularization"] == pytest.approx(0.5 * SCALE * average @ average, rel=1e-6)


@pytest.mark.parametrize("jit", ["none", "chunk"])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"clip_norm": 1.0}])
def test_a_penalty_that_is_not_finite_stops_the_run_and_is_named(
    jit: str, options: dict[str, Any], penalized: Any, train: Train
) -> None:
    experiment = penalized(poisoned=True, weighted=False)
    with pytest.raises(Diverged, match="the loss with its regularization is not finite at step 3"):
        train(experiment, train_for="9steps", log_every="1step", jit=jit, **options)


def test_a_penalty_that_is_not_finite_stops_a_step_of_the_user_s_own(own_step: Any, train: Train) -> None:
    with pytest.raises(Diverged, match="the loss with its regularization is not finite at step 3"):
        train(own_step(poisoned=True), train_for="9steps", log_every="1step")


def test_a_step_whose_penalty_is_not_finite_can_be_skipped(penalized: Any, train: Train) -> None:
    options = {"log_every": "4steps", "on_nonfinite": "skip"}
    records = train(penalized(poisoned=True), train_for="4steps", **options).records
    (record,) = [record for record in records if record.kind == "train"]
    assert (record.skipped, record.nonfinite) == (1, {"regularization": 1})
    assert record.metrics["regularization"] is not None


def test_a_frozen_variable_is_penalized_in_vain(penalized: Any) -> None:
    experiment = penalized()
    state, program = program_of(experiment, freeze="kernel")
    start = state.model.kernel.numpy()
    mean = program.layout.means(program.run(3, []).open.totals)
    assert state.model.kernel.numpy().tobytes() == start.tobytes()
    assert mean["regularization"] == pytest.approx(0.5 * SCALE * start @ start)
    assert float(state.model.bias) != 0


def _weighted(experiment: Any, values: list[float]) -> float:
    """The mean over the first steps, each by the weight of its batch."""
    weight = experiment.arrays()["weight"]
    weights = [weight[np.arange(4 * step, 4 * step + 4) % experiment.examples].sum() for step in range(len(values))]
    return float(np.average(values, weights=weights))
