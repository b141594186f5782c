"""A checkpoint's tensors: what TensorFlow does to files, in our words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoint import tensors
from trainer.checkpoint.recovery import Damaged
from trainer.errors import ConfigError, Unusable, Unwritable


@pytest.fixture
def checkpoint():
    return tf.train.Checkpoint(kernel=tf.Variable(tf.range(600, dtype=tf.float32)), bias=tf.Variable([7.0]))


@pytest.fixture
def prefix(tmp_path):
    return str(tmp_path / "state")


@pytest.fixture
def written(checkpoint, prefix):
    """The data file of a checkpoint that is whole."""
    tensors.write(checkpoint, prefix, step=10, max_shard=None)
    return Path(f"{prefix}.data-00000-of-00001")


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 0x01
    file.write_bytes(content)


def one_line(error):
    assert "\n" not in str(error)
    return str(error)


def test_what_is_written_reads_back_and_restores(checkpoint, prefix, written):
    tensors.read_back(prefix, step=10)
    checkpoint.bias.assign([0.0])
    tensors.restore(checkpoint, prefix, step=10)
    assert checkpoint.bias.numpy() == [7.0]


def test_storage_without_folders_is_read_back_too(checkpoint):
    prefix = "ram://tensors/state"
    try:
        tensors.write(checkpoint, prefix, step=10, max_shard=None)
        tensors.read_back(prefix, step=10)
    finally:
        for path in tf.io.gfile.glob(f"{prefix}*"):
            tf.io.gfile.remove(path)


def test_state_of_an_iterator_is_read_back_too(prefix):
    iterator = iter(tf.data.Dataset.range(99).shuffle(50, seed=1))
    next(iterator)
    tensors.write(tf.train.Checkpoint(iterator=iterator), prefix, step=10, max_shard=None)
    tensors.read_back(prefix, step=10)
    data = Path(f"{prefix}.data-00000-of-00001")
    whole = data.read_bytes()
    unnoticed = []
    for place in range(0, len(whole), 97):
        flip(data, place)
        try:
            tensors.read_back(prefix, step=10)
        except Unwritable:
            pass
        else:
            unnoticed.append(place)
        data.write_bytes(whole)
    assert unnoticed == []


@pytest.mark.parametrize("max_shard", [100, 800, 10**9])
def test_data_files_are_as_large_as_they_may_be(prefix, tmp_path, max_shard):
    # A variable is cut where it has to be; a row is not.
    checkpoint = tf.train.Checkpoint(
        kernel=tf.Variable(tf.reshape(tf.range(600, dtype=tf.float32), [6, 100])), bias=tf.Variable([7.0])
    )
    tensors.write(checkpoint, prefix, step=10, max_shard=max_shard)
    sizes = [file.stat().st_size for file in tmp_path.glob("state.data-*")]
    tensors.read_back(prefix, step=10)
    checkpoint.kernel.assign(tf.zeros([6, 100]))
    tensors.restore(checkpoint, prefix, step=10)
    np.testing.assert_array_equal(checkpoint.kernel.numpy().ravel(), np.arange(600))
    assert (len(sizes) == 1) == (max_shard == 10**9)
    if max_shard == 800:
        # Besides the variables there is the graph of the objects, which is small here and cannot be cut.
        assert max(sizes) <= 1600


@pytest.mark.parametrize("place", [0, 1200, 2403, -1])
def test_each_flipped_byte_of_the_data_is_noticed_by_reading_back(prefix, written, place):
    flip(written, place)
    with pytest.raises(Unwritable, match="checkpoint 10 was written but does not read back") as refused:
        tensors.read_back(prefix, step=10)
    assert refused.value.exit_code == 74
    one_line(refused.value)


DAMAGE = {
    "flipped byte": lambda data: flip(data, 3),
    "truncated data": lambda data: data.write_bytes(data.read_bytes()[:-9]),
    "empty data": lambda data: data.write_bytes(b""),
    "no data": lambda data: data.unlink(),
    "empty index": lambda data: data.with_name("state.index").write_bytes(b""),
    "no index": lambda data: data.with_name("state.index").unlink(),
    "garbage for an index": lambda data: data.with_name("state.index").write_bytes(os.urandom(300)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_as_what_could_not_be_written_or_restored(checkpoint, prefix, written, damage):
    DAMAGE[damage](written)
    with pytest.raises(Unwritable) as unwritable:
        tensors.read_back(prefix, step=10)
    with pytest.raises(Damaged) as damaged:
        tensors.restore(checkpoint, prefix, step=10)
    for error in (unwritable, damaged):
        assert "{{" not in one_line(error.value)
        assert "[Op:" not in str(error.value)


def test_checkpoint_that_cannot_be_written_says_what_to_do(checkpoint, tmp_path):
    obstacle = tmp_path / "state.index"
    obstacle.mkdir()
    with pytest.raises(Unwritable, match=r"checkpoint 10 could not be written: .*; free space") as refused:
        tensors.write(checkpoint, str(tmp_path / "state"), step=10, max_shard=None)
    assert refused.value.exit_code == 74
    one_line(refused.value)


@pytest.mark.parametrize(
    "other",
    [
        {"kernel": tf.Variable(tf.zeros([600])), "bias": tf.Variable([0.0]), "more": tf.Variable(0.0)},
        {"kernel": tf.Variable(tf.zeros([600]))},
    ],
    ids=["more", "fewer"],
)
def test_other_variables_are_told_apart_from_damage(prefix, written, other):
    with pytest.raises(Damaged, match="holds other variables than the model and optimizer have") as damaged:
        tensors.restore(tf.train.Checkpoint(**other), prefix, step=10)
    one_line(damaged.value)


def test_variable_of_another_shape_is_damage(prefix, written):
    with pytest.raises(Damaged):
        tensors.restore(
            tf.train.Checkpoint(kernel=tf.Variable(tf.zeros([5])), bias=tf.Variable([0.0])), prefix, step=10
        )


@pytest.mark.parametrize(
    "error", [tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError, tf.errors.AbortedError]
)
def test_what_the_machine_lacks_is_no_damage(prefix, written, error):
    class Short(tf.train.Checkpoint):
        def read(self, *_):
            raise error(None, None, "not now\n{{node x}} more")

    with pytest.raises(Unusable, match="checkpoint 10 cannot be read now: not now; mend that") as refused:
        tensors.restore(Short(), prefix, step=10)
    assert refused.value.exit_code == 66
    one_line(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (tf.errors.DataLossError(None, None, "{{function_node f}} bad crc [Op:RestoreV2] name: "), "bad crc name: "),
        (tf.errors.NotFoundError(None, None, "gone\nsecond line"), "gone"),
        (IndexError("out of range"), "out of range"),
        (ValueError(), "ValueError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_an_error_says_is_one_line_without_the_names_of_operations(error, said):
    assert tensors.first_line(error) == said


def test_shard_that_a_variable_cannot_be_cut_into_is_refused_before_tensorflow_never_ends():
    table = tf.Variable(tf.zeros([6, 100]), name="table")
    checkpoint = tf.train.Checkpoint(table=table, scalar=tf.Variable(1.0), text=tf.Variable("a" * 100))
    with pytest.raises(ConfigError, match=r"max_shard is 20 bytes, and table:0 of shape \(6, 100\) .* less than 24"):
        tensors.check_shards(checkpoint, 20)
    tensors.check_shards(checkpoint, 24)


def test_smallest_shard_that_is_not_refused_is_written(tmp_path):
    checkpoint = tf.train.Checkpoint(table=tf.Variable(tf.ones([6, 100])))
    tensors.write(checkpoint, str(tmp_path / "state"), step=1, max_shard=24)
    checkpoint.table.assign(tf.zeros([6, 100]))
    tensors.restore(checkpoint, str(tmp_path / "state"), step=1)
    assert float(tf.reduce_sum(checkpoint.table)) == 600
