"""Files that appear at once and whole, outside of run directories."""

from __future__ import annotations

import contextlib
import os
import uuid

from trainer.errors import Unwritable
from trainer.storage.files import Files


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
