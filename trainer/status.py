"""`python -m trainer.status RUN_DIR`: the checkpoints of a run, each with the records that belong to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE
from trainer.views.formatting import print_json

USAGE = "python -m trainer.status RUN_DIR [--json]"
ABOUT = """Shows the checkpoints of a run, each with the train window and the evaluations that belong to it and how many
steps old they are; then the best and the newest, what identifies the run, and its attempts. It only reads, also beside
a running trainer."""


def main(argv: Sequence[str]) -> int:
    """Shows the run that the command line names; returns the exit code."""
    values = new_flags()
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    arguments = parse(argv, values, usage=USAGE, about=ABOUT, positional=1)
    if arguments is None:
        return EXIT_DONE
    # rich and NumPy take a while, and help needs neither.
    from trainer.views.status import read_status
    from trainer.views.table import print_status

    status = read_status(arguments[0])
    if values["json"].value:
        print_json(status.to_json())
    else:
        print_status(status, sys.stdout)
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)
