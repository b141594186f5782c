"""The gradients of a batch: the same at once and in micro-batches."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer import Loss
from trainer.data import Batch
from trainer.run.gradients import Gradients, accumulated, whole
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
    np.testing.assert_allclose(found.layout.objective_sum(found.totals) / found.totals[0], objective, rtol=1e-12)
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
    assert found.totals[0] == found.layout.objective_sum(found.totals) == 0
    for gradient in found.gradients[:2]:
        assert not np.any(tf.convert_to_tensor(gradient))


@pytest.mark.parametrize("exponent", [-20, 0, 15, 24])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(parts: int, exponent: int) -> None:
    problem = Problem(weighted=True, regularized=True)
    plain, scaled = taken(problem, parts), taken(problem, parts, scale=tf.constant(2.0**exponent))
    np.testing.assert_array_equal(plain.totals, scaled.totals)
    for one, other in zip(plain.gradients, scaled.gradients, strict=True):
        np.testing.assert_array_equal(tf.convert_to_tensor(one), tf.convert_to_tensor(other))


@pytest.mark.parametrize("parts", [1, 3])
def test_two_replicas_with_the_same_batch_come_to_the_gradients_of_one(parts: int) -> None:
    problem = Problem(weighted=True, regularized=True)
    # What the other one has is the same: their sum is the double.
    found = taken(problem, parts, reduce=lambda value: 2 * tf.convert_to_tensor(value), replicas=2)
    _, expected = problem.by_hand()
    for gradient, by_hand in zip(found.gradients, expected, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), by_hand, rtol=1e-12, atol=1e-300)


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
    slices: list[tf.Operation] = []

    def noted(kept: list[tf.Operation], x: tf.Tensor) -> tf.Tensor:
        kept.append(tf.identity(x).op)
        return kept[-1].outputs[0]

    @tf.custom_gradient
    def through(x: tf.Tensor) -> Any:
        return x, lambda upstream: noted(backward, upstream)

    @tf.custom_gradient
    def looked_up(x: tf.Tensor) -> Any:
        return x, lambda upstream: noted(slices, upstream)

    def marked(batch: Batch, seed: tf.Tensor) -> Measured:
        # The first of what a micro-batch computes, and the first on the way back.
        batch = batch._replace(values={**batch.values, "x": noted(forward, batch.values["x"])})
        measured = problem.measured(batch, seed)
        words = looked_up(tf.gather(problem.variables[1], batch.values["word"]))
        return measured._replace(weighted_loss=through(measured.weighted_loss + 0 * tf.reduce_sum(words)))

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        found = accumulated(marked, problem.batch, seeds(parts), problem.variables, rows=ROWS, **ALONE)
        return tf.convert_to_tensor(found.gradients[0])

    run.get_concrete_function()
    assert (len(forward), len(backward), len(slices)) == (parts, parts, parts)
    for number in range(1, parts):
        before = ancestors(forward[number])
        # The gradient of the table too is there by then: nothing of a micro-batch is left over.
        done = {operation.name for operation in (*forward[:number], *backward[:number], *slices[:number])}
        assert done <= before
        assert backward[number].name not in before


# --- Slices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_slices_stay_slices_of_the_rows_that_the_batch_names(parts: int) -> None:
    problem = Problem(weighted=True, regularized=True)
    found = taken(problem, parts).gradients[1]
    assert isinstance(found, tf.IndexedSlices)
    assert set(found.indices.numpy()) == set(problem.batch.values["word"].numpy())
    # A table of five words has no use for twelve slices.
    assert parts == 1 or found.values.shape == [WORDS]


def test_micro_batches_leave_each_row_s_sum_in_one_slice() -> None:
    class Long(Problem):
        """With a table longer than the batch."""

        @functools.cached_property
        def variables(self) -> list[tf.Variable]:
            kernel, table, spare = super().variables
            return [kernel, tf.Variable(tf.pad(table, [[0, 3 * ROWS]])), spare]

    problem = Long()
    found = taken(problem, 3).gradients[1]
    _, expected = problem.by_hand()
    assert found.values.shape == [ROWS]
    np.testing.assert_allclose(np.linalg.norm(found.values), np.linalg.norm(expected[1]), rtol=1e-12)


def test_micro_batches_never_hold_many_more_slices_than_the_table_has_rows() -> None:
    problem = Problem()
    assert problem.variables, problem.batch

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        return taken(problem, ROWS).gradients[1].values

    operations = run.get_concrete_function().graph.get_operations()
    joined = [op.outputs[0].shape[0] for op in operations if op.type == "ConcatV2" and op.outputs[0].dtype.is_floating]
    assert max(joined) == WORDS + 1


@dataclasses.dataclass(frozen=True)
class Charged(Problem):
    """The same with a penalty on the table."""

    looked_up: bool = False

    def penalty(self) -> tf.Tensor:
        table = self.variables[1]
        return 0.01 * tf.reduce_sum(tf.square(tf.gather(table, [1, 2]) if self.looked_up else table))

    def measured(self, batch: Batch, seed: tf.Tensor) -> Measured:
        measured = super().measured(batch, seed)
        return measured._replace(regularization=self.penalty())

    def by_hand(self) -> tuple[float, list[np.ndarray]]:
        objective, gradients = super().by_hand()
        table = self.variables[1].numpy()
        charged = np.isin(np.arange(WORDS), [1, 2]) if self.looked_up else np.ones(WORDS)
        gradients[1] += 0.02 * table * charged
        return objective + 0.01 * (table**2 * charged).sum(), gradients


@pytest.mark.parametrize("looked_up", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_penalty_on_the_whole_table_makes_its_gradient_dense_and_one_on_some_rows_does_not(
    looked_up: bool, parts: int, replicas: int
) -> None:
    problem = Charged(weighted=True, looked_up=looked_up)
    found = taken(problem, parts, reduce=lambda value: replicas * tf.convert_to_tensor(value), replicas=replicas)
    _, expected = problem.by_hand()
    assert isinstance(found.gradients[1], tf.IndexedSlices) == looked_up
    np.testing.assert_allclose(tf.convert_to_tensor(found.gradients[1]), expected[1], rtol=1e-12)


def test_micro_batches_of_slices_and_of_dense_gradients_come_to_a_dense_one() -> None:
    problem = Problem()
    parts = iter(range(3))

    def measured(batch: Batch, seed: tf.Tensor) -> Measured:
        found = problem.measured(batch, seed)
        # The second micro-batch has all of the table in its loss.
        everything = tf.reduce_sum(problem.variables[1]) if next(parts) == 1 else 0.0
        return found._replace(weighted_loss=found.weighted_loss + everything)

    found = accumulated(measured, problem.batch, seeds(3), problem.variables, rows=ROWS, **ALONE)
    assert isinstance(found.gradients[1], tf.Tensor)
    _, expected = problem.by_hand()
    np.testing.assert_allclose(found.gradients[1], expected[1] + 1 / ROWS, rtol=1e-12)


def test_replicas_update_the_rows_that_any_of_them_names() -> None:
    problem = Problem()

    def reduce(value: tf.Tensor) -> tf.Tensor:
        # The other replica has the same values, and a slice of zeros for the last word, which this one never meets.
        counts = value.dtype == tf.float32
        return 2 * value + tf.constant([0.0] * (WORDS - 1) + [1.0]) if counts else 2 * value

    found = taken(problem, 1, reduce=reduce, replicas=2).gradients[1]
    _, expected = problem.by_hand()
    assert set(found.indices.numpy()) == {*problem.batch.values["word"].numpy(), WORDS - 1}
    np.testing.assert_allclose(tf.convert_to_tensor(found), expected[1], rtol=1e-12)
