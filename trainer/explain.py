"""`python -m trainer.explain RUN_DIR`: why the logged metric of a checkpoint is not its evaluated metric."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, Unwritable
from trainer.process.quiet import start_beside_a_trainer
from trainer.process.signals import stop_requests
from trainer.views.formatting import print_json, print_line

if TYPE_CHECKING:
    from trainer.ledger.directory import RunDirectory

USAGE = (
    "python -m trainer.explain RUN_DIR [--step=S] [--metric=loss] [--split=NAME] [--from_start] [--plot=FILE] [--json]"
)
ABOUT = """Measures a metric in one way after the other, from the mean that the log has for the last window of a
checkpoint to the evaluation of that checkpoint, so that the differences add up: what each update did to its own batch,
how far the weights moved, averaged weights, evaluation mode, the choice of examples, and data that was not trained on.
It trains the window again from an older checkpoint, and writes what it finds to RUN_DIR/explain; it changes nothing
else, and works beside a running trainer."""


def main(argv: Sequence[str]) -> int:
    """Explains the checkpoint that the command line names; returns the exit code."""
    values = new_flags()
    flags.DEFINE_integer(
        "step", None, "the step of the checkpoint; by default the latest", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("metric", "loss", "which metric of the train records", flag_values=values)
    flags.DEFINE_string(
        "split", None, "the split that it is compared with; by default validation, else the first", flag_values=values
    )
    flags.DEFINE_boolean(
        "from_start",
        False,
        "train from step 0 again to reach the window, where no older checkpoint is kept",
        flag_values=values,
    )
    flags.DEFINE_string("plot", None, "draw it as a waterfall: a .png, .svg or .pdf file", flag_values=values)
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    arguments = parse(argv, values, usage=USAGE, about=ABOUT, positional=1)
    if arguments is None:
        return EXIT_DONE
    # From here on a signal is noted and not lost, through the seconds that TensorFlow's import takes.
    with stop_requests() as request:
        from trainer.ledger.directory import RunDirectory, check_run_directory

        directory = RunDirectory(arguments[0])
        check_run_directory(directory.path, "run.json")
        if values["plot"].value is not None:
            from trainer.views.drawing import check_plot

            check_plot(values["plot"].value)
        explained = _explain(
            directory,
            step=values["step"].value,
            metric=str(values["metric"].value),
            split=values["split"].value,
            from_start=bool(values["from_start"].value),
            interrupted=lambda: bool(request),
        )
        if explained is None:
            print_line("interrupted: nothing was written", sys.stderr)
            return request.exit_code
        _keep(directory, explained)
        if values["json"].value:
            print_json(explained)
        else:
            from trainer.views.explanation import explanation_lines

            print_line("\n".join(explanation_lines(explained, directory.path)), sys.stdout)
        if values["plot"].value is not None:
            from trainer.views.waterfall import draw_waterfall

            draw_waterfall(explained, values["plot"].value)
    return EXIT_DONE


def _explain(
    directory: RunDirectory,
    *,
    step: int | None,
    metric: str,
    split: str | None,
    from_start: bool,
    interrupted: Callable[[], bool],
) -> dict[str, Any] | None:
    """The explanation; None when it was interrupted."""
    from trainer.storage.files import reading

    start_beside_a_trainer()
    from trainer.proof.explain import explain
    from trainer.proof.question import ask
    from trainer.proof.retrace import Interrupted

    with reading(directory.path), tempfile.TemporaryDirectory(prefix="trainer-explain-") as folder:
        question = ask(directory, folder, step=step, metric=metric, split=split, from_start=from_start)
        try:
            return explain(question, interrupted=interrupted, tell=_tell).to_json()
        except Interrupted:
            return None


def _keep(directory: RunDirectory, explained: Mapping[str, Any]) -> None:
    """Writes what was found into the run directory; where that cannot be, says so."""
    name = f"step-{explained['step']:010d}"
    if explained["metric"] != "loss":
        name += f"-{explained['metric'].replace(os.sep, '_')}"
    path = os.path.join(directory.explanations, f"{name}.json")
    try:
        directory.files.make_directory(directory.explanations)
        directory.files.replace(path, json.dumps(explained, indent=1, ensure_ascii=False).encode() + b"\n")
    except Unwritable as error:
        print_line(f"warning: it is not kept: {error}", sys.stderr)


def _tell(what: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print_line(f"{what} …", sys.stderr)


if __name__ == "__main__":
    run_command(main)
