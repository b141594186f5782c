"""What the documents say of names, numbers and formats is what the code does."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re

import pytest

from trainer import errors
from trainer.ledger.manifest import LogPosition, Manifest
from trainer.ledger.run_info import RunInfo
from trainer.run.config import Config
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import RECONCILE_MODES, Schedule

ROOT = pathlib.Path(__file__).parents[1]
CONTRACT = ROOT / "docs" / "contract.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_the_table_of_flags_is_the_configuration() -> None:
    rows = ["| flag | default | meaning | on resume |", "| --- | --- | --- | --- |"]
    for item in dataclasses.fields(Config):
        default = "" if item.default is None else f"`{str(item.default).lower()}`"
        meaning = item.metadata["help"]
        if item.metadata["choices"]:
            meaning += f" ({', '.join(f'`{choice}`' for choice in item.metadata['choices'])})"
        rows.append(f"| `{item.name}` | {default} | {meaning} | {item.metadata['on_resume']} |")
    assert table(section("Flags")) == rows


def test_the_table_of_exit_codes_has_each_that_the_trainer_knows_and_no_other() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    documented = [int(cells[0]) for cells in rows_of(section("Exit codes"))]
    assert sorted(documented) == sorted(codes)


def test_the_worked_example_is_what_the_schedule_does() -> None:
    rows = ["| mode | train records | checkpoints |", "| --- | --- | --- |"]
    for mode in RECONCILE_MODES:
        schedule = Schedule(train_for="20steps", log_every=7, save_every=5, reconcile=mode)
        now, start, pending = Progress(), 0, frozenset[str]()
        windows, checkpoints = [], []
        while not schedule.finished(now):
            before, now = now, schedule.progress(now, now.step + 1)
            due = schedule.due(before, now, pending=pending)
            pending = due.pending
            if due.log:
                windows.append(f"({start}, {now.step}]" + (f" `{due.closed_by}`" if due.closed_by else ""))
                start = now.step
            if due.save:
                checkpoints.append(f"{now.step} ({now.step - start})")
        rows.append(f"| `{mode}` | {', '.join(windows)} | {' · '.join(checkpoints)} |")
    assert "\n".join(rows) in section("Reconciliation")


def test_the_table_of_the_manifest_has_each_key_and_no_other() -> None:
    manifest = Manifest(0, 0, None, None, (), 1, None, (), LogPosition(0, 0, ""), None, {}, {}, {}, {})
    documented = [name for cells in rows_of(section("The manifest")) for name in names(cells[0])]
    assert sorted(documented) == sorted(json.loads(manifest.encode()))


def test_every_key_of_run_json_is_named() -> None:
    documented = names(section("The run directory").partition("`run.json`:")[2])
    assert {item.name for item in dataclasses.fields(RunInfo)} <= set(documented)


def test_the_table_of_the_journal_has_each_event_that_is_written_and_no_other() -> None:
    sources = [path.read_text() for path in (ROOT / "trainer").glob("**/*.py")]
    written = {event for source in sources for event in re.findall(r'journal\.write\(\s*"(\w+)"', source)}
    assert len(written) >= 8, "the pattern finds too little"
    assert {names(cells[0])[0] for cells in rows_of(section("The journal"))} == written


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_the_documents_name_in_the_package_exists(document: pathlib.Path) -> None:
    missing = []
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        paths = [path.rstrip("./") for path in re.findall(r"(?<![\w./-])trainer/[\w./-]*", line)]
        paths += [f"trainer/{name}.py" for name in re.findall(r"python -m trainer\.(\w+)", line)]
        missing += [f"line {number}: {path}" for path in paths if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_a_document_lead_to_its_headings(document: pathlib.Path) -> None:
    text = document.read_text()
    headings = {heading.strip().lower().replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.*)$", text)}
    assert {target for target in re.findall(r"\]\(#([^)]*)\)", text) if target not in headings} == set()


def section(title: str) -> str:
    """The text of the contract under the heading `title`."""
    found = re.search(rf"(?ms)^## {re.escape(title)}\n(.*?)(?=^## |\Z)", CONTRACT.read_text())
    assert found, f"{CONTRACT} has no section {title!r}"
    return found[1]


def table(text: str) -> list[str]:
    """The lines of the first table in `text`."""
    found = re.search(r"(?m)^\|.*\n(?:\|.*\n?)*", text)
    assert found, "there is no table"
    return found[0].splitlines()


def rows_of(text: str) -> list[list[str]]:
    """The cells of the first table in `text`, without its headings."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table(text)[2:]]


def names(text: str) -> list[str]:
    """What stands in `code` in `text`."""
    return re.findall(r"`(\w+)`", text)
