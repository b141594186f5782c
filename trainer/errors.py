"""Errors that reach the user: one line each, and the exit code that scripts rely on."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_FINDINGS = 3
EXIT_CONFIG = 64
EXIT_DIVERGED = 65
EXIT_UNUSABLE = 66
EXIT_IN_USE = 73
EXIT_UNWRITABLE = 74
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130


class TrainerError(Exception):
    """Something the user can act on. The message is one line: what was given, what is expected, what to do."""

    exit_code = EXIT_BUG


class ConfigError(TrainerError):
    """A flag, a parameter or an experiment that cannot be used as it is."""

    exit_code = EXIT_CONFIG


class Diverged(TrainerError):
    """A loss or a weight is not finite any more."""

    exit_code = EXIT_DIVERGED


class Unusable(TrainerError):
    """There is something to resume from or to read, and none of it can be used."""

    exit_code = EXIT_UNUSABLE


class InUse(TrainerError):
    """Another process writes this run directory."""

    exit_code = EXIT_IN_USE


class Unwritable(TrainerError):
    """The log or a checkpoint could not be written."""

    exit_code = EXIT_UNWRITABLE
