"""The store: what a save promises, what a resume finds, and what neither may ever lose."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint import tensors
from trainer.checkpoint.store import CheckpointStore
from trainer.errors import ConfigError, TrainerError, Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, read_journal
from trainer.ledger.log import MetricLog, read_records
from trainer.ledger.manifest import Manifest
from trainer.storage.files import Files
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import Schedule

SECONDS_AT_MOST = 60

# Values whose sums are not what a decimal text of few digits would say.
AWKWARD = [0.1, 1 / 3, 2.5e-17, 1e16, math.pi, -7.1e-9, 5e-324, 1.7e308 / 8]


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.zeros([3, 2]))
        self.bias = tf.Variable(tf.zeros([2]))


class Loop:
    """What a loop holds. At step s every weight of the model is s, and each save closes its window first."""

    def __init__(self, path, *, files=None, journal=False, parts=None, **options):
        self.model = Model()
        self.directory = RunDirectory(path, files)
        self.log = MetricLog(self.directory)
        if journal:
            self.directory.files.make_directory(self.directory.path)
            options["journal"] = Journal(self.directory)
        self.store = CheckpointStore(tf.train.Checkpoint(model=self.model, **(parts or {})), self.log, **options)
        self.step = 0

    def resume(self):
        self.step = self.store.resume().step
        return self

    def train(self, step):
        for variable in self.model.variables:
            variable.assign(tf.fill(variable.shape, float(step)))
        for now in range(self.step + 1, step + 1):
            self.log.add({"loss": 1 / now})
        self.step = step
        return self

    def save(self, step, *, reasons=("interval",), **options):
        self.train(step)
        self.log.close(self.progress)
        self.store.save(self.progress, reasons=reasons, **options)
        return self.store.latest

    def attempt(self, **options):
        """Saves where the loop is, and waits until that is done."""
        self.store.save(self.progress, reasons=("interval",), **options)
        self.store.drain()

    @property
    def progress(self):
        return Progress(self.step, self.step * 32)

    def weights(self):
        return sorted({float(value) for variable in self.model.variables for value in variable.numpy().flat})

    def steps(self):
        return sorted(self.directory.committed_steps())

    def latest(self):
        return tf.train.latest_checkpoint(self.directory.checkpoints)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture(params=[False, True], ids=["in place", "async"])
def async_save(request):
    return request.param


def finish(store):
    """Looks until nothing is being written any more."""
    while store.busy:
        time.sleep(0.0005)
    store.poll()


def loud(capfd, caplog, recwarn):
    """Returns all that was said, wherever it was."""
    return "".join(capfd.readouterr()) + caplog.text + "".join(str(warning.message) for warning in recwarn)


# The protocol of a save.


def test_records_are_durable_before_the_manifest_commits_the_checkpoint(path, watched_files, async_save):
    files = watched_files()
    loop = Loop(path, files=files, async_save=async_save).resume()
    loop.save(10)
    loop.train(15).log.close(loop.progress)
    loop.store.drain()
    files.done.clear()
    loop.save(20)
    loop.store.close()

    committed = files.done.index(("rename", loop.directory.manifest(20)))
    metrics = loop.directory.metrics
    last_append = max(place for place, done in enumerate(files.done) if done == ("append", metrics))
    assert last_append < files.done.index(("sync", metrics)) < committed
    assert ("append", metrics) not in files.done[committed:]


def test_log_that_is_new_has_a_durable_name_before_the_manifest(path, watched_files):
    files = watched_files()
    loop = Loop(path, files=files).resume()
    loop.save(10)
    committed = files.done.index(("rename", loop.directory.manifest(10)))
    first_append = files.done.index(("append", loop.directory.metrics))
    assert ("sync_directory", loop.directory.path) in files.done[first_append:committed]


def test_manifest_comes_last_written_aside_and_renamed(path, watched_files, async_save):
    files = watched_files()
    loop = Loop(path, files=files, async_save=async_save, verify_saves="never").resume()
    loop.save(10)
    loop.store.close()
    manifest = loop.store.latest
    folder, target = loop.directory.checkpoint(10), loop.directory.manifest(10)

    assert {file.name for file in manifest.files} == {"state.index", "state.data-00000-of-00001"}
    marked, written = (place for place, done in enumerate(files.done) if done == ("write", f"{target}.tmp"))
    synced = [files.done.index(("sync", f"{folder}/{file.name}")) for file in manifest.files]
    named = [place for place, done in enumerate(files.done) if done == ("sync_directory", folder)]
    # Files durable, their names durable, the manifest aside, in place, its name durable.
    assert marked < min(synced)
    assert max(synced) < named[-2] < written
    assert files.done[written + 1 : written + 3] == [("rename", target), ("sync_directory", folder)]
    assert next(path for name, path in files.done if name == "rename") == target
    assert (folder, "write") not in [(str(Path(path).parent), name) for name, path in files.done[written + 1 :]]
    assert not {"append", "truncate"} & {
        name for name, path in files.done if path.startswith(loop.directory.checkpoints)
    }


def test_old_checkpoints_are_deleted_after_the_new_one_is_committed(path, watched_files, async_save):
    files = watched_files()
    loop = Loop(path, files=files, keep_last=1, async_save=async_save).resume()
    loop.save(10)
    loop.store.drain()
    files.done.clear()
    loop.save(20)
    loop.store.close()
    committed = files.done.index(("rename", loop.directory.manifest(20)))
    removed = [place for place, (name, _) in enumerate(files.done) if name in ("remove", "remove_tree")]
    assert removed
    assert committed + 1 < min(removed)
    assert files.done[committed + 1] == ("sync_directory", loop.directory.checkpoint(20))
    assert loop.steps() == [20]


def test_manifest_says_what_was_saved(path):
    loop = Loop(path, run="ours").resume()
    loop.save(10)
    loop.train(20).log.close(loop.progress)
    loop.train(23)
    loop.store.save(Progress(23, 736, 1.5), reasons=("interval", "final"), control={"pending": ["eval"]})

    written = json.loads(Path(loop.directory.manifest(23)).read_bytes())
    metrics = Path(loop.directory.metrics).read_bytes()
    assert (written["format"], written["step"], written["examples"], written["run"]) == (1, 23, 736, "ours")
    assert (written["reasons"], written["transient"], written["parent"]) == (["interval", "final"], False, 10)
    assert (written["log"]["records"], written["log"]["bytes"]) == (metrics.count(b"\n"), len(metrics))
    assert written["train"]["window"] == [10, 20]
    assert written["train"]["lag"] == 3
    assert (written["open_window"]["from"], written["open_window"]["steps"]) == (20, 3)
    assert written["open_window"]["metrics"]["loss"] == pytest.approx((1 / 21 + 1 / 22 + 1 / 23) / 3)
    assert written["control"] == {"cadence": {"seconds": 1.5}, "pending": ["eval"]}
    assert Manifest.load(loop.directory, 23).step == 23


def test_manifest_is_never_rewritten(path, tree):
    loop = Loop(path).resume()
    loop.save(10)
    before = tree(loop.directory.checkpoint(10))
    loop.model.bias.assign([7.0, 7.0])
    # To refuse a second save of one step is as good as to do nothing.
    with contextlib.suppress(TrainerError):
        loop.store.save(loop.progress, reasons=("final",))
    assert tree(loop.directory.checkpoint(10)) == before


@pytest.mark.parametrize("reasons", [("intervall",), (), ("interval", "mine")])
def test_reason_that_no_reader_of_a_manifest_knows_is_refused(path, reasons):
    loop = Loop(path).resume()
    with pytest.raises(ConfigError):
        loop.save(10, reasons=reasons)
    assert loop.steps() == []


def test_save_and_prune_are_journaled(path):
    loop = Loop(path, journal=True, keep_last=1).resume()
    loop.save(10)
    loop.save(20)
    save = next(entry for entry in read_journal(loop.directory) if entry["event"] == "save" and entry["step"] == 20)
    assert save["reasons"] == ["interval"]
    assert {"stall_s", "snapshot_s", "write_s", "commit_s"} <= save.keys()
    folder = Path(loop.directory.checkpoint(20))
    assert save["bytes"] == sum(file.stat().st_size for file in folder.glob("state.*"))
    assert [entry["steps"] for entry in read_journal(loop.directory) if entry["event"] == "prune"] == [[10]]


def test_save_that_tensorflow_cannot_write_leaves_the_checkpoints_before_it_alone(path, tree, watched_files):
    class Obstructed(watched_files):
        """Once the folder is there, something is in the way of the index that TensorFlow wants to write."""

        def sync_directory(self, path):
            super().sync_directory(path)
            if Path(path) == obstacle.parent:
                obstacle.mkdir(exist_ok=True)

    obstacle = path / "checkpoints" / "step-0000000020" / "state.index"
    loop = Loop(path, files=Obstructed()).resume()
    loop.save(10)
    before = tree(loop.directory.checkpoint(10))
    with pytest.raises(Unwritable) as refused:
        loop.save(20)
    assert refused.value.exit_code == 74
    assert "\n" not in str(refused.value)
    assert tree(loop.directory.checkpoint(10)) == before
    assert loop.steps() == [10]
    obstacle.rmdir()
    assert Loop(path).resume().weights() == [10.0]


def test_step_whose_save_failed_can_be_saved_again(path, watched_files, async_save):
    files = watched_files(error=lambda: Unwritable("no space left"))
    loop = Loop(path, files=files, async_save=async_save).resume()
    loop.save(10)
    loop.store.drain()
    loop.train(20)
    files.fail_at = len(files.done)
    with pytest.raises(Unwritable):
        loop.attempt()
    assert not loop.store.has(20)
    loop.attempt()
    assert loop.store.latest.step == 20
    assert Loop(path).resume().weights() == [20.0]


# What stays.


def test_the_last_checkpoints_stay(path):
    loop = Loop(path, keep_last=2).resume()
    for step in (10, 20, 30, 40):
        loop.save(step)
        assert loop.steps() == [kept for kept in (10, 20, 30, 40) if step - 10 <= kept <= step]


def test_transient_checkpoints_do_not_count_and_only_the_newest_stays(path):
    loop = Loop(path, keep_last=2).resume()
    for step, reasons in [
        (10, ["interval"]),
        (15, ["signal"]),
        (20, ["interval"]),
        (25, ["time"]),
        (27, ["signal", "time"]),
    ]:
        loop.save(step, reasons=reasons)
    assert loop.steps() == [10, 20, 27]
    loop.save(30)
    assert loop.steps() == [20, 27, 30]


def test_best_checkpoints_stay(path):
    loop = Loop(path, keep_last=1).resume()
    for step in (10, 20, 30):
        loop.save(step, best_steps={10})
    assert loop.steps() == [10, 30]
    loop.save(40, best_steps={40})
    assert loop.steps() == [40]


@pytest.mark.parametrize("release", ["drain", "close", "last", "all"])
def test_checkpoint_resumed_from_stays_until_a_newer_one_is_read_back(path, async_save, release):
    Loop(path).resume().save(10)
    loop = Loop(path, keep_last=1, async_save=async_save, verify_saves="all" if release == "all" else "last").resume()
    for step in (20, 30):
        loop.save(step)
        finish(loop.store)
        assert loop.steps() == ([step] if release == "all" else [10, step])
        # What an undisturbed run would have kept, and what a kill now leaves to the next start.
        assert loop.store.latest.kept == (step,)
    if release in ("drain", "close"):
        getattr(loop.store, release)()
        assert loop.steps() == [30]
        assert loop.latest() == loop.directory.state_prefix(30)
    loop.save(40, last=release == "last")
    loop.store.close()
    assert loop.steps() == [40]


def test_checkpoint_resumed_from_is_no_reason_to_keep_it_where_nothing_is_read_back(path):
    Loop(path).resume().save(10)
    loop = Loop(path, keep_last=1, verify_saves="never").resume()
    loop.save(20)
    assert loop.steps() == [20]


def test_checkpoint_resumed_from_goes_at_the_next_start_once_a_newer_one_restores(path):
    Loop(path).resume().save(10)
    Loop(path, keep_last=1).resume().save(20)
    assert Loop(path).steps() == [10, 20]
    assert Loop(path, keep_last=1).resume().steps() == [20]


def test_checkpoint_resumed_from_stays_after_it_has_been_completed(path):
    Loop(path).resume().save(10)
    loop = Loop(path, keep_last=1).resume()
    loop.store.complete(reasons=("best",), open_window={"from": 10, "steps": 0, "metrics": {}}, control={})
    assert loop.store.latest.reasons == ("interval", "best")
    for step in (20, 30):
        loop.save(step)
        assert loop.steps() == [10, step]
    loop.store.drain()
    assert loop.steps() == [30]


def test_checkpoints_that_a_cadence_keeps_stay_for_good(path):
    schedule = Schedule(train_for=1000, save_every="never", keep_every="25steps")
    for steps in ((10, 20, 30), (40, 45, 50, 60, 70), (80,)):
        loop = Loop(path, keep_last=1, keeps_for_good=schedule.keeps_for_good).resume()
        for step in steps:
            loop.save(step)
        # Once after a point, 75, but not by the run's own course.
        loop.save(step + 6, reasons=("time",))
        loop.store.close()
        good = [kept for kept in loop.steps() if Manifest.load(loop.directory, kept).for_good]
        assert good == [kept for kept in (30, 50, 80) if kept <= step]
    assert loop.steps() == [30, 50, 80, 86]
    # Whatever the next attempt would keep.
    Loop(path, keep_last=1).resume().save(90)
    assert Loop(path).steps() == [30, 50, 80, 86, 90]


class Swift(Files):
    """Makes nothing durable: what is killed here is only a loop."""

    def write(self, path, data):
        Path(path).write_bytes(data)

    def sync(self, path):
        pass

    def sync_directory(self, path):
        pass


@contextlib.contextmanager
def without_tensors():
    """Writes a byte for all tensors, and restores nothing."""

    def write(checkpoint, prefix, **_):
        for suffix in ("index", "data-00000-of-00001"):
            Path(f"{prefix}.{suffix}").write_bytes(b".")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tensors, "write", write)
        patched.setattr(tensors, "restore", lambda *_, **__: None)
        patched.setattr(tensors, "read_back", lambda *_, **__: None)
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    losses=st.lists(st.integers(0, 3), min_size=4, max_size=8),
    keep_last=st.integers(1, 3),
    keep_best=st.integers(0, 2),
    keep_every=st.sampled_from(["never", "20steps", "35steps"]),
    disturbances=st.lists(st.sampled_from(["kill", "signal", "clock", "end"]) | st.integers(0, 60), max_size=8),
    async_save=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_which_checkpoints_stay_is_a_function_of_the_run_whatever_disturbs_it(
    losses, keep_last, keep_best, keep_every, disturbances, async_save
):
    """A run saves every 10 steps. After each of its saves, and in one (an operation's number), it may be disturbed."""
    schedule = Schedule(train_for=1000, save_every="never", keep_every=keep_every)
    last = len(losses) * 10

    def best(step):
        ranked = sorted(range(10, step + 1, 10), key=lambda at: (losses[at // 10 - 1], at))
        return set(ranked[:keep_best])

    def store(path, files):
        log = MetricLog(RunDirectory(path, files))
        return CheckpointStore(
            tf.train.Checkpoint(),
            log,
            keep_last=keep_last,
            keeps_for_good=schedule.keeps_for_good,
            async_save=async_save,
        )

    def attempt(path, files, disturbance):
        """Goes on from the newest checkpoint; returns whether it came to the end."""
        with contextlib.suppress(Unwritable, Ended), store(path, files) as saving:
            now = saving.resume().step
            if isinstance(disturbance, int):
                files.fail_at = len(files.done) + disturbance
            for step in range(now - now % 10 + 10, last + 1, 10):
                saving.save(Progress(step, step), reasons=("interval",), best_steps=best(step), last=step == last)
                finish(saving)
                check(saving, step)
                if disturbance in ("signal", "clock"):
                    saving.save(Progress(step + 3, step + 3), reasons=("time",), best_steps=best(step))
                if disturbance in ("signal", "kill"):
                    raise Ended
                if disturbance == "end":
                    return False
            return True
        return False

    def check(saving, step):
        committed = saving.directory.committed_steps()
        assert committed[0] == step
        # The undisturbed run is the first to say.
        assert saving.latest.kept == kept.setdefault(step, saving.latest.kept)
        assert set(saving.latest.kept) <= set(committed)

    def steps(path):
        directory = RunDirectory(path)
        return [step for step in directory.committed_steps() if not Manifest.load(directory, step).transient]

    with tempfile.TemporaryDirectory() as folder, without_tensors():
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        kept = {}
        assert attempt(undisturbed, FailingSwift(), None)
        foreign = disturbed / "checkpoints" / "step-0000000010" / "notes.txt"
        for disturbance in [*disturbances, None]:
            had = steps(disturbed) if disturbed.exists() else []
            done = attempt(disturbed, FailingSwift(), disturbance)
            # Once there is a checkpoint there always is one.
            assert not had or steps(disturbed)[0] >= had[0]
            if foreign.parent.exists():
                foreign.write_text("mine")
        assert done
        assert steps(disturbed) == steps(undisturbed)
        assert not foreign.parent.exists() or foreign.read_text() == "mine"


class Ended(Exception):
    """The process ends here; what it was saving is written or not."""


class FailingSwift(Swift):
    """Refuses everything from one operation on, as a disk that is full."""

    def __init__(self):
        self.done = []
        self.fail_at = None

    def _note(self, path):
        self.done.append(path)
        if self.fail_at is not None and len(self.done) > self.fail_at:
            raise Unwritable("no space left")

    def write(self, path, data):
        self._note(path)
        super().write(path, data)

    def rename(self, source, target):
        self._note(target)
        super().rename(source, target)

    def remove(self, path):
        self._note(path)
        super().remove(path)

    def sync_directory(self, path):
        self._note(path)


def test_checkpoints_of_earlier_attempts_are_pruned_too(path):
    for step in (10, 20, 30):
        Loop(path, keep_last=2).resume().save(step)
    assert Loop(path).steps() == [20, 30]


def test_keeping_no_checkpoint_is_refused(path):
    with pytest.raises(ConfigError, match="keep_last=0"):
        Loop(path, keep_last=0)


@pytest.mark.filterwarnings("ignore:the folder of step 10 .*:UserWarning")
def test_files_that_are_not_ours_outlive_their_checkpoint(path):
    loop = Loop(path, keep_last=1).resume()
    loop.save(10)
    notes = Path(loop.directory.checkpoint(10)) / "notes.txt"
    other = Path(loop.directory.checkpoints) / "ckpt-1.index"
    unmarked = [Path(loop.directory.checkpoint(30)) / name for name in ("notes.txt", "state.index")]
    unmarked[0].parent.mkdir()
    for file in (notes, other, *unmarked):
        file.write_text("mine")
    loop.save(20)
    with pytest.warns(UserWarning, match="step 30 has no manifest and is not ours"):
        assert Loop(path, keep_last=1).resume().step == 20
    assert [file.read_text() for file in (notes, other, *unmarked)] == ["mine"] * 4
    assert [file.name for file in notes.parent.iterdir()] == ["notes.txt"]
    # A step whose folder is there already can still be saved: what was in it is moved.
    with pytest.warns(UserWarning, match="step 30"):
        resumed = Loop(path, keep_last=1, journal=True).resume()
    resumed.save(30)
    moved = Path(f"{loop.directory.checkpoint(30)}.foreign")
    assert {file.name: file.read_text() for file in moved.iterdir()} == {"notes.txt": "mine", "state.index": "mine"}
    (said,) = (entry["reason"] for entry in read_journal(loop.directory) if entry["event"] == "quarantine")
    assert str(moved) in said
    with pytest.warns(UserWarning, match="step 10"):
        assert Loop(path).resume().weights() == [30.0]


# What a resume finds.


def test_first_start_is_at_step_0_and_makes_nothing(path, tree, tmp_path):
    loop = Loop(path)
    assert loop.store.resume() == Progress(0, 0, 0.0)
    assert loop.store.latest is None
    assert tree(tmp_path) == {}


def test_resume_restores_the_newest_checkpoint(path):
    loop = Loop(path).resume()
    loop.save(10)
    loop.train(20)
    loop.store.save(Progress(20, 640, 12.25), reasons=("interval",))
    loop.train(24).log.close(loop.progress)

    resumed = Loop(path)
    assert resumed.store.resume() == Progress(20, 640, 12.25)
    assert resumed.weights() == [20.0]
    assert resumed.store.latest.step == 20
    assert [record.step for record in read_records(resumed.directory)] == [10]


def test_checkpoint_without_a_manifest_is_invisible_and_removed(path):
    loop = Loop(path).resume()
    loop.save(10)
    loop.save(20)
    # As a kill in the middle of a save, or of a deletion, leaves it.
    Path(loop.directory.manifest(20)).rename(loop.directory.unfinished(20))
    resumed = Loop(path, journal=True)
    assert resumed.store.resume().step == 10
    assert resumed.weights() == [10.0]
    assert not Path(resumed.directory.checkpoint(20)).exists()
    assert [entry["steps"] for entry in read_journal(resumed.directory) if entry["event"] == "prune"] == [[20]]


def test_what_a_resume_cuts_is_kept_whatever_an_earlier_one_cut(path):
    loop = Loop(path).resume()
    loop.save(10)
    cut = []
    for end in (13, 17):
        loop = Loop(path).resume()
        loop.train(end).log.close(loop.progress)
        cut.append(Path(loop.directory.metrics).read_bytes().splitlines(keepends=True)[-1])
    Loop(path).resume()
    kept = b"".join(file.read_bytes() for file in Path(loop.directory.orphans).rglob("metrics.jsonl"))
    assert [line for line in cut if line not in kept] == []


@pytest.mark.parametrize("window", [AWKWARD, [0.1], [math.nan, 1.0, math.inf], [np.float32(0.1), np.float32(1e-8)]])
def test_open_window_goes_on_as_if_there_had_been_no_kill(path, tmp_path, window):
    def train(loop, values, start):
        for step, value in enumerate(values, start=start):
            loop.log.add({"loss": value, "accuracy": abs(value) / 3}, weight=0.7 * step)
            loop.step = step

    whole = Loop(tmp_path / "whole").resume()
    train(whole, [*window, *AWKWARD], 1)
    whole.log.close(whole.progress)

    loop = Loop(path).resume()
    train(loop, window, 1)
    loop.store.save(loop.progress, reasons=("interval",))
    resumed = Loop(path).resume()
    assert (resumed.log.window.start, resumed.log.window.steps) == (0, len(window))
    train(resumed, AWKWARD, len(window) + 1)
    resumed.log.close(resumed.progress)

    assert Path(resumed.directory.metrics).read_bytes() == Path(whole.directory.metrics).read_bytes()


def test_tensorflow_finds_the_newest_checkpoint_by_itself(path):
    loop = Loop(path, keep_last=1).resume()
    for step in (10, 20):
        loop.save(step)
        assert loop.latest() == loop.directory.state_prefix(step)
    state = tf.train.get_checkpoint_state(loop.directory.checkpoints)
    assert list(state.all_model_checkpoint_paths) == [loop.directory.state_prefix(20)]


@pytest.mark.parametrize("content", [None, b"", b'model_checkpoint_path: "ckpt-7"\n', b"\xff torn"])
def test_resume_scans_and_does_not_ask_the_state_file(path, content):
    loop = Loop(path).resume()
    loop.save(10)
    loop.save(20)
    state_file = Path(loop.directory.state_file)
    state_file.unlink() if content is None else state_file.write_bytes(content)
    resumed = Loop(path).resume()
    assert resumed.step == 20
    assert resumed.latest() == resumed.directory.state_prefix(20)


# Damage.


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(bytes(data))


def rewrite(manifest: Path, **values: object) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | values))


DAMAGE = {
    "flipped data byte": lambda folder: flip(folder / "state.data-00000-of-00001", 2),
    "flipped last data byte": lambda folder: flip(folder / "state.data-00000-of-00001", -1),
    "truncated data": lambda folder: (folder / "state.data-00000-of-00001").write_bytes(b"1234"),
    "missing data": lambda folder: (folder / "state.data-00000-of-00001").unlink(),
    "missing index": lambda folder: (folder / "state.index").unlink(),
    "empty index": lambda folder: (folder / "state.index").write_bytes(b""),
    "flipped index byte": lambda folder: flip(folder / "state.index", 20),
    "garbage as manifest": lambda folder: (folder / "manifest.json").write_bytes(b"garbage \xff"),
    "manifest of another step": lambda folder: rewrite(folder / "manifest.json", step=10),
    "manifest with other sizes": lambda folder: rewrite(
        folder / "manifest.json", files=[{"name": "state.index", "bytes": 1, "crc32": "00000000"}]
    ),
    "manifest of another run": lambda folder: rewrite(folder / "manifest.json", run="theirs"),
}
# What the sizes do not show.
SAME_SIZE = {name: damage for name, damage in DAMAGE.items() if "flipped" in name}


@pytest.fixture
def saved(path):
    """Checkpoints at 10, 20 and 30."""
    loop = Loop(path, run="ours").resume()
    for step in (10, 20, 30):
        loop.save(step)
    return loop.directory


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_checkpoint_is_put_aside_and_the_next_older_used(saved, path, tree, damage):
    DAMAGE[damage](Path(saved.checkpoint(30)))
    before = tree(saved.checkpoint(30))
    loop = Loop(path, run="ours")
    recovery = loop.store.recover()

    assert recovery.manifest.step == 20
    assert loop.weights() == [20.0]
    ((step, reason),) = recovery.quarantined
    assert step == 30
    assert loop.steps() == [10, 20]
    (aside,) = Path(saved.orphans).rglob("step-0000000030")
    assert tree(aside) == before | {"reason.txt": f"{reason}\n".encode()}
    assert [record.step for record in read_records(saved)] == [10, 20]
    assert loop.latest() == saved.state_prefix(20)
    loop.step = 20
    assert loop.save(30).parent == 20
    assert Loop(path, run="ours").resume().weights() == [30.0]


@pytest.mark.parametrize("damage", SAME_SIZE)
def test_damaged_checkpoints_are_passed_over_until_a_good_one(saved, path, damage):
    for step in (20, 30):
        DAMAGE[damage](Path(saved.checkpoint(step)))
    loop = Loop(path).resume()
    assert loop.step == 10
    assert loop.weights() == [10.0]


def test_every_flipped_byte_is_noticed_or_harmless(saved, path, tmp_path):
    """An index has a few bytes that nobody reads; any other damage must not pass for weights."""
    rest = Path(saved.path)
    for name in ("state.data-00000-of-00001", "state.index"):
        size = (Path(saved.checkpoint(30)) / name).stat().st_size
        for place in range(0, size, 11):
            copy = tmp_path / f"{name}-{place}"
            shutil.copytree(rest, copy)
            flip(copy / "checkpoints" / "step-0000000030" / name, place)
            loop = Loop(copy).resume()
            assert loop.weights() == [float(loop.step)]
            assert loop.step == (30 if loop.steps() == [10, 20, 30] else 20)


def test_nothing_is_moved_when_no_checkpoint_can_be_used(saved, path, tree):
    for step, damage in {30: "flipped data byte", 20: "missing index", 10: "garbage as manifest"}.items():
        DAMAGE[damage](Path(saved.checkpoint(step)))
    before = tree(path)
    for _ in range(2):
        with pytest.raises(Unusable) as refused:
            Loop(path, run="ours").resume()
        assert refused.value.exit_code == 66
        assert all(f"step {step}" in str(refused.value) for step in (10, 20, 30))
        assert "\n" not in str(refused.value)
        assert tree(path) == before


def test_older_checkpoint_that_is_used_instead_is_not_used_in_silence(saved, path, capfd, caplog, recwarn):
    DAMAGE["missing index"](Path(saved.checkpoint(30)))
    assert Loop(path).resume().step == 20
    assert re.search(r"\b30\b.*state\.index is missing", loud(capfd, caplog, recwarn))


def test_variable_that_the_file_lacks_is_refused(saved, path, tree):
    before = tree(path)
    loop = Loop(path)
    loop.model.scale = tf.Variable(1.0)
    with pytest.raises(Unusable, match="other variables"):
        loop.resume()
    assert tree(path) == before


def test_variable_that_the_model_lacks_is_refused(saved, path, tree):
    before = tree(path)
    loop = Loop(path)
    del loop.model.bias
    with pytest.raises(Unusable, match="other variables"):
        loop.resume()
    assert tree(path) == before


def test_variable_of_another_shape_is_refused(saved, path, tree):
    before = tree(path)
    loop = Loop(path)
    loop.model.bias = tf.Variable(tf.zeros([5]))
    with pytest.raises(Unusable):
        loop.resume()
    assert tree(path) == before


# A kill, or a full disk, at every file operation of a resume, a save and a prune.


@pytest.mark.slow
def test_every_interrupted_save_leaves_a_checkpoint_that_agrees_with_the_log(
    saved, path, tmp_path, watched_files, killed
):
    moments = 0
    found = set()
    while True:
        copy = tmp_path / f"interrupted-{moments}"
        shutil.copytree(path, copy)
        # By turns a kill and a disk that is full.
        error = killed if moments % 2 else lambda: Unwritable("cannot write: no space left")
        try:
            Loop(copy, files=watched_files(fail_at=moments, error=error), keep_last=2).resume().save(40)
        except (killed, Unwritable):
            pass
        else:
            break
        moments += 1

        resumed = Loop(copy, keep_last=2).resume()
        assert resumed.weights() == [float(resumed.step)]
        found.add(resumed.step)
        steps = [record.step for record in read_records(resumed.directory)]
        assert steps == [step for step in (10, 20, 30, 40) if step <= resumed.step]
        assert resumed.latest() == resumed.directory.state_prefix(resumed.step)
        resumed.save(50)
        assert resumed.steps()[-1] == 50
    assert found == {30, 40}
    assert moments > 15


# Training goes on meanwhile.


@pytest.fixture
def gate(watched_files):
    """Makes files that hold the thread that comes to one operation, until they let it go."""

    class Gate(watched_files):
        def __init__(self, name, path, **options):
            super().__init__(**options)
            self._held = (name, path)
            self.reached, self.go = threading.Event(), threading.Event()
            gates.append(self)

        def _fails(self, name, path):
            if (name, path) == self._held:
                self.reached.set()
                assert self.go.wait(SECONDS_AT_MOST)
            return super()._fails(name, path)

    gates = []
    yield Gate
    for opened in gates:
        opened.go.set()


def test_what_training_does_during_a_save_does_not_get_into_it(path, gate):
    files = gate("write", RunDirectory(path).unfinished(10))
    loop = Loop(path, files=files, async_save=True).resume()
    with loop.store:
        loop.save(10)
        assert files.reached.wait(SECONDS_AT_MOST)
        loop.model.kernel.assign_add(tf.ones([3, 2]))
        loop.model.bias.scatter_nd_update([[0]], [99.0])
        loop.train(20).log.close(loop.progress)
        loop.store.poll()
        assert loop.store.busy
        assert loop.store.has(10)
        assert loop.store.latest is None
        assert loop.steps() == []
        files.go.set()
        loop.store.drain()
        assert not loop.store.busy
        assert loop.store.latest == Manifest.load(loop.directory, 10)
    resumed = Loop(path).resume()
    assert (resumed.step, resumed.weights()) == (10, [10.0])
    assert [record.step for record in read_records(resumed.directory)] == [10]


def test_save_that_comes_due_during_another_waits_for_it_and_says_how_long(path, gate, monkeypatch):
    files = gate("write", RunDirectory(path).unfinished(10))
    loop = Loop(path, files=files, journal=True, async_save=True).resume()
    waited = []

    def wait(jobs):
        # Whoever waits comes here; only then the save before may go on.
        waited.append(loop.step)
        files.go.set()
        return real_wait(jobs)

    real_wait = concurrent.futures.wait
    with loop.store:
        loop.save(10)
        assert files.reached.wait(SECONDS_AT_MOST)
        loop.train(20).log.close(loop.progress)
        monkeypatch.setattr(concurrent.futures, "wait", wait)
        loop.store.save(loop.progress, reasons=("interval",))
        assert waited == [20]
    first, second = (entry for entry in read_journal(loop.directory) if entry["event"] == "save")
    assert (first["step"], second["step"], second["wait_s"] > 0) == (10, 20, True)
    assert second["stall_s"] == pytest.approx(second["wait_s"] + second["snapshot_s"], abs=2e-6)
    committed = files.done.index(("rename", loop.directory.manifest(10)))
    assert committed < files.done.index(("write", loop.directory.unfinished(20)))
    assert Loop(path).resume().weights() == [20.0]


def test_commits_are_told_to_the_callers_thread_once_each(path, gate, async_save):
    told = []
    loop = Loop(
        path, async_save=async_save, on_commit=lambda saved: told.append((saved.step, threading.get_ident()))
    ).resume()
    with loop.store:
        for step in (10, 20, 30):
            loop.save(step)
    assert told == [(step, threading.get_ident()) for step in (10, 20, 30)]


@pytest.mark.slow
def test_every_refusal_of_the_disk_during_a_save_is_raised_by_the_next_call(path, tmp_path, tree, watched_files):
    """At each operation that the writer does, reading or writing: none is lost, and nor is the checkpoint before."""

    def save(loop):
        loop.train(21)
        loop.store.save(loop.progress, reasons=("interval",))

    calls = [lambda loop: finish(loop.store), save, lambda loop: loop.store.drain(), lambda loop: loop.store.close()]
    Loop(path, keep_last=1).resume().save(10)
    before = tree(path / "checkpoints" / "step-0000000010")
    moments, found = 0, set()
    while True:
        copy = tmp_path / f"refused-{moments}"
        shutil.copytree(path, copy)
        files = watched_files(error=lambda: OSError(errno.EIO, "Input/output error"), reads=True)
        loop = Loop(copy, files=files, keep_last=1, journal=True, async_save=True).resume()
        loop.train(20).log.close(loop.progress)
        loop.store.prepare()
        files.fail_at = len(files.done) + moments
        try:
            loop.store.save(loop.progress, reasons=("interval",))
            calls[moments % len(calls)](loop)
            loop.store.close()
        except Unwritable as error:
            refusal = error
        else:
            break
        finally:
            with contextlib.suppress(Unwritable):
                loop.store.close()
        assert refusal.exit_code == 74
        assert "\n" not in str(refusal)
        moments += 1
        resumed = Loop(copy, keep_last=1).resume()
        assert resumed.weights() == [float(resumed.step)]
        found.add(resumed.step)
        if resumed.step == 10:
            assert tree(copy / "checkpoints" / "step-0000000010") == before
    assert {10, 20} <= found
    assert moments > 30


def test_failure_of_a_save_is_not_lost_behind_another_error(path, gate):
    files = gate("write", RunDirectory(path).unfinished(10), error=lambda: Unwritable("no space left"))
    loop = Loop(path, files=files, async_save=True).resume()
    with pytest.warns(UserWarning, match=r"lost as well: no space left"):
        end_with_an_error(loop, files, fail=True)
    assert loop.steps() == []


def end_with_an_error(loop, files, *, fail=False):
    """Saves, and ends with an error of the loop's own while the writer is held; with `fail` where it is held."""

    def body():
        with loop.store:
            loop.save(10)
            assert files.reached.wait(SECONDS_AT_MOST)
            files.fail_at = len(files.done) if fail else None
            files.go.set()
            raise RuntimeError("the first")

    with pytest.raises(RuntimeError, match="the first"):
        body()


def test_save_under_way_is_finished_when_the_loop_ends_with_an_error(path, gate):
    files = gate("write", RunDirectory(path).unfinished(10))
    loop = Loop(path, files=files, async_save=True).resume()
    end_with_an_error(loop, files)
    assert loop.store.latest.step == 10
    assert Loop(path).resume().weights() == [10.0]


def test_closed_store_leaves_no_thread(path):
    before = threading.active_count()
    loop = Loop(path, async_save=True).resume()
    with loop.store:
        loop.save(10)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_what_cannot_be_copied_is_saved_in_place_and_that_is_said_once(path):
    iterator = iter(tf.data.Dataset.range(9))
    next(iterator)
    loop = Loop(path, parts={"iterator": iterator}, async_save=True).resume()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with loop.store:
            for step in (10, 20):
                loop.save(step)
                assert not loop.store.busy
                assert loop.store.latest.step == step
                next(iterator)
    (warning,) = said
    assert re.search(r"saved in place, and training waits.*iterator holds state", str(warning.message))
    fresh = iter(tf.data.Dataset.range(9))
    assert Loop(path, parts={"iterator": fresh}).resume().weights() == [20.0]
    assert next(fresh).numpy() == 2


def test_why_a_store_saves_in_place_is_told_to_whoever_prepares_it(path):
    assert Loop(path, async_save=True).store.prepare() is None
    assert Loop(path).store.prepare() is None
    iterator = iter(tf.data.Dataset.range(9))
    store = Loop(path, parts={"iterator": iterator}, async_save=True).store
    assert "saved in place" in store.prepare()
    assert store.prepare() is None


def test_variable_that_comes_after_the_first_save_is_refused_and_nothing_committed(path):
    loop = Loop(path, async_save=True).resume()
    with loop.store:
        loop.save(10)
        loop.store.drain()
        loop.model.late = tf.Variable(1.0, name="late")
        with pytest.raises(ConfigError, match=r"late.*async_save=false"):
            loop.save(20)
    assert loop.steps() == [10]


# Reading back.


@pytest.fixture
def corrupt(monkeypatch):
    """Makes a disk on which each file of tensors that is written from now on is not what was written."""

    def write(checkpoint, prefix, **options):
        real_write(checkpoint, prefix, **options)
        flip(Path(f"{prefix}.data-00000-of-00001"), 2)

    real_write = tensors.write
    return lambda: monkeypatch.setattr(tensors, "write", write)


@pytest.mark.parametrize(("verify_saves", "last"), [("all", False), ("all", True), ("last", True)])
def test_save_that_is_to_be_read_back_is_not_committed_when_it_does_not(
    path, tree, corrupt, async_save, verify_saves, last
):
    loop = Loop(path, keep_last=1, verify_saves=verify_saves, async_save=async_save).resume()
    loop.save(10)
    loop.store.drain()
    before = tree(loop.directory.checkpoint(10))
    corrupt()
    loop.train(20)
    with pytest.raises(Unwritable, match="checkpoint 20 was written but does not read back") as refused:
        loop.attempt(last=last)
    assert refused.value.exit_code == 74
    assert loop.directory.step_folders() == [10]
    assert tree(loop.directory.checkpoint(10)) == before
    loop.store.close()
    assert Loop(path).resume().weights() == [10.0]


def test_last_save_is_read_back_when_the_store_is_drained_and_the_one_resumed_from_is_still_there(
    path, corrupt, async_save
):
    Loop(path).resume().save(10)
    loop = Loop(path, keep_last=1, async_save=async_save).resume()
    loop.save(20)
    loop.store.poll()
    corrupt()
    loop.save(30)
    for call in (loop.store.drain, loop.store.close):
        with pytest.raises(Unwritable, match="checkpoint 30 was written but does not read back"):
            call()
    assert loop.steps() == [10, 30]
    assert Loop(path).resume().weights() == [10.0]


def test_store_that_is_to_read_nothing_back_reads_nothing_back(path, corrupt, async_save):
    loop = Loop(path, verify_saves="never", async_save=async_save).resume()
    loop.save(10)
    loop.store.drain()
    corrupt()
    loop.save(20, last=True)
    loop.store.close()
    assert loop.steps() == [10, 20]
    assert Loop(path).resume().weights() == [10.0]


@pytest.mark.parametrize(
    ("verify_saves", "last", "expected"),
    [
        ("last", True, [30]),
        ("last", False, [30]),
        ("all", False, [10, 20, 30]),
        ("all", True, [10, 20, 30]),
        ("never", True, []),
    ],
)
def test_no_checkpoint_is_read_back_twice(path, monkeypatch, async_save, verify_saves, last, expected):
    read = []
    monkeypatch.setattr(tensors, "read_back", lambda prefix, *, step: read.append(step))
    loop = Loop(path, verify_saves=verify_saves, async_save=async_save).resume()
    with loop.store:
        for step in (10, 20):
            loop.save(step)
        loop.save(30, last=last)
        loop.store.drain()
    assert read == expected


def test_unknown_way_to_read_back_is_refused(path):
    with pytest.raises(ConfigError, match=r"verify_saves=some.*last, all, never"):
        Loop(path, verify_saves="some")


# Without this package.


PLAIN = """
import sys
sys.modules["trainer"] = None
import tensorflow as tf

class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.zeros([3, 2]))
        self.bias = tf.Variable(tf.zeros([2]))

model = Model()
tf.train.Checkpoint(model=model).read(sys.argv[1]).expect_partial()
print(model.kernel.numpy().tolist(), model.bias.numpy().tolist())
"""


@pytest.mark.slow
def test_checkpoint_restores_in_plain_tensorflow(path):
    loop = Loop(path).resume()
    loop.model.extra = tf.Variable(5.0)  # Not in the reader's model, as an optimizer would not be.
    loop.save(10)
    ended = subprocess.run(
        [sys.executable, "-c", PLAIN, loop.directory.state_prefix(10)],
        cwd=path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{[[10.0, 10.0]] * 3} {[10.0, 10.0]}\n"


def test_what_a_kill_kept_from_deletion_is_deleted_by_the_next_start(path):
    loop = Loop(path, keep_last=1)
    loop.save(10)
    kept_by_a_kill = {file.name: file.read_bytes() for file in (path / "checkpoints/step-0000000010").iterdir()}
    loop.save(20)
    assert loop.steps() == [20]
    (path / "checkpoints/step-0000000010").mkdir()
    for name, content in kept_by_a_kill.items():
        (path / "checkpoints/step-0000000010" / name).write_bytes(content)
    assert Loop(path, keep_last=1).resume().steps() == [20]


def test_shard_that_is_refused_once_is_refused_again_and_never_reaches_tensorflow(path):
    checkpoint = tf.train.Checkpoint(table=tf.Variable(tf.zeros([6, 100])))
    store = CheckpointStore(checkpoint, MetricLog(path), max_shard=20)
    for step in (1, 2):
        with pytest.raises(ConfigError, match="max_shard is 20 bytes"):
            store.save(Progress(step, step), reasons=["interval"])


def test_store_that_was_closed_saves_beside_training_again(path):
    loop = Loop(path, async_save=True).resume()
    loop.save(10)
    loop.store.close()
    loop.save(20)
    assert loop.store.busy or loop.store.latest.step == 20
    loop.store.close()
    assert Loop(path).resume().weights() == [20.0]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_resume_reads_no_tensor_twice(path):
    def bytes_read():
        return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])

    def store():
        return CheckpointStore(tf.train.Checkpoint(table=tf.Variable(tf.ones([4, 1_000_000]))), MetricLog(path))

    first = store()
    first.save(Progress(1, 1), reasons=["interval"])
    second = store()
    before = bytes_read()
    second.resume()
    assert 1.0 <= (bytes_read() - before) / first.latest.size < 1.1
