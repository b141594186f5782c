"""Sparse gradients: what slices name is updated, and nothing else changes by a bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.optim import SGD, Adam, AdamW, Optimizer, piecewise
from trainer.optim.rows import INDEX_ENTRIES, first_positions, over_replicas, rows_of, summed

pytestmark = pytest.mark.slow  # Most are traced, or compiled.

WIDTH = 3
MODES = ["eager", "graph", "xla"]
SCHEDULE = piecewise([2], [0.1, 0.02])
MAKERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda **options: SGD(SCHEDULE, **options),
    "sgd with decay": lambda **options: SGD(SCHEDULE, weight_decay=0.3, **options),
    "momentum": lambda **options: SGD(SCHEDULE, momentum=0.9, weight_decay=0.3, **options),
    "nesterov": lambda **options: SGD(SCHEDULE, momentum=0.9, nesterov=True, **options),
    "adam": lambda **options: Adam(SCHEDULE, **options),
    "adamw": lambda **options: AdamW(SCHEDULE, weight_decay=0.3, **options),
}
ALL_MAKERS = pytest.mark.parametrize("name", MAKERS)


@st.composite
def named(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """The length of a table, and the rows that each of some updates names: fewer than the table has, or more."""
    length = draw(st.integers(1, 12))
    rows = st.lists(st.integers(0, length - 1), min_size=1, max_size=2 * length)
    return length, draw(st.lists(rows, min_size=1, max_size=3))


def slices_of(indices: Sequence[int], seed: int = 0, *, dtype: str = "float32", length: int = 0) -> tf.IndexedSlices:
    values = np.random.default_rng([seed, len(indices)]).normal(size=[len(indices), WIDTH])
    return tf.IndexedSlices(tf.constant(values, dtype), tf.constant(indices, tf.int32), tf.constant([length, WIDTH]))


def table_of(length: int, dtype: str = "float32") -> tf.Variable:
    return tf.Variable(np.random.default_rng(length).normal(size=[length, WIDTH]), dtype=dtype)


def moving(optimizer: Optimizer, table: tf.Variable) -> dict[str, np.ndarray]:
    """The table and its slots."""
    slots = {key: getattr(optimizer, key, []) for key in ("first_moment", "second_moment", "momentum")}
    return {"table": table.numpy(), **{key: slot[0].numpy() for key, slot in slots.items() if slot}}


def updating(optimizer: Optimizer, table: tf.Variable, mode: str) -> Callable[[tf.IndexedSlices], None]:
    def apply(slices: tf.IndexedSlices) -> None:
        optimizer.apply([slices], [table])

    return apply if mode == "eager" else tf.function(apply, autograph=False, jit_compile=mode == "xla")


# --- Which rows are the same ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), max_size=30), st.booleans())
def test_the_first_of_equal_indices_is_found_by_a_table_and_by_sorting(indices: list[int], narrow: bool) -> None:
    expected = [indices.index(index) for index in indices]
    given_indices = tf.constant(indices, tf.int32 if narrow else tf.int64)
    for length in (10, INDEX_ENTRIES * len(indices) + 10):
        np.testing.assert_array_equal(first_positions(given_indices, length), expected)


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("length", [10, 10_000])
def test_the_first_of_equal_indices_is_the_same_in_every_mode(mode: str, length: int) -> None:
    indices = tf.constant([7, 3, 7, 9, 3, 3, 0])
    found = tf.function(first_positions, autograph=False, jit_compile=mode == "xla")(indices, length)
    assert found.numpy().tolist() == [0, 1, 0, 3, 1, 1, 6]


@settings(deadline=None, max_examples=60)
@given(named())
def test_slices_that_are_summed_are_the_same_gradient_of_the_same_rows_with_its_norm(
    problem: tuple[int, list[list[int]]],
) -> None:
    length, (indices, *_) = problem
    slices = slices_of(indices, dtype="float64", length=length)
    found = summed(slices, length)
    whole = np.zeros([length, WIDTH])
    np.add.at(whole, indices, slices.values.numpy())
    np.testing.assert_allclose(tf.convert_to_tensor(found), whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(found.values), np.linalg.norm(whole), rtol=1e-12)
    assert set(found.indices.numpy()) == set(indices)
    assert found.values.shape == [min(len(indices), length), WIDTH]
    again = summed(found, length)
    np.testing.assert_array_equal(again.values, found.values)
    rows = rows_of(slices, length)
    np.testing.assert_allclose(rows.gradient, whole[rows.indices.numpy()], rtol=1e-12, atol=1e-14)
    assert set(rows.indices.numpy()) == set(indices)


def test_slices_of_several_replicas_are_summed_and_every_row_is_named_that_one_of_them_names() -> None:
    here, there = slices_of([1, 4, 1], 1, length=6), slices_of([4, 0], 2, length=6)
    others = iter([tf.convert_to_tensor(there), tf.constant([1.0, 0, 0, 0, 1, 0])])
    found = over_replicas(here, 6, lambda value: value + next(others))
    assert set(found.indices.numpy()) == {0, 1, 4}
    expected = tf.convert_to_tensor(here) + tf.convert_to_tensor(there)
    np.testing.assert_array_equal(tf.convert_to_tensor(found), expected)


# --- What is updated --------------------------------------------------------------------------------------------------


@ALL_MAKERS
@settings(deadline=None, max_examples=25)
@given(problem=named())
def test_rows_that_no_slice_names_stay_to_the_bit_in_the_table_and_in_its_slots(
    name: str, problem: tuple[int, list[list[int]]]
) -> None:
    length, updates = problem
    table, optimizer = table_of(length), MAKERS[name]()
    # Slots that are not zero any more, everywhere.
    optimizer.apply([tf.ones([length, WIDTH])], [table])
    for number, indices in enumerate(updates):
        before = moving(optimizer, table)
        optimizer.apply([slices_of(indices, number)], [table])
        others = np.setdiff1d(np.arange(length), indices)
        for key, value in moving(optimizer, table).items():
            np.testing.assert_array_equal(value[others], before[key][others])
            assert (value[indices] != before[key][indices]).any(axis=1).all()
    assert int(optimizer.iterations) == 1 + len(updates)


@ALL_MAKERS
@pytest.mark.parametrize("mode", MODES)
def test_rows_that_are_named_each_time_are_updated_as_by_a_dense_gradient(name: str, mode: str) -> None:
    found = {}
    for sparse in ("rows", "all"):
        table, optimizer = table_of(4, "float64"), MAKERS[name](sparse=sparse)
        update = updating(optimizer, table, mode)
        # In other orders, with duplicates, fewer slices than rows and more.
        for number, indices in enumerate(([2, 0, 2], [0, 2, 2], [2, 0, 0, 2, 2, 0])):
            update(slices_of(indices, number, dtype="float64"))
        found[sparse] = moving(optimizer, table)
    for key, value in found["all"].items():
        np.testing.assert_allclose(found["rows"][key][[0, 2]], value[[0, 2]], rtol=1e-12)
    np.testing.assert_array_equal(found["rows"]["table"][[1, 3]], table_of(4, "float64").numpy()[[1, 3]])


@settings(deadline=None, max_examples=40)
@given(named())
def test_plain_sgd_is_the_same_for_the_rows_and_for_all(problem: tuple[int, list[list[int]]]) -> None:
    length, updates = problem
    found = []
    for sparse in ("rows", "all"):
        table, optimizer = table_of(length), SGD(SCHEDULE, sparse=sparse)
        for number, indices in enumerate(updates):
            optimizer.apply([slices_of(indices, number)], [table])
        found.append(table.numpy())
    np.testing.assert_array_equal(found[0], found[1])


def test_adam_corrects_the_bias_of_a_row_by_the_count_of_all_updates() -> None:
    table, optimizer = tf.Variable([[1.0], [1.0]], dtype=tf.float64), Adam(0.1)
    for _ in range(3):
        optimizer.apply([tf.IndexedSlices(tf.ones([1, 1], tf.float64), tf.constant([0]))], [table])
    optimizer.apply([tf.IndexedSlices(tf.ones([1, 1], tf.float64), tf.constant([1]))], [table])
    # The moments of row 1 are those of a first update, 1 − β, corrected as those of a fourth.
    scale = np.float64(np.float32(0.1)) * np.sqrt(1 - 0.999**4) / (1 - 0.9**4)
    np.testing.assert_allclose(table[1, 0], 1 - scale * 0.1 / (np.sqrt(0.001) + 1e-8), rtol=1e-9)


def test_with_all_every_row_goes_on_by_its_moments() -> None:
    for name in ("momentum", "adam"):
        table, optimizer = table_of(4), MAKERS[name](sparse="all")
        optimizer.apply([slices_of([0, 1, 2, 3])], [table])
        before = table.numpy()
        optimizer.apply([slices_of([1])], [table])
        assert (table.numpy() != before).all()


def test_a_gradient_that_is_dense_updates_every_row() -> None:
    table, optimizer = table_of(4), Adam(0.1)
    before = table.numpy()
    optimizer.apply([tf.ones([4, WIDTH])], [table])
    assert (table.numpy() != before).all()


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("jit", [False, True])
def test_a_chunk_of_steps_is_its_steps_one_by_one_and_the_same_bits_again(name: str, jit: bool) -> None:
    words = tf.constant(np.random.default_rng(3).integers(0, 40, [5, 8]), tf.int32)

    def trained(chunked: bool) -> list[np.ndarray]:
        table, optimizer = table_of(50), MAKERS[name]()
        optimizer.build([table])

        def step(number: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(tf.gather(table, words[number]) - 1.0))
            gradient = tape.gradient(loss, table)
            assert isinstance(gradient, tf.IndexedSlices)
            optimizer.apply([gradient], [table])
            return number + 1

        def chunk() -> tf.Tensor:
            return tf.while_loop(lambda number: number < 5, step, [tf.constant(0)], parallel_iterations=1)

        if chunked:
            tf.function(chunk, autograph=False, jit_compile=jit)()
        else:
            for number in range(5):
                step(tf.constant(number))
        return list(moving(optimizer, table).values())

    once, again, one_by_one = trained(True), trained(True), trained(False)
    for first, second, expected in zip(once, again, one_by_one, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_a_table_that_is_long_beside_its_slices_is_updated_alike(mode: str) -> None:
    length = INDEX_ENTRIES * 4 + 1
    found = []
    for way in ("eager", mode):
        table, optimizer = tf.Variable(tf.ones([length, WIDTH])), Adam(0.1)
        updating(optimizer, table, way)(slices_of([length - 1, 5, 5, 0]))
        found.append(table.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    assert np.flatnonzero((found[0] != 1).any(axis=1)).tolist() == [0, 5, length - 1]


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("bfloat16", 0.02)])
def test_tables_of_other_float_types_are_updated_in_their_type(dtype: str, rtol: float, mode: str) -> None:
    for make in (
        lambda **options: SGD(0.1, momentum=0.5, weight_decay=0.1, **options),
        lambda **options: AdamW(0.1, beta2=0.9, epsilon=1e-3, **options),
    ):
        found = []
        for sparse in ("rows", "all"):
            table, optimizer = table_of(4, dtype), make(sparse=sparse)
            update = updating(optimizer, table, mode)
            for number in range(2):
                update(slices_of([0, 1, 2, 3], number, dtype=dtype))
            assert table.dtype == dtype
            found.append(table.numpy().astype("float64"))
        np.testing.assert_allclose(found[0], found[1], rtol=rtol, atol=rtol)


def test_indices_of_64_bits_and_tables_of_one_axis_are_updated() -> None:
    table, optimizer = tf.Variable(tf.ones([5])), SGD(1.0)
    optimizer.apply([tf.IndexedSlices(tf.constant([0.25, 0.5]), tf.constant([3, 3], tf.int64))], [table])
    assert table.numpy().tolist() == [1, 1, 1, 0.25, 1]


@pytest.mark.parametrize("mode", MODES)
def test_no_slices_at_all_update_no_row_and_count_as_an_update(mode: str) -> None:
    table, optimizer = table_of(4), AdamW(0.1)
    optimizer.build([table])
    before = moving(optimizer, table)
    updating(optimizer, table, mode)(slices_of([]))
    for key, value in moving(optimizer, table).items():
        np.testing.assert_array_equal(value, before[key])
    assert int(optimizer.iterations) == 1


def test_slices_whose_number_only_the_step_tells_are_updated() -> None:
    table, optimizer = table_of(4), Adam(0.1)
    before = table.numpy()

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, WIDTH]), tf.TensorSpec([None], tf.int32)])
    def update(values: tf.Tensor, indices: tf.Tensor) -> None:
        optimizer.apply([tf.IndexedSlices(values, indices)], [table])

    for indices in ([], [2, 2], [2, 2, 2, 2, 2, 0]):
        slices = slices_of(indices)
        update(slices.values, slices.indices)
    assert (table.numpy() != before).any(axis=1).tolist() == [True, False, True, False]
    assert update.experimental_get_tracing_count() == 1


# --- Misuse, and what is saved ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Adam, AdamW, SGD])
@pytest.mark.parametrize("sparse", ["row", "", None, True])
def test_what_is_no_way_to_update_slices_is_refused_in_one_line(make: type[Any], sparse: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{make.__name__}: sparse is .*; give 'rows', .* or 'all'") as refused:
        make(0.1, sparse=sparse)
    assert "\n" not in str(refused.value)


def test_slices_of_another_type_than_the_table_are_refused_in_one_line() -> None:
    table = table_of(4)
    with pytest.raises(ConfigError, match="is float64 and the variable float32") as refused:
        Adam(0.1).apply([slices_of([1], dtype="float64")], [table])
    assert "\n" not in str(refused.value)


def test_a_checkpoint_does_not_depend_on_which_rows_are_updated(tmp_path: Any) -> None:
    saved, table = Adam(0.1, sparse="all"), table_of(4)
    saved.apply([slices_of([1, 1, 2])], [table])
    prefix = tf.train.Checkpoint(optimizer=saved).write(str(tmp_path / "state"))
    restored = Adam(0.1)
    restored.build([table])
    tf.train.Checkpoint(optimizer=restored).read(prefix).assert_consumed()
    np.testing.assert_array_equal(restored.first_moment[0], saved.first_moment[0])
