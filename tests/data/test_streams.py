"""Streams: any pipeline as a source, whose order follows the run's seed and whose place can be found again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.data import run_seed
from trainer.data.sources import REPLAY, STOP
from trainer.data.streams import StreamSource, check_state, iterator_state, put_back, stream
from trainer.errors import ConfigError

pytestmark = pytest.mark.slow  # Each makes pipelines.

LENGTH = 10
SEED = run_seed(17)


def numbers() -> tf.data.Dataset:
    return tf.data.Dataset.range(LENGTH).map(lambda number: {"x": number})


def shuffled() -> tf.data.Dataset:
    return numbers().shuffle(LENGTH)


def batched() -> tf.data.Dataset:
    return numbers().batch(3, drop_remainder=True)


def of_unknown_length() -> tf.data.Dataset:
    return numbers().filter(lambda element: element["x"] >= 0)


def seen(source: StreamSource, batches: int = 5, *, seed: np.ndarray = SEED, skip: int = 0) -> list[list[int]]:
    """The numbers in the first batches of training, padding left out."""
    found = itertools.islice(source.train_batches(seed, skip=skip), batches)
    return [batch.values["x"].numpy()[: int(batch.examples)].tolist() for batch, _ in found]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


# --- What it is ---------------------------------------------------------------------------------------------------


def test_it_is_called_by_its_public_name_whatever_was_imported_before() -> None:
    assert trainer.data.stream(numbers, batch_size=4).batch_size == 4


def test_examples_are_batched_here() -> None:
    source = stream(numbers, batch_size=4)
    assert (source.batch_size, source.examples, source.mode) == (4, LENGTH, "iterator")
    # Full batches across the border of a pass: nothing is dropped.
    assert seen(source, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


def test_batches_stay_as_they_are() -> None:
    source = stream(batched)
    assert (source.batch_size, source.examples) == (3, 9)
    assert seen(source, 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 1, 2]]


def test_a_length_that_the_pipeline_does_not_know_can_be_told() -> None:
    assert stream(of_unknown_length, batch_size=4).examples is None
    assert stream(of_unknown_length, batch_size=4, examples=LENGTH).examples == LENGTH
    assert stream(lambda: numbers().repeat(), batch_size=4).examples is None


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (None, {}, "NoneType.*function"),
        (numbers(), {"batch_size": 2}, "is no function"),
        (lambda: [1, 2], {"batch_size": 2}, "made list.*tf.data.Dataset"),
        (lambda: tf.data.Dataset.range(3), {"batch_size": 2}, "dicts of tensors by name"),
        (lambda: numbers().map(lambda e: (e["x"], e["x"])), {"batch_size": 2}, "tuple.*dicts"),
        (lambda: numbers().map(lambda e: {"x": e}), {"batch_size": 2}, "dicts of tensors"),
        (numbers, {}, r"no batches of one static size \(x: \(\)\).*batch_size"),
        (lambda: numbers().batch(3), {}, r"x: \(None,\).*drop_remainder"),
        (
            lambda: batched().map(lambda e: {"x": e["x"], "y": e["x"][:2]}),
            {},
            r"x: \(3,\), y: \(2,\)",
        ),
        (lambda: numbers().take(0), {"batch_size": 2}, "no elements"),
        (numbers, {"batch_size": 0}, "batch_size=0.*positive"),
        (numbers, {"batch_size": True}, "batch_size=True"),
        (numbers, {"batch_size": 2, "examples": -1}, "examples=-1"),
        (numbers, {"batch_size": 2, "resume": "restart"}, "resume='restart'.*iterator or replay"),
        (numbers, {"batch_size": 2, "resume": "sometimes"}, "resume='sometimes'"),
    ],
)
def test_what_cannot_be_a_stream_is_refused_in_one_line(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        stream(make, **options)
    assert "\n" not in str(caught.value)


# --- Its order ----------------------------------------------------------------------------------------------------


def test_what_shuffles_without_a_seed_follows_the_seed_of_the_run() -> None:
    tf.random.set_seed(1)
    first = seen(stream(shuffled, batch_size=5), 6)
    # Whatever was drawn before, and however often the pipeline was made.
    tf.random.set_seed(2)
    tf.random.uniform([3])
    source = stream(shuffled, batch_size=5)
    assert seen(source, 6) == seen(source, 6) == first
    assert seen(source, 6, seed=run_seed(18)) != first
    passes = [flat(first[start : start + 2]) for start in (0, 2, 4)]
    assert [sorted(numbers) for numbers in passes] == [list(range(LENGTH))] * 3
    assert passes[0] != passes[1] != passes[2]


def with_seeds(make: Callable[[], tf.data.Dataset], **options: Any) -> StreamSource:
    return stream(make, **options).map(lambda element, seed: {**element, "seed": seed})


def seeds_of(source: StreamSource, count: int, *, seed: np.ndarray = SEED) -> list[tuple[int, ...]]:
    """The seeds of the first `count` elements of training."""
    batches = itertools.islice(source.train_batches(seed), -(-count // source.batch_size))
    rows = np.concatenate([batch.values["seed"].numpy() for batch, _ in batches])[:count]
    return [tuple(row) for row in rows.tolist()]


def test_map_has_a_seed_for_each_element_of_each_pass_whatever_the_batch_size() -> None:
    twice = seeds_of(with_seeds(numbers, batch_size=4), 2 * LENGTH)
    assert len(set(twice)) == 2 * LENGTH
    assert seeds_of(with_seeds(numbers, batch_size=3), 2 * LENGTH) == twice
    assert seeds_of(with_seeds(numbers, batch_size=4), 2 * LENGTH) == twice
    assert not set(seeds_of(with_seeds(numbers, batch_size=4), LENGTH, seed=run_seed(18))) & set(twice)


def test_two_maps_share_no_seed() -> None:
    source = with_seeds(numbers, batch_size=5).map(
        lambda element, seed: {"seed": tf.stack([element["seed"], seed])},
    )
    pairs = next(iter(source.train_batches(SEED)))[0].values["seed"].numpy()
    assert len({tuple(row) for row in pairs.reshape(-1, 2).tolist()}) == 2 * 5


def test_map_makes_what_the_batch_holds_in_training_and_evaluation() -> None:
    source = stream(numbers, batch_size=5).map(lambda element, seed: {"x": element["x"] * 10})
    assert seen(source, 1) == [[0, 10, 20, 30, 40]]
    first = next(iter(source.eval_batches()))
    assert first.values["x"].numpy().tolist() == [0, 10, 20, 30, 40]


def test_map_leaves_the_source_that_it_is_called_on_as_it_was() -> None:
    source = stream(numbers, batch_size=5)
    source.map(lambda element, seed: {"y": element["x"]})
    assert set(next(iter(source.train_batches(SEED)))[0].values) == {"x"}


def test_a_map_that_makes_no_dict_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Tensor.*dict of tensors"):
        stream(numbers, batch_size=2).map(lambda element, seed: element["x"]).train_batches(SEED)


def test_an_evaluation_has_the_same_seeds_each_time() -> None:
    source = with_seeds(numbers, batch_size=5)
    first, second = ([batch.values["seed"].numpy() for batch in source.eval_batches()] for _ in range(2))
    np.testing.assert_array_equal(first, second)


# --- Its end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [numbers, of_unknown_length])
@pytest.mark.parametrize("batch_size", [3, 5, 16])
def test_a_stream_that_ends_marks_its_last_batch_and_pads_it_with_weight_0(
    make: Callable[[], tf.data.Dataset], batch_size: int
) -> None:
    source = stream(make, batch_size=batch_size).resumed_by("iterator", on_end=STOP)
    found = list(source.train_batches(SEED))
    assert [bool(last) for _, last in found] == [False] * (len(found) - 1) + [True]
    assert flat(seen(source, len(found))) == list(range(LENGTH))
    for batch, _ in found:
        real = int(batch.examples)
        assert batch.values["x"].shape == (batch_size,)
        assert batch.weights.numpy().tolist() == [1] * real + [0] * (batch_size - real)
        assert batch.values["x"].numpy()[real:].tolist() == [0] * (batch_size - real)


def test_batches_of_the_user_s_own_are_full_also_at_the_end() -> None:
    found = list(stream(batched).resumed_by("iterator", on_end=STOP).train_batches(SEED))
    assert [(bool(last), batch.weights, int(batch.examples)) for batch, last in found] == [
        (False, None, 3),
        (False, None, 3),
        (True, None, 3),
    ]


def test_padding_knows_strings_and_dimensions_that_differ_in_no_example() -> None:
    def make() -> tf.data.Dataset:
        return numbers().map(lambda e: {"text": tf.as_string(e["x"]), "square": tf.fill([2, 3], e["x"])})

    *_, last = stream(make, batch_size=4).eval_batches()
    assert last.values["text"].numpy().tolist() == [b"8", b"9", b"", b""]
    assert last.values["square"].shape == (4, 2, 3)
    assert last.weights.numpy().tolist() == [1, 1, 0, 0]
    assert int(last.examples) == 2


def test_an_evaluation_is_one_pass_whatever_the_end_means_in_training() -> None:
    batches = list(stream(numbers, batch_size=4).eval_batches())
    assert [int(batch.examples) for batch in batches] == [4, 4, 2]


def test_a_stream_without_an_end_cannot_be_a_split_to_evaluate_on() -> None:
    with pytest.raises(ConfigError, match=r"no end.*take\(\)"):
        stream(lambda: numbers().repeat(), batch_size=4).eval_batches()


def test_a_stream_without_an_end_has_no_last_batch_whatever_its_end_would_mean() -> None:
    source = stream(lambda: numbers().repeat(), batch_size=4).resumed_by("iterator", on_end=STOP)
    found = list(itertools.islice(source.train_batches(SEED), 6))
    assert not any(bool(last) for _, last in found)
    assert {batch.weights for batch, _ in found} == {None}


# --- Its place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_end", ["repeat", "stop"])
def test_an_iterator_is_put_back_exactly_where_it_stood_in_the_middle_of_a_shuffled_pass(on_end: str) -> None:
    source = with_seeds(shuffled, batch_size=3).resumed_by("iterator", on_end=on_end)

    def rest(iterator: tf.data.Iterator) -> list[Any]:
        taken = itertools.islice(iterator, 8)
        return [(b.values["x"].numpy().tolist(), b.values["seed"].numpy().tolist(), bool(end)) for b, end in taken]

    there = iter(source.train_batches(SEED))
    next(there), next(there)
    state = iterator_state(there)
    here = iter(source.train_batches(SEED))
    put_back(here, state)
    expected = rest(there)
    assert rest(here) == expected
    # It says something: that is not how the stream begins.
    assert rest(iter(source.train_batches(SEED))) != expected


UNSAVABLE: dict[str, tuple[Callable[[dict[str, tf.Tensor]], Any], str]] = {
    "py_function": (lambda e: tf.py_function(abs, [e["x"]], tf.int64), "EagerPyFunc"),
    "numpy_function": (lambda e: tf.numpy_function(abs, [e["x"]], tf.int64), "PyFunc"),
    "random": (lambda e: tf.random.uniform([]), "RandomUniform"),
    "seeded random": (lambda e: tf.random.normal([], seed=3), "RandomStandardNormal"),
}


@pytest.mark.parametrize(("function", "culprit"), UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_keeps_a_state_elsewhere_is_refused_by_its_name_with_the_ways_out(
    function: Callable[[dict[str, tf.Tensor]], Any], culprit: str
) -> None:
    source = stream(lambda: numbers().map(lambda e: {"x": tf.ensure_shape(function(e), [])}), batch_size=2)
    with pytest.raises(ConfigError, match=rf"{culprit} is stateful.*data_resume=replay.*data_resume=restart") as caught:
        check_state(source.train_batches(SEED))
    assert "\n" not in str(caught.value)


def test_a_generator_is_refused_by_its_name() -> None:
    spec = {"x": tf.TensorSpec([], tf.int64)}

    def make() -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(lambda: ({"x": n} for n in range(4)), output_signature=spec)

    with pytest.raises(ConfigError, match="PyFunc is stateful"):
        check_state(stream(make, batch_size=2).train_batches(SEED))


def test_a_variable_that_a_map_reads_is_refused_by_its_name() -> None:
    variable = tf.Variable(1, dtype=tf.int64)
    source = stream(lambda: numbers().map(lambda e: {"x": e["x"] + variable}), batch_size=2)
    with pytest.raises(ConfigError, match="ReadVariableOp is stateful"):
        check_state(source.train_batches(SEED))


@pytest.mark.parametrize("on_end", ["repeat", "stop"])
@pytest.mark.parametrize("make", [numbers, shuffled, of_unknown_length])
def test_what_has_no_state_of_its_own_passes(make: Callable[[], tf.data.Dataset], on_end: str) -> None:
    source = with_seeds(make, batch_size=3).resumed_by("iterator", on_end=on_end)
    check_state(source.train_batches(SEED))


def test_elements_left_out_are_those_that_come_first_and_the_rest_keeps_its_seeds() -> None:
    source = with_seeds(shuffled, batch_size=3)
    all_of_them = flat(seen(source, 6))
    assert flat(seen(source, 3, skip=5)) == all_of_them[5:14]
    skipped = next(iter(source.train_batches(SEED, skip=5)))[0].values["seed"].numpy().tolist()
    assert [tuple(seed) for seed in skipped] == seeds_of(source, 8)[5:]


# --- What it is known as --------------------------------------------------------------------------------------------


def test_the_fingerprint_is_that_of_the_pipeline_with_all_that_is_done_here() -> None:
    source = stream(shuffled, batch_size=4)
    assert source.fingerprint == stream(shuffled, batch_size=4).fingerprint
    others = [
        stream(shuffled, batch_size=5),
        stream(numbers, batch_size=4),
        stream(lambda: shuffled().take(9), batch_size=4),
        source.map(lambda element, seed: {"x": element["x"] + 1}),
        source.map(lambda element, seed: {"x": element["x"] + 2}),
    ]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 6
    # What the end means is a flag, and no other data.
    assert source.resumed_by("iterator", on_end=STOP).fingerprint == source.fingerprint


def test_the_fingerprint_does_not_depend_on_what_was_drawn_before() -> None:
    source = stream(shuffled, batch_size=4)
    before = source.fingerprint
    list(itertools.islice(source.train_batches(SEED), 2))
    tf.random.uniform([2])
    assert source.fingerprint == before


def test_a_fingerprint_that_is_given_wins() -> None:
    named = stream(numbers, batch_size=4, fingerprint="version 1")
    assert named.fingerprint == stream(shuffled, batch_size=4, fingerprint="version 1").fingerprint
    # But a position that is saved of batches fits no others.
    assert named.fingerprint != stream(numbers, batch_size=5, fingerprint="version 1").fingerprint
    assert named.fingerprint != stream(numbers, batch_size=4, fingerprint="version 2").fingerprint
    assert len(named.fingerprint) == 16


def test_a_replayed_stream_is_known_by_its_shapes_and_its_length() -> None:
    def known(make: Callable[[], tf.data.Dataset], **options: Any) -> str:
        return stream(make, batch_size=4, resume=REPLAY, **options).fingerprint

    assert known(numbers) == known(shuffled) == known(of_unknown_length, examples=LENGTH)
    assert known(numbers) != known(lambda: numbers().take(9))
    assert known(numbers) != known(lambda: numbers().map(lambda e: {"x": tf.cast(e["x"], tf.int32)}))


def test_a_stream_that_python_generates_can_be_a_split_that_is_known_again() -> None:
    spec = {"x": tf.TensorSpec([], tf.int64)}

    def make() -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(lambda: ({"x": n} for n in range(4)), output_signature=spec)

    assert stream(make, batch_size=2).fingerprint == stream(make, batch_size=2).fingerprint


def test_where_there_is_no_last_batch_the_values_alone_are_the_batches() -> None:
    source = stream(numbers, batch_size=4)
    assert source.endless
    marked = itertools.islice(source.train_batches(SEED, skip=3), 6)
    for (batch, last), values in zip(marked, source.full_batches(SEED, skip=3), strict=False):
        assert (bool(last), batch.weights, int(batch.examples)) == (False, None, 4)
        assert {name: value.numpy().tolist() for name, value in batch.values.items()} == {
            name: value.numpy().tolist() for name, value in values.items()
        }
    assert not source.resumed_by("iterator", on_end=STOP).endless


@pytest.mark.parametrize(
    ("element", "most"),
    [
        ({"x": tf.zeros([])}, 64),
        ({"x": tf.zeros([1 << 12])}, 16),
        ({"x": tf.zeros([1 << 12]), "y": tf.zeros([1 << 12])}, 8),
        ({"x": tf.zeros([1 << 18])}, 2),
        ({"x": tf.constant("text")}, 2),
        ({"x": tf.zeros([]), "y": tf.constant("text")}, 2),
        ({"x": tf.ragged.constant([[1.0], [2.0, 3.0]])}, 2),
        ({"x": tf.zeros([]), "y": tf.ragged.constant([[1.0], [2.0, 3.0]])}, 2),
    ],
    ids=["a number", "some", "of both", "much", "text", "and text", "ragged", "and ragged"],
)
def test_as_many_batches_are_read_ahead_as_a_megabyte_holds_and_2_where_nobody_knows(
    element: dict[str, Any], most: int
) -> None:
    # The map makes what no stream may come with.
    source = stream(lambda: tf.data.Dataset.range(100).map(lambda number: {"x": number}), batch_size=4)
    batches = source.map(lambda example, seed: element).full_batches(SEED)
    # Only TensorFlow's own attribute tells.
    assert int(batches._buffer_size) == most


def test_whatever_reads_a_stream_reads_no_more_ahead_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tf.data.Dataset] = []
    monkeypatch.setattr("trainer.data.streams._ahead", lambda batches: asked.append(batches) or batches)
    source = stream(numbers, batch_size=4)
    ending = source.resumed_by("iterator", on_end=STOP)
    source.train_batches(SEED)
    read = [source.full_batches(SEED), ending.train_batches(SEED), ending.eval_batches()]
    assert len(asked) == 4
    assert all(one is other for one, other in zip(read, asked[1:], strict=True))


@pytest.mark.parametrize(("columns", "most"), [(1 << 12, 16), (1 << 18, 2)])
def test_a_position_holds_no_more_than_a_megabyte_of_batches_however_often_training_waits(
    columns: int, most: int
) -> None:
    def noise(number: tf.Tensor) -> dict[str, tf.Tensor]:
        # What repeats is compressed.
        return {"x": tf.random.stateless_uniform([columns], tf.stack([number, 1]))}

    batches = iter(stream(lambda: tf.data.Dataset.range(10_000).map(noise), batch_size=4).full_batches(SEED))
    for _ in range(9):
        # Training pauses, and all that is read ahead is there; then it takes that faster than it comes.
        time.sleep(0.2)
        assert len(iterator_state(batches).numpy()) < (most + 3) * 4 * columns * 4
        for _ in range(2 * most + 2):
            next(batches)
