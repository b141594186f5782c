"""What is written comes to its place at once and whole."""

from __future__ import annotations

import pathlib

import pytest

from trainer.errors import Unwritable
from trainer.storage.whole import write_whole


def test_folders_on_the_way_are_made(tmp_path: pathlib.Path) -> None:
    write_whole(str(tmp_path / "new" / "deep" / "report.html"), b"page")
    assert (tmp_path / "new" / "deep" / "report.html").read_bytes() == b"page"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Unwritable, match="No space left"):
        write_whole(str(path), b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "report.html").symlink_to(tmp_path / "shown" / "report.html")
    write_whole(str(tmp_path / "report.html"), b"page")
    assert (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "shown" / "report.html").read_bytes() == b"page"
