"""`python -m trainer.export RUN_DIR --to=DIR`: a checkpoint as a SavedModel, or its weights alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, ConfigError
from trainer.process.quiet import only_errors, quiet_start
from trainer.process.signals import StopRequest, stop_requests
from trainer.views.formatting import number, print_json, print_line

if TYPE_CHECKING:
    from trainer.decide.measured import MeasuredMetric
    from trainer.ledger.directory import RunDirectory
    from trainer.trained.choice import Choice
    from trainer.trained.export import Export
    from trainer.trained.run import TrainedRun

USAGE = (
    "python -m trainer.export RUN_DIR --to=DIR [--which=best|latest|STEP] [--from=log|evaluations] [--monitor=METRIC] "
    "[--mode=auto|min|max] [--weights_only] [--overwrite] [--json]"
)
ABOUT = """Exports a checkpoint of a run to the folder DIR: a SavedModel with what the experiment's predict() answers as
its signature serving_default, or only the weights, and beside them where they come from. The folder appears at once
and whole. It only reads the run, also beside a running trainer."""


class _Stopped(Exception):
    """A signal came before the export was in its place."""


def main(argv: Sequence[str]) -> int:
    """Exports what the command line names; returns the exit code."""
    values = new_flags()
    flags.DEFINE_string("to", None, "the folder to make", flag_values=values)
    flags.DEFINE_string("which", "best", "which checkpoint: best, latest, before-plateau or a step", flag_values=values)
    flags.DEFINE_enum(
        "from",
        "log",
        ["log", "evaluations"],
        "what says which is best: the run's own log, or what trainer.evaluate measured",
        flag_values=values,
    )
    flags.DEFINE_string(
        "monitor",
        None,
        "the metric of the evaluations that says which is best, such as test/loss; by default the run's own, or the "
        "loss of the only split",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "mode",
        "auto",
        ["auto", "min", "max"],
        "whether that metric is to be small or large; auto: accuracy and its like large, everything else small",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "weights_only", False, "no SavedModel, but a TensorFlow checkpoint of the model", flag_values=values
    )
    flags.DEFINE_boolean("overwrite", False, "replace an export that is there", flag_values=values)
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    arguments = parse(argv, values, usage=USAGE, about=ABOUT, positional=1)
    if arguments is None:
        return EXIT_DONE
    given: dict[str, Any] = {name: values[name].value for name in values}

    # From here on a signal is noted and not lost, through the seconds that TensorFlow's import takes.
    with stop_requests() as request:
        try:
            choice, export = _export(arguments[0], given, request)
        except _Stopped:
            print_line("interrupted: nothing is exported; run the same command again", sys.stderr)
            return request.exit_code
    if given["json"]:
        told = {name: known for name, known in export.to_json().items() if name in _TOLD}
        print_json({"to": given["to"], "run_dir": arguments[0], **told})
    else:
        print_line("\n".join(_lines(choice, export, arguments[0], given["to"])), sys.stdout)
    return EXIT_DONE


_TOLD = ("step", "kind", "weights", "metric", "inputs", "outputs")
"""What `--json` prints of `export.json`."""


def _export(run_dir: str, given: dict[str, Any], request: StopRequest) -> tuple[Choice, Export]:
    """Exports; what goes wrong without TensorFlow is known before it is imported."""
    # NumPy takes a while, and help does not need it.
    from trainer.ledger.directory import RunDirectory, check_run_directory
    from trainer.storage.staging import staged
    from trainer.trained.choice import while_it_changes
    from trainer.trained.destination import check_destination, is_export

    if not run_dir:
        raise ConfigError(f"got '' for RUN_DIR; expected a run directory, such as runs/digits: {USAGE}")
    directory = RunDirectory(run_dir)
    choose = _chooser(directory, given)
    check_destination(given["to"] or "", directory, overwrite=given["overwrite"])
    check_run_directory(directory.path, "run.json")
    while_it_changes(directory, choose)
    with quiet_start():
        import tensorflow as tf

        tf.config.list_physical_devices()
        only_errors()
    from trainer.trained.export import write_export

    _go_on(request)
    # What the experiment prints is no part of what is asked for.
    with contextlib.redirect_stdout(sys.stderr):
        choice, manifest, trained = _load(directory, choose)
        _go_on(request)
        with staged(given["to"], lambda folder: given["overwrite"] and is_export(folder)) as folder:
            export = write_export(
                folder,
                trained,
                manifest,
                step=choice.manifest.step,
                metric=choice.metric,
                weights_only=given["weights_only"],
            )
            _go_on(request)
    for step, reason in choice.selected.skipped:
        print_line(f"warning: checkpoint {step} was passed over: {reason}", sys.stderr)
    for note in export.notes:
        print_line(f"note: {note}", sys.stderr)
    return choice, export


def _chooser(directory: RunDirectory, given: dict[str, Any]) -> Callable[[], Choice]:
    """What chooses the checkpoint, as the flags say.

    Raises:
      ConfigError: they contradict each other.
    """
    from trainer.trained.choice import choose_by_evaluations, choose_by_log

    which, monitor, mode = given["which"], given["monitor"], given["mode"]
    if given["from"] == "evaluations":
        if which != "best":
            raise ConfigError(
                f"got which={which} with --from=evaluations, which says what is best; leave out one of them"
            )
        return lambda: choose_by_evaluations(directory, monitor, mode)
    if monitor is not None or mode != "auto":
        flag = f"monitor={monitor}" if monitor is not None else f"mode={mode}"
        raise ConfigError(
            f"got {flag} without --from=evaluations; the log's best is by the metric that the run monitored"
        )
    return lambda: choose_by_log(directory, which)


def _load(directory: RunDirectory, choose: Callable[[], Choice]) -> tuple[Choice, bytes, TrainedRun]:
    """The chosen checkpoint: its manifest as it is written, and the run with its weights."""
    from trainer.storage.files import reading
    from trainer.trained.choice import while_it_changes
    from trainer.trained.run import open_run

    # The model takes a while to make: it is there before a checkpoint is chosen that may soon be gone.
    opened = open_run(directory, while_it_changes(directory, choose).manifest)

    def load() -> tuple[Choice, bytes, TrainedRun]:
        choice = choose()
        with reading(directory.path):
            manifest = directory.files.read(directory.manifest(choice.manifest.step))
        trained = opened.at(choice.manifest)
        trained.load(choice.manifest.step)
        return choice, manifest, trained

    return while_it_changes(directory, load)


def _go_on(request: StopRequest) -> None:
    if request:
        raise _Stopped


def _lines(choice: Choice, export: Export, run_dir: str, to: str) -> list[str]:
    """What was exported, for people."""
    described = export.to_json()
    tensors = [
        f"{label:<4} {name}  {spec['dtype']} {_shape(spec['shape'])}"
        for label, key in (("in", "inputs"), ("out", "outputs"))
        for name, spec in described[key].items()
    ]
    what = "a TensorFlow checkpoint" if export.kind == "weights" else "a SavedModel"
    weights = "averaged (ema)" if export.weights == "ema" else "raw"
    return [
        f"step {export.step} of {run_dir}, {choice.why}{_measured(choice.metric)}",
        *tensors,
        f"exported to {to}: {what} with the {weights} weights",
    ]


def _shape(sizes: list[int | None] | None) -> str:
    return "of any shape" if sizes is None else f"[{', '.join('any' if size is None else str(size) for size in sizes)}]"


def _measured(metric: MeasuredMetric | None) -> str:
    """What a metric says of the checkpoint."""
    if metric is None:
        return ""
    far = f", at step {metric.step}" if metric.relation == "earlier" else ""
    return f": {metric.name} {number(metric.value)} ({metric.relation}{far})"


if __name__ == "__main__":
    run_command(main)
