"""Pipelines over examples on disk: the order of arrays, from any position on."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import arrays, pipeline, run_seed, text_lines
from trainer.errors import ConfigError

LENGTH = 23


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "numbers"
    path.write_text("".join(f"{number}\n" for number in range(LENGTH)))
    return path


def numbers(source):
    return source.map(lambda example, seed: {"number": tf.strings.to_number(example["line"], tf.int64)})


def real(batch):
    return batch.values["number"].numpy()[: int(batch.examples)].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("last", ["wrap", "short"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_those_of_arrays(path, last, shuffle, monkeypatch):
    monkeypatch.setattr(pipeline, "BLOCK_ROWS", 11)  # Two batches a block.
    on_disk = numbers(text_lines(path, batch_size=5, shuffle=shuffle, last=last))
    in_memory = arrays({"number": np.arange(LENGTH)}, batch_size=5, shuffle=shuffle, last=last)
    for start in (0, 21, 10**9, 10**12 + 3):
        at = start
        for batch in on_disk.train_batches(run_seed(17), start).take(7):
            expected = in_memory.train_batch(run_seed(17), tf.constant(at, tf.int64))
            np.testing.assert_array_equal(batch.values["number"], expected.values["number"])
            assert int(batch.examples) == int(expected.examples)
            assert (batch.weights is None) == (expected.weights is None)
            if batch.weights is not None:
                np.testing.assert_array_equal(batch.weights, expected.weights)
            at += int(batch.examples)


@pytest.mark.parametrize("batch_size", [5, 23, 40])
def test_an_evaluation_sees_each_example_once_in_order(path, batch_size, monkeypatch):
    monkeypatch.setattr(pipeline, "BLOCK_ROWS", 11)
    source = text_lines(path, batch_size=batch_size)
    for evaluation in (source, numbers(source)):
        batches = list(evaluation.eval_batches())
        assert [int(batch.examples) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert sum(int(batch.examples) for batch in batches) == LENGTH
        assert {batch.weights.shape[0] for batch in batches} == {batch_size}
        assert sum(float(tf.reduce_sum(batch.weights)) for batch in batches) == LENGTH
    assert [number for batch in batches for number in real(batch)] == list(range(LENGTH))


@pytest.mark.parametrize("last", ["wrap", "short"])
def test_every_example_comes_once_a_pass_where_the_batch_size_changes_at_a_resume(path, last):
    begun = 4 * LENGTH
    seen = []
    for rows, count in ((5, 2), (3, 13)):
        source = numbers(text_lines(path, batch_size=rows, last=last))
        for batch in source.train_batches(run_seed(3), begun + len(seen)).take(count):
            seen.extend(real(batch))
    assert sorted(seen[:LENGTH]) == list(range(LENGTH))
    assert sorted(seen[LENGTH : 2 * LENGTH]) == list(range(LENGTH))


def test_structure_and_static_shapes_depend_on_no_argument(path):
    for last, weights in (("wrap", False), ("short", True)):
        source = numbers(text_lines(path, batch_size=5, last=last))
        specs = [source.train_batches(run_seed(seed), start).element_spec for seed, start in ((1, 0), (2, 10**9))]
        assert specs[0] == specs[1]
        assert specs[0].values == {"number": tf.TensorSpec([5], tf.int64)}
        assert isinstance(specs[0].weights, tf.TensorSpec) == weights
    assert source.eval_batches().element_spec.weights == tf.TensorSpec([5], tf.float32)


def test_blocks_are_small_where_examples_are_large(path, monkeypatch):
    asked = []
    source = text_lines(path, batch_size=2)
    read = source._examples.read
    object.__setattr__(source._examples, "read", lambda index: asked.append(len(index)) or read(index))
    monkeypatch.setattr(pipeline, "BLOCK_BYTES", 10 * source._examples.mean_bytes)
    next(iter(source.train_batches(run_seed(1), 0)))
    assert set(asked) == {10}
    monkeypatch.setattr(pipeline, "BLOCK_BYTES", 1)
    asked.clear()
    next(iter(source.train_batches(run_seed(1), 0)))
    assert set(asked) == {2}, "a block holds one batch at least"


def test_examples_of_unknown_shape_are_refused_in_one_line(path):
    source = text_lines(path, batch_size=2).map(lambda example, seed: {"words": tf.strings.split(example["line"], " ")})
    for batches in (lambda: source.train_batches(run_seed(1), 0), source.eval_batches):
        with pytest.raises(ConfigError, match=r"'words' has shape \(None,\)") as error:
            batches()
        assert "\n" not in str(error.value)
