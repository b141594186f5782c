"""Each optimizer against its formula in NumPy, in float64, op by op, in a graph and under XLA."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.optim import SGD, Adam, AdamW, Optimizer, cosine, piecewise

STEPS = 6
RATES = [0.1, 0.1, 0.1, 0.02, 0.02, 0.02]
SCHEDULE = piecewise([3], [0.1, 0.02])

Update = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def sgd() -> Update:
    return lambda weights, gradient, rate: weights - rate * gradient


def momentum(mu: float, *, nesterov: bool) -> Update:
    velocity = 0.0

    def update(weights, gradient, rate):
        nonlocal velocity
        velocity = mu * velocity + gradient
        return weights - rate * (gradient + mu * velocity if nesterov else velocity)

    return update


def adam(beta1=0.9, beta2=0.999, epsilon=1e-8, *, decay=0.0) -> Update:
    count, mean, square = 0, 0.0, 0.0

    def update(weights, gradient, rate):
        nonlocal count, mean, square
        count += 1
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        scale = rate * np.sqrt(1 - beta2**count) / (1 - beta1**count)
        return weights * (1 - rate * decay) - scale * mean / (np.sqrt(square) + epsilon)

    return update


CASES = {
    "sgd": (lambda: SGD(SCHEDULE), sgd),
    "momentum": (lambda: SGD(SCHEDULE, momentum=0.9), lambda: momentum(0.9, nesterov=False)),
    "nesterov": (lambda: SGD(SCHEDULE, momentum=0.9, nesterov=True), lambda: momentum(0.9, nesterov=True)),
    "adam": (lambda: Adam(SCHEDULE), adam),
    "adam_others": (
        lambda: Adam(SCHEDULE, beta1=0.5, beta2=0.9, epsilon=0.1),
        lambda: adam(beta1=0.5, beta2=0.9, epsilon=0.1),
    ),
    "adamw": (lambda: AdamW(SCHEDULE, weight_decay=0.3), lambda: adam(decay=0.3)),
}


def gradients() -> Iterator[np.ndarray]:
    """Gradients of both signs and of scales from 1e-3 to 1; the last column is always 0."""
    random = np.random.default_rng(17)
    for _ in range(STEPS):
        yield (random.normal(size=[3, 4]) * [1.0, 0.1, 1e-3, 0.0]).astype(np.float32)


def compiled(optimizer: Optimizer, variables: list[tf.Variable], mode: str) -> Callable[..., None]:
    def apply(*gradients):
        optimizer.apply(gradients, variables)

    if mode == "eager":
        return apply
    return tf.function(apply, autograph=False, jit_compile=mode == "xla")


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("case", CASES)
def test_update_follows_its_formula(case, mode):
    make, reference = CASES[case]
    weights, other = np.linspace(-1, 1, 12).reshape(3, 4), np.float64(2.0)
    variables = [tf.Variable(weights, dtype=tf.float32), tf.Variable(other, dtype=tf.float32)]
    apply = compiled(make(), variables, mode)
    update, update_other = reference(), reference()
    for rate, gradient in zip(RATES, gradients(), strict=True):
        apply(tf.constant(gradient), tf.constant(gradient[0, 0]))
        weights = update(weights, gradient.astype(np.float64), rate)
        other = update_other(other, np.float64(gradient[0, 0]), rate)
        np.testing.assert_allclose(variables[0].numpy(), weights, rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(variables[1].numpy(), other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_variables_of_other_float_types_are_updated_in_their_type(dtype, mode):
    cases = [
        (SGD(0.1), sgd()),
        (SGD(0.1, momentum=0.5), momentum(0.5, nesterov=False)),
        (AdamW(0.1, beta2=0.9, epsilon=1e-3), adam(beta2=0.9, epsilon=1e-3, decay=0.01)),
    ]
    for optimizer, update in cases:
        variable, weights = tf.Variable([1.0, 2.0], dtype=dtype), np.array([1.0, 2.0])
        apply = compiled(optimizer, [variable], mode)
        for gradient in ([1.0, -1.0], [0.5, 1.0]):
            apply(tf.constant(gradient, dtype))
            weights = update(weights, np.array(gradient), 0.1)
        assert variable.dtype == dtype
        np.testing.assert_allclose(variable.numpy().astype(float), weights, rtol=1e-6 if dtype == tf.float64 else 0.01)


def test_variables_of_several_types_share_an_optimizer():
    variables = [tf.Variable(1.0), tf.Variable(1.0, dtype=tf.float64)]
    Adam(0.1).apply([tf.constant(1.0), tf.constant(1.0, tf.float64)], variables)
    assert [variable.numpy() for variable in variables] == pytest.approx([0.9, 0.9], abs=1e-6)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_slices_of_one_index_are_summed_and_with_all_every_row_is_updated_as_by_a_dense_gradient(mode):
    @tf.function(autograph=False, jit_compile=mode == "xla")
    def train(table, optimizer):
        with tf.GradientTape() as tape:
            rows = tf.gather(table, [3, 1, 3])
            loss = tf.reduce_sum(rows * tf.constant([[1.0], [2.0], [4.0]]))
        gradient = tape.gradient(loss, table)
        assert isinstance(gradient, tf.IndexedSlices)
        optimizer.apply([gradient], [table])

    for make in (lambda: SGD(0.1, sparse="all"), lambda: Adam(0.1, sparse="all")):
        sparse, dense = tf.Variable(tf.ones([5, 2])), tf.Variable(tf.ones([5, 2]))
        optimizer, expected = make(), make()
        train(sparse, optimizer)
        train(sparse, optimizer)
        for _ in range(2):
            expected.apply([tf.constant([[0.0] * 2, [2.0] * 2, [0.0] * 2, [5.0] * 2, [0.0] * 2])], [dense])
        np.testing.assert_allclose(sparse.numpy(), dense.numpy(), rtol=1e-6)


def test_variable_without_a_gradient_stays_and_so_do_its_slots():
    variables = [tf.Variable(1.0), tf.Variable(1.0)]
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.apply([tf.constant(1.0), tf.constant(1.0)], variables)
    before = [variables[0].numpy(), optimizer.first_moment[0].numpy(), optimizer.second_moment[0].numpy()]
    optimizer.apply([None, tf.constant(1.0)], variables)
    assert before == [variables[0].numpy(), optimizer.first_moment[0].numpy(), optimizer.second_moment[0].numpy()]
    assert variables[1].numpy() < before[0]
    assert optimizer.iterations.numpy() == 2


@pytest.mark.parametrize(
    "exclude", [lambda variable: len(variable.shape) < 2, lambda variable: "bias" in variable.name]
)
def test_excluded_variables_do_not_decay(exclude):
    variables = [tf.Variable([[1.0]], name="kernel"), tf.Variable([1.0], name="bias")]
    optimizer = AdamW(0.1, weight_decay=0.5, exclude=exclude)
    optimizer.apply([tf.zeros([1, 1]), tf.zeros([1])], variables)
    assert [variable.numpy().item() for variable in variables] == [np.float32(0.95), 1.0]


def test_decay_follows_the_schedule():
    variable = tf.Variable(1.0)
    optimizer = AdamW(cosine(0.1, 2), weight_decay=1.0)
    values = []
    for _ in range(3):
        optimizer.apply([tf.constant(0.0)], [variable])
        values.append(variable.numpy())
    assert values == pytest.approx([0.9, 0.9 * 0.95, 0.9 * 0.95])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(-1.0),
        lambda: SGD(tf.Variable(0.1)),
        lambda: SGD(0.1, momentum=1.0),
        lambda: SGD(0.1, nesterov=True),
        lambda: Adam(0.1, beta1=1.0),
        lambda: Adam(0.1, beta2=-0.1),
        lambda: Adam(0.1, epsilon=0.0),
        lambda: AdamW(0.1, weight_decay=-0.1),
        lambda: Adam(0.1).build([tf.Variable(1.0, dtype=tf.bfloat16)]),
        lambda: Adam(0.1, beta2=0.99).build([tf.Variable(1.0, dtype=tf.float16)]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make):
    with pytest.raises(ConfigError) as refused:
        make()
    assert "\n" not in str(refused.value)
