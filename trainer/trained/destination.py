"""Where an export may go: to a new folder, or in the place of an export that it replaces."""

from __future__ import annotations

import json
import os
import re

from trainer.errors import ConfigError, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.storage.files import writing

EXPORT = "export.json"
"""The file that makes a folder an export."""
FORMAT = 1
"""The version of its format."""


def check_destination(to: str, directory: RunDirectory, *, overwrite: bool) -> None:
    """Refuses a destination that is taken, or where an export would be in the way, before any work is done.

    Raises:
      ConfigError: it may not go there.
      Unwritable: no folder can be made there.
    """
    if not to:
        raise ConfigError("got no --to; expected the folder to export to, such as --to=exports/digits")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", to):
        raise ConfigError(f"to={to} is not local; expected a local folder, to be copied from there")
    target, checkpoints = os.path.realpath(to), os.path.realpath(directory.checkpoints)
    if os.path.commonpath([target, checkpoints]) == checkpoints:
        raise ConfigError(f"to={to} is among the run's checkpoints; choose another folder")
    above = target
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise ConfigError(f"to={to}: {above} is a file; expected a folder, new or empty")
    if above == target:
        _check_content(to, target, overwrite=overwrite)
        above = os.path.dirname(target)
    if not os.access(above, os.W_OK | os.X_OK):
        raise Unwritable(f"cannot write {above}: Permission denied; mend its permissions, or choose another --to")


def _check_content(to: str, folder: str, *, overwrite: bool) -> None:
    with writing(folder):
        empty = not os.listdir(folder)
    if empty or (overwrite and is_export(folder)):
        return
    if overwrite:
        raise ConfigError(
            f"to={to} is a folder that is not empty, and no export, which has an {EXPORT}; choose another folder"
        )
    advice = "replace it with --overwrite" if is_export(folder) else "remove what is in it"
    raise ConfigError(f"to={to} is a folder that is not empty; {advice}, or choose another folder")


def is_export(folder: str) -> bool:
    """Whether a folder is what an export left."""
    try:
        with open(os.path.join(folder, EXPORT), "rb") as file:
            known = json.load(file)
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and {"format", "run", "step", "kind"} <= known.keys()
