"""What is not finite in a step, found on the device and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.run.health import Health

pytestmark = pytest.mark.slow  # Each is traced, or compiled.

BAD = pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
HOW = pytest.mark.parametrize("how", ["graph", "graph by values", "xla"])


MATRICES = {
    "hidden layer": [64, 128],
    "transposed hidden layer": [128, 64],
    "output layer": [128, 10],
    "transposed output layer": [10, 128],
    "convolution": [3, 3, 64, 64],
    "transposed convolution": [64, 64, 3, 3],
    "convolution with few inputs": [2, 2, 8, 64],
    "smallest": [8, 8],
    "too few rows": [7, 9],
    "too few columns": [9, 7],
}


def finder(how: str) -> Callable[[tf.Tensor, Sequence[Any]], str | None]:
    """What finds the first problem in words, as a program does that is traced, or compiled, once for these shapes."""
    words: list[str] = []

    # The values come in as arguments: constants would be looked at while it is compiled.
    @tf.function(autograph=False, jit_compile=how == "xla" or None)
    def look(objective: tf.Tensor, gradients: Sequence[Any]) -> tf.Tensor:
        names = [f"the gradient of variable {number}" for number in range(len(gradients))]
        health = Health(objective, gradients, names, compiled=how != "graph")
        words[:] = health.problems
        return health.problem()

    def find(objective: tf.Tensor, gradients: Sequence[Any]) -> str | None:
        number = int(look(objective, list(gradients)))
        return words[number - 1] if number else None

    return find


def problem(objective: tf.Tensor, gradients: Sequence[Any], how: str) -> str | None:
    return finder(how)(objective, gradients)


def plain(dtype: str, *values: float) -> tf.Tensor:
    return tf.cast(tf.constant(values, tf.float64), dtype)


@HOW
@DTYPES
@BAD
def test_the_first_gradient_that_is_not_finite_is_named(bad: float, dtype: str, how: str) -> None:
    healthy, poisoned = plain(dtype, 1, -2), plain(dtype, 3, bad, -1)
    one = tf.constant(1.0)
    assert problem(one, [healthy, poisoned, poisoned], how) == "the gradient of variable 1"
    assert problem(one, [poisoned, healthy], how) == "the gradient of variable 0"
    assert problem(one, [healthy, healthy], how) is None


@HOW
@DTYPES
@BAD
def test_a_loss_that_is_not_finite_comes_first(bad: float, dtype: str, how: str) -> None:
    loss = tf.cast(tf.constant(bad), dtype)
    assert problem(loss, [plain(dtype, bad)], how) == "the loss"
    assert problem(loss, [plain(dtype, 1)], how) == "the loss"


@HOW
def test_variables_without_a_gradient_are_no_problem_and_shift_no_name(how: str) -> None:
    assert problem(tf.constant(0.0), [None, plain("float32", 1), None, plain("float32", np.nan)], how) == (
        "the gradient of variable 3"
    )
    assert problem(tf.constant(0.0), [None, None], how) is None


@HOW
@BAD
def test_slices_are_looked_at_as_they_are(bad: float, how: str) -> None:
    def slices(value: float) -> tf.IndexedSlices:
        return tf.IndexedSlices(tf.constant([[1.0], [value]]), tf.constant([2, 0]), tf.constant([3, 1]))

    assert problem(tf.constant(0.0), [slices(2.0)], how) is None
    assert problem(tf.constant(0.0), [slices(2.0), slices(bad)], how) == "the gradient of variable 1"


@HOW
@DTYPES
def test_an_empty_tensor_and_zeros_of_both_signs_are_healthy(dtype: str, how: str) -> None:
    gradients = [tf.zeros([0], dtype), tf.zeros([3, 0], dtype), plain(dtype, 0.0, -0.0), tf.zeros([], dtype)]
    assert problem(tf.constant(0.0), gradients, how) is None


@HOW
@pytest.mark.parametrize(
    ("dtype", "huge"), [("float16", 65504.0), ("bfloat16", 1e18), ("float32", 1e18), ("float64", 1e150)]
)
def test_huge_but_finite_values_are_healthy(dtype: str, huge: float, how: str) -> None:
    assert problem(tf.constant(3e38), [plain(dtype, huge, -huge)], how) is None


@HOW
@pytest.mark.parametrize(("dtype", "tiny"), [("float16", 6e-8), ("float32", 1e-45), ("float64", 5e-324)])
def test_tiny_values_are_healthy(dtype: str, tiny: float, how: str) -> None:
    assert problem(tf.constant(1.0), [plain(dtype, tiny, -tiny)], how) is None


@HOW
def test_one_bad_value_among_very_many_is_found(how: str) -> None:
    for place in (0, 77_777, 99_999):
        values = np.ones(100_000, np.float32)
        values[place] = np.inf
        assert problem(tf.constant(0.0), [tf.constant(values)], how) == "the gradient of variable 0"


@HOW
@DTYPES
def test_one_bad_value_anywhere_in_a_matrix_is_found_and_no_other_is_blamed(dtype: str, how: str) -> None:
    generator = np.random.default_rng(11)
    # Of all sizes, as gradients are: what sums to nothing must not hide anything.
    healthy = [generator.normal(0, 10.0 ** generator.integers(-6, 3), shape) for shape in MATRICES.values()]
    find, loss = finder(how), tf.constant(1.0)

    def found(values: Sequence[np.ndarray]) -> str | None:
        return find(loss, [tf.cast(tf.constant(value), dtype) for value in values])

    assert found(healthy) is None
    for number, values in enumerate(healthy):
        places = [0, values.size - 1, *generator.integers(0, values.size, 4)]
        for place in places:
            for bad in (np.nan, np.inf, -np.inf):
                poisoned = values.copy()
                poisoned.flat[place] = bad
                named = found([*healthy[:number], poisoned, *healthy[number + 1 :]])
                assert named == f"the gradient of variable {number}", (list(MATRICES)[number], place, bad)
    # Whose infinities cancel in a sum.
    both = healthy[0].copy()
    both.flat[[5, 5000]] = np.inf, -np.inf
    assert found([both, *healthy[1:]]) == "the gradient of variable 0"
    assert found(healthy) is None


def product_finder(how: str, *, turned: bool = False) -> Callable[[np.ndarray, np.ndarray], str | None]:
    """As `finder`, of one gradient that is computed there: the product of two matrices, the left one transposed.

    With `turned` it is the right one that is transposed.
    """

    @tf.function(autograph=False, jit_compile=how == "xla" or None)
    def look(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        gradient = tf.linalg.matmul(left, right, transpose_a=not turned, transpose_b=turned)
        return Health(tf.constant(0.0), [gradient], ["a"], compiled=how != "graph").problem()

    return lambda left, right: "a" if int(look(tf.constant(left), tf.constant(right))) == 1 else None


@HOW
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [4, 256])
def test_a_product_is_looked_at_whatever_its_size(units: int, dtype: type, how: str) -> None:
    find = product_finder(how)
    inputs, outputs = np.ones([8, units], dtype), np.ones([8, units], dtype)
    assert find(inputs, outputs) is None
    for bad in (np.nan, np.inf, -np.inf):
        for side in (0, 1):
            factors = [inputs.copy(), outputs.copy()]
            factors[side].flat[-1] = bad
            assert find(*factors) == "a"
    # What is not finite is hidden by no factor of 0, nor is a product that no value of the factors tells of.
    assert find(np.zeros_like(inputs), np.full_like(outputs, np.inf)) == "a"
    huge = float(np.finfo(dtype).max) ** 0.5
    assert find(huge * inputs, 2 * huge * outputs) == "a"
    assert find(np.zeros_like(inputs), outputs) is None


@HOW
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_that_is_finite_after_all_is_no_problem(dtype: type, turned: bool, how: str) -> None:
    finder = product_finder(how, turned=turned)
    find = lambda left, right: finder(left.T, right.T) if turned else finder(left, right)  # noqa: E731
    inputs, outputs = np.zeros([8, 256], dtype), np.zeros([8, 256], dtype)
    # The largest values of both meet nowhere.
    inputs[0] = outputs[1] = 2 * np.finfo(dtype).max ** 0.5
    assert find(inputs, outputs) is None
    inputs[1, 0] = inputs[0, 0]
    assert find(inputs, outputs) == "a"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("half_square", "named"), [(0.4, None), (0.9, None), (1.2, "a"), (1.9, "a"), (3, "a")])
def test_without_xla_the_square_of_a_product_may_be_as_large_as_of_any_gradient(
    half_square: float, named: str | None, dtype: type
) -> None:
    inputs, outputs = np.zeros([8, 256], dtype), np.zeros([8, 256], dtype)
    # All its values are alike, so that what bounds its square is what it is.
    inputs[0], outputs[0] = 1, np.sqrt(2 * half_square) * np.sqrt(np.finfo(dtype).max) / 256
    assert product_finder("graph")(inputs, outputs) == named


def test_without_xla_no_rounding_passes_a_product_whose_square_overflows() -> None:
    inputs, outputs = np.zeros([8, 256], np.float32), np.zeros([8, 256], np.float32)
    inputs[0, 0], outputs[0, 0] = 4984962560, 3700477952
    # The product is 2**64, whose square is beyond float32; that of the factors' squares is not.
    assert np.isfinite(inputs[0, 0] ** 2 * outputs[0, 0] ** 2)
    assert product_finder("graph")(inputs, outputs) == "a"


@pytest.mark.parametrize("how", ["graph by values", "xla"])
def test_beside_a_product_that_is_huge_the_one_that_is_not_finite_is_named(how: str) -> None:
    @tf.function(autograph=False, jit_compile=how == "xla" or None)
    def look(factor: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        product = tf.linalg.matmul(factor, factor, transpose_a=True)
        return Health(tf.constant(0.0), [product, values], list("ab"), compiled=True).problem()

    # Finite, and so are its factors' squares; the product of those is not.
    huge = tf.fill([8, 256], 1e15)
    assert int(look(huge, tf.ones([9]))) == 0
    assert int(look(huge, tf.fill([9], np.nan))) == 1


@pytest.mark.parametrize("how", ["graph by values", "xla"])
def test_small_ones_of_several_types_are_told_apart(how: str) -> None:
    kinds = [("float64", [3]), ("float32", [64, 64]), ("float32", [3]), ("float64", [2]), ("float16", [2])]
    find, healthy = finder(how), [tf.ones(shape, dtype) for dtype, shape in kinds]
    assert find(tf.constant(1.0), healthy) is None
    for number, (dtype, shape) in enumerate(kinds):
        gradients = [*healthy[:number], tf.fill(shape, tf.constant(np.inf, dtype)), *healthy[number + 1 :]]
        assert find(tf.constant(1.0), gradients) == f"the gradient of variable {number}"


def test_one_of_unknown_size_is_named() -> None:
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 8])] * 2)
    def look(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        return Health(tf.constant(0.0), [first, second], list("ab"), compiled=True).problem()

    bad, none = tf.fill([3, 8], np.nan), tf.zeros([0, 8])
    assert [int(look(*pair)) for pair in ((none, none), (none, bad), (bad, none))] == [0, 1, 2]


@HOW
def test_of_products_and_others_the_first_that_is_not_finite_is_named(how: str) -> None:
    @tf.function(autograph=False, jit_compile=how == "xla" or None)
    def look(loss: tf.Tensor, factors: Sequence[tf.Tensor], values: tf.Tensor) -> tf.Tensor:
        products = [tf.linalg.matmul(factor, factor, transpose_a=True) for factor in factors]
        gradients = [products[0], values, products[1]]
        return Health(loss, gradients, list("abc"), compiled=how != "graph").problem()

    def named(*bad: str) -> str | None:
        loss, first, values, last = (tf.fill(shape, np.nan if name in bad else 1.0) for name, shape in parts.items())
        number = int(look(loss, [first, last], values))
        return ("c", "b", "a", "the loss")[number - 1] if number else None

    parts: dict[str, list[int]] = {"the loss": [], "a": [8, 256], "b": [300], "c": [8, 256]}
    names = list(parts)
    assert named() is None
    for number, name in enumerate(names):
        assert named(name) == name
        assert named(*names[number:]) == name


@pytest.mark.parametrize("how", ["values", "squares"])
@pytest.mark.parametrize("units", [256, 4])
def test_a_product_of_far_smaller_matrices_is_neither_passed_over_nor_kept(units: int, how: str) -> None:
    def users(*, clipped: bool) -> int:
        with tf.Graph().as_default():
            factors = [tf.compat.v1.placeholder(tf.float32, [8, units]) for _ in range(2)]
            gradient = tf.linalg.matmul(*factors, transpose_a=True)
            Health(tf.constant(0.0), [gradient], ["a"], compiled=how == "values", clipped=clipped).problem()
            return len(gradient.consumers())

    # A small one is looked at.
    assert users(clipped=False) == (0 if units == 256 else 1)
    # Who asks for its square passes over it anyway.
    assert users(clipped=True) == 1


def test_no_branch_that_is_not_taken_keeps_gradients_in_memory() -> None:
    shapes: list[list[int | None]] = [[64, 64], [32, 4, 16], [100], [3, 5], [5000, 2], [20_000], [None, 8]]
    with tf.Graph().as_default() as graph:
        gradients = [tf.compat.v1.placeholder(tf.float32, shape) for shape in shapes]
        Health(tf.constant(0.0), gradients, list("abcdefg"), compiled=True).problem()
        [branch] = [operation for operation in graph.get_operations() if "If" in operation.type]
        taken = [tensor.shape.num_elements() for tensor in branch.inputs]
    # What it takes is of single numbers, but for the biases, which are put together to be looked at in any case.
    assert sorted(taken)[-2:] == [1, 115]


@HOW
def test_an_objective_beyond_float32_is_finite_where_float64_has_it(how: str) -> None:
    assert problem(tf.constant(1e300, tf.float64), [plain("float32", 1)], how) is None
    assert problem(tf.constant(math.inf, tf.float64), [plain("float32", 1)], how) == "the loss"


def test_whether_the_objective_alone_is_finite_is_told_apart() -> None:
    healthy = Health(tf.constant(1.0), [plain("float32", np.inf)], ["a"], compiled=False)
    assert bool(healthy.objective_finite)
    assert not bool(Health(tf.constant(np.nan), [], [], compiled=False).objective_finite)


def test_the_norm_is_that_of_all_gradients_together() -> None:
    gradients = [plain("float32", 3), None, plain("float16", 4, 12), tf.zeros([0])]
    found = Health(tf.constant(0.0), gradients, list("abcd"), compiled=False).half_squares()
    assert float(found) == 13**2 / 2
    # 300² is beyond float16.
    assert float(Health(tf.constant(0.0), [plain("float16", 300)], ["a"], compiled=False).half_squares()) == 45_000
