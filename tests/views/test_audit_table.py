"""The table of an audit: a line a check, the verdict last, fitted to a terminal."""

from __future__ import annotations

from trainer.views.audit_table import CheckRow, audit_text

LONG = "the window (7, 14] is due, and record 3, the window (7, 15], is there"
ROWS = [
    CheckRow("log", True, "20 records"),
    CheckRow("grids", False, LONG, 2),
    CheckRow("learning_rate", None, "there is no run.json"),
]


def test_each_check_has_a_line_and_the_verdict_is_last() -> None:
    lines = audit_text(ROWS, "runs/a").plain.splitlines()
    assert lines == [
        "check                       detail",
        "log            holds        20 records",
        f"grids          FAILED       {LONG} (and 2 more: --json lists them)",
        "learning_rate  not checked  there is no run.json",
        "",
        f"FAILED  runs/a: 1 of 3 checks, 1 not checked; the first is grids: {LONG}",
    ]


def test_a_run_of_which_everything_holds() -> None:
    assert audit_text(ROWS[:1], "runs/a").plain.splitlines()[-1] == "holds  runs/a: 1 of 1 checks"


def test_a_detail_is_broken_where_the_terminal_is_narrow() -> None:
    text = audit_text(ROWS, "runs/a", width=60)
    table = text.plain.splitlines()[:-1]
    assert max(map(len, table)) <= 60
    assert "record 3" in text.plain


def test_what_failed_is_seen() -> None:
    styles = {span.style for span in audit_text(ROWS, "runs/a").spans}
    assert "bold red" in styles
