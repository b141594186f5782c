"""Weight decay and the L2 penalty: what each is, and that they are not the same."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim import SGD, Adam, AdamW, Optimizer, l2, piecewise

RATES = [0.1, 0.1, 0.02]
SCHEDULE = piecewise([2], [0.1, 0.02])
WEIGHTS = np.array([[3.0, -2.0], [0.5, 0.0]])
GRADIENTS = [np.array([[1.0, -1e-3], [0.2, 0.0]]), np.array([[-1.0, 2e-3], [0.1, 0.0]]), np.ones([2, 2])]


def updated(
    optimizer: Optimizer, mode: str, gradient_of: Callable[[tf.Variable, np.ndarray], tf.Tensor] | None = None
) -> np.ndarray:
    """The weights, float64, after an update by each gradient."""
    variable = tf.Variable(WEIGHTS, dtype=tf.float64)
    optimizer.build([variable])

    def apply(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient if gradient_of is None else gradient_of(variable, gradient)], [variable])

    step = apply if mode == "eager" else tf.function(apply, autograph=False, jit_compile=mode == "xla")
    for gradient in GRADIENTS:
        step(tf.constant(gradient, tf.float64))
    found: np.ndarray = variable.numpy()
    return found


def adamw(decay: float, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> np.ndarray:
    """AdamW as its docstring says it, in NumPy."""
    weights, mean, square = WEIGHTS, np.zeros([2, 2]), np.zeros([2, 2])
    for count, (rate, gradient) in enumerate(zip(RATES, GRADIENTS, strict=True), start=1):
        mean = mean + (1 - beta1) * (gradient - mean)
        square = square + (1 - beta2) * (gradient**2 - square)
        weights = weights - np.float64(np.float32(rate)) * decay * weights
        scale = np.float64(np.float32(rate)) * np.sqrt(1 - beta2**count) / (1 - beta1**count)
        weights = weights - scale * mean / (np.sqrt(square) + epsilon)
    return weights


def with_penalty(scale: float) -> Callable[[tf.Variable, tf.Tensor], tf.Tensor]:
    """Gradients with that of an L2 penalty in them."""
    return lambda variable, gradient: gradient + scale * variable


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_adamw_is_its_formula_to_the_last_digits(mode: str) -> None:
    np.testing.assert_allclose(updated(AdamW(SCHEDULE, weight_decay=0.3), mode), adamw(0.3), rtol=1e-12)


def test_adamw_is_no_penalty_through_adam() -> None:
    penalized = updated(Adam(SCHEDULE), "graph", with_penalty(0.3))
    assert np.abs(penalized - adamw(0.3)).max() > 0.1
    # Without any decay both are Adam.
    np.testing.assert_allclose(updated(Adam(SCHEDULE), "graph", with_penalty(0.0)), adamw(0.0), rtol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_sgd_with_decay_is_a_penalty_where_there_is_no_momentum_and_none_where_there_is(mode: str) -> None:
    decayed = updated(SGD(SCHEDULE, weight_decay=0.3), mode)
    np.testing.assert_allclose(decayed, updated(SGD(SCHEDULE), mode, with_penalty(0.3)), rtol=1e-12)
    velocity, weights = np.zeros([2, 2]), WEIGHTS
    for rate, gradient in zip(RATES, GRADIENTS, strict=True):
        velocity = 0.9 * velocity + gradient
        weights = weights * (1 - np.float64(np.float32(rate)) * 0.3) - np.float64(np.float32(rate)) * velocity
    moved = updated(SGD(SCHEDULE, momentum=0.9, weight_decay=0.3), mode)
    np.testing.assert_allclose(moved, weights, rtol=1e-12)
    assert np.abs(moved - updated(SGD(SCHEDULE, momentum=0.9), mode, with_penalty(0.3))).max() > 0.01


@pytest.mark.parametrize("make", [SGD, AdamW])
def test_what_is_excluded_does_not_decay(make: type[SGD] | type[AdamW]) -> None:
    variables = [tf.Variable([[1.0]]), tf.Variable([1.0])]
    optimizer = make(0.1, weight_decay=0.5, exclude=lambda variable: len(variable.shape) < 2)
    optimizer.apply([tf.zeros([1, 1]), tf.zeros([1])], variables)
    assert [variable.numpy().item() for variable in variables] == [np.float32(0.95), 1.0]


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("decay", [-0.1, float("inf"), float("nan")])
def test_a_decay_that_cannot_be_is_refused(make: type[SGD] | type[AdamW], decay: float) -> None:
    with pytest.raises(ConfigError, match=rf"{make.__name__}: weight_decay is .*; give a finite number, 0 or larger"):
        make(0.1, weight_decay=decay)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_the_penalty_is_half_the_sum_of_squares_and_its_gradient_the_weights(mode: str) -> None:
    variables = [tf.Variable(WEIGHTS, dtype=tf.float64), tf.Variable(2.0, dtype=tf.float64)]

    @tf.function(autograph=False, jit_compile=mode == "xla")
    def measured() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            penalty = l2(variables, 0.01)
        return penalty, tape.gradient(penalty, variables)

    penalty, gradients = measured()
    assert penalty.dtype == tf.float64
    np.testing.assert_allclose(penalty, 0.01 * 0.5 * (13.25 + 4), rtol=1e-12)
    np.testing.assert_allclose(gradients[0], 0.01 * WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(gradients[1], 0.02, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float16"], "float32"),
        (["bfloat16", "float16"], "float32"),
        (["float32", "float16"], "float32"),
        (["float16", "float64"], "float64"),
    ],
)
def test_squares_of_16_bit_variables_are_taken_in_float32(dtypes: list[str], expected: str) -> None:
    # 300² is beyond float16.
    variables = [tf.Variable(300.0, dtype=dtype) for dtype in dtypes]
    with tf.GradientTape() as tape:
        penalty = l2(variables, 0.01)
    assert penalty.dtype.name == expected
    assert float(penalty) == pytest.approx(len(dtypes) * 450.0, rel=0.01)
    gradients = tape.gradient(penalty, variables)
    assert [gradient.dtype.name for gradient in gradients] == dtypes
    assert [float(gradient) for gradient in gradients] == pytest.approx([3.0] * len(dtypes), rel=0.01)


def test_variables_of_keras_are_penalized_too() -> None:
    layer = keras.layers.Dense(2, kernel_initializer="ones")
    layer.build([None, 3])
    assert float(l2(layer.trainable_variables, 2.0)) == 6.0
    assert float(l2(iter([layer.kernel]), 0)) == 0.0


@pytest.mark.parametrize(
    ("variables", "scale", "message"),
    [
        ([], 1.0, "no variable is given"),
        ([tf.constant(3)], 1.0, "a variable of int32 is given"),
        ([tf.constant(3.0)], -1.0, "scale is -1.0"),
        ([tf.constant(3.0)], float("nan"), "scale is nan"),
        ([tf.constant(3.0)], tf.constant(1.0), "scale is "),
    ],
)
def test_a_penalty_that_cannot_be_is_refused_in_one_line(
    variables: list[tf.Tensor], scale: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"l2: {message}") as refused:
        l2(variables, scale)
    assert "\n" not in str(refused.value)
