"""The cache of offsets: believed only when it proves itself, made anew otherwise."""

import os

import numpy as np
import pytest

from trainer.data.lines import TextLines
from trainer.data.offsets import Offsets, OffsetsCache
from trainer.data.paths import find
from trainer.data.shards import Shards
from trainer.errors import Unwritable
from trainer.storage.files import Files

OFFSETS = Offsets(np.array([0, 2, 5], np.int64), np.array([7, 2**32 - 1], np.uint32))


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard.txt"
    path.write_text("a\nbb\n")
    return path


def scans(monkeypatch):
    """Counts how often a shard is scanned."""
    counted, scan = [], TextLines.scan
    monkeypatch.setattr(TextLines, "scan", lambda *arguments: counted.append(1) or scan(*arguments))
    return counted


def test_what_is_saved_is_loaded(shard, tmp_path):
    (found,) = find(shard)
    for folder in (None, tmp_path / "new" / "cache"):
        cache = OffsetsCache("lines", folder)
        assert cache.load(found) is None
        cache.save(found, OFFSETS)
        loaded = cache.load(found)
        np.testing.assert_array_equal(loaded.begin, OFFSETS.begin)
        np.testing.assert_array_equal(loaded.checks, OFFSETS.checks)
    assert sorted(os.listdir(tmp_path)) == [".shard.txt.lines-offsets", "new", "shard.txt"]


def test_every_damaged_byte_and_every_cut_is_noticed(shard):
    (found,) = find(shard)
    cache = OffsetsCache("lines", None)
    cache.save(found, OFFSETS)
    path = cache.path(found.path)
    with open(path, "rb") as file:
        data = file.read()
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]):
            with open(path, "wb") as file:
                file.write(damaged)
            assert cache.load(found) is None
    with open(path, "wb") as file:
        file.write(data)
    assert cache.load(found) is not None


def test_another_size_time_or_kind_is_stale(shard):
    (found,) = find(shard)
    cache = OffsetsCache("lines", None)
    cache.save(found, OFFSETS)
    assert cache.load(found._replace(bytes=found.bytes + 1)) is None
    assert cache.load(found._replace(mtime_ns=found.mtime_ns + 1)) is None
    os.rename(cache.path(found.path), OffsetsCache("records", None).path(found.path))
    assert OffsetsCache("records", None).load(found) is None


def test_shards_of_one_name_have_a_place_each_in_a_folder(tmp_path):
    cache = OffsetsCache("lines", tmp_path)
    assert len({cache.path(path) for path in ("a/x", "b/x", "ram://a/x", "ram://b/x")}) == 4


def test_a_shard_is_scanned_once_and_again_when_it_changed_or_its_cache_is_damaged(shard, monkeypatch):
    counted = scans(monkeypatch)
    fingerprints = [Shards(find(shard), TextLines(), None).fingerprint for _ in range(2)]
    assert (len(counted), len(set(fingerprints))) == (1, 1)
    cache = shard.parent / ".shard.txt.lines-offsets"
    cache.write_bytes(cache.read_bytes()[:-1])
    assert Shards(find(shard), TextLines(), None).fingerprint == fingerprints[0]
    assert len(counted) == 2
    shard.write_text("a\nbb\nccc\n")
    assert Shards(find(shard), TextLines(), None).count == 3
    assert len(counted) == 3


def test_a_save_that_fails_leaves_the_old_file_and_no_other(shard, monkeypatch):
    (found,) = find(shard)
    cache = OffsetsCache("lines", None)
    cache.save(found, OFFSETS)

    def refused(self, source, target):
        raise Unwritable("no")

    monkeypatch.setattr(Files, "rename", refused)
    with pytest.raises(Unwritable):
        cache.save(found, Offsets(OFFSETS.begin + 1, OFFSETS.checks))
    np.testing.assert_array_equal(cache.load(found).begin, OFFSETS.begin)
    assert len(os.listdir(shard.parent)) == 2


def test_a_folder_that_cannot_be_written_costs_one_line_and_a_scan_each_time(shard, monkeypatch):
    (shard.parent / "other.txt").write_text("c\n")
    (shard.parent / "file").touch()
    counted = scans(monkeypatch)
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be kept in .*; make it writable") as warned:
            shards = Shards(find(f"{shard.parent}/*.txt"), TextLines(), shard.parent / "file" / "cache")
        assert len(warned) == 1
        assert "\n" not in str(warned[0].message)
    assert (shards.count, len(counted)) == (3, 4)
