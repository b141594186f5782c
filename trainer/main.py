"""`python -m trainer.main --flags`: trains; the same command resumes."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE
from trainer.run.host import Host, own_process

if TYPE_CHECKING:
    from trainer.run.result import Result, SavedStep

USAGE = "python -m trainer.main [--flags]"
ABOUT = """Trains an experiment in a run directory; the same command resumes it. Durations are written as 1000steps,
1e6examples, 2.5epochs, 90s or 1/15run; a cadence is one of them, several joined by commas, or never."""


def main(argv: Sequence[str]) -> int:
    """Trains as the command line says; returns the exit code."""
    # From here on a signal is noted and not lost: through the imports below too, and TensorFlow's, which takes seconds.
    with own_process() as host:
        return _train(argv, host)


def _train(argv: Sequence[str], host: Host) -> int:
    from trainer.process.quiet import quiet_start
    from trainer.run.catalog import check_name, find_experiment
    from trainer.run.config import make_config
    from trainer.run.experiment import make_experiment
    from trainer.run.flags import define_flags, given_options, given_settings

    values = new_flags()
    define_flags(values)
    if parse(argv, values, usage=USAGE, about=ABOUT) is None:
        return EXIT_DONE
    # What needs no TensorFlow is checked before it is imported: a typo costs no wait.
    name = str(values["experiment"].value)
    settings = given_settings(values)
    options = given_options(values)
    host.watchdog.grace_s = make_config(options, {}).seconds("grace")
    check_name(name)
    with host.times.starting("import", since_birth=True):
        with quiet_start():
            import tensorflow as tf

            tf.config.list_physical_devices()
        # What was imported stays: the collector would look through all of it again and again while the step is traced.
        gc.freeze()
        from trainer.run.trainer import Trainer

        experiment = make_experiment(find_experiment(name), settings)
    result = Trainer(experiment, **options).run(host)
    if result.exit_code:
        print(_where_saved(result), file=sys.stderr)
    if not (result.reason == "dry run" or values["progress"].value == "never"):
        # Whoever read our output may be gone by now, or its disk full; what was trained stands.
        with contextlib.suppress(OSError):
            print("\n".join(_closing_lines(result)), flush=True)
    return result.exit_code


def _where_saved(result: Result) -> str:
    """For a run that was asked to stop: whether and where its state is, and what to do."""
    if result.saved and result.last:
        where = f"step {result.step} is saved in {result.last.path}"
    else:
        where = (
            f"step {result.step} is not saved, the newest checkpoint is {result.last.path if result.last else 'none'}"
        )
    return f"{result.reason}: {where}; run the same command again to go on"


def _closing_lines(result: Result) -> list[str]:
    """Where the run is, its best and its last checkpoint, and what shows them."""
    epoch = "" if result.epoch is None else f", epoch {result.epoch:.4g}"
    lines = [f"{result.reason} at step {result.step}{epoch} in {result.run_dir}"]
    for position, (metric, best) in enumerate(result.best_by.items()):
        lines.append(f"{'' if position else 'best':<6} {_checkpoint_line(best, metric)}")
    if result.last:
        lines.append(f"last   {_checkpoint_line(result.last, result.monitor)}")
    # The Python that has the package, which in a virtual environment is seldom the one on the path.
    near = os.path.relpath(sys.executable)
    python = sys.executable if near.startswith(os.pardir) else near
    python = "python" if shutil.which("python") == sys.executable else python
    lines.append(f"show   {shlex.quote(python)} -m trainer.status {shlex.quote(result.run_dir)}")
    return lines


def _checkpoint_line(saved: SavedStep, metric: str) -> str:
    """A checkpoint: its step, what was measured of it and how that relates to its weights, and where it is."""
    measured = "" if saved.value is None else f"  {metric} {saved.value:.4g} ({saved.relation})"
    there = saved.path if os.path.isdir(saved.path) else "(not kept)"
    return f"step {saved.step}{measured}  {there}"


if __name__ == "__main__":
    run_command(main)
