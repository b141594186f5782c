"""`python -m trainer.evaluate RUN_DIR`: evaluates saved checkpoints, later or beside the trainer that saves them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from trainer.command import new_flags, parse, run_command
from trainer.errors import EXIT_DONE, ConfigError, Unusable, Unwritable
from trainer.process.quiet import start_beside_a_trainer
from trainer.process.signals import stop_requests
from trainer.views.formatting import print_json, print_line

if TYPE_CHECKING:
    from trainer.ledger.directory import RunDirectory
    from trainer.ledger.evaluations import Evaluation, Subject
    from trainer.trained.rounds import Rounds, Skip

USAGE = "python -m trainer.evaluate RUN_DIR [--which=best|latest|STEP|all] [--split=NAME] [--follow] [--json]"
ABOUT = """Evaluates checkpoints of a run, each of them once on each split, and writes what it finds to
RUN_DIR/evaluations.jsonl, where trainer.status reads it. The splits are those of the experiment's eval_data() and
test_data(). It changes nothing else, and works beside a running trainer."""


def main(argv: Sequence[str]) -> int:
    """Evaluates what the command line names; returns the exit code."""
    values = new_flags()
    flags.DEFINE_string(
        "which",
        None,
        "which checkpoints: best, latest, before-plateau, a step or all, several by comma; by default the latest, "
        "with --follow all",
        flag_values=values,
    )
    flags.DEFINE_string("split", None, "on which splits, several by comma; by default all", flag_values=values)
    flags.DEFINE_boolean(
        "follow",
        False,
        "evaluate each checkpoint as it is committed, first those that are there, until the run has ended",
        flag_values=values,
    )
    flags.DEFINE_boolean("json", False, "print one JSON object, for scripts", flag_values=values)
    arguments = parse(argv, values, usage=USAGE, about=ABOUT, positional=1)
    if arguments is None:
        return EXIT_DONE
    # From here on a signal is noted and not lost, through the seconds that TensorFlow's import takes.
    with stop_requests() as request:
        # These take a while, and help does not need them.
        from trainer.ledger.directory import RunDirectory
        from trainer.storage.files import reading

        which, splits = values["which"].value, _names(values["split"].value)
        if values["follow"].value and which not in (None, "all"):
            raise ConfigError(
                f"got which={which} with --follow, which takes all as they come; leave out one of the two"
            )
        directory = RunDirectory(arguments[0])
        report = _Report(directory, as_json=bool(values["json"].value))
        with reading(directory.path):
            if values["follow"].value:
                end = _follow(directory, splits, report, lambda: bool(request))
            else:
                end = _visit(directory, "latest" if which is None else which, splits, report, lambda: bool(request))
    lost: Unwritable | None = None
    try:
        report.close()
    except Unwritable as error:
        # How it ended matters more to whoever calls.
        lost = error
    if end is None:
        print_line("interrupted: what is written stays; run the same command again to go on", sys.stderr)
        return request.exit_code
    report.check()
    if lost:
        raise lost
    return EXIT_DONE


def _names(text: str | None) -> list[str]:
    """The names of splits in a list by comma; none for all of them."""
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"split={text} lacks a name; expected one such as test, or several by comma")
    return names


def _visit(
    directory: RunDirectory, which: str, splits: Sequence[str], report: _Report, interrupted: Callable[[], bool]
) -> str | None:
    """Evaluates the checkpoints that `which` means; returns how it ended, None when it was interrupted."""
    from trainer.ledger.directory import check_run_directory
    from trainer.trained.rounds import targets

    check_run_directory(directory.path, "run.json")
    found, passed = targets(directory, which)
    report.alone = len(found) == 1 and not passed
    for skip in passed:
        report.skip(skip)
    with _rounds(directory, splits, report, interrupted) as rounds:
        return "done" if rounds.visit(found) else None


def _follow(
    directory: RunDirectory, splits: Sequence[str], report: _Report, interrupted: Callable[[], bool]
) -> str | None:
    """Evaluates every checkpoint until the run has ended; returns why it did, None when this was interrupted."""
    from trainer.trained.rounds import wait_for_checkpoint

    if not wait_for_checkpoint(directory, interrupted, report.message):
        return None
    with _rounds(directory, splits, report, interrupted) as rounds:
        end = rounds.follow(report.message)
    if end is not None:
        report.message(f"the run has ended ({end}), and every checkpoint that is there is evaluated")
    return end


@contextlib.contextmanager
def _rounds(
    directory: RunDirectory, splits: Sequence[str], report: _Report, interrupted: Callable[[], bool]
) -> Iterator[Rounds]:
    """Whoever goes to the checkpoints, alone in this run directory with what it writes."""
    from trainer.process.lock import locked

    # Not the folder: the trainer holds that.
    with locked(f"{directory.evaluations}.lock", folder=False) as lock:
        start_beside_a_trainer()
        from trainer.trained.later import LaterEvaluation
        from trainer.trained.rounds import Rounds

        later = LaterEvaluation(
            directory, splits, guard=lock.check, interrupted=interrupted, tell=report.evaluation, warn=report.warn
        )
        yield Rounds(directory, later.evaluate, report.skip, interrupted)


class _Report:
    """Tells what is done, as it is done, and at the end what came of it.

    Args:
      directory: the run directory.
      as_json: whether stdout is for one object at the end; everything else then goes to stderr.

    Attributes:
      alone: whether one checkpoint was asked for, so that the error at the end says all that there is to say of it.
    """

    def __init__(self, directory: RunDirectory, *, as_json: bool) -> None:
        from trainer.views.record_line import RecordLines

        self.alone = False
        self._directory = directory
        self._json = as_json
        self._lines = RecordLines()
        self._made = 0
        self._evaluations: dict[Subject, Evaluation] = {}
        self._skips: list[Skip] = []

    def evaluation(self, evaluation: Evaluation, made: bool) -> None:
        """An evaluation that is written, by this process or before."""
        if evaluation.subject in self._evaluations:
            return
        self._evaluations[evaluation.subject] = evaluation
        self._made += made
        self.message(self._lines.line(evaluation.record) + ("" if made else "  already evaluated"))

    def skip(self, skip: Skip) -> None:
        """A checkpoint that is not evaluated."""
        self._skips.append(skip)
        if not self.alone:
            self.warn(f"left out: {skip.reason}")

    def warn(self, line: str) -> None:
        """What the user has to know."""
        print_line(f"warning: {line}", sys.stderr)

    def message(self, line: str) -> None:
        """What the user may want to know."""
        print_line(line, sys.stderr if self._json else sys.stdout)

    def close(self) -> None:
        """What came of it all.

        Raises:
          Unwritable: a script asked for it, and stdout cannot be written.
        """
        if self._json:
            value = {
                "run_dir": self._directory.path,
                "evaluations": [evaluation.to_json() for evaluation in self._evaluations.values()],
                "skipped": [{"step": skip.step, "reason": skip.reason} for skip in self._skips],
            }
            print_json(value)
        elif self._evaluations:
            there = len(self._evaluations) - self._made
            self.message(f"{self._made} made, {there} already there: {self._directory.evaluations}")

    def check(self) -> None:
        """Raises where nothing was evaluated, or something that was asked for by name is damaged.

        Raises:
          Unusable: it is so.
        """
        failed = [skip for skip in self._skips if skip.failed]
        if not failed and (self._evaluations or not self._skips):
            return
        if self.alone:
            raise Unusable(self._skips[0].reason)
        steps = [str(skip.step) for skip in failed or self._skips]
        raise Unusable(
            f"{'these checkpoints' if len(steps) > 1 else 'this checkpoint'} of {self._directory.path} could not be "
            f"evaluated, as said above: {', '.join(steps)}; name others"
        )


if __name__ == "__main__":
    run_command(main)
