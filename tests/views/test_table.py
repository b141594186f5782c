"""The status of a run: a row a checkpoint with the records that belong to it, for scripts and for people."""

from __future__ import annotations

import datetime
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, append_evaluation
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.views.status import read_status
from trainer.views.table import print_status, status_text

STATE = {"state.index": b"i" * 34, "state.data-00000-of-00001": b"d" * 1200}


def manifest_of(step: int, **changes: Any) -> dict[str, Any]:
    """A manifest as the run directory's format has it: windows of 100 steps, evaluations at 300 and 500."""
    start, evaluated = step // 100 * 100 - 100, 500 if step >= 500 else 300
    files = [{"name": name, "bytes": len(content), "crc32": "00000000"} for name, content in STATE.items()]
    return {
        "format": 1,
        "step": step,
        "examples": step * 64,
        "epoch": step * 64 / 1500,
        "reasons": ["interval"],
        "transient": False,
        "attempt": 1,
        "parent": None,
        "files": files,
        "log": {"records": 9, "bytes": 1811, "sha256": "0" * 64},
        "train": {
            "relation": "window",
            "window": [start, start + 100],
            "lag": step - start - 100,
            "metrics": {"loss": 123.0 / step, "accuracy": 0.87},
        },
        "open_window": {"from": start + 100, "steps": step - start - 100, "metrics": {}},
        "eval": {
            "validation": {
                "relation": "exact" if step == evaluated else "earlier",
                "step": evaluated,
                "age": step - evaluated,
                "weights": "raw",
                "metrics": {"loss": 0.36, "accuracy": 0.91},
            }
        },
        "control": {"best": {"validation/loss": [{"value": 0.36, "step": 300}]}, "early_stop": {}, "cadence": {}},
        "data": {"mode": "indexed", "fingerprint": "f"},
        **changes,
    }


class Run:
    """A run directory that is written by hand."""

    def __init__(self, path: Path, *, flags: Mapping[str, object] | None = None) -> None:
        self.directory = RunDirectory(path)
        (path / "checkpoints").mkdir(parents=True)
        info = {
            "format": 1,
            "experiment": "experiments.digits:Digits",
            "parameters": {"hidden": 128},
            "seed": 17,
            "jit": "chunk",
            "deterministic": False,
            "threads": {},
            "machine": {},
            "versions": {},
            "data": {},
            "epoch_examples": 1500,
            "clock_in_log": False,
            "run_id": "ed34e68361e947508a25cb532ad3c0c8",
        }
        self.write_info(info)
        self.info = info
        values = {"keep_last": 3, "keep_best": 1, "monitor": "validation/loss", **(flags or {})}
        Path(self.directory.flags).write_text("".join(f"--{name}={value}\n" for name, value in values.items()))

    def write_info(self, info: Mapping[str, Any]) -> None:
        Path(self.directory.run_info).write_text(json.dumps(info))

    def save(self, step: int, **changes: Any) -> Path:
        folder = Path(self.directory.checkpoint(step))
        folder.mkdir()
        for name, content in STATE.items():
            (folder / name).write_bytes(content)
        (folder / "manifest.json").write_text(json.dumps(manifest_of(step, **changes)))
        return folder

    def json(self) -> dict[str, Any]:
        """What `--json` tells, as scripts get it."""
        return json.loads(json.dumps(read_status(self.directory.path).to_json(), allow_nan=False))

    def rows(self) -> dict[int, dict[str, Any]]:
        return {row["step"]: row for row in self.json()["checkpoints"]}

    def lines(self, width: int | None = None) -> list[str]:
        return status_text(read_status(self.directory.path), width=width).plain.splitlines()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with checkpoints at 300, 350 and 500."""
    run = Run(tmp_path / "run")
    for step in (300, 350, 500):
        run.save(step)
    return run


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def row_of(lines: list[str], step: int) -> str:
    return next(line for line in lines if line.split()[:1] == [str(step)])


# What scripts are told.


def test_the_object_has_the_keys_of_the_contract_in_their_order(run: Run) -> None:
    value = run.json()
    assert list(value) == [
        *("run", "latest", "best", "goodput", "attempts", "checkpoints", "evaluations", "best_by", "times"),
    ]
    assert list(value["checkpoints"][0]) == [
        *("step", "examples", "epoch", "reasons", "transient", "kept_by", "train", "eval", "evaluations"),
        *("bytes", "path"),
    ]


def test_a_checkpoint_is_told_with_what_its_manifest_says(run: Run) -> None:
    row, manifest = run.rows()[350], manifest_of(350)
    assert row["train"] == manifest["train"]
    assert row["train"]["lag"] == 50
    assert row["eval"] == manifest["eval"]
    assert row["eval"]["validation"]["age"] == 50
    assert (row["examples"], row["epoch"], row["reasons"]) == (22400, manifest["epoch"], ["interval"])
    assert row["bytes"] == sum(map(len, STATE.values()))
    assert row["path"] == run.directory.checkpoint(350)


def test_the_run_is_told_with_its_identity(run: Run) -> None:
    told = run.json()["run"]
    assert told["path"] == run.directory.path
    assert (told["experiment"], told["seed"], told["run_id"]) == (run.info["experiment"], 17, run.info["run_id"])


def test_checkpoints_are_told_oldest_first_and_the_latest_is_the_newest(run: Run) -> None:
    assert list(run.rows()) == [300, 350, 500]
    assert run.json()["latest"] == 500


def test_best_is_what_the_newest_checkpoint_says(run: Run) -> None:
    assert run.json()["best"] == {
        "metric": "validation/loss",
        "value": 0.36,
        "step": 300,
        "path": run.directory.checkpoint(300),
        "relation": "exact",
    }
    assert run.json()["best_by"] == [run.json()["best"]]


def test_of_several_monitors_each_has_its_best_and_the_first_says_which_is_the_best(run: Run) -> None:
    rankings = {"validation/loss": [], "train/loss": [{"value": 0.3, "step": 500}]}
    run.save(600, control={"best": rankings})
    assert run.json()["best"] is None
    assert [(best["metric"], best["relation"]) for best in run.json()["best_by"]] == [("train/loss", "window")]
    rankings["validation/loss"] = [{"value": 0.36, "step": 300}]
    run.save(700, control={"best": rankings})
    assert run.json()["best"]["step"] == 300
    kept = {step: row["kept_by"] for step, row in run.rows().items()}
    assert "best" in kept[300]
    assert "best" in kept[500]
    shown = [line.split() for line in run.lines() if "(exact)" in line or "(window)" in line]
    assert [line[-4:-1] for line in shown] == [
        ["validation/loss", "0.3600", "(exact)"],
        ["train/loss", "0.3000", "(window)"],
    ]


def test_a_best_step_that_was_not_kept_is_still_told_without_a_path(run: Run) -> None:
    run.save(600, control={"best": {"validation/loss": [{"value": 0.3, "step": 555}]}})
    best = run.json()["best"]
    assert (best["step"], best["path"]) == (555, None)
    assert any(line.startswith("best") and "555" in line and "not kept" in line for line in run.lines())


def test_a_run_without_checkpoints_has_no_latest_no_best_and_no_goodput(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    value = run.json()
    assert (value["latest"], value["best"], value["goodput"]) == (None, None, None)
    assert (value["attempts"], value["checkpoints"]) == ([], [])
    assert "no checkpoint yet" in run.lines()[0]


def test_a_log_of_someone_elses_loop_needs_no_run_json(run: Run) -> None:
    for path in (run.directory.run_info, run.directory.flags):
        Path(path).unlink()
    assert list(run.rows()) == [300, 350, 500]
    assert run.json()["run"]["experiment"] is None
    assert run.lines()


# What was evaluated later.


def evaluated(run: Run, step: int, loss: float, *, split: str = "test", **changes: Any) -> None:
    """Adds a line to what was evaluated later."""
    accuracy = changes.get("accuracy", 0.5)
    record = Record("eval", step, step * 64, None, {"loss": loss, "accuracy": accuracy}, split=split, weights="raw")
    made = Evaluation(record, changes.get("checkpoint", "00000000"), changes.get("fingerprint", "f"))
    append_evaluation(run.directory, made)


def test_what_was_evaluated_later_is_told_with_its_checkpoint_the_newest_line_of_each_split(run: Run) -> None:
    evaluated(run, 350, 0.7)
    evaluated(run, 350, 0.6)
    evaluated(run, 350, 0.9, split="validation")
    evaluated(run, 500, 0.5, checkpoint="0badcafe")
    evaluated(run, 400, 0.4)
    with open(run.directory.evaluations, "a") as file:
        file.write('{"kind":"eval","st')
    assert run.rows()[350]["evaluations"] == {
        "test": {
            "relation": "exact",
            "step": 350,
            "age": 0,
            "weights": "raw",
            "metrics": {"loss": 0.6, "accuracy": 0.5},
            "fingerprint": "f",
        },
        "validation": {
            "relation": "exact",
            "step": 350,
            "age": 0,
            "weights": "raw",
            "metrics": {"loss": 0.9, "accuracy": 0.5},
            "fingerprint": "f",
        },
    }
    assert run.rows()[300]["evaluations"] == {}
    # That of another checkpoint of the same step, and that of one that is gone.
    assert run.rows()[500]["evaluations"] == {}
    assert run.json()["evaluations"] == {"lines": 5, "gone": 2, "other_data": 0}
    told = "5 evaluations by trainer.evaluate, 2 of checkpoints that are gone or damaged"
    assert any(line.endswith(told) for line in run.lines())


def test_values_on_different_data_do_not_stand_in_one_column(run: Run) -> None:
    data = {"validation": {"fingerprint": "run"}}
    run.write_info({**run.info, "data": data})
    for step, loss, fingerprint in ((300, 0.1111, "new"), (350, 0.2222, "old"), (500, 0.3333, "new")):
        evaluated(run, step, loss, fingerprint=fingerprint)
    for step, loss, fingerprint in ((350, 0.4444, "run"), (350, 0.5555, "other"), (500, 0.6666, "other")):
        evaluated(run, step, loss, split="validation", fingerprint=fingerprint)
    text = "\n".join(run.lines())
    # The newest line's data of a split that the run does not have; and the run's own of one that it has.
    assert all(value in text for value in ("0.1111", "0.3333", "0.4444"))
    assert not any(value in text for value in ("0.2222", "0.5555", "0.6666"))
    assert "6 evaluations by trainer.evaluate, 3 on other data" in text
    assert run.json()["evaluations"] == {"lines": 6, "gone": 0, "other_data": 3}
    told = {
        step: {split: known["fingerprint"] for split, known in row["evaluations"].items()}
        for step, row in run.rows().items()
    }
    assert told == {300: {"test": "new"}, 350: {"validation": "run"}, 500: {"test": "new"}}
    assert list(run.rows()[350]["evaluations"]["validation"])[-1] == "fingerprint"


def test_garbled_segments_are_damage(run: Run) -> None:
    run.save(600, control={"segments": [{"segment": 7}]})
    assert "segments" in run.rows()[600]["damaged"]
    assert run.json()["latest"] == 500


def test_a_run_that_was_never_evaluated_later_says_nothing_of_it(run: Run) -> None:
    assert run.json()["evaluations"] == {"lines": 0, "gone": 0, "other_data": 0}
    assert not any("later" in line for line in run.lines())


def test_what_was_evaluated_later_stands_beside_what_the_run_evaluated_itself(run: Run) -> None:
    evaluated(run, 350, 0.7654)
    groups = run.lines()[0]
    assert groups.index("validation") < groups.index("later test")
    assert "0.7654" in row_of(run.lines(), 350)
    assert row_of(run.lines(), 300).split()[-4:] == ["-", "-", "1.2", "kB"]
    assert any("1 evaluation by trainer.evaluate" in line for line in run.lines())


def test_what_the_run_evaluated_at_that_very_step_is_not_shown_again(run: Run) -> None:
    evaluated(run, 300, 0.36, split="validation", accuracy=0.91)
    assert "later" not in run.lines()[0]
    # At another one the run's own is older than the weights.
    evaluated(run, 350, 0.3456, split="validation")
    assert "later validation" in run.lines()[0]
    assert "0.3456" in row_of(run.lines(), 350)
    assert row_of(run.lines(), 300).split()[-4:] == ["-", "-", "1.2", "kB"]
    # Of other data, after a change of it.
    evaluated(run, 500, 0.4321, split="validation")
    assert "0.4321" in row_of(run.lines(), 500)


def test_a_metric_that_was_not_finite_later_is_nan(run: Run) -> None:
    evaluated(run, 350, None)  # type: ignore[arg-type]
    assert "nan" in row_of(run.lines(), 350).split()
    assert run.rows()[350]["evaluations"]["test"]["metrics"]["loss"] is None


def test_a_checkpoint_without_an_index_is_damaged(run: Run) -> None:
    files = [{"name": "state.data-00000-of-00001", "bytes": 1200, "crc32": "00000000"}]
    run.save(600, files=files)
    assert "state.index" in run.rows()[600]["damaged"]


# Why each is kept.


def test_each_checkpoint_is_told_with_every_reason_why_it_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", flags={"keep_last": 2})
    for step in (300, 400, 500, 600):
        run.save(step)
    run.save(650, reasons=["signal"], transient=True)
    assert {step: row["kept_by"] for step, row in run.rows().items()} == {
        300: ["best"],
        400: [],
        500: ["last"],
        600: ["last"],
        650: ["newest", "transient"],
    }


@pytest.mark.parametrize(("keep_best", "kept"), [(0, []), (1, [300]), (2, [300, 350])])
def test_as_many_of_the_best_are_kept_as_the_flags_say(tmp_path: Path, keep_best: int, kept: list[int]) -> None:
    run = Run(tmp_path / "run", flags={"keep_best": keep_best})
    ranking = [{"value": 0.3, "step": 300}, {"value": 0.4, "step": 350}]
    for step in (300, 350, 500):
        run.save(step, control={"best": {"validation/loss": ranking}})
    assert [step for step, row in run.rows().items() if "best" in row["kept_by"]] == kept
    assert run.json()["best"]["step"] == 300


# What is damaged or moves.


def damage(folder: Path, kind: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    match kind:
        case "torn manifest":
            path.write_text(path.read_text()[:100])
        case "empty manifest":
            path.write_text("")
        case "another step's manifest":
            path.write_text(json.dumps({**manifest, "step": 7}))
        case "missing data":
            (folder / "state.data-00000-of-00001").unlink()
        case "cut data":
            (folder / "state.data-00000-of-00001").write_bytes(b"d")
        case "eval is text":
            path.write_text(json.dumps({**manifest, "eval": "none"}))
        case "no window":
            path.write_text(json.dumps({**manifest, "train": {"lag": 1, "metrics": {}}}))
        case "window of text":
            path.write_text(json.dumps({**manifest, "train": {**manifest["train"], "window": ["a", "b"]}}))
        case "metric of text":
            path.write_text(json.dumps({**manifest, "train": {**manifest["train"], "metrics": {"loss": "low"}}}))
        case "metric not a number":
            path.write_text(json.dumps({**manifest, "train": {**manifest["train"], "metrics": {"loss": float("nan")}}}))
        case "epoch of text":
            path.write_text(json.dumps({**manifest, "epoch": "two"}))
        case "reasons of numbers":
            path.write_text(json.dumps({**manifest, "reasons": [1, 2]}))
        case "best is a number":
            path.write_text(json.dumps({**manifest, "control": {"best": 3}}))


@pytest.mark.parametrize(
    "kind",
    [
        "torn manifest",
        "empty manifest",
        "another step's manifest",
        "missing data",
        "cut data",
        "eval is text",
        "no window",
        "window of text",
        "metric of text",
        "metric not a number",
        "epoch of text",
        "reasons of numbers",
        "best is a number",
    ],
)
def test_a_damaged_checkpoint_is_a_row_that_says_so(run: Run, kind: str) -> None:
    damage(Path(run.directory.checkpoint(500)), kind)
    value = run.json()
    damaged = value["checkpoints"][-1]
    assert damaged["step"] == 500
    assert damaged["damaged"]
    assert (damaged["train"], damaged["eval"], damaged["kept_by"]) == (None, {}, [])
    assert value["latest"] == 350
    assert all("damaged" not in row for row in value["checkpoints"][:-1])
    assert "newest" in run.rows()[350]["kept_by"]
    lines = run.lines()
    assert "damaged: " in row_of(lines, 500)
    assert "damaged" not in row_of(lines, 350)


def test_when_every_checkpoint_is_damaged_each_is_still_a_row(run: Run) -> None:
    for step in (300, 350, 500):
        damage(Path(run.directory.checkpoint(step)), "torn manifest")
    assert run.json()["latest"] is None
    assert sum("damaged: " in line for line in run.lines()) == 3


def test_a_folder_without_a_manifest_is_no_checkpoint(run: Run) -> None:
    (run.save(600) / "manifest.json").unlink()
    assert run.json()["latest"] == 500
    assert 600 not in run.rows()


def test_a_checkpoint_that_is_deleted_before_it_is_read_is_no_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run.directory.committed_steps()
    shutil.rmtree(run.directory.checkpoint(300))
    monkeypatch.setattr(RunDirectory, "committed_steps", lambda self: listed)
    assert list(run.rows()) == [350, 500]


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_no_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Manifest.parse

    def parse_and_prune(data: bytes) -> Manifest:
        manifest = parse(data)
        if manifest.step == 300:
            shutil.rmtree(run.directory.checkpoint(300))
        return manifest

    monkeypatch.setattr(Manifest, "parse", parse_and_prune)
    assert list(run.rows()) == [350, 500]


def test_a_run_json_that_cannot_be_read_is_refused_by_name(run: Run) -> None:
    Path(run.directory.run_info).write_text("{")
    with pytest.raises(Unusable, match=r"run\.json"):
        read_status(run.directory.path)


# What people see.


def test_a_row_shows_the_window_and_lag_the_metrics_the_age_and_the_size(run: Run) -> None:
    words = row_of(run.lines(), 350).split()
    text = " ".join(words)
    assert words[:3] == ["350", "22400", "14.93"]
    assert "(200, 300] 50 0.3514 0.8700" in text
    assert text.endswith("0.3600 0.9100 50 1.2 kB")


def test_a_transient_checkpoint_is_marked(run: Run) -> None:
    run.save(510, reasons=["signal"], transient=True)
    lines = run.lines()
    assert "transient" in row_of(lines, 510).partition("newest")[0]
    assert "transient" not in row_of(lines, 500)


def test_a_checkpoint_before_the_first_records_shows_that_there_are_none(run: Run) -> None:
    run.save(50, train=None, eval={})
    words = row_of(run.lines(), 50).split()
    assert words.count("-") >= 6  # window, lag, two metrics a side, age


def test_a_metric_that_was_not_finite_is_shown_as_nan_and_told_as_null(run: Run) -> None:
    train = {**manifest_of(600)["train"], "metrics": {"loss": None, "accuracy": 0.1}}
    run.save(600, train=train)
    assert "nan" in row_of(run.lines(), 600).split()
    assert run.rows()[600]["train"]["metrics"]["loss"] is None


def test_every_split_has_its_metrics_and_its_age(run: Run) -> None:
    one = manifest_of(600)["eval"]["validation"]
    run.save(600, eval={"test": {**one, "age": 77}, "validation": {**one, "age": 33}})
    lines = run.lines()
    assert "test" in lines[0]
    assert "validation" in lines[0]
    assert {"77", "33"} <= set(row_of(lines, 600).split())


def test_best_latest_and_identity_are_below_the_table(run: Run) -> None:
    lines = run.lines()
    below = {line.split()[0]: line for line in lines[lines.index("") :] if line}
    assert "300" in below["best"]
    assert "validation/loss 0.3600" in below["best"]
    assert below["latest"].split()[1:3] == ["step", "500"]
    for word in ("experiments.digits:Digits", "seed 17", run.info["run_id"]):
        assert word in below["run"]


def test_a_log_that_depends_on_a_clock_is_said_to(run: Run) -> None:
    assert not any("clock_in_log" in line for line in run.lines())
    run.write_info({**run.info, "clock_in_log": True})
    assert any("clock_in_log" in line for line in run.lines())


@pytest.mark.parametrize("width", [79, 90, 100])
def test_a_table_fits_the_terminal_and_names_what_it_has_no_room_for(run: Run, width: int) -> None:
    run.save(600, reasons=["interval", "best", "final"])
    lines = run.lines(width)
    table = lines[: lines.index("")]
    notes = [line for line in table if line.startswith("no room for")]
    assert max(len(line) for line in table if line not in notes) <= width
    assert len(notes) == 1
    # The numbers that are there are whole, and those that the table is for are always there.
    assert "…" not in "".join(lines)
    words = row_of(lines, 350).split()
    assert {"350", "50", "0.3514", "0.3600"} <= set(words)
    for name in ("step", "lag", "loss", "age"):
        assert name in table[1].split()
    assert "examples" in notes[0] or "examples" in table[1]


def test_a_wide_terminal_shows_every_column(run: Run) -> None:
    assert run.lines(300) == run.lines(None)
    assert not any("no room" in line for line in run.lines(300))


def test_the_columns_stand_under_their_group(run: Run) -> None:
    lines = run.lines()
    assert lines[0].index("train") == lines[1].index("window")
    assert lines[0].index("validation") > lines[1].index("accuracy")


def test_a_split_with_a_long_name_does_not_push_the_next_one_from_its_columns(run: Run) -> None:
    known = {"step": 600, "age": 0, "metrics": {"loss": 0.5}}
    run.save(600, eval={"a_split_with_a_very_long_name": known, "test": known, "validation": known})
    groups, names = run.lines()[:2]
    row = row_of(run.lines(), 600)
    assert all(f" {name} " in f"{groups} " for name in ("a_split_with_a_very_long_name", "test", "validation"))
    for name in ("test", "validation"):
        start = groups.index(name)
        assert names[start:].split()[:2] == ["loss", "age" if name == "test" else "accuracy"]
        assert row[start:].split()[0] == "0.5000"


def test_where_the_output_is_no_terminal_it_is_plain_and_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    print_status(read_status(run.directory.path), stream)
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().splitlines() == run.lines()


def test_a_terminal_is_fitted_to_its_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    print_status(read_status(run.directory.path), stream)
    assert stream.getvalue().splitlines() == run.lines(79)


def test_a_stream_that_cannot_encode_a_name_still_gets_the_table(run: Run) -> None:
    run.save(600, train={**manifest_of(600)["train"], "metrics": {"précision": 0.5}})
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_status(read_status(run.directory.path), stream)
    stream.flush()
    assert b"pr?cision" in stream.buffer.getvalue()  # type: ignore[attr-defined]


# The attempts.


def lived(run: Run, *ends: str, first_steps: Sequence[float | None] | None = None) -> None:
    """Attempts of ten steps and ten seconds each, a minute apart, the first step after two seconds.

    Args:
      run: where.
      ends: how each of them ended.
      first_steps: what each tells of its first step; None for a journal from before that was told.
    """
    with open(run.directory.journal, "a") as file:
        for number, end in enumerate(ends):
            begin = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc) + number * datetime.timedelta(minutes=1)

            def note(
                after: float, event: str, begin: datetime.datetime = begin, number: int = number, **more: Any
            ) -> None:
                time = (begin + datetime.timedelta(seconds=after)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                file.write(json.dumps({"time": time, "attempt": number + 1, "event": event, **more}) + "\n")

            note(0, "start", host=f"spot-{number % 2}", pid=1)
            if number:
                note(1, "resume", step=10 * number)
            note(1, "plan", lines=[])
            first = {} if first_steps is None else {"first_step_s": first_steps[number]}
            note(2, "times", step=10 * number + 1, **first, seconds={"start": 2, "total": 2})
            split = {"start": 2, "step": 7, "save": 1, "total": 10}
            note(10, "times", step=10 * number + 10, seconds=split)
            if end == "error":
                note(10, "fault", error="Diverged", message="the loss is not finite")
            if end == "preempted":
                note(10, "signal", signal="SIGTERM", step=10 * number + 10)
            if end != "killed":
                code = {"error": 65, "preempted": 75}.get(end, 0)
                note(10, "stop", reason=end, exit_code=code, step=10 * number + 10, saved=True, seconds=split)


def attempts_of(lines: list[str]) -> list[str]:
    """The lines of the table of the attempts, without its headings."""
    (start,) = (number for number, line in enumerate(lines) if line.startswith("attempt "))
    return lines[start + 1 :]


def test_each_attempt_is_shown_with_its_host_its_cause_its_losses_and_its_recovery(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(30, train=None, eval={})
    lived(run, "preempted", "error", "killed", "target reached")
    rows = [line.split() for line in attempts_of(run.lines())]
    assert rows == [
        ["1", "spot-0", "0", "10", "0", "10s", "-", "preempted", "(SIGTERM)", "75"],
        ["2", "spot-1", "10", "20", "0", "10s", "52s", "error", "(Diverged)", "65"],
        ["3", "spot-0", "20", "30", "0", "10s", "52s", "killed", "-"],
        ["4", "spot-1", "30", "40", "10", "10s", "52s", "target", "reached", "0"],
    ]


def test_below_the_table_is_where_the_time_went_what_was_lost_and_how_long_it_took_to_recover(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(30, train=None, eval={})
    lived(run, "preempted", "error", "killed", "target reached")
    lines = run.lines()
    assert "goodput  52.5% of the time made steps that count; 10 steps lost; 52s to recover" in lines
    assert "time     70% steps, 20% starting, 10% saving of 40s" in lines
    assert run.json()["times"]["step"] == 28
    assert run.json()["attempts"][0]["times"]["save"] == 1


def test_a_run_that_never_told_where_its_time_went_says_nothing_of_it(run: Run) -> None:
    assert run.json()["times"] is None
    assert not any(line.startswith("time ") for line in run.lines())


@pytest.mark.parametrize("width", [79, 119])
def test_many_attempts_that_ended_alike_are_one_line_of_a_terminal(tmp_path: Path, width: int) -> None:
    run = Run(tmp_path / "run")
    run.save(600, train=None, eval={})
    lived(run, "preempted", "preempted", *["killed"] * 57, "target reached")
    lines = run.lines(width)
    *rows, note = [line.split() for line in attempts_of(lines) if not line.startswith("no room")]
    assert [row[0] for row in rows] == ["1", "2", "3–59", "60"]
    assert rows[2] == ["3–59", "2", "hosts", "20", "590", "0", "9m", "30s", "Ø", "52s", "killed", *["-"] * (width > 79)]
    assert "cat" in note
    assert max(map(len, attempts_of(lines))) <= width
    # All of them where the output is no terminal.
    assert len(attempts_of(run.lines())) == 60


def first_steps_of(lines: Sequence[str]) -> list[str]:
    """What the column `first step` of the attempts says."""
    (heads,) = (line for line in lines if line.startswith("attempt "))
    end = heads.index("first step") + len("first step")
    # Set to the right, and no word of the column before it reaches so far.
    rows = [line for line in attempts_of(list(lines)) if line.lstrip()[:1].isdigit()]
    return [line[end - len("first step") : end].strip() for line in rows]


def test_how_long_the_first_step_took_is_shown_where_an_attempt_tells(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(30, train=None, eval={})
    lived(run, "preempted", "killed", "error", "target reached", first_steps=[6, 90, None, 3])
    assert first_steps_of(run.lines()) == ["6s", "1m 30s", "-", "3s"]
    old = Run(tmp_path / "old")
    old.save(30, train=None, eval={})
    lived(old, "preempted", "target reached")
    assert not any("first step" in line for line in old.lines())


def test_of_many_attempts_in_one_line_the_mean_of_what_is_known_of_their_first_steps_is_shown(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.save(600, train=None, eval={})
    ends = ["preempted", *["killed"] * 4, "target reached"]
    lived(run, *ends, first_steps=[7, 4, None, 5, 6, 9])
    assert first_steps_of(run.lines(119)) == ["7s", "Ø 5s", "9s"]


def test_attempts_that_end_otherwise_than_the_one_before_stand_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    lived(run, *["killed", "preempted"] * 3)
    lines = run.lines(79)
    assert len(attempts_of(lines)) == 6
    assert max(map(len, attempts_of(lines))) <= 79


def test_why_a_checkpoint_is_kept_is_said_in_words_also_where_the_terminal_is_narrow(run: Run) -> None:
    run.save(400, for_good=True)
    run.save(600)
    assert run.rows()[400]["kept_by"] == ["last", "every"]
    lines = run.lines(79)
    assert "kept for" in lines[1]
    assert "last," in row_of(lines, 400)
    assert any(line.split() == ["for", "good"] for line in lines)
    assert "best" in row_of(lines, 300)
