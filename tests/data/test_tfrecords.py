"""TFRecord shards: found by their headers, read by their offsets, refused when they are anything else."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import records, run_seed
from trainer.data.paths import find
from trainer.data.reading import open_file
from trainer.data.tfrecords import TFRecords
from trainer.errors import ConfigError, Unusable
from trainer.storage.crc32c import masked_crc32c

# Empty ones, small ones, and some that are passed over and not read through.
RECORDS = [b"", b"one", bytes(5000), b"two\n", bytes(300_000), b"\n\n", b"x" * 4096] + [b"%d" % n for n in range(30)]


def write(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in contents:
            writer.write(record)
    return path


def evaluated(source):
    return [
        record
        for batch in source.eval_batches()
        for record in batch.values["record"].numpy()[: int(batch.examples)].tolist()
    ]


@pytest.fixture
def shard(tmp_path):
    return write(tmp_path / "shard.tfrecord", RECORDS)


def test_every_record_is_found_and_read_as_it_was_written(shard):
    source = records(shard, batch_size=4)
    assert (source.examples, source.mode, source.batch_size) == (len(RECORDS), "indexed", 4)
    assert evaluated(source) == RECORDS


def test_checksums_are_those_that_tensorflow_wrote(shard):
    data = shard.read_bytes()
    (length,) = found = find(shard)
    offsets = TFRecords().scan(open_file(found[0]), length)
    for at, end, check, record in zip(
        offsets.begin[:-1].tolist(), offsets.begin[1:].tolist(), offsets.checks.tolist(), RECORDS, strict=True
    ):
        assert struct.unpack_from("<Q", data, at) == (len(record),)
        assert data[at + 12 : end - 4] == record
        assert struct.unpack_from("<I", data, end - 4) == (check,)
        assert masked_crc32c(len(record).to_bytes(8, "little")).to_bytes(4, "little") == data[at + 8 : at + 12]


def test_shards_follow_one_another_by_name_and_how_they_are_cut_changes_no_fingerprint(tmp_path, shard):
    for name, contents in (("c", RECORDS[20:]), ("a", RECORDS[:3]), ("b", RECORDS[3:20])):
        write(tmp_path / f"part-{name}", contents)
    cut = records(f"{tmp_path}/part-*", batch_size=5)
    assert evaluated(cut) == RECORDS
    assert cut.fingerprint == records(shard, batch_size=3, shuffle=False, last="short").fingerprint
    assert len(cut.fingerprint) == 16


@pytest.mark.parametrize(
    "changed", [RECORDS[:-1], [*RECORDS, b""], [b"", b"One", *RECORDS[2:]], RECORDS[::-1]], ids=range(4)
)
def test_fingerprint_follows_the_content(tmp_path, shard, changed):
    write(tmp_path / "other", changed)
    assert records(tmp_path / "other", batch_size=4).fingerprint != records(shard, batch_size=4).fingerprint


def test_parsed_batches_are_what_a_map_that_parses_gives(tmp_path):
    features = {"x": tf.io.FixedLenFeature([3], tf.float32), "y": tf.io.FixedLenFeature([], tf.int64)}

    def example(number):
        floats = tf.train.FloatList(value=np.arange(3) + number)
        parts = {
            "x": tf.train.Feature(float_list=floats),
            "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
        }
        return tf.train.Example(features=tf.train.Features(feature=parts)).SerializeToString()

    path = write(tmp_path / "examples", map(example, range(10)))
    parsed = records(path, batch_size=4, parse=features)
    mapped = records(path, batch_size=4).map(
        lambda example, seed: tf.io.parse_single_example(example["record"], features)
    )
    for one, other in zip(
        parsed.train_batches(run_seed(1), 7).take(4), mapped.train_batches(run_seed(1), 7).take(4), strict=True
    ):
        assert one.values.keys() == other.values.keys()
        for name in features:
            assert one.values[name].shape == (4, *features[name].shape)
            np.testing.assert_array_equal(one.values[name], other.values[name])
    assert parsed.element == mapped.element


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 15, 16])
def test_a_torn_shard_is_refused_with_the_byte(shard, cut):
    data = shard.read_bytes()
    shard.write_bytes(data[:-cut])
    begin = len(data) - 16 - len(RECORDS[-1])
    with pytest.raises(Unusable, match=rf"shard.tfrecord ends inside the record that begins at byte {begin};") as error:
        records(shard, batch_size=4)
    assert "\n" not in str(error.value)


def test_a_shard_that_is_no_longer_than_a_header_is_refused(tmp_path):
    for size in (1, 11, 12, 15):
        path = tmp_path / f"short-{size}"
        path.write_bytes(write(tmp_path / "one", [b"abc"]).read_bytes()[:size])
        with pytest.raises(Unusable, match="at byte 0;"):
            records(path, batch_size=4)


def test_a_damaged_header_is_refused_with_the_byte(shard):
    data = bytearray(shard.read_bytes())
    at = sum(16 + len(record) for record in RECORDS[:3])
    data[at] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Unusable, match=rf"shard.tfrecord has no TFRecord header at byte {at};"):
        records(shard, batch_size=4)


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "GZIP"), (zlib.compress, "ZLIB")])
def test_a_compressed_shard_is_refused(shard, pack, name):
    shard.write_bytes(pack(shard.read_bytes()))
    with pytest.raises(Unusable, match=rf"shard.tfrecord is compressed \({name}\) from byte 0.*; write") as error:
        records(shard, batch_size=4)
    assert "\n" not in str(error.value)


def test_text_is_no_shard(tmp_path):
    (tmp_path / "text").write_text("hello\n" * 100)
    with pytest.raises(Unusable, match="text has no TFRecord header at byte 0"):
        records(tmp_path / "text", batch_size=4)


def test_shards_on_other_storage_are_read(shard):
    with tf.io.gfile.GFile("ram://tfrecords/shard", "wb") as file:
        file.write(shard.read_bytes())
    for _ in range(2):
        assert evaluated(records("ram://tfrecords/shard", batch_size=4)) == RECORDS
    assert tf.io.gfile.exists("ram://tfrecords/.shard.records-offsets")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"last": "drop"}, "last='drop'"),
        ({"cache": 3}, "cache=3"),
        ({"parse": {}}, "parse=dict"),
        ({"parse": lambda record: record}, "parse=function"),
        ({"parse": {"x": tf.io.VarLenFeature(tf.int64)}}, "'x' as VarLenFeature"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(shard, arguments, named):
    with pytest.raises(ConfigError) as error:
        records(shard, **{"batch_size": 4, **arguments})
    assert named in str(error.value)
    assert "; give" in str(error.value)
    assert "\n" not in str(error.value)
