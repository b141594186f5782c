"""The metric log: its bytes are the run's alone, and a checkpoint's word for them is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
import tempfile
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import EXIT_UNUSABLE, Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import MetricLog, read_records
from trainer.ledger.manifest import LogPosition, Manifest, StateFile, eval_relation, train_relation
from trainer.ledger.record import Record
from trainer.storage.files import Files
from trainer.timeline.cadence import Progress

SECONDS_AT_MOST = 60

RECORDS = [
    record
    for step in range(7, 70, 7)
    for record in (
        Record("train", step, step * 4, step / 25, {"loss": 1 / step}, window=(step - 7, step), learning_rate=0.1),
        Record("eval", step, step * 4, step / 25, {"loss": 2 / step}, split="validation", weights="raw"),
    )
]
LINES = [record.line() for record in RECORDS]


def written(run_dir: pathlib.Path | str) -> bytes:
    return pathlib.Path(run_dir, "metrics.jsonl").read_bytes()


def vouch(log: MetricLog, step: int) -> Manifest:
    """Commits a checkpoint of `step` that counts every record so far, and reads it back."""
    folder = pathlib.Path(log.directory.checkpoint(step))
    folder.mkdir(parents=True)
    (folder / "state.index").write_bytes(b"abc")
    manifest = Manifest(
        step=step,
        examples=step * 4,
        epoch=None,
        run=None,
        reasons=("interval",),
        attempt=1,
        parent=None,
        files=(StateFile("state.index", 3, "352441c2"),),
        log=log.position,
        train=train_relation(log.last_train, step),
        open_window=log.window.to_json(),
        eval=eval_relation(log.last_evaluations, step),
        control={},
        data={},
    )
    (folder / "manifest.json").write_bytes(manifest.encode())
    return Manifest.load(log.directory, step)


class RecordingFiles(Files):
    """Notes what is done to the files of the log, in order; `refused` is not done at all."""

    def __init__(self, refused: str = "") -> None:
        self.done: list[tuple[str, str]] = []
        self._refused = refused

    def _note(self, operation: str, path: str) -> None:
        if operation == self._refused:
            raise KeyboardInterrupt(operation)
        self.done.append((operation, pathlib.Path(path).name))

    def append(self, path: str, data: bytes) -> None:
        self._note("append", path)
        super().append(path, data)

    def sync(self, path: str) -> None:
        self._note("sync", path)
        super().sync(path)

    def sync_directory(self, path: str) -> None:
        self._note("sync_directory", path)
        super().sync_directory(path)

    def truncate(self, path: str, size: int) -> None:
        self._note("truncate", path)
        super().truncate(path, size)


def test_nothing_is_made_before_the_first_record(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path / "a" / "run")
    log.append([])
    log.sync()
    assert log.position == LogPosition(0, 0, hashlib.sha256().hexdigest())
    assert not (tmp_path / "a").exists()
    log.append(RECORDS[:1])
    assert written(tmp_path / "a" / "run") == LINES[0]


@given(st.lists(st.integers(0, 5), max_size=8))
@settings(max_examples=25, deadline=None)
def test_the_position_vouches_for_every_byte_however_records_come(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as run_dir:
        log, records = MetricLog(run_dir), iter(RECORDS)
        count, data = 0, b""
        for size in sizes:
            portion = list(itertools.islice(records, size))
            log.append(portion)
            count += len(portion)
            data = b"".join(LINES[:count])
            assert log.position == LogPosition(count, len(data), hashlib.sha256(data).hexdigest())
        assert not data or written(run_dir) == data


def test_records_and_the_name_of_the_log_are_made_durable_once(tmp_path: pathlib.Path) -> None:
    files = RecordingFiles()
    log = MetricLog(RunDirectory(tmp_path, files))
    log.append(RECORDS[:4])
    log.sync()
    log.sync()
    assert files.done == [
        ("append", "metrics.jsonl"),
        ("sync", "metrics.jsonl"),
        ("sync_directory", tmp_path.name),
    ]


def test_records_that_come_while_another_thread_syncs_are_not_taken_for_durable(tmp_path: pathlib.Path) -> None:
    class Slow(Files):
        def sync(self, path: str) -> None:
            super().sync(path)
            reached.set()
            assert go.wait(SECONDS_AT_MOST)

    reached, go = threading.Event(), threading.Event()
    log = MetricLog(RunDirectory(tmp_path, Slow()))
    log.append(RECORDS[:2])
    assert log.durable == 0
    other = threading.Thread(target=log.sync)
    other.start()
    assert reached.wait(SECONDS_AT_MOST)
    log.append(RECORDS[2:5])
    assert log.durable == 0
    go.set()
    other.join()
    assert log.durable == 2
    log.sync()
    assert log.durable == log.position.records == 5


def test_what_a_checkpoint_vouches_for_is_durable_already(tmp_path: pathlib.Path) -> None:
    killed = MetricLog(tmp_path)
    killed.append(RECORDS[:4])
    manifest = vouch(killed, 14)
    log = MetricLog(tmp_path)
    log.verify(manifest)
    assert log.durable == 4
    log.append(RECORDS[4:5])
    assert log.durable == 4


def test_to_verify_touches_nothing(tmp_path: pathlib.Path) -> None:
    killed = MetricLog(tmp_path)
    killed.append(RECORDS[:4])
    manifest = vouch(killed, 14)
    killed.append(RECORDS[4:7])
    files = RecordingFiles()
    log = MetricLog(RunDirectory(tmp_path, files))
    for vouched in (manifest, None):
        log.verify(vouched)
        assert log.position.records == (vouched.log.records if vouched else 0)
    assert files.done == []
    assert written(tmp_path) == b"".join(LINES[:7])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_resume_cuts_what_is_later_and_goes_on_with_the_same_bytes(data: st.DataObject) -> None:
    vouched = data.draw(st.integers(0, len(RECORDS)))
    logged = data.draw(st.integers(vouched, len(RECORDS)))
    torn = LINES[logged][: data.draw(st.integers(0, len(LINES[logged]) - 1))] if logged < len(LINES) else b""
    with tempfile.TemporaryDirectory() as run_dir:
        killed = MetricLog(run_dir)
        killed.append(RECORDS[:vouched])
        manifest = vouch(killed, 100)
        killed.append(RECORDS[vouched:logged])
        with pathlib.Path(run_dir, "metrics.jsonl").open("ab") as file:
            file.write(torn)

        log = MetricLog(run_dir)
        later = b"".join(LINES[vouched:logged]) + torn
        log.verify(manifest)
        assert log.cut(f"{run_dir}/orphans/attempt-0002").bytes == len(later)
        assert log.position == manifest.log
        assert written(run_dir) == b"".join(LINES[:vouched])
        orphans = pathlib.Path(run_dir, "orphans", "attempt-0002", "metrics.jsonl")
        assert (orphans.read_bytes() if orphans.exists() else b"") == later

        log.append(RECORDS[vouched:])
        assert written(run_dir) == b"".join(LINES)
        assert log.position == LogPosition(
            len(LINES), len(b"".join(LINES)), hashlib.sha256(b"".join(LINES)).hexdigest()
        )


def test_without_a_checkpoint_everything_goes_to_the_orphans(tmp_path: pathlib.Path) -> None:
    MetricLog(tmp_path).append(RECORDS[:3])
    log = MetricLog(tmp_path)
    log.verify(None)
    assert log.cut(str(tmp_path / "orphans")).bytes == len(b"".join(LINES[:3]))
    assert (tmp_path / "orphans" / "metrics.jsonl").read_bytes() == b"".join(LINES[:3])
    log.append(RECORDS)
    assert written(tmp_path) == b"".join(LINES)
    assert log.position.records == len(LINES)


def test_a_first_start_finds_nothing_to_cut(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path / "run")
    log.verify(None)
    assert log.cut(str(tmp_path / "run" / "orphans")).bytes == 0
    assert not (tmp_path / "run").exists()


def test_records_are_copied_before_they_are_cut(tmp_path: pathlib.Path) -> None:
    killed = MetricLog(tmp_path)
    killed.append(RECORDS[:4])
    manifest = vouch(killed, 14)
    killed.append(RECORDS[4:6])
    log = MetricLog(RunDirectory(tmp_path, RecordingFiles(refused="truncate")))
    log.verify(manifest)
    with pytest.raises(KeyboardInterrupt):
        log.cut(str(tmp_path / "first"))
    assert written(tmp_path) == b"".join(LINES[:6])
    assert (tmp_path / "first" / "metrics.jsonl").read_bytes() == b"".join(LINES[4:6])
    again = MetricLog(tmp_path)
    again.verify(manifest)
    assert again.cut(str(tmp_path / "second")).bytes == len(b"".join(LINES[4:6]))
    assert written(tmp_path) == b"".join(LINES[:4])


def assert_refused(run_dir: pathlib.Path, manifest: Manifest, names: str) -> None:
    before = written(run_dir)
    with pytest.raises(Unusable, match=names) as caught:
        MetricLog(run_dir).verify(manifest)
    assert caught.value.exit_code == EXIT_UNUSABLE == 66
    assert "metrics.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert written(run_dir) == before
    assert not (run_dir / "orphans").exists()


def edited(number: int) -> bytes:
    """The line of a record with another loss, written as the program would have."""
    return dataclasses.replace(RECORDS[number], metrics={"loss": 9.5}).line()


def put(run_dir: pathlib.Path, lines: list[bytes]) -> None:
    (run_dir / "metrics.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize("number", range(6))
def test_an_edited_record_is_refused_and_named(tmp_path: pathlib.Path, number: int) -> None:
    log = MetricLog(tmp_path)
    for step, record in enumerate(RECORDS[:6], start=1):
        log.append([record])
        manifest = vouch(log, step)
    put(tmp_path, [*LINES[:number], edited(number), *LINES[number + 1 : 8]])
    assert_refused(tmp_path, manifest, rf"record {number + 1} ")


def test_the_first_of_several_edited_records_is_named(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path)
    for step, record in enumerate(RECORDS[:6], start=1):
        log.append([record])
        manifest = vouch(log, step)
    put(tmp_path, [*LINES[:2], *map(edited, range(2, 6))])
    assert_refused(tmp_path, manifest, r"record 3 ")


@pytest.mark.parametrize(
    "line",
    [
        LINES[3].replace(b",", b", "),
        LINES[3][:-12] + b"\n",
        b"\n",
        b"nonsense\n",
        b"\xff\n",
        LINES[3].replace(b'"step":14', b'"step":1e999'),
        LINES[3].replace(b'"step":14', b'"step":"14"'),
    ],
)
def test_what_this_program_cannot_have_written_is_named_with_one_checkpoint_too(
    tmp_path: pathlib.Path, line: bytes
) -> None:
    log = MetricLog(tmp_path)
    log.append(RECORDS[:8])
    manifest = vouch(log, 28)
    put(tmp_path, [*LINES[:3], line, *LINES[4:8]])
    assert_refused(tmp_path, manifest, r"record 4 |ends after")


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        ([*LINES[:2], edited(2), *LINES[3:8]], 3),
        ([*LINES[:4], *LINES[5:9]], 5),
        ([*LINES[:2], LINES[0], *LINES[2:8]], 3),
        ([LINES[1], LINES[0], *LINES[2:8]], 1),
    ],
    ids=["edited", "removed", "added", "swapped"],
)
def test_an_edit_that_cannot_be_told_is_narrowed_down_to_the_records_between_two_checkpoints(
    tmp_path: pathlib.Path, lines: list[bytes], first: int
) -> None:
    log = MetricLog(tmp_path)
    log.append(RECORDS[:5])
    vouch(log, 14)
    log.append(RECORDS[5:8])
    manifest = vouch(log, 28)
    put(tmp_path, lines)
    assert_refused(tmp_path, manifest, f"one of the records 1 to 5 |record {first} ")


def test_a_log_that_is_too_short_is_refused(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path)
    log.append(RECORDS[:5])
    manifest = vouch(log, 14)
    put(tmp_path, LINES[:4])
    assert_refused(tmp_path, manifest, f"ends after {len(b''.join(LINES[:4]))} bytes")


def test_a_log_that_is_gone_is_refused(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path)
    log.append(RECORDS[:5])
    manifest = vouch(log, 14)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(Unusable):
        MetricLog(tmp_path).verify(manifest)


def test_a_manifest_may_vouch_for_an_empty_log(tmp_path: pathlib.Path) -> None:
    manifest = vouch(MetricLog(tmp_path), 3)
    log = MetricLog(tmp_path)
    log.verify(manifest)
    assert log.cut(str(tmp_path / "orphans")).bytes == 0
    log.append(RECORDS)
    assert written(tmp_path) == b"".join(LINES)


def test_after_a_resume_checkpoints_still_know_the_newest_records(tmp_path: pathlib.Path) -> None:
    killed = MetricLog(tmp_path)
    killed.append([*RECORDS[:4], Record("eval", 7, 28, None, {"loss": 0.5}, split="test", weights="raw")])
    vouched = vouch(killed, 16)
    log = MetricLog(tmp_path)
    log.verify(vouched)
    log.cut(str(tmp_path / "orphans"))
    assert train_relation(log.last_train, 20) == train_relation(killed.last_train, 20)
    assert eval_relation(log.last_evaluations, 20) == eval_relation(killed.last_evaluations, 20)


def train(log: MetricLog, start: int, end: int) -> None:
    """Steps `start` + 1 to `end` of a loop that closes a window every 7 steps and at step 30."""
    for step in range(start + 1, end + 1):
        log.add({"loss": np.float32(1 / step), "accuracy": step / 3}, weight=4 if step % 5 else 1)
        if step % 7 == 0 or step == 30:
            progress = Progress(step, 4 * step)
            log.close(progress, learning_rate=np.float32(0.1), closed_by="end" if step == 30 else None)


@given(st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_a_loop_of_ones_own_goes_on_with_the_same_bytes(saved: int, further: int) -> None:
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as run_dir:
        train(MetricLog(whole, epoch_examples=100), 0, 30)
        killed = MetricLog(run_dir, epoch_examples=100)
        train(killed, 0, saved)
        manifest = vouch(killed, saved)
        train(killed, saved, min(30, saved + further))
        log = MetricLog(run_dir, epoch_examples=100)
        log.verify(manifest)
        log.cut(f"{run_dir}/orphans")
        train(log, saved, 30)
        assert written(run_dir) == written(whole)
        windows = [record.window for record in read_records(RunDirectory(run_dir))]
        assert windows == [(0, 7), (7, 14), (14, 21), (21, 28), (28, 30)]


def test_a_closed_window_is_a_record_with_means_by_weight(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path, epoch_examples=1500)
    log.add({"accuracy": 1.0, "loss": 4.0}, weight=1)
    log.add({"accuracy": 0.5, "loss": 1.0}, weight=3)
    record = log.close(Progress(300, 19200), learning_rate=np.float32(0.001))
    assert written(tmp_path) == record.line()
    assert record.line() == (
        b'{"kind":"train","step":300,"examples":19200,"epoch":12.8,"window":[0,300],'
        b'"metrics":{"loss":1.75,"accuracy":0.625},"learning_rate":0.001}\n'
    )
    assert log.window.start == 300
    assert log.window.steps == 0


def test_a_value_that_is_not_finite_is_null_and_counted(tmp_path: pathlib.Path) -> None:
    log = MetricLog(tmp_path)
    for loss in (1.0, float("nan"), float("inf")):
        log.add({"loss": loss, "accuracy": 1.0})
    log.close(Progress(3, 3), learning_rate=0.1)
    value = json.loads(written(tmp_path))
    assert value["metrics"] == {"loss": None, "accuracy": 1.0}
    assert value["nonfinite"] == {"loss": 2}
    assert value["epoch"] is None


def test_readers_ignore_an_unterminated_last_line(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    assert read_records(directory) == []
    put(tmp_path, [LINES[0][:-1]])
    assert read_records(directory) == []
    put(tmp_path, [*LINES[:3], LINES[3][:-1]])
    assert read_records(directory) == RECORDS[:3]
    put(tmp_path, LINES)
    assert read_records(directory) == RECORDS


def test_log_that_could_not_be_written_once_goes_on_without_the_half_of_a_line(tmp_path):
    class FullOnce(Files):
        full = True

        def append(self, path: str, data: bytes) -> None:
            if self.full:
                self.full = False
                super().append(path, data[: len(data) // 2])
                raise Unwritable("no space left")
            super().append(path, data)

    log = MetricLog(RunDirectory(tmp_path / "run", FullOnce()))
    record = Record("train", 10, 320, None, metrics={"loss": 0.5}, window=(0, 10))
    with pytest.raises(Unwritable):
        log.append([record])
    log.append([record])
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == record.line()
    assert log.position.bytes == len(record.line())
