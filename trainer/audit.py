"""`python -m trainer.audit RUN_DIR`: proves a run, and names the first thing that does not hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, EXIT_FINDINGS, ConfigError
from trainer.process.quiet import start_beside_a_trainer
from trainer.process.signals import StopRequest, stop_requests
from trainer.views import formatting

if TYPE_CHECKING:
    from trainer.proof.audit.engine import Check

USAGE = "python -m trainer.audit RUN_DIR [--reevaluate] [--replay[=N]] [--from_start] [--json]"
ABOUT = """Checks that what a run left is true: every byte and tensor of its checkpoints, every record of its log, that
windows, evaluations and saves lie where the cadences put them, that the best is the best, rates those of the schedule.
With --reevaluate every evaluation of a checkpoint is made again, with --replay the steps between checkpoints are
trained again, and all that comes out is compared to the last bit. Names the first thing that does not hold, and exits
with 3 where there is one. It only reads, also beside a running trainer."""
ALL = "all"

_DIGITS = 10
"""Beyond so many digits a number of stretches is a mistake."""
_SECONDS = 0.25
"""Between two lines of progress."""


class _Interrupted(Exception):
    """A signal has asked to stop."""


def main(argv: Sequence[str]) -> int:
    """Audits the run that the command line names; returns the exit code."""
    values = new_flags()
    flags.DEFINE_boolean("reevaluate", False, "evaluate each checkpoint again where the run did", flag_values=values)
    flags.DEFINE_string(
        "replay",
        None,
        "train again from each checkpoint to the next; with a number only to the newest so many",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "from_start",
        False,
        "with --replay: train from step 0 to the first checkpoint that is there, too",
        flag_values=values,
    )
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    # What takes a value or none, no flag of this kind does.
    argv = [f"--replay={ALL}" if argument in ("--replay", "-replay") else argument for argument in argv]
    arguments = parse(argv, values, usage=USAGE, about=ABOUT, positional=1)
    if arguments is None:
        return EXIT_DONE
    newest = _stretches(values["replay"].value)
    if values["from_start"].value and values["replay"].value is None:
        raise ConfigError("from_start says where --replay begins, which is not given; give both, or neither")
    from trainer.ledger.directory import check_folder

    # What needs no TensorFlow is checked before it is imported: a typo costs no wait.
    check_folder(arguments[0])
    with stop_requests() as request:
        progress = _Progress(request)
        start_beside_a_trainer()
        from trainer.proof.audit.engine import audit

        try:
            found = audit(arguments[0], progress.tell, more=_more(values, newest, progress.tell))
        except _Interrupted:
            progress.clear()
            formatting.print_line("interrupted: nothing was written; run the same command again", sys.stderr)
            return request.exit_code
        progress.clear()
    if values["json"].value:
        formatting.print_json(found.to_json())
    else:
        from trainer.views.audit_table import CheckRow, print_audit

        rows = [
            CheckRow(outcome.name, outcome.ok, outcome.detail, max(0, len(outcome.failures) - 1))
            for outcome in found.outcomes
        ]
        print_audit(rows, arguments[0], sys.stdout)
    return EXIT_DONE if found.ok else EXIT_FINDINGS


def _stretches(text: str | None) -> int | None:
    """How many stretches are to be trained again; None for all, or where none are."""
    if text in (None, ALL):
        return None
    if not (text.isdecimal() and len(text) < _DIGITS and int(text)):
        raise ConfigError(f"replay={text} is no number of stretches; expected 1 or more, or --replay for all")
    return int(text)


def _more(values: flags.FlagValues, newest: int | None, tell: Callable[[str], None]) -> list[tuple[str, Check]]:
    """The checks that take long, as far as they are asked for."""
    from trainer.proof.audit.again import reevaluate, replay

    more: list[tuple[str, Check]] = []
    if values["reevaluate"].value:
        more.append(("reevaluate", lambda evidence: reevaluate(evidence, tell)))
    if values["replay"].value is not None:
        from_start = bool(values["from_start"].value)
        more.append(("replay", lambda evidence: replay(evidence, tell, newest=newest, from_start=from_start)))
    return more


class _Progress:
    """Says on a terminal how far the reading is; and ends it when a signal asks to.

    Args:
      request: becomes true when a signal asks to stop.
      clock: seconds.
    """

    def __init__(self, request: StopRequest, clock: Callable[[], float] = time.monotonic) -> None:
        self._request = request
        self._clock = clock
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._told = self._clock()
        self._width = 0

    def tell(self, line: str) -> None:
        """What is being done.

        Raises:
          _Interrupted: a signal has asked to stop.
        """
        if self._request:
            raise _Interrupted
        if not self._terminal or self._clock() - self._told < _SECONDS:
            return
        self._told = self._clock()
        self._show(line.ljust(self._width))
        self._width = len(line)

    def clear(self) -> None:
        """Takes the line away."""
        if self._width:
            self._show(" " * self._width)
            self._show("")

    def _show(self, line: str) -> None:
        sys.stderr.write(f"\r{line}")
        sys.stderr.flush()


if __name__ == "__main__":
    run_command(main)
