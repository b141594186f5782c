"""Names for new files and folders."""

from __future__ import annotations

import itertools

from trainer.storage.files import Files


def free_path(files: Files, path: str) -> str:
    """`path`, or where something is there already, `path` with the first free number behind it."""
    candidates = itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if not files.exists(candidate))
