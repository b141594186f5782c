"""Where an export may go: to a new folder, or in the place of an export that it replaces."""

from __future__ import annotations

import errno
import json
import os
import re

from trainer.errors import ConfigError, Unwritable
from trainer.ledger.directory import MANIFEST, STATE, RunDirectory
from trainer.storage.files import writing

EXPORT = "export.json"
"""The file that makes a folder an export."""
FORMAT = 1
"""The version of its format."""
_SHOWN = 3
_SHARDS = r"(index|data-\d{5}-of-\d{5})"
_WRITTEN = re.compile(
    rf"saved_model\.pb|fingerprint\.pb|variables|assets|{STATE}\.{_SHARDS}|{re.escape(MANIFEST)}|{re.escape(EXPORT)}"
)
"""What stands in an export."""
_FOLDERS = {"variables": re.compile(rf"variables\.{_SHARDS}"), "assets": re.compile(r".*", re.DOTALL)}
"""Its folders, and what stands in them: the vocabularies of the user's tables have any name."""


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
    target = os.path.realpath(to)
    _check_apart(to, target, directory)
    above = target
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise ConfigError(f"to={to}: {above} is a file; expected a folder, new or empty")
    if above == target:
        _check_content(to, target, overwrite=overwrite)
        above = os.path.dirname(target)
    if not os.access(above, os.W_OK | os.X_OK):
        read_only = os.statvfs(above).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise Unwritable(f"cannot write {above}: {reason}; mend that, or choose another --to")


def _check_apart(to: str, target: str, directory: RunDirectory) -> None:
    """Refuses what an export would replace the run with, or stand in the way of it."""
    run = os.path.realpath(directory.path)
    if target == run:
        raise ConfigError(f"to={to} is the run directory; choose another folder")
    if _is_in(run, target):
        raise ConfigError(f"to={to} has the run directory in it; choose another folder")
    folders = (directory.checkpoints, directory.events, directory.orphans, directory.profile)
    files = (directory.run_info, directory.flags, directory.metrics, directory.journal, directory.evaluations)
    for own in (*folders, *files, directory.lock, f"{directory.evaluations}.lock"):
        if _is_in(target, os.path.realpath(own)):
            raise ConfigError(f"to={to} is among the run's {os.path.basename(own)}; choose another folder")


def _is_in(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _check_content(to: str, folder: str, *, overwrite: bool) -> None:
    with writing(folder):
        empty = not os.listdir(folder)
        objection = _objection(folder)
    if empty or (overwrite and objection is None):
        return
    if overwrite:
        raise ConfigError(f"to={to} is a folder that is not empty, and no export: {objection}; choose another folder")
    advice = "replace it with --overwrite" if objection is None else "remove what is in it"
    raise ConfigError(f"to={to} is a folder that is not empty; {advice}, or choose another folder")


def is_export(folder: str) -> bool:
    """Whether a folder is what an export left, and nothing else is in it.

    Raises:
      OSError: it cannot be looked at.
    """
    return _objection(folder) is None


def _objection(folder: str) -> str | None:
    """What speaks against a folder being what an export left; None where it is just that."""
    try:
        with open(os.path.join(folder, EXPORT), "rb") as file:
            known = json.load(file)
    except OSError:
        return f"it has no {EXPORT} that can be read"
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or not {"format", "run", "step", "kind"} <= known.keys():
        return f"its {EXPORT} is not that of one"
    foreign = [
        entry.name
        for entry in os.scandir(folder)
        if not _WRITTEN.fullmatch(entry.name) or entry.is_dir(follow_symlinks=False) != (entry.name in _FOLDERS)
    ]
    for below, written in _FOLDERS.items():
        if below not in foreign and os.path.isdir(path := os.path.join(folder, below)):
            foreign += [
                os.path.join(below, entry.name)
                for entry in os.scandir(path)
                if not written.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False)
            ]
    if not foreign:
        return None
    more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    return f"it has {', '.join(sorted(foreign)[:_SHOWN])}{more} in it, which no export writes"
