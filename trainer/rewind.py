"""`python -m trainer.rewind RUN_DIR --step=S`: an older checkpoint becomes the newest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, ConfigError
from trainer.views.formatting import print_json

if TYPE_CHECKING:
    from trainer.checkpoint.rewind import Rewind

USAGE = "python -m trainer.rewind RUN_DIR --step=S [--json]"
ABOUT = """Makes the checkpoint of step S the newest one, so that the next training command goes on from there, with
other flags if you like. Later checkpoints and records are moved to RUN_DIR/orphans. Refused while a trainer runs."""


def main(argv: Sequence[str]) -> int:
    """Rewinds the run that the command line names; returns the exit code."""
    values = new_flags()
    flags.DEFINE_integer("step", None, "the step of the checkpoint to go back to", lower_bound=0, flag_values=values)
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    arguments = parse(argv, values, usage=USAGE, about=ABOUT, positional=1)
    if arguments is None:
        return EXIT_DONE
    step = values["step"].value
    if step is None:
        raise ConfigError(f"got no --step; expected the step of a checkpoint, as trainer.status shows them: {USAGE}")
    # NumPy takes a while, and help does not need it.
    from trainer.checkpoint.rewind import rewind
    from trainer.ledger.directory import RunDirectory, check_run_directory
    from trainer.ledger.log import read_records
    from trainer.process.lock import locked
    from trainer.views.tensorboard import rewind_events

    directory = RunDirectory(arguments[0])
    check_run_directory(directory.path, "run.json", "checkpoints")
    with locked(directory.lock):
        done, manifest = rewind(directory, step)
        # Also when there was nothing else to do: a kill may have come before this.
        rewind_events(
            Path(directory.events),
            step,
            position=manifest.control.get("events"),
            earlier=lambda: read_records(directory),
        )
    if values["json"].value:
        print_json({"run_dir": directory.path, **done.to_json()})
    else:
        print(_told(done, directory.path))
    return EXIT_DONE


def _told(done: Rewind, run_dir: str) -> str:
    if done.orphans is None:
        return f"nothing to do: step {done.step} is the newest checkpoint in {run_dir}, and no record is later"
    count = len(done.moved)
    return (
        f"rewound from step {done.from_step} to step {done.step} in {run_dir}; "
        f"{count} checkpoint{'' if count == 1 else 's'} and {done.cut_bytes} bytes of records are in "
        f"{os.path.join(run_dir, done.orphans)}"
    )


if __name__ == "__main__":
    run_command(main)
