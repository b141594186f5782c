"""Shards that change while they are read are noticed, and never trained on."""

import os

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import records, run_seed, text_lines
from trainer.data import shards as module
from trainer.data.lines import TextLines
from trainer.data.paths import find
from trainer.data.pipeline import reading_failure
from trainer.data.shards import Shards
from trainer.errors import Unusable


def test_examples_are_read_by_index_from_more_shards_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_OPEN_FILES", 2)
    for number in range(7):
        (tmp_path / f"{number}").write_text("".join(f"{number}.{line}\n" for line in range(number + 1)))
    shards = Shards(find(f"{tmp_path}/*"), TextLines(), None)
    expected = [f"{number}.{line}".encode() for number in range(7) for line in range(number + 1)]
    index = np.random.default_rng(0).permutation(np.repeat(np.arange(28), 3))
    assert shards.count == 28
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert shards.read(index) == [expected[at] for at in index]
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after - before <= 2


@pytest.mark.parametrize("kept_open", [False, True])
def test_a_line_that_changed_in_place_is_noticed(tmp_path, kept_open):
    path = tmp_path / "text"
    path.write_text("one\ntwo\n")
    status = path.stat()
    shards = Shards(find(path), TextLines(), None)
    if kept_open:
        shards.read(np.array([1]))
    with open(path, "r+b") as file:
        file.write(b"uno")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shards.read(np.array([1])) == [b"two"]
    with pytest.raises(Unusable, match=r"text is not what it was .* at byte 0; put it back") as error:
        shards.read(np.array([1, 0]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["length", "footer", "cut"])
def test_a_record_that_changed_in_place_is_noticed(tmp_path, damage):
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for record in (b"first", b"second"):
            writer.write(record)
    source = records(path, batch_size=2)
    read = source._examples.read
    assert read(np.array([0, 1])) == [b"first", b"second"]
    with open(path, "r+b") as file:
        if damage == "cut":
            file.truncate(30)
        else:
            file.seek(21 if damage == "length" else 21 + 12 + 6)
            file.write(b"\x07")
    assert read(np.array([0])) == [b"first"]
    with pytest.raises(Unusable, match=r"shard is not what it was .* at byte 21"):
        read(np.array([0, 1]))


def test_a_shard_that_another_of_its_size_and_time_has_replaced_is_found_anew_at_the_next_start(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\nthree\n")
    before = path.stat()
    find_all = lambda: Shards(find(path), TextLines(), None)  # noqa: E731
    find_all()
    path.write_text("three\none\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Unusable, match="is not what it was"):
        find_all().read(np.array([0]))
    assert find_all().read(np.array([0, 1])) == [b"three", b"one"]


def test_a_shard_that_changed_before_it_was_opened_is_noticed(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\n")
    shards = Shards(find(path), TextLines(), None)
    path.write_text("one\ntwo\n")
    with pytest.raises(Unusable, match=r"text is not what it was .* in size or time"):
        shards.read(np.array([0]))


def test_what_went_wrong_comes_out_of_the_pipeline_in_one_line(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\ntwo\n")
    source = text_lines(path, batch_size=2)
    path.unlink()
    with pytest.raises(tf.errors.OpError) as error:
        next(iter(source.train_batches(run_seed(1), 0)))
    failure = reading_failure(error.value)
    assert isinstance(failure, Unusable)
    assert str(failure) == f"cannot read {path}: No such file or directory; mend that, then run again"
    assert reading_failure(tf.errors.InvalidArgumentError(None, None, "another")) is None
