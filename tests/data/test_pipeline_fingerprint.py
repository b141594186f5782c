"""What tells one pipeline from another: all that it computes, and nothing that only this process knows."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.pipeline_fingerprint import pipeline_fingerprint

pytestmark = pytest.mark.slow  # Each makes pipelines.

Make = Callable[[], tf.data.Dataset]
VALUES = np.arange(12, dtype=np.float32)


def pipeline(
    *,
    values: np.ndarray = VALUES,
    batch: int = 4,
    buffer: int = 5,
    seed: int = 3,
    factor: float = 2.0,
    cycle: int = 1,
) -> tf.data.Dataset:
    """A pipeline with a bit of everything, each a function of what is given."""
    dataset = tf.data.Dataset.from_tensor_slices({"x": values}).shuffle(buffer, seed=seed)
    dataset = dataset.map(lambda element: {"x": factor * element["x"]}, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.interleave(lambda element: tf.data.Dataset.from_tensors(element).repeat(2), cycle_length=cycle)
    return dataset.batch(batch, drop_remainder=True).prefetch(2)


@pytest.fixture(autouse=True)
def global_seed() -> None:
    """What has a seed of its own mixes TensorFlow's global one into it: that is a part of the pipeline."""
    tf.random.set_seed(0)


@pytest.fixture
def known() -> str:
    return pipeline_fingerprint(pipeline())


def test_it_is_16_hexadecimal_digits_and_the_same_however_often_the_pipeline_is_made(known: str) -> None:
    assert len(known) == 16
    assert int(known, 16) >= 0
    assert {pipeline_fingerprint(pipeline()) for _ in range(3)} == {known}


@pytest.mark.parametrize(
    "changed",
    [
        {"values": VALUES[:-1]},
        {"values": VALUES + (VALUES == 11)},
        {"values": VALUES.astype(np.float64)},
        {"batch": 3},
        {"buffer": 6},
        {"seed": 4},
        {"factor": 2.5},
        {"cycle": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_it_changes_with_what_is_computed(changed: dict[str, object], known: str) -> None:
    assert pipeline_fingerprint(pipeline(**changed)) != known  # type: ignore[arg-type]


def test_it_does_not_change_with_the_names_of_functions_and_what_was_made_before() -> None:
    def one(element: tf.Tensor) -> tf.Tensor:
        return 3 * tf.cast(element, tf.float32) + 1

    def another_with_a_longer_name(number: tf.Tensor) -> tf.Tensor:
        return 3 * tf.cast(number, tf.float32) + 1

    first = pipeline_fingerprint(tf.data.Dataset.range(5).map(one))
    pipeline()
    assert pipeline_fingerprint(tf.data.Dataset.range(5).map(another_with_a_longer_name)) == first


def test_it_tells_apart_which_input_goes_where() -> None:
    pairs = tf.data.Dataset.zip((tf.data.Dataset.range(5), tf.data.Dataset.range(5, 10)))
    there, back = pairs.map(lambda a, b: a - b), pairs.map(lambda a, b: b - a)
    assert pipeline_fingerprint(there) != pipeline_fingerprint(back)


def test_it_sees_into_the_functions_of_functions() -> None:
    def nested(factor: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(3).flat_map(lambda n: tf.data.Dataset.range(n).map(lambda m: m * factor))

    assert pipeline_fingerprint(nested(2)) == pipeline_fingerprint(nested(2))
    assert pipeline_fingerprint(nested(2)) != pipeline_fingerprint(nested(3))


def test_branches_count_each_for_itself() -> None:
    def branching(yes: int, no: int) -> tf.data.Dataset:
        return tf.data.Dataset.range(3).map(lambda n: tf.cond(n > 1, lambda: n + yes, lambda: n + no))

    prints = {pipeline_fingerprint(branching(*parts)) for parts in [(1, 2), (2, 1), (1, 1), (1, 2)]}
    assert len(prints) == 3


def test_a_long_chain_of_operations_is_no_obstacle() -> None:
    def long(last: int) -> tf.data.Dataset:
        def apply(number: tf.Tensor) -> tf.Tensor:
            for _ in range(600):
                number = number * 3 + 1
            return number + last

        return tf.data.Dataset.range(3).map(apply)

    assert pipeline_fingerprint(long(1)) != pipeline_fingerprint(long(2))


PYTHON: dict[str, Make] = {
    "py_function": lambda: tf.data.Dataset.range(3).map(lambda n: tf.py_function(abs, [n], tf.int64)),
    "numpy_function": lambda: tf.data.Dataset.range(3).map(lambda n: tf.numpy_function(abs, [n], tf.int64)),
    "from_generator": lambda: tf.data.Dataset.from_generator(
        lambda: range(3), output_signature=tf.TensorSpec([], tf.int64)
    ),
}


@pytest.mark.parametrize("make", PYTHON.values(), ids=PYTHON)
def test_python_in_a_pipeline_has_no_number_of_this_process(make: Make) -> None:
    # Such a pipeline cannot be trained on by its state, but a split to evaluate on may well be one.
    assert pipeline_fingerprint(make()) == pipeline_fingerprint(make())


def test_a_variable_counts_as_what_it_is_for_and_not_as_where_it_lies() -> None:
    def shifted() -> tf.data.Dataset:
        variable = tf.Variable(3, dtype=tf.int64)
        return tf.data.Dataset.range(3).map(lambda n: n + variable)

    assert pipeline_fingerprint(shifted()) == pipeline_fingerprint(shifted())


@pytest.mark.slow
def test_another_process_comes_to_the_same() -> None:
    code = """
        import numpy as np
        import tensorflow as tf
        from trainer.data.pipeline_fingerprint import pipeline_fingerprint

        tf.random.set_seed(0)
        # Other functions and variables first, so that this process numbers its own otherwise.
        tf.function(lambda x: x + tf.Variable(1.0))
        tf.data.Dataset.range(3).map(lambda x: x + 1)
        values = tf.data.Dataset.from_tensor_slices({"x": np.arange(12, dtype=np.float32)})
        shuffled = values.shuffle(5, seed=3).map(lambda element: {"x": 2.0 * element["x"]})
        print(pipeline_fingerprint(shuffled.batch(4)))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    values = tf.data.Dataset.from_tensor_slices({"x": VALUES})
    here = values.shuffle(5, seed=3).map(lambda element: {"x": 2.0 * element["x"]}).batch(4)
    assert found.stdout.split()[-1] == pipeline_fingerprint(here)
