"""Whole files: a file an example."""

import shutil

import pytest
import tensorflow as tf

from trainer.data import files, run_seed
from trainer.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    for name, content in (("b/1", b"three"), ("a/2", b""), ("a/1", b"\x00\xff")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "images"


def test_examples_are_the_files_by_name_with_what_they_hold(folder):
    source = files(f"{folder}/*/*", batch_size=3)
    (batch,) = source.eval_batches()
    assert batch.values["path"].numpy().tolist() == [f"{folder}/{name}".encode() for name in ("a/1", "a/2", "b/1")]
    assert batch.values["bytes"].numpy().tolist() == [b"\x00\xff", b"", b"three"]
    assert batch.values["bytes"].shape == [3]


def test_a_map_makes_tensors_of_them(folder):
    source = files(f"{folder}/*/*", batch_size=2).map(
        lambda example, seed: {"size": tf.strings.length(example["bytes"])}
    )
    batches = list(source.train_batches(run_seed(1), 0).take(3))
    assert sorted(size for batch in batches for size in batch.values["size"].numpy().tolist()) == [0, 0, 2, 2, 5, 5]


def test_fingerprint_follows_names_within_their_folder_and_sizes(folder, tmp_path, monkeypatch):
    fingerprint = files(f"{folder}/*/*", batch_size=2).fingerprint
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert files(f"{tmp_path}/elsewhere/*/*", batch_size=4, shuffle=False).fingerprint == fingerprint
    monkeypatch.chdir(folder)
    assert files("*/*", batch_size=2).fingerprint == fingerprint
    (folder / "a" / "2").write_bytes(b"x")
    longer = files(f"{folder}/*/*", batch_size=2).fingerprint
    (folder / "a" / "2").rename(folder / "a" / "3")
    renamed = files(f"{folder}/*/*", batch_size=2).fingerprint
    assert len({fingerprint, longer, renamed}) == 3


def test_one_file_is_a_source_too(folder):
    assert files(folder / "b" / "1", batch_size=2).examples == 1


def test_a_folder_is_refused_in_one_line(folder):
    with pytest.raises(ConfigError, match=r"a is a folder; give its files, such as .*/a/\*") as error:
        files(folder / "a", batch_size=2)
    assert "\n" not in str(error.value)
