"""What a finding is: a fault of an experiment, and how to mend it."""

from __future__ import annotations

import dataclasses

KINDS = (
    "build",
    "train",
    "unsaved",
    "data",
    "random",
    "retracing",
    "python_state",
    "evaluation",
    "host",
    "resume",
)
"""The kinds of findings, in the order in which they are told."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault: of which kind, what it is and where, and what to change."""

    kind: str
    what: str
    fix: str

    def to_json(self) -> dict[str, str]:
        """The finding as scripts see it."""
        return dataclasses.asdict(self)
