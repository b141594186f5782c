"""Which saved checkpoints are evaluated, and when: those that are asked for, or each as it is committed."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from trainer.checkpoint.recovery import Damaged
from trainer.checkpoint.selection import choose
from trainer.errors import EXIT_DONE, ConfigError, Unusable
from trainer.ledger.directory import RunDirectory, check_folder
from trainer.ledger.journal import last_stop
from trainer.ledger.manifest import Manifest

ALL = "all"
_REST = 1.0
"""Seconds between two looks for a new checkpoint."""
_GLANCE = 0.1
"""Seconds of it between two looks whether to stop."""
_TRIES = 10
"""How often the newest, or the best, is taken again where retention was faster."""


class Gone(Exception):
    """A checkpoint was removed, or replaced, before its weights were read."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A checkpoint that is to be evaluated."""

    step: int
    which: str
    """The word that asks for it: `best`, `latest`, `before-plateau`, its step, or `all`."""


@dataclasses.dataclass(frozen=True)
class Skip:
    """A checkpoint that was asked for and not evaluated."""

    step: int
    reason: str
    failed: bool
    """Whether it was named, and is damaged; otherwise it was one of many, or retention removed it."""


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Goes to checkpoints and has them evaluated.

    Args:
      directory: the run directory, in which a trainer may be saving and deleting.
      evaluate: evaluates the checkpoint of a manifest; returns whether it came to the end. It may raise `Gone` or
        `Damaged`.
      skip: receives what was not evaluated.
      interrupted: whether to stop.
    """

    directory: RunDirectory
    evaluate: Callable[[Manifest], bool]
    skip: Callable[[Skip], None]
    interrupted: Callable[[], bool]

    def visit(self, targets: Iterable[Target]) -> bool:
        """Evaluates what was asked for, in this order; returns whether it came to the end."""
        return all(self._visit(target) for target in targets)

    def follow(self, tell: Callable[[str], None]) -> str | None:
        """Evaluates every checkpoint, oldest first, those that come too, until the run has ended for good.

        Args:
          tell: receives what the wait is for, where that is not plain.

        Returns:
          Why the run ended; None when this was interrupted.
        """
        seen: dict[int, object] = {}
        told: Any = None
        while not self.interrupted():
            # First: all that was saved before the end is there for the look that follows.
            stop = last_stop(self.directory)
            new = {}
            for step in reversed(self.directory.committed_steps()):
                mark = self._mark(step)
                if mark is not None and seen.get(step) != mark:
                    new[step] = mark
            for step, mark in new.items():
                if not self.visit([Target(step, ALL)]):
                    return None
                seen[step] = mark
            if stop and stop.get("exit_code") == EXIT_DONE:
                return str(stop.get("reason"))
            if stop and stop != told:
                tell(f"the run has stopped ({stop.get('reason')}); waiting for it to go on")
                told = stop
            if not new:
                rest(self.interrupted)
        return None

    def _visit(self, target: Target) -> bool:
        which = str(target.step) if target.which == ALL else target.which
        step, named = target.step, target.which != ALL
        for _ in range(_TRIES):
            if self.interrupted():
                return False
            try:
                manifest = choose(self.directory, which).manifest
            except Unusable as error:
                removed = which == str(step) and not self.directory.files.exists(self.directory.manifest(step))
                self.skip(self._removed(step) if removed else Skip(step, str(error), failed=named))
                return True
            assert manifest is not None  # It is of a run directory.
            step = manifest.step
            try:
                return self.evaluate(manifest)
            except Gone:
                continue
            except Damaged as error:
                self.skip(Skip(step, str(error), failed=named))
                return True
        self.skip(self._removed(step))
        return True

    def _removed(self, step: int) -> Skip:
        reason = f"checkpoint {step} of {self.directory.path} was removed before its weights were read"
        return Skip(step, reason, failed=False)

    def _mark(self, step: int) -> object:
        """What is another for another checkpoint of the same step; None where there is none any more."""
        try:
            status = os.stat(self.directory.manifest(step))
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def targets(directory: RunDirectory, which: str) -> tuple[list[Target], list[Skip]]:
    """The checkpoints that `which` means, oldest first; and those that had to be passed over to find them.

    Args:
      directory: the run directory.
      which: `best`, `latest`, `before-plateau`, a step, `all`, or several of these by comma.

    Raises:
      ConfigError: it means nothing.
      Unusable: there is no such checkpoint, or it cannot be used.
    """
    steps = directory.committed_steps()
    if not steps:
        raise Unusable(f"{directory.path} has no checkpoint; train first, wait for one with --follow, or name another")
    found: dict[int, Target] = {}
    passed: dict[int, Skip] = {}
    words = [word.strip() for word in which.split(",")]
    for word in words:
        if word == ALL:
            continue
        try:
            selected = choose(directory, word)
        except ConfigError:
            raise ConfigError(
                f"which={which}: {word!r} names no checkpoint; expected best, latest, before-plateau, all or a step "
                "such as 500, several by comma"
            ) from None
        assert selected.manifest is not None  # It is of a run directory.
        step = selected.manifest.step
        found.setdefault(step, Target(step, str(step) if word[:1].isdigit() else word))
        for newer, reason in selected.skipped:
            why = f"checkpoint {newer} of {directory.path} cannot be used: {reason}"
            passed[newer] = Skip(newer, why, failed=False)
    if ALL in words:
        found = {step: Target(step, ALL) for step in steps} | found
    return [found[step] for step in sorted(found)], [passed[step] for step in sorted(passed) if step not in found]


def wait_for_checkpoint(directory: RunDirectory, interrupted: Callable[[], bool], tell: Callable[[str], None]) -> bool:
    """Waits until there is a checkpoint; returns False when it was interrupted.

    Raises:
      Unusable: there will never be one: the run has ended, or a file stands where its directory should be.
    """
    told = False
    while not directory.committed_steps():
        if interrupted():
            return False
        if os.path.exists(directory.path):
            check_folder(directory.path)
        stop = last_stop(directory)
        if stop and stop.get("exit_code") == EXIT_DONE and not directory.committed_steps():
            raise Unusable(f"{directory.path} has no checkpoint, and its run has ended ({stop.get('reason')})")
        if not told:
            tell(f"waiting for the first checkpoint in {directory.path}")
            told = True
        rest(interrupted)
    return True


def rest(interrupted: Callable[[], bool]) -> None:
    """Waits a moment before the next look."""
    until = time.monotonic() + _REST
    while time.monotonic() < until and not interrupted():
        time.sleep(_GLANCE)
