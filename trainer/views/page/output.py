"""Where a report may go: never over what is not one."""

from __future__ import annotations

import os

from trainer.errors import ConfigError
from trainer.storage.files import writing
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
