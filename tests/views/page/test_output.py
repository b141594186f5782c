"""A report comes to its place whole, and never over something else."""

from __future__ import annotations

import pathlib

import pytest

from trainer.errors import ConfigError, Unwritable
from trainer.views.page.document import GENERATOR
from trainer.views.page.output import check_page, write_whole


@pytest.mark.parametrize("name", ["report", "report.txt", "model.ckpt", "-", "", ".html", "metrics.jsonl"])
def test_a_page_ends_in_html(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.html"):
        check_page(name)


def test_a_page_of_somebody_else_is_not_overwritten(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(ConfigError, match=r"index\.html is there, and no report of this command; remove it"):
        check_page(str(path))


@pytest.mark.parametrize("content", ["", f"<!doctype html>{GENERATOR}"])
def test_an_older_report_and_an_empty_file_are_replaced(tmp_path: pathlib.Path, content: str) -> None:
    path = tmp_path / "report.HTML"
    path.write_text(content)
    check_page(str(path))
    write_whole(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "all.html").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        check_page(str(tmp_path / "all.html"))


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
