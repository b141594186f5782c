"""Text files: a line an example."""

import pytest
import tensorflow as tf

from trainer.data import lines as module
from trainer.data import text_lines
from trainer.errors import ConfigError


def evaluated(source):
    return [
        line for batch in source.eval_batches() for line in batch.values["line"].numpy()[: int(batch.examples)].tolist()
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"\n\n", [b"", b""]),
        (b"\r\n", [b""]),
        (b"one", [b"one"]),
        (b"a\rb\n\rc\n", [b"a\rb", b"\rc"]),
        (b"last\r", [b"last\r"]),
        ("é\n\n漢".encode(), ["é".encode(), b"", "漢".encode()]),
    ],
)
@pytest.mark.parametrize("window", [1, 3, 1 << 22])
def test_lines_are_without_their_ends(tmp_path, monkeypatch, text, expected, window):
    monkeypatch.setattr(module, "_WINDOW", window)
    path = tmp_path / "text"
    path.write_bytes(text)
    source = text_lines(path, batch_size=2)
    assert source.examples == len(expected)
    assert evaluated(source) == expected


def test_files_follow_one_another_by_name(tmp_path):
    (tmp_path / "b.txt").write_text("3\n4")
    (tmp_path / "a.txt").write_text("1\n2")
    source = text_lines(f"{tmp_path}/*.txt", batch_size=3)
    assert evaluated(source) == [b"1", b"2", b"3", b"4"]
    assert source.element == {"line": tf.TensorSpec([], tf.string)}


def test_fingerprint_follows_the_content_and_not_the_name(tmp_path):
    texts = {"one": "a\nb\n", "same": "a\nb\n", "other": "a\nc\n", "moved": "ab\n\n", "open": "a\nb"}
    fingerprints = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        fingerprints[name] = text_lines(tmp_path / name, batch_size=1).fingerprint
    assert fingerprints.pop("same") == fingerprints["one"]
    assert len(set(fingerprints.values())) == 4


def test_an_empty_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "full").write_text("a")
    (tmp_path / "none").touch()
    with pytest.raises(ConfigError, match="none is empty; ") as error:
        text_lines(f"{tmp_path}/*", batch_size=2)
    assert "\n" not in str(error.value)
