"""The picture of a run shows where each record and each checkpoint lies, and is the same file every time."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pytest

from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import LogPosition, Manifest, StateFile
from trainer.ledger.record import Record
from trainer.views.marks import Mark, checkpoint_marks
from trainer.views.picture import draw_run

pytestmark = pytest.mark.slow  # Each draws.

MakeRecord = Callable[..., Record]

SVG = "{http://www.w3.org/2000/svg}"
STEPS_AT_MOST = 0.01
"""How far from its step something may be drawn: nobody could see it."""


class Run:
    """A run directory in the making."""

    def __init__(self, path: pathlib.Path) -> None:
        self.directory = RunDirectory(path)
        self.log = MetricLog(path)
        self._journal: Journal | None = None

    @property
    def journal(self) -> Journal:
        self.directory.files.make_directory(self.directory.path)
        self._journal = self._journal or Journal(self.directory)
        return self._journal

    def restart(self) -> None:
        self._journal = None

    def save(
        self,
        step: int,
        *,
        window_start: int | None = None,
        reasons: Sequence[str] = ("interval",),
        best: tuple[str, int] | None = None,
        partial: Mapping[str, float] | None = None,
        journaled: bool = True,
    ) -> None:
        """What the trainer leaves of a save."""
        start = step if window_start is None else window_start
        files = self.directory.files
        files.make_directory(self.directory.checkpoint(step))
        files.write(f"{self.directory.checkpoint(step)}/state.index", b"tensors")
        manifest = Manifest(
            step=step,
            examples=step * 64,
            epoch=None,
            run=None,
            reasons=tuple(reasons),
            attempt=1,
            parent=None,
            files=(StateFile("state.index", 7, "00000000"),),
            log=LogPosition(0, 0, ""),
            train=None,
            open_window={"from": start, "steps": step - start, "metrics": dict(partial or {})},
            eval={},
            control={"best": {best[0]: [{"value": 0.1, "step": best[1]}]} if best else {}},
            data={},
        )
        files.commit(self.directory.manifest(step), manifest.encode())
        if journaled:
            self.journal.write("save", step=step, reasons=list(reasons))

    def prune(self, *steps: int) -> None:
        """What the trainer leaves of a checkpoint that retention deletes."""
        for step in steps:
            self.remove(step)
        self.journal.write("prune", steps=list(steps), why="retention")

    def remove(self, step: int) -> None:
        for name in self.directory.files.list(self.directory.checkpoint(step)):
            os.unlink(f"{self.directory.checkpoint(step)}/{name}")
        os.rmdir(self.directory.checkpoint(step))

    def marks(self) -> dict[int, Mark]:
        marks = checkpoint_marks(self.directory, list(self._records()))
        assert [mark.step for mark in marks] == sorted(mark.step for mark in marks)
        return {mark.step: mark for mark in marks}

    def _records(self) -> Iterator[Record]:
        path = pathlib.Path(self.directory.metrics)
        if path.exists():
            yield from map(Record.parse, path.read_bytes().splitlines())


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def digits(run: Run, train: MakeRecord, evaluation: MakeRecord) -> Run:
    """Windows of 20 steps, evaluations every 30, checkpoints every 15 of which the best and the last are left."""
    run.log.append([train(20, window=20, loss=2.0), evaluation(30, loss=1.5), train(40, window=20, loss=1.8)])
    run.log.append([train(60, window=20, loss=1.7), evaluation(60, loss=1.6)])
    for step in (15, 30, 45, 60):
        run.save(step, window_start=step // 20 * 20, best=("validation/loss", 30))
    run.prune(15, 45)
    return run


class Picture:
    """An SVG as what it shows: positions in steps and in values of the metric."""

    def __init__(self, path: pathlib.Path) -> None:
        text = path.read_text()
        self.words = " ".join(" ".join(line.split()) for line in re.findall(r"<!-- (.*?) -->", text, re.DOTALL))
        root = ElementTree.fromstring(text)
        self.size = root.get("width"), root.get("height")
        self._groups = {group.get("id"): group for group in root.iter(f"{SVG}g")}

    def has(self, group: str) -> bool:
        return group in self._groups

    def segments(self, group: str) -> list[tuple[float, float, float]]:
        """`(left, right, height)` of each piece of a line, in points of the page."""
        commands = self._groups[group].find(f"{SVG}path").get("d")
        moves = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", commands)]
        return [(moves[i], moves[i + 2], moves[i + 1]) for i in range(0, len(moves), 4)]

    def width(self, group: str) -> float:
        style = self._groups[group].find(f"{SVG}path").get("style")
        return float(re.search(r"stroke-width: ([\d.]+)", style)[1])

    def points(self, group: str) -> list[tuple[float, float]]:
        """`(across, down)` of each mark, in points of the page."""
        return [(float(use.get("x")), float(use.get("y"))) for use in self._groups[group].iter(f"{SVG}use")]

    def fill(self, group: str) -> str:
        use = next(self._groups[group].iter(f"{SVG}use"))
        return re.search(r"fill: (#\w+)", use.get("style"))[1]

    def shape(self, group: str) -> str:
        return next(self._groups[group].iter(f"{SVG}path")).get("d")


@pytest.fixture
def draw(tmp_path: pathlib.Path) -> Callable[..., Picture]:
    pytest.importorskip("matplotlib")

    def drawn(run: Run, **options: Any) -> Picture:
        path = tmp_path / "run.svg"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw_run(run.directory.path, path, **options)
        return Picture(path)

    return drawn


def test_window_spans_its_steps_at_its_mean_and_evaluation_stands_at_its_step(
    digits: Run, draw: Callable[..., Picture]
) -> None:
    picture = draw(digits)
    (first, left), (second, right) = picture.points("evaluations-validation")
    points_a_step = (second - first) / 30
    zero = first - 30 * points_a_step
    points_a_unit = (right - left) / (1.6 - 1.5)
    round_end = picture.width("train-windows") / 2
    spans = [
        ((start - round_end - zero) / points_a_step, (end + round_end - zero) / points_a_step, height)
        for start, end, height in picture.segments("train-windows")
    ]
    assert [span[:2] for span in spans] == [
        pytest.approx(window, abs=STEPS_AT_MOST) for window in ((0, 20), (20, 40), (40, 60))
    ]
    means = [1.5 + (height - left) / points_a_unit for _, _, height in spans]
    assert means == pytest.approx([2.0, 1.8, 1.7], abs=1e-3)


def test_window_too_short_for_round_ends_spans_its_steps_all_the_same(
    run: Run, train: MakeRecord, evaluation: MakeRecord, draw: Callable[..., Picture]
) -> None:
    run.log.append([train(step, window=2, loss=1.0) for step in range(2, 2001, 2)])
    run.log.append([evaluation(0), evaluation(2000)])
    picture = draw(run)
    (first, _), (last, _) = picture.points("evaluations-validation")
    start, end, _ = picture.segments("train-windows")[499]
    points_a_step = (last - first) / 2000
    assert [(start - first) / points_a_step, (end - first) / points_a_step] == pytest.approx([998, 1000], abs=0.1)


def test_checkpoints_stand_at_their_steps_below_the_metric(digits: Run, draw: Callable[..., Picture]) -> None:
    picture = draw(digits)
    (first, _), (second, _) = evaluations = picture.points("evaluations-validation")
    steps = {
        kind: [30 + (across - first) / (second - first) * 30 for across, _ in picture.points(f"checkpoints-{kind}")]
        for kind in ("kept", "best", "pruned")
    }
    assert steps == {
        "kept": [pytest.approx(60, abs=STEPS_AT_MOST)],
        "best": [pytest.approx(30, abs=STEPS_AT_MOST)],
        "pruned": [pytest.approx(15, abs=STEPS_AT_MOST), pytest.approx(45, abs=STEPS_AT_MOST)],
    }
    lowest = max([down for _, down in evaluations] + [down for _, _, down in picture.segments("train-windows")])
    assert all(down > lowest for kind in steps for _, down in picture.points(f"checkpoints-{kind}"))


def test_kept_is_filled_pruned_is_hollow_and_best_and_transient_have_shapes_of_their_own(
    digits: Run, draw: Callable[..., Picture]
) -> None:
    digits.save(70, window_start=60, reasons=["signal"], best=("validation/loss", 30))
    picture = draw(digits)
    assert picture.fill("checkpoints-kept") == "#24292f"
    assert picture.fill("checkpoints-pruned") == "#ffffff"
    assert picture.shape("checkpoints-kept") == picture.shape("checkpoints-pruned")
    shapes = {picture.shape(f"checkpoints-{kind}") for kind in ("kept", "best", "transient")}
    assert len(shapes) == 3


def test_legend_and_axes_speak_plain_words(digits: Run, draw: Callable[..., Picture]) -> None:
    words = draw(digits).words
    for phrase in (
        "train loss: one mean over all steps of a window",
        "validation loss: measured with exactly this step's weights",
        "checkpoint, kept",
        "checkpoint, best validation/loss",
        "checkpoint, pruned since",
        "lag: steps since the last train record",
        "step (optimizer updates)",
        "loss (mean over examples)",
    ):
        assert phrase in words


def test_legend_names_only_what_is_drawn(run: Run, train: MakeRecord, draw: Callable[..., Picture]) -> None:
    run.log.append([train(100)])
    picture = draw(run)
    assert not [word for word in ("validation", "checkpoint,", "lag:") if word in picture.words]


def test_size_suits_a_readme(digits: Run, draw: Callable[..., Picture]) -> None:
    assert draw(digits).size == ("675pt", "324pt")  # 900 × 432 CSS pixels


def test_same_run_gives_the_same_bytes_without_a_date(digits: Run, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    program = "import sys; from trainer.views.picture import draw_run; draw_run(*sys.argv[1:])"
    pictures = []
    # Not its own defaults: what a user has set for matplotlib is no part of the picture.
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: none\nsavefig.dpi: 50\n")
    for number, rc in enumerate((None, tmp_path / "matplotlibrc")):
        path = tmp_path / f"{number}.svg"
        environment = os.environ | ({"MATPLOTLIBRC": str(rc)} if rc else {}) | {"PYTHONHASHSEED": str(number)}
        arguments = [sys.executable, "-c", program, digits.directory.path, str(path)]
        subprocess.run(arguments, check=True, env=environment, timeout=60)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    assert b"dc:date" not in pictures[0]


def test_drawing_needs_no_tensorflow_and_leaves_the_run_as_it_is(digits: Run, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    before = {path: path.stat().st_mtime_ns for path in pathlib.Path(digits.directory.path).rglob("*")}
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from trainer.views.picture import draw_run; draw_run(*sys.argv[1:])"
    )
    arguments = [sys.executable, "-c", program, digits.directory.path, str(tmp_path / "run.png")]
    subprocess.run(arguments, check=True, timeout=60)
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert {path: path.stat().st_mtime_ns for path in pathlib.Path(digits.directory.path).rglob("*")} == before


def test_missing_matplotlib_is_one_line_that_says_what_to_install(digits: Run, tmp_path: pathlib.Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from trainer.errors import ConfigError\n"
        "from trainer.views.picture import draw_run\n"
        "try:\n"
        "    draw_run(*sys.argv[1:])\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    arguments = [sys.executable, "-c", program, digits.directory.path, str(tmp_path / "run.svg")]
    output = subprocess.run(arguments, check=True, timeout=60, capture_output=True, text=True).stdout
    assert len(output.splitlines()) == 1
    assert "pip install checkpoint-trainer[report]" in output


def test_lag_counts_the_steps_since_the_last_record_also_for_a_pruned_checkpoint(digits: Run) -> None:
    digits.save(70, window_start=60)
    digits.prune(60)
    marks = digits.marks()
    assert {step: (mark.lag, mark.kept) for step, mark in marks.items()} == {
        15: (15, False),
        30: (10, True),
        45: (5, False),
        60: (0, False),
        70: (10, True),
    }


def test_lag_is_shown_beside_its_checkpoint(digits: Run, draw: Callable[..., Picture]) -> None:
    assert "lag in steps" in draw(digits).words
    for step in range(61, 80):
        digits.save(step, window_start=60)
    assert "lag in steps" not in draw(digits).words  # there is no room


def test_checkpoint_without_a_line_in_the_journal_is_shown(run: Run) -> None:
    run.save(15, journaled=False)
    run.save(30, journaled=False)
    run.prune(15)
    assert {step: mark.kept for step, mark in run.marks().items()} == {15: False, 30: True}


def test_checkpoint_whose_prune_a_kill_kept_out_of_the_journal_is_pruned(run: Run) -> None:
    run.save(15)
    run.save(30)
    run.remove(15)
    assert {step: mark.kept for step, mark in run.marks().items()} == {15: False, 30: True}


def test_orphans_are_no_checkpoints_of_the_run(run: Run) -> None:
    for step in (15, 30, 45, 60):
        run.save(step)
    run.prune(30)
    for step in (45, 60):
        run.remove(step)
    run.restart()
    run.journal.write("quarantine", step=60, reason="state.index is missing")
    run.journal.write("resume", step=15, cut_bytes=0)
    assert run.marks().keys() == {15}
    run.save(30)
    assert {step: mark.kept for step, mark in run.marks().items()} == {15: True, 30: True}


def test_quarantined_checkpoint_is_not_shown_before_a_resume_either(run: Run) -> None:
    run.save(15)
    run.save(30)
    run.remove(30)
    run.journal.write("quarantine", step=30, reason="asked for")
    assert run.marks().keys() == {15}


def test_unfinished_checkpoint_that_was_removed_is_not_shown(run: Run) -> None:
    run.save(15)
    run.journal.write("prune", steps=[30], why="unfinished")
    assert run.marks().keys() == {15}


def test_damaged_checkpoint_is_neither_kept_nor_pruned(run: Run) -> None:
    run.save(15)
    run.save(30)
    os.truncate(f"{run.directory.checkpoint(30)}/state.index", 3)
    assert run.marks().keys() == {15}


def test_transient_checkpoint_is_one_that_only_a_clock_or_a_signal_asked_for(run: Run) -> None:
    run.save(15, reasons=["interval", "signal"])
    run.save(20, reasons=["signal"])
    run.save(25, reasons=["time", "auto"])
    run.prune(20)
    assert {step: mark.transient for step, mark in run.marks().items()} == {15: False, 20: True, 25: True}


def test_best_is_what_the_newest_manifest_says_and_only_while_it_is_there(run: Run) -> None:
    run.save(15, best=("validation/loss", 15))
    run.save(30, best=("validation/loss", 15))
    assert {step: mark.best for step, mark in run.marks().items()} == {15: "validation/loss", 30: None}
    run.save(45, best=("validation/loss", 45))
    assert [step for step, mark in run.marks().items() if mark.best] == [45]
    run.save(60, best=("validation/loss", 52))
    assert not [step for step, mark in run.marks().items() if mark.best]


def test_partial_mean_of_an_open_window_comes_from_the_manifest(run: Run, train: MakeRecord) -> None:
    run.log.append([train(20, window=20)])
    run.save(25, window_start=20, partial={"loss": 0.3, "accuracy": 0.9})
    assert run.marks()[25].partial == 0.3


def test_other_metrics_weights_and_splits_are_drawn(
    run: Run, train: MakeRecord, evaluation: MakeRecord, draw: Callable[..., Picture]
) -> None:
    run.log.append([train(20, window=20), evaluation(20), evaluation(20, split="test"), evaluation(20, weights="ema")])
    picture = draw(run, metric="accuracy")
    assert "train accuracy: one mean" in picture.words
    shapes = {picture.shape(f"evaluations-{name}") for name in ("validation", "test", "validation-ema")}
    assert len(shapes) == 3


def test_value_that_is_not_finite_is_left_out(
    run: Run, train: MakeRecord, evaluation: MakeRecord, draw: Callable[..., Picture]
) -> None:
    run.log.append([train(20, window=20), train(40, window=20, loss=None), evaluation(40, loss=None)])
    run.save(30, window_start=20)
    picture = draw(run)
    assert len(picture.segments("train-windows")) == 1
    assert not picture.has("evaluations-validation")
    assert len(picture.points("checkpoints-kept")) == 1


def test_run_without_a_finite_value_is_drawn(run: Run, train: MakeRecord, draw: Callable[..., Picture]) -> None:
    run.log.append([train(20, window=20, loss=None)])
    assert not draw(run).has("train-windows")


def test_metric_that_falls_far_gets_a_log_scale_and_one_that_rises_does_not(
    run: Run, train: MakeRecord, draw: Callable[..., Picture]
) -> None:
    run.log.append([train(20, window=20, loss=2.0), train(40, window=20, loss=0.2), train(60, window=20, loss=0.02)])
    picture = draw(run)
    assert "log scale" in picture.words
    heights = [height for _, _, height in picture.segments("train-windows")]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=1e-3)
    run.log.append([train(80, window=20, loss=3.0)])
    assert "log scale" not in draw(run).words


def test_metric_name_with_signs_of_a_formula_is_text(run: Run, draw: Callable[..., Picture]) -> None:
    run.log.append([Record("train", 20, 1280, None, metrics={"cost_$x^$": 1.0}, window=(0, 20))])
    assert "train cost_$x^$: one mean" in draw(run, metric="cost_$x^$").words


def test_unknown_metric_is_refused_naming_the_known_ones(digits: Run, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=r"^metric=los is in no record of .*; expected one of loss, accuracy$"):
        draw_run(digits.directory.path, tmp_path / "run.svg", metric="los")


@pytest.mark.parametrize("name", ["run.nothing", "missing/run.svg"])
def test_picture_that_cannot_be_written_is_refused_by_name(digits: Run, tmp_path: pathlib.Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match=rf"{re.escape(name)} cannot be written: .*"):
        draw_run(digits.directory.path, tmp_path / name)


def test_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(Unusable, match=r"expected a run_dir"):
        draw_run(tmp_path / "nothing", tmp_path / "run.svg")


def test_damaged_log_is_refused(digits: Run, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("matplotlib")
    with pathlib.Path(digits.directory.metrics).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(Unusable, match=r"metrics\.jsonl is damaged"):
        draw_run(digits.directory.path, tmp_path / "run.svg")
