"""The checks of an audit in their order, and what comes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import ConfigError, TrainerError, Unusable
from trainer.ledger.directory import RunDirectory, check_folder, no_run_directory
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import facts_in_force
from trainer.proof.audit.contents import files, read_contents, tensors
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, Tell, read_evidence
from trainer.proof.audit.grids import decisions, grids
from trainer.proof.audit.identity import identity
from trainer.proof.audit.journal import journal
from trainer.proof.audit.log import log, windows
from trainer.proof.audit.manifests import manifests
from trainer.proof.audit.places import evaluations, orphans, tensorboard
from trainer.proof.audit.rates import learning_rate
from trainer.trained.run import set_up_machine

Check = Callable[[Evidence], Findings]

MOST_FAILURES = 20
"""Failures that are told of one check: what is wrong with every record is wrong with the first ones too."""
_GARBLED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What content that only someone else's hand can have made raises where it is read."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one check."""

    name: str
    ok: bool | None
    """None where it could not be made."""
    detail: str
    """What it has looked at; of one that failed the first failure; of one that was not made, why."""
    failures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What scripts are told of it."""
        return {**dataclasses.asdict(self), "failures": list(self.failures)}


@dataclasses.dataclass(frozen=True)
class Audit:
    """What came of all checks, in their order."""

    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that does not hold."""
        return all(outcome.ok is not False for outcome in self.outcomes)

    @property
    def first(self) -> Outcome | None:
        """The first check that found something."""
        return next((outcome for outcome in self.outcomes if outcome.ok is False), None)

    def to_json(self) -> dict[str, Any]:
        """The one object that scripts see."""
        return {"ok": self.ok, "checks": [outcome.to_json() for outcome in self.outcomes]}


def audit(run_dir: str, tell: Tell = lambda line: None, *, more: Sequence[tuple[str, Check]] = ()) -> Audit:
    """Checks a run, which a trainer may be writing at the same time, and writes nothing.

    What fails while the run is written is looked at once more before it is told: between two looks it may have moved.

    Args:
      run_dir: its folder.
      tell: receives what is being done; what it raises ends the audit.
      more: checks to be made after the others, by name.

    Raises:
      Unusable: it is not there, is no run directory, or cannot be read.
    """
    directory = RunDirectory(run_dir)
    check_folder(run_dir)
    try:
        evidence = read_evidence(directory)
        _check_run(evidence)
        _set_up(evidence)
        contents = read_contents(evidence, tell)
        checks: list[tuple[str, Check]] = [
            ("identity", identity),
            ("files", lambda seen: files(seen, contents)),
            ("tensors", lambda seen: tensors(seen, contents)),
            ("log", log),
            ("windows", windows),
            ("grids", grids),
            ("decisions", decisions),
            ("manifests", manifests),
            ("learning_rate", learning_rate),
            ("journal", journal),
            ("tensorboard", tensorboard),
            ("orphans", orphans),
            ("evaluations", evaluations),
            *more,
        ]
        outcomes = []
        for name, check in checks:
            tell(f"checking {name}")
            outcomes.append(_made(name, check, evidence))
        failed = [index for index, outcome in enumerate(outcomes) if outcome.ok is False]
        if failed and _moved(evidence, again := read_evidence(directory)):
            if any(checks[index][0] in ("files", "tensors") for index in failed):
                contents = read_contents(again, tell)
            for index in failed:
                name, check = checks[index]
                tell(f"checking {name} again")
                outcomes[index] = _made(name, check, again)
    except OSError as error:
        raise Unusable(f"{run_dir} cannot be read ({error}); mend it, or its permissions") from error
    return Audit(tuple(outcomes))


def _check_run(evidence: Evidence) -> None:
    directory = evidence.directory
    ours = (directory.run_info, directory.metrics, directory.journal)
    if not (evidence.manifests or evidence.damaged or any(map(directory.files.exists, ours))):
        raise no_run_directory(directory.path, "no run.json, no metric log and no checkpoint")


def _set_up(evidence: Evidence) -> None:
    """TensorFlow as it was for the run, before its first operation: what is computed again is to have the same bits."""
    info = evidence.info
    if info is None:
        return
    try:
        known: RunInfo = facts_in_force(info, evidence.segments)
        set_up_machine(evidence.directory, known)
    except (ConfigError, NotChecked, ValueError):
        return  # It has begun already, as in a process that trains; nothing that is read depends on it.


def _made(name: str, check: Check, evidence: Evidence) -> Outcome:
    """Makes one check, whatever it meets."""
    failures: list[str] = []
    detail = ""
    try:
        found = check(evidence)
        while len(failures) < MOST_FAILURES:
            failures.append(next(found))
    except StopIteration as end:
        detail = end.value
    except NotChecked as reason:
        if not failures:
            return Outcome(name, None, str(reason))
    except TrainerError as error:
        failures.append(str(error))
    except _GARBLED as error:
        failures.append(f"what it looks at is garbled: {type(error).__name__}: {error}")
    if failures:
        return Outcome(name, False, failures[0], tuple(failures))
    return Outcome(name, True, detail)


def _moved(evidence: Evidence, now: Evidence) -> bool:
    """Whether the run directory is another than it was when it was read, or may be while it is looked at."""
    return (
        evidence.alive
        or now.alive
        or (len(now.journal), len(now.lines)) != (len(evidence.journal), len(evidence.lines))
        or {step: found.log for step, found in now.manifests.items()}
        != {step: found.log for step, found in evidence.manifests.items()}
    )
