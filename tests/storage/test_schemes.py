"""Which implementation a path gets."""

from __future__ import annotations

import sys

import pytest

from trainer.errors import EXIT_CONFIG, ConfigError
from trainer.storage.files import Files
from trainer.storage.gfile import GfileFiles
from trainer.storage.ram import RamFiles
from trainer.storage.schemes import open_files


@pytest.mark.parametrize("path", ["runs/digits", "/tmp/run", "", "C:/run", "./ram://x"])
def test_a_path_without_a_scheme_is_local_and_needs_no_tensorflow(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert type(open_files(path)) is Files


def test_a_path_with_a_scheme_is_tensorflows() -> None:
    assert type(open_files("gs://bucket/run")) is GfileFiles
    assert type(open_files("ram://x/run")) is RamFiles


@pytest.mark.parametrize(
    ("path", "expected"),
    [("file:///tmp/run", "expected /tmp/run"), ("x3://bucket/run", "expected gs://, ram:// or a local path")],
)
def test_a_scheme_that_is_not_known_or_local_is_refused(path: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{path} .*{expected}") as caught:
        open_files(path)
    assert caught.value.exit_code == EXIT_CONFIG
    assert "\n" not in str(caught.value)
