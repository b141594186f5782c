"""`python -m trainer.doctor --experiment=NAME`: what would keep an experiment from resuming exactly, told in time."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_PREEMPTED
from trainer.process.quiet import only_errors, quiet_start
from trainer.proof.options import DEFAULT_STEPS, SET_HERE
from trainer.run.catalog import check_name, find_experiment
from trainer.run.config import make_config
from trainer.run.experiment import make_experiment
from trainer.run.flags import define_flags, given_options, given_settings
from trainer.views.formatting import print_json

if TYPE_CHECKING:
    from trainer.proof.doctor import Diagnosis

USAGE = "python -m trainer.doctor --experiment=NAME [--set NAME=VALUE] [--flags] [--steps=N] [--json]"
ABOUT = """Examines an experiment in a temporary directory: looks for state that no checkpoint holds, for randomness
that does not follow from the seed, for Python in the step; proves with short runs that it resumes exactly; measures
what compiling it brings. Says what to change, and exits with 3 where there is something. It takes the trainer's flags,
but for those of the runs that it makes."""


def main(argv: Sequence[str]) -> int:
    """Examines the experiment that the command line names; returns the exit code."""
    values = new_flags()
    define_flags(values, leave_out=SET_HERE)
    flags.DEFINE_integer("steps", DEFAULT_STEPS, "how many steps the runs take", lower_bound=2, flag_values=values)
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    if parse(argv, values, usage=USAGE, about=ABOUT) is None:
        return EXIT_DONE
    # What needs no TensorFlow is checked before it is imported: a typo costs no wait.
    name = str(values["experiment"].value)
    settings = given_settings(values)
    options = given_options(values)
    make_config(options, {})
    check_name(name)
    try:
        with _terminable():
            diagnosis = _examine(name, settings, steps=int(values["steps"].value or 0), options=options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    for line in diagnosis.warnings:
        print(f"warning: {line}", file=sys.stderr)
    if values["json"].value:
        print_json(diagnosis.to_json())
    else:
        print("\n".join(_lines(diagnosis)))
    return EXIT_FINDINGS if diagnosis.findings else EXIT_DONE


def _examine(name: str, settings: dict[str, str], *, steps: int, options: dict[str, Any]) -> Diagnosis:
    with quiet_start():
        import tensorflow as tf

        tf.config.list_physical_devices()
        only_errors()
    from trainer.proof.doctor import examine

    kind = find_experiment(name)
    make_experiment(kind, settings)
    once = _Once(sys.stderr)
    # What the runs say they say many times; and stdout is for the diagnosis alone.
    with (
        contextlib.redirect_stdout(once),
        contextlib.redirect_stderr(once),
        tempfile.TemporaryDirectory(prefix="trainer-doctor-") as folder,
    ):
        return examine(lambda: make_experiment(kind, settings), steps=steps, options=options, folder=folder)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Lets a SIGTERM end the process by way of everything that tidies up."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT_PREEMPTED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Once(io.TextIOBase):
    """Passes each line on the first time that it comes."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._begun = ""
        self._passed: set[str] = set()

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line not in self._passed:
                self._passed.add(line)
                print(line, file=self._to)
        return len(text)


def _lines(diagnosis: Diagnosis) -> list[str]:
    """The diagnosis for people."""
    lines = []
    for finding in diagnosis.findings:
        head = f"{finding.kind:<13} "
        lines += textwrap.wrap(finding.what, 120, initial_indent=head, subsequent_indent=" " * 14)
        lines += textwrap.wrap(f"→ {finding.fix}", 120, initial_indent=" " * 14, subsequent_indent=" " * 16)
    if not lines:
        lines = ["healthy       it resumes exactly, and nothing was found that speaks against it"]
    modes = {mode: facts for mode, facts in diagnosis.jit.items() if isinstance(facts, dict)}
    for mode, facts in modes.items():
        told = facts.get("error") or f"{facts['ms_per_step']:g} ms a step"
        lines += textwrap.wrap(told, 120, initial_indent=f"{f'jit={mode}':<13} ", subsequent_indent=" " * 14)
    if modes:
        same = {True: "the modes give the same bits", False: "the modes differ in the last bits"}
        bits = same.get(diagnosis.jit["same_bits"], "there is nothing to compare")
        lines.append(f"recommended   --jit={diagnosis.jit['recommended']}  ({bits})")
    return lines


if __name__ == "__main__":
    run_command(main)
