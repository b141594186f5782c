"""Which files paths and patterns name."""

import pathlib

import pytest
import tensorflow as tf

from trainer.data.paths import Found, find, look
from trainer.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "c.csv", ".hidden.txt", "deep/d.txt", "odd[1].txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(found):
    return [pathlib.Path(file.path).name for file in found]


def test_patterns_name_files_by_name_without_hidden_ones_and_folders(folder):
    assert names(find(f"{folder}/*.txt")) == ["a.txt", "b.txt", "odd[1].txt"]
    assert names(find(f"{folder}/*")) == ["a.txt", "b.txt", "c.csv", "odd[1].txt"]
    assert names(find(f"{folder}/**/*.txt")) == ["a.txt", "b.txt", "d.txt", "odd[1].txt"]


def test_lists_are_put_in_order_and_name_a_file_once(folder):
    assert names(find([folder / "c.csv", f"{folder}/[ab].txt", str(folder / "a.txt")])) == ["a.txt", "b.txt", "c.csv"]


def test_a_path_that_looks_like_a_pattern_is_the_file_of_that_name(folder):
    assert names(find(folder / "odd[1].txt")) == ["odd[1].txt"]


def test_a_file_is_found_with_its_size_and_time(folder):
    path = folder / "a.txt"
    assert find(path) == [Found(str(path), 5, path.stat().st_mtime_ns)]
    assert look(str(folder)) is None


def test_other_storage_is_searched_too():
    tf.io.gfile.makedirs("ram://paths/in")
    for name in ("b", "a", ".a"):
        tf.io.gfile.GFile(f"ram://paths/in/{name}", "w").write(name)
    assert names(find("ram://paths/in/*")) == ["a", "b"]
    assert [file.bytes for file in find("ram://paths/in/a")] == [1]


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ("{}/missing.txt", "there is no file"),
        ("{}/*.none", "no file matches"),
        (["{}/a.txt", "{}/*.none"], "no file matches"),
        ("{}/deep", "is a folder"),
        ("{}/a.txt/b", "a.txt/b"),
        ([], "no paths"),
        (3, "int"),
        ([3], "list"),
        ("nowhere://x", "nowhere://"),
        ("ram://nothing/there", "there is no file"),
        ("ram://nothing/*", "no file matches"),
    ],
)
def test_what_names_no_file_is_refused_in_one_line(folder, paths, named):
    if isinstance(paths, str):
        paths = paths.format(folder)
    elif paths == ["{}/a.txt", "{}/*.none"]:
        paths = [path.format(folder) for path in paths]
    with pytest.raises(ConfigError) as error:
        find(paths)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
