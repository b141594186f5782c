"""A report never takes the place of something else."""

from __future__ import annotations

import pathlib

import pytest

from trainer.errors import ConfigError
from trainer.storage.whole import write_whole
from trainer.views.page.document import GENERATOR
from trainer.views.page.output import check_page


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
