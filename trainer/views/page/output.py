"""Where a report may go, and how it gets there: at once and whole, and never over what is not one."""

from __future__ import annotations

import contextlib
import os
import uuid

from trainer.errors import ConfigError, Unwritable
from trainer.storage.files import Files, writing
from trainer.views.page.document import GENERATOR

_PAGES = (".html", ".htm")
_HEAD_BYTES = 1000
"""In its first bytes a page of ours says that it is one."""


def check_page(path: str) -> None:
    """Refuses a place for the page that is taken by something else, before any work is done.

    Raises:
      ConfigError: it does not end in .html, or is there and no report.
      Unwritable: what is there cannot be looked at.
    """
    if os.path.splitext(path)[1].lower() not in _PAGES:
        raise ConfigError(f"output={path}; expected a file that ends in .html, such as report.html")
    if os.path.isdir(path):
        raise ConfigError(f"output={path} is a folder; expected a file, such as {os.path.join(path, 'report.html')}")
    if not os.path.exists(path):
        return
    with writing(path), open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head and GENERATOR.encode() not in head:
        raise ConfigError(f"output={path} is there, and no report of this command; remove it, or choose another file")


def write_whole(path: str, content: bytes) -> None:
    """Puts `content` at `path` at once: a kill leaves what was there, or all of the new. Folders are made.

    Raises:
      Unwritable: it cannot be written.
    """
    files, target = Files(), os.path.realpath(path)
    folder, name = os.path.split(target)
    files.make_directory(folder)
    beside = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}")
    try:
        files.write(beside, content)
        files.rename(beside, target)
    except BaseException:
        # What went wrong says more than what may go wrong here.
        with contextlib.suppress(Unwritable):
            files.remove(beside)
        raise
    files.sync_directory(folder)
