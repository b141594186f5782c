"""What the tests of the report share: run directories as trainers leave them, and pages as readers see them."""

from __future__ import annotations

import datetime
import html.parser
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import LogPosition, Manifest, StateFile
from trainer.ledger.record import Record

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


class Run:
    """A run directory in the making, whose clock stands still until it is moved."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.directory = RunDirectory(path)
        self.directory.files.make_directory(self.directory.path)
        self.log = MetricLog(path)
        self.seconds = 0.0
        self.restart()

    def restart(self) -> None:
        """The next line of the journal begins an attempt."""
        self._journal = Journal(self.directory, lambda: START + datetime.timedelta(seconds=self.seconds))

    def note(self, event: str, *, after: float = 0.0, **details: Any) -> None:
        self.seconds += after
        self._journal.write(event, **details)

    def train(self, step: int, loss: float | None, *, window: int = 10, **fields: Any) -> None:
        fields = {"learning_rate": 0.01, **fields}
        self.log.append([Record("train", step, step * 4, None, {"loss": loss}, window=(step - window, step), **fields)])

    def evaluate(self, step: int, loss: float | None, split: str = "validation") -> None:
        self.log.append([Record("eval", step, step * 4, None, {"loss": loss}, split=split, weights="raw")])

    def save(self, step: int, *, best: int | None = None, stall: float = 0.002) -> None:
        files = self.directory.files
        files.make_directory(self.directory.checkpoint(step))
        files.write(f"{self.directory.checkpoint(step)}/state.index", b"tensors")
        ranking = {"validation/loss": [{"value": 0.1, "step": best, "relation": "exact"}]} if best is not None else {}
        manifest = Manifest(
            step=step,
            examples=step * 4,
            epoch=None,
            run=None,
            reasons=("interval",),
            attempt=1,
            parent=None,
            files=(StateFile("state.index", 7, f"{step:08x}"),),
            log=LogPosition(0, 0, ""),
            train=None,
            open_window={"from": step, "steps": 0, "metrics": {}},
            eval={},
            control={"best": ranking},
            data={},
        )
        files.commit(self.directory.manifest(step), manifest.encode())
        self.note("save", step=step, reasons=["interval"], stall_s=stall)

    def prune(self, step: int) -> None:
        for name in self.directory.files.list(self.directory.checkpoint(step)):
            os.unlink(f"{self.directory.checkpoint(step)}/{name}")
        os.rmdir(self.directory.checkpoint(step))
        self.note("prune", steps=[step], why="retention")

    def explain(self, name: str, content: Mapping[str, Any] | str) -> None:
        folder = self.path / "explain"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def make_killed(path: pathlib.Path) -> Run:
    """A run of two attempts: the first is killed five steps after its last save, the second is preempted."""
    run = Run(path)
    run.note("start", host="vm-1")
    run.note("plan", lines=[])
    for step, loss in ((10, 2.0), (20, 1.5)):
        run.train(step, loss)
        run.evaluate(step, loss / 2)
        run.save(step, best=step)
    run.note("evaluate", after=2, step=25, splits=["validation"], seconds=0.5)
    run.restart()
    run.note("start", after=5, host="vm-2")
    run.note("resume", step=20, cut_bytes=0, cut_step=None)
    run.note("plan", lines=[])
    run.train(30, 1.2)
    run.train(40, None, learning_rate=0.005)
    run.evaluate(40, 0.9)
    run.note("signal", after=4, signal="SIGTERM", step=40)
    run.save(40, best=20)
    run.prune(10)
    run.note("stop", reason="preempted", exit_code=75, step=40, saved=True)
    return run


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """An empty run directory."""
    return Run(tmp_path / "run")


@pytest.fixture
def killed(tmp_path: pathlib.Path) -> Run:
    """A run that was killed, resumed and preempted."""
    return make_killed(tmp_path / "run")


@pytest.fixture
def explanation() -> dict[str, Any]:
    """What `trainer.explain` writes."""
    terms = (
        ("logged", 0.25, 0.0, None),
        ("own_update", 0.24, -0.01, None),
        ("motion", 0.2, -0.04, None),
        ("sampling", 0.21, 0.01, 0.004),
        ("generalization", 0.4, 0.19, 0.02),
    )
    return {
        "step": 20,
        "metric": "loss",
        "split": "validation",
        "gap": 0.15,
        "terms": [
            {"name": name, "value": value, "difference": difference, "stderr": stderr, "meaning": f"of {name}"}
            for name, value, difference, stderr in terms
        ],
        "dominant": "generalization",
        "open_steps": [],
    }


class Page(html.parser.HTMLParser):
    """A page as what is in it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.numbers: list[dict[str, Any]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(source)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def groups(self) -> Sequence[str]:
        """The parts of the figures that have names, without that of their figure."""
        ids = [str(attributes["id"]) for attributes in self.of("g") if "id" in attributes]
        return [name.split("-", 3)[-1] if name.startswith("run-") else name for name in ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)
        elif self.open[-1] == "script" and data.startswith("{"):
            self.numbers.append(json.loads(data))


@pytest.fixture
def read_page() -> Callable[..., Page]:
    """Makes the page of run directories and reads it."""
    pytest.importorskip("matplotlib")

    def read(*runs: Run | pathlib.Path) -> Page:
        from trainer.views.page.document import report
        from trainer.views.page.history import read_histories

        return Page(report(read_histories([str(getattr(run, "path", run)) for run in runs])))

    return read
