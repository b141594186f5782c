"""The gradients of a batch: the same at once and in micro-batches, and no larger than their bound."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer import Loss
from trainer.data import Batch
from trainer.run.gradients import Gradients, accumulated, clipped, whole
from trainer.run.health import Health
from trainer.run.measure import Measured, measure

ROWS, FEATURES, WORDS = 12, 3, 5
SCALED = 2.0**7
ALONE: dict[str, Any] = {"scale": None, "reduce": lambda value: value, "replicas": 1}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Least squares with a table of words: y ≈ x · kernel + table[word], in float64."""

    weighted: bool = False
    padded: bool = False
    regularized: bool = False

    @functools.cached_property
    def variables(self) -> list[tf.Variable]:
        generator = np.random.default_rng(5)
        kernel, table = generator.normal(size=FEATURES), generator.normal(size=WORDS)
        return [tf.Variable(kernel), tf.Variable(table), tf.Variable(1.5, dtype=tf.float64)]

    @functools.cached_property
    def batch(self) -> Batch:
        generator = np.random.default_rng(3)
        values = {
            "x": tf.constant(generator.normal(size=[ROWS, FEATURES])),
            "y": tf.constant(generator.normal(size=ROWS)),
            # Words come again, within a micro-batch and across: their gradients are slices with duplicates.
            "word": tf.constant(generator.integers(0, WORDS - 1, ROWS)),
            "weight": tf.constant(generator.uniform(0.5, 2, ROWS)),
        }
        # The last of three micro-batches has nothing but padding.
        padding = tf.constant([1.0] * 7 + [0.0] * 5) if self.padded else None
        return Batch(values, padding, tf.constant(7 if self.padded else ROWS, tf.int64))

    def measured(self, batch: Batch, seed: tf.Tensor) -> Measured:
        kernel, table, spare = self.variables
        values = batch.values
        error = tf.linalg.matvec(values["x"], kernel) + tf.gather(table, values["word"]) - values["y"]
        loss = Loss(
            tf.square(error),
            {"absolute": tf.abs(error)},
            values["weight"] if self.weighted else None,
            0.01 * (tf.reduce_sum(tf.square(kernel)) + spare**2) if self.regularized else None,
        )
        return measure(loss, batch, int(values["x"].shape[0]))

    def by_hand(self) -> tuple[float, list[np.ndarray]]:
        """The objective and the gradients in NumPy."""
        kernel, table, spare = (variable.numpy() for variable in self.variables)
        values = {name: value.numpy() for name, value in self.batch.values.items()}
        weights = values["weight"] if self.weighted else np.ones(ROWS)
        if self.batch.weights is not None:
            weights = weights * self.batch.weights.numpy()
        error = values["x"] @ kernel + table[values["word"]] - values["y"]
        slope = 2 * weights * error / weights.sum()
        rows = np.zeros(WORDS)
        np.add.at(rows, values["word"], slope)
        objective = (weights * error**2).sum() / weights.sum()
        gradients = [slope @ values["x"], rows, np.zeros([])]
        if self.regularized:
            objective += 0.01 * ((kernel**2).sum() + spare**2)
            gradients[0] += 0.02 * kernel
            gradients[2] += 0.02 * spare
        return objective, gradients


def seeds(count: int) -> list[tf.Tensor]:
    return [tf.constant([7, number]) for number in range(count)]


def taken(problem: Problem, parts: int, **options: Any) -> Gradients:
    """The gradients of the problem's batch in so many parts."""
    options = {**ALONE, **options}
    if parts == 1:
        return whole(problem.measured, problem.batch, seeds(1)[0], problem.variables, **options)
    return accumulated(problem.measured, problem.batch, seeds(parts), problem.variables, rows=ROWS, **options)


PROBLEMS = pytest.mark.parametrize(
    "problem",
    [
        Problem(),
        Problem(weighted=True),
        Problem(padded=True),
        Problem(regularized=True),
        Problem(weighted=True, padded=True, regularized=True),
    ],
    ids=lambda problem: ", ".join(name for name, on in dataclasses.asdict(problem).items() if on) or "plain",
)


@PROBLEMS
@pytest.mark.parametrize("parts", [1, 2, 3, 12])
@pytest.mark.parametrize("scale", [None, SCALED])
def test_the_gradients_are_those_of_the_mean_over_the_whole_batch(
    problem: Problem, parts: int, scale: float | None
) -> None:
    found = taken(problem, parts, scale=None if scale is None else tf.constant(scale))
    objective, gradients = problem.by_hand()
    np.testing.assert_allclose(found.objective, objective, rtol=1e-12)
    for gradient, expected in zip(found.gradients, gradients, strict=True):
        if gradient is None:
            assert not expected.any()
        else:
            np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(found.totals, taken(problem, 1).totals, rtol=1e-12)


@pytest.mark.parametrize("parts", [1, 3])
def test_what_the_objective_does_not_depend_on_has_no_gradient(parts: int) -> None:
    assert [gradient is None for gradient in taken(Problem(), parts).gradients] == [False, False, True]
    # The penalty alone is enough to have one.
    assert [gradient is None for gradient in taken(Problem(regularized=True), parts).gradients] == [False, False, False]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_batch_that_weighs_nothing_moves_nothing(parts: int) -> None:
    problem = Problem()
    nothing = problem.batch._replace(weights=tf.zeros([ROWS]))
    arguments = (problem.measured, nothing)
    if parts == 1:
        found = whole(*arguments, seeds(1)[0], problem.variables, **ALONE)
    else:
        found = accumulated(*arguments, seeds(parts), problem.variables, rows=ROWS, **ALONE)
    assert found.objective.numpy() == 0
    for gradient in found.gradients[:2]:
        assert not np.any(tf.convert_to_tensor(gradient))


@pytest.mark.parametrize("exponent", [-20, 0, 15, 24])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(parts: int, exponent: int) -> None:
    problem = Problem(weighted=True, regularized=True)
    plain, scaled = taken(problem, parts), taken(problem, parts, scale=tf.constant(2.0**exponent))
    assert plain.objective.numpy() == scaled.objective.numpy()
    for one, other in zip(plain.gradients, scaled.gradients, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(one), tf.convert_to_tensor(other))


@pytest.mark.parametrize("parts", [1, 3])
def test_two_replicas_with_the_same_batch_come_to_the_gradients_of_one(parts: int) -> None:
    problem = Problem(weighted=True, regularized=True)
    # What the other one has is the same: their sum is the double.
    found = taken(problem, parts, reduce=lambda value: 2 * tf.convert_to_tensor(value), replicas=2)
    _, expected = problem.by_hand()
    for gradient, by_hand in zip(found.gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-12, atol=1e-300)


# --- Micro-batches ----------------------------------------------------------------------------------------------------


def test_each_micro_batch_has_its_own_rows_in_order_and_its_own_seed() -> None:
    problem, met = Problem(), []

    def noted(batch: Batch, seed: tf.Tensor) -> Measured:
        met.append((batch.values["y"].numpy().tolist(), seed.numpy().tolist()))
        return problem.measured(batch, seed)

    accumulated(noted, problem.batch, seeds(4), problem.variables, rows=ROWS, **ALONE)
    rows = problem.batch.values["y"].numpy().reshape(4, 3).tolist()
    assert met == [(part, [7, number]) for number, part in enumerate(rows)]


def test_a_value_that_is_not_finite_in_several_micro_batches_counts_as_one_batch() -> None:
    problem = Problem()
    values = problem.batch.values
    poisoned = problem.batch._replace(values={**values, "y": values["y"] * np.nan})
    found = accumulated(problem.measured, poisoned, seeds(4), problem.variables, rows=ROWS, **ALONE)
    assert found.layout.nonfinite(found.totals.numpy()) == {"loss": 1, "absolute": 1}


def ancestors(operation: tf.Operation) -> set[str]:
    """Every operation that has to be through before this one begins."""
    names: set[str] = set()
    queue = [operation]
    while queue:
        node = queue.pop()
        for before in (*(given.op for given in node.inputs), *node.control_inputs):
            if before.name not in names:
                names.add(before.name)
                queue.append(before)
    return names


def test_no_micro_batch_begins_before_the_one_before_it_is_through() -> None:
    problem, parts = Problem(weighted=True, regularized=True), 4
    assert problem.variables, problem.batch  # Made here: a graph that makes variables is traced twice.
    forward: list[tf.Operation] = []
    backward: list[tf.Operation] = []

    def noted(kept: list[tf.Operation], x: tf.Tensor) -> tf.Tensor:
        kept.append(tf.identity(x).op)
        return kept[-1].outputs[0]

    @tf.custom_gradient
    def through(x: tf.Tensor) -> Any:
        return x, lambda upstream: noted(backward, upstream)

    def marked(batch: Batch, seed: tf.Tensor) -> Measured:
        # The first of what a micro-batch computes, and the first on the way back.
        batch = batch._replace(values={**batch.values, "x": noted(forward, batch.values["x"])})
        measured = problem.measured(batch, seed)
        return measured._replace(weighted_loss=through(measured.weighted_loss))

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        found = accumulated(marked, problem.batch, seeds(parts), problem.variables, rows=ROWS, **ALONE)
        return tf.convert_to_tensor(found.gradients[0])

    run.get_concrete_function()
    assert (len(forward), len(backward)) == (parts, parts)
    by_name = forward[0].graph.get_operation_by_name
    for number in range(1, parts):
        before = ancestors(forward[number])
        done = {operation.name for operation in (*forward[:number], *backward[:number])}
        assert done <= before
        assert backward[number].name not in before
        # The gradient of the table too is added up by then: nothing of a micro-batch is left over.
        assert [by_name(name).type for name in before].count("UnsortedSegmentSum") == number


# --- Clipping ---------------------------------------------------------------------------------------------------------


def cut(gradients: Sequence[Any], most: float) -> list[Any]:
    health = Health(tf.constant(0.0), gradients, ["a"] * len(gradients), compiled=False)
    return clipped(gradients, health.half_squares(), most)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("most", [0.5, 3.0, 1e6])
def test_gradients_are_scaled_together_to_their_bound_where_they_exceed_it(most: float, dtype: str) -> None:
    generator = np.random.default_rng(7)
    values = [generator.normal(size=shape).astype(dtype) for shape in ([3, 4], [5], [])]
    norm = np.sqrt(sum((value.astype("float64") ** 2).sum() for value in values))
    found = cut([tf.constant(values[0]), None, tf.constant(values[1]), tf.constant(values[2])], most)
    assert found.pop(1) is None
    rtol = 1e-6 if dtype == "float32" else 1e-12
    for gradient, value in zip(found, values, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, value * min(1, most / norm), rtol=rtol)
        if most > norm:
            np.testing.assert_array_equal(gradient, value)


def test_a_gradient_of_zeros_stays_one() -> None:
    found = cut([tf.zeros([3]), tf.zeros([])], 1.0)
    assert [np.any(gradient) for gradient in found] == [False, False]


def test_large_gradients_of_float64_are_scaled_and_not_lost() -> None:
    found = cut([tf.constant([3e30, 4e30], tf.float64)], 1.0)[0]
    np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-6)


def test_sparse_gradients_stay_sparse() -> None:
    slices = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([0, 2]), tf.constant([3, 1]))
    found = cut([slices], 1.0)[0]
    assert isinstance(found, tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(found), [[0.6], [0], [0.8]], rtol=1e-6)
