"""A run directory of each format that was ever released is resumed, checked and shown by this version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import MetricLog, read_records
from trainer.ledger.manifest import load_manifests
from trainer.ledger.record import Record
from trainer.views.status import read_status
from trainer.views.tensorboard import first_difference

GOLDEN = Path(__file__).parent / "golden"
FORMATS = sorted(path.name for path in GOLDEN.glob("format-*"))

pytestmark = pytest.mark.parametrize("name", FORMATS)

# What format-1 ended with, as TensorFlow alone reads it.
WEIGHTS = {"slope": 0.64261276, "intercept": 0.583231}
KEPT = {40: ("every",), 80: ("every",), 90: ("last",), 100: ("newest", "last", "best")}


@pytest.fixture
def run_dir(tmp_path: Path, name: str) -> Path:
    """A copy, which may be trained on."""
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def test_every_byte_that_a_manifest_vouches_for_is_there(name: str) -> None:
    directory = RunDirectory(GOLDEN / name)
    manifests, damaged = load_manifests(directory)
    assert damaged == {}
    assert set(manifests) == set(KEPT)
    for step, manifest in manifests.items():
        for file in manifest.files:
            path = Path(directory.checkpoint(step), file.name)
            assert (path.stat().st_size, directory.files.crc32(str(path))) == (file.bytes, file.crc32)
        prefix = Path(directory.metrics).read_bytes()[: manifest.log.bytes]
        assert hashlib.sha256(prefix).hexdigest() == manifest.log.sha256
        assert prefix.count(b"\n") == manifest.log.records
        MetricLog(directory).verify(manifest)
        assert manifest.encode() == Path(directory.manifest(step)).read_bytes()


def test_every_record_reads_and_is_written_as_it_is(name: str) -> None:
    lines = (GOLDEN / name / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    records = [Record.parse(line) for line in lines]
    assert [record.line() for record in records] == lines
    windows = [record.window for record in records if record.window]
    assert [start for start, _ in windows] == [0, *(end for _, end in windows[:-1])]
    assert windows[-1][1] == 100


def test_tensorflow_alone_reads_the_weights(name: str) -> None:
    model = tf.Module()
    model.slope, model.intercept = tf.Variable(0.0), tf.Variable(0.0)
    prefix = RunDirectory(GOLDEN / name).state_prefix(100)
    tf.train.Checkpoint(model=model).read(prefix).assert_existing_objects_matched().expect_partial()
    for variable, value in WEIGHTS.items():
        assert float(getattr(model, variable)) == pytest.approx(value, abs=1e-7)


def test_it_is_shown_with_its_attempts_and_what_keeps_each_checkpoint(name: str) -> None:
    status = read_status(str(GOLDEN / name))
    assert {row.step: row.kept_by for row in status.checkpoints} == KEPT
    assert status.best is not None
    assert (status.best["metric"], status.best["step"]) == ("validation/loss", 100)
    assert [(life.from_step, life.to_step, life.steps_lost) for life in status.attempts] == [(0, 60, 15), (45, 100, 0)]
    json.dumps(status.to_json(), allow_nan=False)


def test_tensorboards_view_is_that_of_the_log(name: str) -> None:
    records = read_records(RunDirectory(GOLDEN / name))
    assert first_difference(GOLDEN / name / "events", records) is None


@pytest.mark.slow
def test_it_is_resumed_and_its_past_stays_as_it_is(
    name: str,
    run_dir: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    monkeypatch.setenv("PYTHONPATH", str(GOLDEN), prepend=os.pathsep)
    done = command("main", f"--flagfile={run_dir}/flags.txt", f"--run_dir={run_dir}", "--train_for=120steps")
    assert done.returncode == 0, done.stderr
    assert "resume from step 100" in done.stdout
    log = (run_dir / "metrics.jsonl").read_bytes()
    assert log.startswith(before)
    records = read_records(RunDirectory(run_dir))
    assert records[-1].step == 120
    # The last window before was closed by the end of the run: the next one begins there, and the grid stays.
    windows = [record.window for record in records if record.window]
    assert windows[-5:] == [(98, 100), (100, 105), (105, 112), (112, 119), (119, 120)]
    manifests, damaged = load_manifests(RunDirectory(run_dir))
    assert not damaged
    assert {40, 80, 120} <= set(manifests)
    assert manifests[120].for_good
