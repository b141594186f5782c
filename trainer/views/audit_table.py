"""What came of an audit, for people: a line for each check, and last the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TextIO

from rich.text import Text

from trainer.views.columns import Column, print_table, table

HOLDS, FAILED, NOT_CHECKED = "holds", "FAILED", "not checked"
_STYLES: Final = {HOLDS: "green", FAILED: "bold red"}
_NARROWEST: Final = 40
"""Where the terminal is narrower than this, lines are broken by itself."""


class CheckRow(NamedTuple):
    """One check, and what came of it."""

    name: str
    ok: bool | None
    """None where it could not be made."""
    detail: str
    others: int = 0
    """Failures beside the one that the detail tells."""


def print_audit(rows: Sequence[CheckRow], run_dir: str, stream: TextIO) -> None:
    """Prints the checks for people: fitted to the width of a terminal, and each on one line where `stream` is none."""
    print_table(lambda width, rule: audit_text(rows, run_dir, width=width, rule=rule), stream, narrowest=_NARROWEST)


def audit_text(rows: Sequence[CheckRow], run_dir: str, *, width: int | None = None, rule: str = "─") -> Text:
    """The checks for people.

    Args:
      rows: the checks in their order.
      run_dir: the run's folder, for the verdict.
      width: the room in characters, into which the details are broken; None breaks none.
      rule: the character that lines are drawn with.
    """
    columns = [
        Column("check", [[row.name] for row in rows], left=True),
        Column("", [_verdict(row.ok).split() for row in rows], left=True),
        Column("detail", [_detail(row).split() for row in rows], left=True, wraps=True),
    ]
    lines = table(columns, width=width, rule=rule, styles=_STYLES, damaged={})
    return Text("\n", end="").join([*lines, Text(), _summary(rows, run_dir), Text()])


def _verdict(ok: bool | None) -> str:
    return NOT_CHECKED if ok is None else HOLDS if ok else FAILED


def _detail(row: CheckRow) -> str:
    return row.detail + (f" (and {row.others} more: --json lists them)" if row.others else "")


def _summary(rows: Sequence[CheckRow], run_dir: str) -> Text:
    failed = [row for row in rows if row.ok is False]
    skipped = sum(row.ok is None for row in rows)
    beside = f", {skipped} not checked" if skipped else ""
    if failed:
        first = f"; the first is {failed[0].name}: {failed[0].detail}"
        return Text.assemble(
            (FAILED, _STYLES[FAILED]), f"  {run_dir}: {len(failed)} of {len(rows)} checks{beside}{first}"
        )
    return Text.assemble((HOLDS, _STYLES[HOLDS]), f"  {run_dir}: {len(rows) - skipped} of {len(rows)} checks{beside}")
