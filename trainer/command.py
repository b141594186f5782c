"""What every command shares: flags in, exit code out, errors of one line."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Sequence

from absl import flags

from trainer.errors import EXIT_DONE, ConfigError, TrainerError

_LET_GO_S = 5.0
"""How long what loads data may take to return, once all is said."""


def new_flags() -> flags.FlagValues:
    """Flags of one command: none of those that an imported library may define for itself."""
    return flags.FlagValues()  # type: ignore[no-untyped-call]


def parse(
    argv: Sequence[str],
    values: flags.FlagValues,
    *,
    usage: str,
    about: str,
    positional: int = 0,
    or_more: bool = False,
) -> list[str] | None:
    """Parses a command line into `values`.

    Args:
      argv: the command line without the program's name.
      values: the defined flags; afterwards they are set.
      usage: how the command is called.
      about: what it does, for `--help`.
      positional: how many arguments that are no flags it takes.
      or_more: whether it takes more of them, too.

    Returns:
      Those arguments; None when help was asked for, and given.

    Raises:
      ConfigError: an unknown flag, a value of the wrong type, too few or too many arguments.
    """
    flags.DEFINE_boolean("help", False, "print this and exit", short_name="h", flag_values=values)
    try:
        rest = values([usage, *argv])[1:]
    except (flags.Error, OSError) as error:
        raise ConfigError(f"{' '.join(str(error).split())}; see --help") from None
    if values["help"].value:
        # A disk that is full, or a reader that has gone, is no error of help.
        with contextlib.suppress(OSError):
            print(_help(values, usage=usage, about=about), flush=True)
        return None
    if len(rest) < positional or (len(rest) > positional and not or_more):
        expected = f"{positional} argument{'s' if positional > 1 else ''}" if positional else "only flags"
        expected += " or more" if or_more else ""
        raise ConfigError(f"got {' '.join(map(repr, rest)) or 'no argument'}; expected {expected}: {usage}")
    return list(rest)


def run_command(main: Callable[[Sequence[str]], int]) -> None:
    """Ends the process with what `main` returns for its command line, or with the exit code of its error."""
    # What the library warns of through Python is one line here, like every other warning.
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        code = main(sys.argv[1:])
    except BrokenPipeError:
        code = EXIT_DONE  # The reader of our output went away (`… | head`), which is its right.
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    # What the process ends with is known: a signal in its last moments changes it no more.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # An iterator over data that Python makes may still read ahead, also one that an error or a signal left behind in a
    # circle of references: it must be gone before the interpreter ends, or that waits for it for ever.
    collection = threading.Thread(target=gc.collect, daemon=True)
    collection.start()
    collection.join(_LET_GO_S)
    try:
        if sys.stdout is not None:  # as it is for a daemon
            sys.stdout.flush()
    except OSError:
        # Nobody reads, or the disk is full. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if collection.is_alive():
        os._exit(code)
    sys.exit(code)


def _help(values: flags.FlagValues, *, usage: str, about: str) -> str:
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, 100), "", "flags:"]
    for name in values:
        flag = values[name]
        if flag.name != name:
            continue
        default = "" if flag.default in (None, []) else "=" + str(flag.default_as_str).strip("'")
        lines.append(f"  --{name}{default}")
        lines += textwrap.wrap(flag.help, 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
