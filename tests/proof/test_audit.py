"""The audit of runs that somebody has touched: each fault is planted, and has to be named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from audited import train
from forge import checkpoints, flip, forge_manifest, forge_records

from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, append_evaluation, checkpoint_identity
from trainer.ledger.journal import Journal
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.process.lock import locked
from trainer.proof.audit.engine import Audit, Outcome, audit
from trainer.storage.files import Files

pytestmark = pytest.mark.slow

BASE: Mapping[str, Any] = {
    "train_for": "40steps",
    "log_every": 7,
    "eval_every": "10steps",
    "save_every": "8steps",
    "keep_last": 9,
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that was preempted once, with a checkpoint at each of 8, 10, 13, 16, … and a later evaluation."""
    folder = tmp_path_factory.mktemp("audited") / "run"
    train(folder, stop=13, **BASE)
    train(folder, **BASE)
    directory = RunDirectory(folder)
    manifest = Manifest.load(directory, 40)
    record = Record("eval", 40, 160, 8.0, {"loss": 0.5}, split="test", weights="raw")
    append_evaluation(directory, Evaluation(record, checkpoint_identity(manifest), "abc"))
    return folder


@pytest.fixture
def run(healthy: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of it."""
    return pathlib.Path(shutil.copytree(healthy, tmp_path / "run"))


@pytest.fixture(scope="module")
def deciding(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with everything that decides."""
    folder = tmp_path_factory.mktemp("deciding") / "run"
    options = {"save_if": "validation/loss<best(validation/loss)", "early_stop": "9evals", "train_for": "24steps"}
    train(folder, **{**BASE, **options})
    return folder


@pytest.fixture
def conditional(deciding: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of it."""
    return pathlib.Path(shutil.copytree(deciding, tmp_path / "conditional"))


@pytest.fixture
def pruned(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run of which few checkpoints stayed."""
    folder = tmp_path / "pruned"
    train(folder, **{**BASE, "keep_last": 1, "keep_best": 0, "keep_every": "16steps"})
    return folder


def found(folder: pathlib.Path) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in audit(str(folder)).outcomes}


def named(folder: pathlib.Path, name: str, *words: str) -> str:
    """Audits a run of which a check has to fail with these words in its first failure."""
    outcome = found(folder)[name]
    assert outcome.ok is False, outcome
    for word in words:
        assert word in outcome.failures[0]
    return outcome.failures[0]


def failing(folder: pathlib.Path) -> list[str]:
    return [name for name, outcome in found(folder).items() if outcome.ok is False]


def edit_journal(folder: pathlib.Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def line_of(event: str, **details: Any) -> Callable[[bytes], bool]:
    def is_it(line: bytes) -> bool:
        entry = json.loads(line)
        return entry["event"] == event and all(entry.get(name) == value for name, value in details.items())

    return is_it


def test_the_untouched_run_holds(healthy: pathlib.Path) -> None:
    outcomes = found(healthy)
    assert {outcome.ok for outcome in outcomes.values()} == {True}
    assert set(checkpoints(healthy)) == {8, 10, 13, 16, 20, 24, 30, 32, 40}
    assert list(outcomes)[:4] == ["identity", "files", "tensors", "log"]


def test_an_audit_changes_nothing(run: pathlib.Path) -> None:
    def everything() -> dict[pathlib.Path, tuple[bytes, int]]:
        paths = (path for path in run.rglob("*") if path.is_file())
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    before = everything()
    audit(str(run))
    assert everything() == before


# -- what is on the disk


def test_a_changed_digit_in_a_record(run: pathlib.Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    record = Record.parse(lines[2])
    lines[2] = dataclasses.replace(record, metrics={**record.metrics, "loss": 3.25}).line()
    path.write_bytes(b"".join(lines))
    # Of the checkpoints of 13 and 16 only the second counts it.
    first = audit(str(run)).first
    assert first is not None
    assert first.name == "log"
    assert first.detail == "metrics.jsonl is not what checkpoint 16 vouches for: record 3 was changed"


def test_a_changed_digit_that_this_program_would_not_write(run: pathlib.Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epoch":2.8,', b'"epoch":2.80,'))
    assert named(run, "log") == "record 3 is no record as this program writes it"


@pytest.mark.parametrize("change", ["dropped", "doubled"])
def test_a_dropped_or_doubled_line(run: pathlib.Path, change: str) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3:4] = [] if change == "dropped" else [lines[3], lines[3]]
    path.write_bytes(b"".join(lines))
    named(run, "log", "vouches for")


def test_a_line_that_is_no_record(run: pathlib.Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"not json\n", *lines[5:]]))
    assert named(run, "log") == "record 5 is no record as this program writes it"
    assert found(run)["windows"].ok is None


def test_a_log_that_is_gone(run: pathlib.Path) -> None:
    (run / "metrics.jsonl").unlink()
    named(run, "log", "ends after 0 bytes")


def test_a_byte_of_a_tensor(run: pathlib.Path) -> None:
    flip(checkpoints(run)[16] / "state.data-00000-of-00001", 3)
    named(run, "files", "checkpoint 16", "state.data-00000-of-00001", "crc32")
    named(run, "tensors", "checkpoint 16", "does not read")
    assert set(failing(run)) == {"files", "tensors"}


def test_a_byte_of_a_tensor_with_the_manifest_repaired(run: pathlib.Path) -> None:
    path = checkpoints(run)[16] / "state.data-00000-of-00001"
    flip(path, 3)

    def change(value: dict[str, Any]) -> None:
        for file in value["files"]:
            if file["name"] == path.name:
                file["crc32"] = Files().crc32(str(path))

    forge_manifest(run, 16, change)
    named(run, "tensors", "checkpoint 16", "does not read")
    assert failing(run) == ["tensors"]


def test_a_byte_of_an_index(run: pathlib.Path) -> None:
    flip(checkpoints(run)[16] / "state.index", 40)
    named(run, "files", "checkpoint 16", "state.index")


@pytest.mark.parametrize("name", ["state.index", "state.data-00000-of-00001"])
def test_a_truncated_file(run: pathlib.Path, name: str) -> None:
    path = checkpoints(run)[24] / name
    path.write_bytes(path.read_bytes()[:-7])
    named(run, "files", "checkpoint 24", name, "bytes; its manifest says")
    named(run, "tensors", "checkpoint 24")


def test_a_file_that_is_gone(run: pathlib.Path) -> None:
    (checkpoints(run)[24] / "state.index").unlink()
    named(run, "files", "checkpoint 24", "state.index is missing")


def test_two_swapped_folders(run: pathlib.Path) -> None:
    folders = checkpoints(run)
    folders[8].rename(run / "aside")
    folders[16].rename(folders[8])
    (run / "aside").rename(folders[16])
    named(run, "files", "checkpoint 8 is damaged", "its manifest is that of step 16")


def test_two_swapped_states_with_the_manifests_repaired(run: pathlib.Path) -> None:
    folders = checkpoints(run)
    files = {step: json.loads((folders[step] / "manifest.json").read_bytes())["files"] for step in (8, 16)}
    for name in ("state.index", "state.data-00000-of-00001"):
        (folders[8] / name).rename(run / "aside")
        (folders[16] / name).rename(folders[8] / name)
        (run / "aside").rename(folders[16] / name)
    forge_manifest(run, 8, lambda value: value.update(files=files[16]))
    forge_manifest(run, 16, lambda value: value.update(files=files[8]))
    assert named(run, "tensors").startswith("checkpoint 8: the tensor examples is 64, and its manifest says 32")
    assert failing(run) == ["tensors"]


def test_a_garbled_manifest(run: pathlib.Path) -> None:
    path = checkpoints(run)[16] / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"examples":64', b'"examples":68'))
    named(run, "files", "checkpoint 16 is damaged", "crc32")
    path.write_bytes(b"{")
    named(run, "files", "checkpoint 16 is damaged", "not JSON")


@pytest.mark.parametrize("value", [7, "x", {"best": 3, "pending": 5, "cadence": 1, "segments": 9}], ids=str)
def test_manifests_of_nonsense_are_told_and_no_crash(run: pathlib.Path, value: Any) -> None:
    sections = ("control", "data", "open_window", "train", "eval", "log", "kept", "parent")
    for section, folder in zip(sections, checkpoints(run).values(), strict=False):
        path = folder / "manifest.json"
        told = json.loads(path.read_bytes())
        del told["crc32"]
        path.write_text(json.dumps({**told, section: value}))
    assert failing(run)


def test_a_garbled_run_json(run: pathlib.Path) -> None:
    path = run / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 17', b'"seed": 18'))
    named(run, "identity", "run.json", "crc32")
    assert found(run)["grids"].ok is None


def test_a_run_json_that_is_gone(run: pathlib.Path) -> None:
    (run / "run.json").unlink()
    named(run, "identity", "there is no run.json, and checkpoint 8 is of the run")


def test_a_checkpoint_of_another_run(run: pathlib.Path) -> None:
    forge_manifest(run, 16, lambda value: value.update(run="somebody"))
    named(run, "identity", "checkpoint 16 belongs to the run somebody")


@pytest.mark.parametrize(("fact", "value"), [("fingerprint", "0000"), ("mode", "stream")])
def test_a_checkpoint_trained_on_other_data(run: pathlib.Path, fact: str, value: str) -> None:
    forge_manifest(run, 16, lambda manifest: manifest["data"].update({fact: value}))
    named(run, "identity", f"checkpoint 16 was trained on data of {fact} {value}")


def test_segments_that_do_not_go_on(run: pathlib.Path) -> None:
    segment = {
        **dict.fromkeys(("segment", "seed"), 1),
        "step": 8,
        "examples": 32,
        "changed": ["seed"],
        "parameters": {},
        "data": json.loads((run / "run.json").read_bytes())["data"],
    }
    forge_manifest(run, 16, lambda value: value["control"].update(segments=[segment]))
    named(run, "identity", "the segments of checkpoint 20 do not continue those of checkpoint 16")


def test_a_state_file_that_names_what_is_not_there(run: pathlib.Path) -> None:
    path = run / "checkpoints" / "checkpoint"
    text = path.read_text()
    path.write_text(text.replace("step-0000000016", "step-0000000017"))
    named(run, "files", "names step-0000000017/state")
    path.write_text(
        text.replace('model_checkpoint_path: "step-0000000040', 'model_checkpoint_path: "step-0000000016', 1)
    )
    named(run, "files", "the latest is step-0000000016/state, and step 40 is")
    path.write_text("")
    named(run, "files", "no state file")
    path.unlink()
    named(run, "files", "there is no checkpoints/checkpoint")


# -- what the records tell, every checksum repaired


def at(index: int, **changes: Any) -> Callable[[list[Record]], list[Record]]:
    """Changes one record."""

    def change(records: list[Record]) -> list[Record]:
        records[index] = dataclasses.replace(records[index], **changes)
        return records

    return change


def test_a_forgery_that_changes_nothing_is_not_seen(run: pathlib.Path) -> None:
    forge_records(run, lambda records: records)
    assert failing(run) == []


def test_a_changed_digit_with_every_checksum_repaired_is_for_a_replay(run: pathlib.Path) -> None:
    # Nothing follows from the loss of a window that is not monitored: only training again tells.
    forge_records(run, at(0, metrics={"loss": 3.25, "absolute": 1.0}))
    assert failing(run) == []


def test_a_changed_digit_that_was_decided_by(run: pathlib.Path) -> None:
    forge_records(run, at(1, metrics={"loss": 1e-9, "absolute": 1.0}))
    named(run, "decisions", "checkpoint 10 says the best by validation/loss is step 10", "1e-09")


def test_a_record_that_tensorboard_does_not_show(run: pathlib.Path) -> None:
    events = pathlib.Path(shutil.copytree(run / "events", run / "aside"))
    forge_records(run, at(0, metrics={"loss": 3.25, "absolute": 1.0}))
    shutil.rmtree(run / "events")
    events.rename(run / "events")
    assert named(run, "tensorboard") == "TensorBoard does not show what the log says of step 7"


def test_weights_that_were_not_measured(run: pathlib.Path) -> None:
    forge_records(run, at(1, weights="ema"))
    named(run, "grids", "at step 10 with raw weights is due, and record 2", "with ema weights, is there")


@pytest.mark.parametrize("index", [0, 2, 5, -2, -1])
def test_a_dropped_record(run: pathlib.Path, index: int) -> None:
    forge_records(run, lambda records: [record for record in records if record is not records[index]])
    assert {"windows", "grids"} & set(failing(run))
    assert named(run, "grids", "is due")


def test_a_dropped_window_is_named_by_its_steps(run: pathlib.Path) -> None:
    forge_records(run, lambda records: records[:2] + records[3:])
    named(run, "windows", "the steps 8 to 14 are in no record")


@pytest.mark.parametrize("index", [0, 1, -1])
def test_a_doubled_record(run: pathlib.Path, index: int) -> None:
    def change(records: list[Record]) -> list[Record]:
        records.insert(index, records[index])
        return records

    forge_records(run, change)
    named(run, "windows")
    named(run, "grids")


def test_a_window_off_by_one(run: pathlib.Path) -> None:
    def change(records: list[Record]) -> list[Record]:
        windows = [index for index, record in enumerate(records) if record.window]
        first, second = windows[1], windows[2]
        records[first] = dataclasses.replace(records[first], step=15, examples=60, epoch=3.0, window=(7, 15))
        records[second] = dataclasses.replace(records[second], window=(15, 21))
        return records

    forge_records(run, change)
    named(run, "grids", "the window (7, 14] is due", "the window (7, 15]")
    assert "windows" not in failing(run)


def test_windows_that_overlap(run: pathlib.Path) -> None:
    forge_records(run, lambda records: [*records[:2], dataclasses.replace(records[2], window=(6, 14)), *records[3:]])
    named(run, "windows", "the steps 7 to 7 are in two records")


def test_a_window_that_was_not_closed_by_the_cadence(run: pathlib.Path) -> None:
    forge_records(run, at(2, closed_by="save"))
    named(run, "grids", "the window (7, 14] is due", "closed by save")


def test_examples_and_epochs_that_so_many_steps_do_not_make(run: pathlib.Path) -> None:
    forge_records(run, at(2, examples=57))
    named(run, "windows", "57 examples, where step 14 makes 56")


def test_an_epoch_that_is_not_that_of_its_examples(run: pathlib.Path) -> None:
    forge_records(run, at(2, epoch=2.5))
    named(run, "windows", "in epoch 2.5, where 56 examples make 2.8")


def test_a_learning_rate_that_is_not_the_schedules(run: pathlib.Path) -> None:
    forge_records(run, at(2, learning_rate=0.0501))
    named(run, "learning_rate", "record 3", "0.0501", "for step 14")
    assert failing(run) == ["learning_rate"]


def test_a_checkpoint_that_counts_fewer_records_than_were_due(run: pathlib.Path) -> None:
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    sha256 = hashlib.sha256(lines[0]).hexdigest()
    forge_manifest(run, 13, lambda value: value["log"].update(records=1, bytes=len(lines[0]), sha256=sha256))
    named(run, "grids", "checkpoint 13 counts 1 records, and 2 are due")


def test_a_checkpoint_that_counts_other_records_than_it_vouches_for(run: pathlib.Path) -> None:
    forge_manifest(run, 16, lambda value: value["log"].update(records=4))
    named(run, "log", "checkpoint 16 counts 4 records in what it vouches for, where 3 are")


def test_a_checkpoint_with_something_pending_that_is_not(run: pathlib.Path) -> None:
    forge_manifest(run, 16, lambda value: value["control"].update(pending=["save"]))
    named(run, "grids", "checkpoint 16 has save pending, where nothing is")


def test_an_open_window_that_begins_elsewhere(run: pathlib.Path) -> None:
    forge_manifest(run, 16, lambda value: value["open_window"].update({"from": 13, "steps": 3}))
    named(run, "windows", "checkpoint 16 has a window open since step 13")


def test_a_best_that_is_not(run: pathlib.Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["control"]["best"]["validation/loss"][0]["step"] = 10

    forge_manifest(run, 40, change)
    named(run, "decisions", "checkpoint 40 says the best by validation/loss is step 10", "by the records it is step")
    assert failing(run) == ["decisions"]


@pytest.mark.parametrize("name", ["early_stop", "save_if", "modes"])
def test_a_part_of_the_decisions_that_is_gone(conditional: pathlib.Path, name: str) -> None:
    forge_manifest(conditional, 24, lambda value: value["control"].pop(name))
    named(conditional, "decisions", f"checkpoint 24 says {name} is None")


def test_what_an_older_version_did_not_tell_is_no_failure(conditional: pathlib.Path) -> None:
    def change(value: dict[str, Any]) -> None:
        for name in ("early_stop", "save_if", "modes", "segments"):
            del value["control"][name]
        value.update(kept=None, for_good=True)

    forge_manifest(conditional, 24, change)
    assert failing(conditional) == []


def test_a_best_reason_that_is_not(run: pathlib.Path) -> None:
    forge_manifest(run, 16, lambda value: value.update(reasons=["interval", "best"]))
    named(run, "decisions", "checkpoint 16 was saved for interval and best")
    named(run, "grids", "checkpoint 16 was saved for interval and best, where interval is due")


def test_a_checkpoint_where_none_is_due(run: pathlib.Path) -> None:
    forge_manifest(run, 13, lambda value: value.update(reasons=["interval"], kept=[8, 10, 13]))
    named(run, "grids", "checkpoint 13 was saved for interval, where none is due")


@pytest.mark.parametrize(
    ("step", "kept", "words"),
    [
        (40, [33, 40], "checkpoint 40 says that step 33 stays, which was not there to be kept"),
        # Neither among the last nine nor, without it, all of them.
        (40, [8, 10, 16, 20, 24, 30, 40], "stay, and by its flags [8, 10, 16, 20, 24, 30, 32, 40] do"),
        # The first after a resume: what was taken away meanwhile nobody knows, but nothing comes back.
        (16, [8, 9, 16], "checkpoint 16 says that step 9 stays"),
        (13, [7], "checkpoint 13 says that step 7 stays"),
    ],
)
def test_kept_checkpoints_that_are_not(run: pathlib.Path, step: int, kept: list[int], words: str) -> None:
    forge_manifest(run, step, lambda value: value.update(kept=kept))
    assert words in named(run, "grids")


def test_a_manifest_that_no_longer_says_what_stays(run: pathlib.Path) -> None:
    forge_manifest(run, 40, lambda value: value.update(kept=None))
    named(run, "manifests", "checkpoint 40 does not say which checkpoints stay")


def test_a_checkpoint_kept_for_good_that_no_flag_keeps(run: pathlib.Path) -> None:
    forge_manifest(run, 20, lambda value: value.update(for_good=True))
    named(run, "grids", "checkpoint 20 says for_good is True, and by keep_every it is False")


def test_a_best_and_one_for_good_that_are_not_kept(pruned: pathlib.Path) -> None:
    assert failing(pruned) == []
    kept = Manifest.load(RunDirectory(pruned), 40).kept
    assert kept == (16, 32, 40)
    forge_manifest(pruned, 40, lambda value: value.update(kept=[32, 40]))
    named(pruned, "grids", "checkpoint 40 says that [32, 40] stay, and by its flags [16, 32, 40] do")
    forge_manifest(pruned, 40, lambda value: value.update(kept=list(kept)))
    forge_manifest(pruned, 32, lambda value: value.update(for_good=False))
    named(pruned, "grids", "checkpoint 32 says for_good is False, and by keep_every it is True")


def test_seconds_that_go_back(run: pathlib.Path) -> None:
    forge_manifest(run, 24, lambda value: value["control"]["cadence"].update(seconds=1e-9))
    named(run, "manifests", "checkpoint 24 was saved after 1e-09 s of the run, and checkpoint 20 after")


def test_a_transient_that_is_not(run: pathlib.Path) -> None:
    path = checkpoints(run)[13] / "manifest.json"
    value = json.loads(path.read_bytes())
    value.pop("crc32")
    path.write_text(json.dumps({**value, "transient": False}))
    named(run, "manifests", "checkpoint 13 says transient is False")


def test_a_wrong_parent(run: pathlib.Path) -> None:
    forge_manifest(run, 24, lambda value: value.update(parent=16))
    named(run, "manifests", "checkpoint 24 has the parent 16, and by the journal 20 came before it")
    forge_manifest(run, 24, lambda value: value.update(parent=30))
    named(run, "manifests", "checkpoint 24 has the parent 30, which is not before it")


def test_a_relation_that_is_not(run: pathlib.Path) -> None:
    forge_manifest(run, 24, lambda value: value["train"].update(lag=2))
    named(run, "manifests", "checkpoint 24 says lag of train is 2, and by the log it is 3")


def test_an_evaluation_that_is_called_exact(run: pathlib.Path) -> None:
    forge_manifest(run, 24, lambda value: value["eval"]["validation"].update(relation="exact"))
    named(run, "manifests", 'checkpoint 24 says relation of validation is "exact", and by the log it is "earlier"')


def test_an_unknown_reason(run: pathlib.Path) -> None:
    forge_manifest(run, 24, lambda value: value.update(reasons=["interval", "whim"]))
    named(run, "manifests", "checkpoint 24", "whim")


def test_a_checkpoint_that_somebody_took_away(run: pathlib.Path) -> None:
    shutil.rmtree(checkpoints(run)[16])
    named(run, "manifests", "checkpoint 16, which the newest one keeps, is gone")
    named(run, "files", "names step-0000000016/state, which is not there")


# -- what stands beside


def test_a_garbled_line_of_the_journal(run: pathlib.Path) -> None:
    edit_journal(run, lambda lines: [*lines[:3], lines[3].replace(b'"event"', b'"Event"'), *lines[4:]])
    assert named(run, "journal") == "line 4 of the journal is none that this program writes"


def test_torn_lines_are_counted_and_no_failure(run: pathlib.Path) -> None:
    def tear(lines: list[bytes]) -> list[bytes]:
        end = next(index for index, line in enumerate(lines) if line_of("start", attempt=2)(line))
        return [*lines[:end], b'{"time":"2026-01-01T00:00\n', *lines[end:], b'{"time":"20']

    edit_journal(run, tear)
    outcome = found(run)["journal"]
    assert outcome.ok
    assert "2 torn" in outcome.detail


def test_a_journal_that_is_gone(run: pathlib.Path) -> None:
    (run / "journal.jsonl").unlink()
    named(run, "journal", "there is no journal")
    assert found(run)["grids"].ok is None


def test_an_attempt_that_is_missing(run: pathlib.Path) -> None:
    edit_journal(run, lambda lines: [line for line in lines if json.loads(line)["attempt"] != 1])
    named(run, "journal", "the journal has attempt 2 after attempt 0")


def test_a_line_of_an_attempt_that_was_over(run: pathlib.Path) -> None:
    edit_journal(run, lambda lines: [*lines, next(line for line in lines if line_of("times", attempt=1)(line))])
    named(run, "journal", "is of attempt 1, after those of attempt 2")


def test_a_resume_from_what_nobody_saved(run: pathlib.Path) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b'"step":13', b'"step":12') if line_of("resume")(line) else line for line in lines]

    edit_journal(run, change)
    named(run, "journal", "attempt 2 resumed from step 12, which no attempt before it saved")


def test_a_save_of_other_bytes(run: pathlib.Path) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        changed = []
        for line in lines:
            if line_of("save", step=16)(line):
                line = json.dumps({**json.loads(line), "bytes": 5}).encode() + b"\n"
            changed.append(line)
        return changed

    edit_journal(run, change)
    named(run, "journal", "checkpoint 16 has", "and was noted with 5")


def changed(event: str, step: int, /, **changes: Any) -> Callable[[list[bytes]], list[bytes]]:
    """Changes what the journal says of an event at a step."""

    def change(line: bytes) -> bytes:
        is_it = line_of(event, step=step)(line)
        return json.dumps({**json.loads(line), **changes}).encode() + b"\n" if is_it else line

    return lambda lines: [change(line) for line in lines]


def test_a_save_for_other_reasons(run: pathlib.Path) -> None:
    edit_journal(run, changed("save", 16, reasons=["final"]))
    named(run, "journal", "checkpoint 16 was saved for interval, and noted for final")


def test_reasons_that_were_added_before_a_kill_are_no_failure(run: pathlib.Path) -> None:
    # As where an evaluation was made up for, and the line that says so is missing.
    edit_journal(run, changed("save", 13, reasons=[]))
    assert failing(run) == []


def test_a_save_of_a_checkpoint_that_is_gone_for_other_reasons(run: pathlib.Path) -> None:
    shutil.rmtree(checkpoints(run)[8])
    edit_journal(run, changed("save", 8, reasons=["final"]))
    named(run, "grids", "by the journal step 8 was saved for final, where interval is due")


def test_a_save_that_was_noted_twice(run: pathlib.Path) -> None:
    edit_journal(run, lambda lines: [line for one in lines for line in [one] * (1 + line_of("save", step=24)(one))])
    named(run, "journal", "notes once more that attempt 2 saved step 24")


@pytest.mark.parametrize("changes", [{"step": 4000}, {"saved": False}])
def test_a_stop_elsewhere(run: pathlib.Path, changes: dict[str, Any]) -> None:
    edit_journal(run, changed("stop", 40, **changes))
    named(run, "journal", f"attempt 2 stopped at step {changes.get('step', 40)}", "its last checkpoint is 40")


def test_an_evaluation_that_was_not_noted(run: pathlib.Path) -> None:
    edit_journal(run, lambda lines: [line for line in lines if not line_of("evaluate", step=20)(line)])
    named(run, "journal", "attempt 2 evaluated step 20, and did not note it")


def test_a_save_whose_line_a_full_disk_has_torn_leaves_the_parents_unknown(run: pathlib.Path) -> None:
    def tear(line: bytes) -> list[bytes]:
        fault = json.dumps({**json.loads(line), "event": "fault"}).encode() + b"\n"
        return [line[:20] + b"\n", fault] if line_of("save", step=24)(line) else [line]

    edit_journal(run, lambda lines: [part for line in lines for part in tear(line)])
    assert found(run)["manifests"].ok


@pytest.mark.parametrize("change", [b"--log_every=8\n", b""])
def test_flags_that_the_last_attempt_did_not_have(run: pathlib.Path, change: bytes) -> None:
    path = run / "flags.txt"
    path.write_bytes(path.read_bytes().replace(b"--log_every=7\n", change))
    told = change.decode()[12:].strip() or None
    assert named(run, "journal") == f"flags.txt says log_every is {told}, and attempt 2 began with 7"


def test_flags_of_an_attempt_that_was_killed_before_it_wrote_them_are_no_failure(run: pathlib.Path) -> None:
    Journal(RunDirectory(run)).write("start", flags={"log_every": "9"})
    assert failing(run) == []


def test_a_line_that_is_nested_too_deeply(run: pathlib.Path) -> None:
    deep = b'{"a":' * 100_000 + b"7" + b"}" * 100_000 + b"\n"
    for name in ("journal.jsonl", "metrics.jsonl", "evaluations.jsonl"):
        path = run / name
        first, *others = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([first, deep, *others]))
    (checkpoints(run)[16] / "manifest.json").write_bytes(deep)
    assert {"files", "log", "journal"} <= set(failing(run))
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(deep, b""))
    named(run, "evaluations", "line 2 of evaluations.jsonl is damaged")


def test_a_save_that_was_not_noted(run: pathlib.Path) -> None:
    edit_journal(run, lambda lines: [line for line in lines if not line_of("save", step=24)(line)])
    named(run, "journal", "checkpoint 24 was saved by attempt 2, which did not note it")


def test_a_save_that_was_due_and_is_nowhere(run: pathlib.Path) -> None:
    shutil.rmtree(checkpoints(run)[24])
    edit_journal(run, lambda lines: [line for line in lines if not line_of("save", step=24)(line)])
    named(run, "grids", "step 24 is to be saved for interval, and neither is there nor noted in the journal")


def test_a_lost_event(run: pathlib.Path) -> None:
    path = sorted((run / "events").iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-40])
    named(run, "tensorboard", "step 40")


def test_a_damaged_event(run: pathlib.Path) -> None:
    path = sorted((run / "events").iterdir())[0]
    flip(path, 200)
    named(run, "tensorboard", "an event file is damaged")


def test_events_that_are_gone_are_not_checked(run: pathlib.Path) -> None:
    shutil.rmtree(run / "events")
    assert found(run)["tensorboard"].ok is None


def test_what_is_not_ours_is_listed_and_no_failure(run: pathlib.Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "checkpoints" / "step-16").mkdir()
    (checkpoints(run)[16] / "notes.txt").write_text("mine")
    outcome = found(run)["orphans"]
    assert outcome.ok
    assert outcome.detail.endswith("not ours: notes.txt, checkpoints/step-0000000016/notes.txt, checkpoints/step-16")


def test_a_foreign_folder_that_looks_like_a_checkpoint(run: pathlib.Path) -> None:
    folder = run / "checkpoints" / "step-0000000017"
    folder.mkdir()
    (folder / "state.index").write_bytes(b"")
    named(run, "orphans", "step-0000000017 has neither a manifest nor the mark")


def test_an_unfinished_checkpoint_is_no_failure(run: pathlib.Path) -> None:
    folder = run / "checkpoints" / "step-0000000048"
    folder.mkdir()
    (folder / "manifest.json.tmp").write_bytes(b"")
    outcome = found(run)["orphans"]
    assert outcome.ok
    assert "1 unfinished" in outcome.detail


def test_orphans_that_the_journal_does_not_know(run: pathlib.Path) -> None:
    (run / "orphans" / "attempt-0007").mkdir(parents=True)
    named(run, "orphans", "orphans/attempt-0007 is of an attempt that the journal does not know")


def test_orphans_of_a_rewind_that_never_was(run: pathlib.Path) -> None:
    (run / "orphans" / "attempt-0002-rewind").mkdir(parents=True)
    named(run, "orphans", "a rewind that the journal does not know")


def test_orphans_of_another_length_than_was_cut(run: pathlib.Path) -> None:
    folder = run / "orphans" / "attempt-0002"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(b"12345")
    named(run, "orphans", "holds 5 bytes of records, and 0 were cut")


def test_a_checkpoint_put_aside_that_the_journal_does_not_know(run: pathlib.Path) -> None:
    (run / "orphans" / "attempt-0002" / "step-0000000040").mkdir(parents=True)
    named(run, "orphans", "was put aside, and the journal does not say so")


def test_a_damaged_evaluation(run: pathlib.Path) -> None:
    path = run / "evaluations.jsonl"
    line = path.read_bytes()
    path.write_bytes(line.replace(b'"split":"test"', b'"split":7'))
    named(run, "evaluations", "line 1 of evaluations.jsonl is no evaluation")
    path.write_bytes(line.replace(b'"step":40', b'"step": 40'))
    named(run, "evaluations", "line 1 of evaluations.jsonl is not as this program writes it")
    path.write_bytes(b'{"kind":}\n')
    named(run, "evaluations", "line 1 of evaluations.jsonl is damaged")


def test_a_torn_evaluation_is_no_failure(run: pathlib.Path) -> None:
    path = run / "evaluations.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind":"eval"')
    outcome = found(run)["evaluations"]
    assert outcome.ok
    assert "1 torn" in outcome.detail


def test_an_evaluation_that_is_there_twice(run: pathlib.Path) -> None:
    path = run / "evaluations.jsonl"
    line = path.read_bytes()
    path.write_bytes(line + line.replace(b"0.5", b"0.25"))
    named(run, "evaluations", "line 2 of evaluations.jsonl evaluates once more what line 1 does")
    # On other data it is another one.
    path.write_bytes(line + line.replace(b'"abc"', b'"abd"'))
    assert found(run)["evaluations"].ok


def test_an_evaluation_of_a_step_that_the_run_did_not_reach(run: pathlib.Path) -> None:
    append_evaluation(
        RunDirectory(run),
        Evaluation(Record("eval", 48, 192, 9.6, {"loss": 0.5}, split="test", weights="raw"), "0123abcd", "abc"),
    )
    assert found(run)["evaluations"].ok  # It may have been there before the attempt that resumed.
    edit_journal(run, lambda lines: [line for line in lines if not line_of("resume")(line)])
    named(run, "evaluations", "line 2 of evaluations.jsonl is of step 48, which the run did not reach")


def test_a_folder_that_is_no_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unusable, match="does not exist"):
        audit(str(tmp_path / "nothing"))
    with pytest.raises(Unusable, match="is no run directory"):
        audit(str(tmp_path))


def test_of_many_failures_some_are_told(run: pathlib.Path) -> None:
    (run / "metrics.jsonl").write_bytes(b"no\n" * 500)
    assert len(found(run)["log"].failures) == 20


def test_further_checks_come_last(run: pathlib.Path) -> None:
    def further(evidence: Any) -> Iterator[str]:
        yield "no"

    result: Audit = audit(str(run), more=[("further", further)])  # type: ignore[list-item]
    assert (result.outcomes[-1].name, result.outcomes[-1].ok, result.ok) == ("further", False, False)


def test_what_ends_the_reading_ends_the_audit(run: pathlib.Path) -> None:
    class Stop(Exception):
        pass

    def tell(line: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        audit(str(run), tell)


def test_a_second_look_is_taken_while_the_run_moves(run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between the manifests and the journal an attempt has noted something: what failed is looked at again.
    looks = []

    def check(evidence: Any) -> Iterator[str]:
        looks.append(evidence)
        if len(looks) == 1:
            Journal(RunDirectory(run)).write("start", flags={})
            yield "it moved"
        return "it rests"

    result = audit(str(run), more=[("further", check)])  # type: ignore[list-item]
    assert (result.outcomes[-1].ok, result.outcomes[-1].detail, len(looks)) == (True, "it rests", 2)


def test_a_second_look_is_taken_while_a_trainer_holds_the_run(run: pathlib.Path) -> None:
    # It has not written anything since: what it holds in memory may be on its way.
    Journal(RunDirectory(run)).write("start", flags={})
    looks = []

    def check(evidence: Any) -> Iterator[str]:
        looks.append(evidence)
        if len(looks) == 1:
            yield "it moved"
        return "it rests"

    with locked(RunDirectory(run).lock):
        result = audit(str(run), more=[("further", check)])  # type: ignore[list-item]
    assert (result.outcomes[-1].ok, len(looks)) == (True, 2)
    audit(str(run), more=[("further", check)])  # type: ignore[list-item]
    assert len(looks) == 3
