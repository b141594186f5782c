"""The protocol on any storage: what the store and the log promise on a local disk, they promise behind a scheme."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import itertools

import pytest
import tensorflow as tf

from trainer.checkpoint.store import CheckpointStore
from trainer.errors import EXIT_UNUSABLE, Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, read_journal
from trainer.ledger.log import MetricLog, read_records
from trainer.storage.files import Files
from trainer.storage.gfile import GfileFiles
from trainer.storage.ram import RamFiles
from trainer.timeline.cadence import Progress

pytestmark = pytest.mark.slow  # Each saves through TensorFlow's own files.

MADE_OF_OTHERS = ("commit", "replace")
READING = ("read", "blocks", "read_tail", "exists", "is_directory", "size", "list", "crc32")
OPERATIONS = [name for name in vars(Files) if not name.startswith("_") and name not in MADE_OF_OTHERS]

# The figures of docs/contract.md: a checkpoint of one data file, whatever else is there; what each further data file
# adds; and what it takes to delete a checkpoint of one. TensorFlow's writing and the journal come on top.
A_SAVE, A_DATA_FILE, A_DELETION = 19, 3, 10


class Killed(BaseException):
    """The process ends here, before an operation."""


class Counting:
    """Counts the operations on files that are not made of others; raises `error` instead of number `fail_at`, where
    that is one of the `failing`."""

    def __init__(self, fail_at=None, error=Killed, failing=OPERATIONS):
        super().__init__()
        self.counts = collections.Counter()
        self.failed = None
        self._fail_at = fail_at
        self._error = error
        self._failing = failing
        self._inside = False


def _counted(name):
    def operation(self, *arguments, **options):
        # An operation may need others to be done on its storage; it is one all the same.
        if self._inside:
            return getattr(super(Counting, self), name)(*arguments, **options)
        if self.counts.total() == self._fail_at and name in self._failing:
            self.failed = self.failed or name
            raise self._error()
        self.counts[name] += 1
        self._inside = True
        try:
            return getattr(super(Counting, self), name)(*arguments, **options)
        finally:
            self._inside = False

    return operation


for _name in OPERATIONS:
    setattr(Counting, _name, _counted(_name))


class CountingFiles(Counting, Files):
    """On the local disk."""


class CountingGfileFiles(Counting, GfileFiles):
    """Behind a scheme of which all is true that TensorFlow's interface says."""


class CountingRamFiles(Counting, RamFiles):
    """In memory."""


STORAGES = {"local": (CountingFiles, ""), "gfile": (CountingGfileFiles, "file://"), "ram": (CountingRamFiles, "ram:/")}


@pytest.fixture(params=STORAGES)
def start(request, tmp_path):
    """Starts a process' life in one run directory, the same at each call; see `Loop`."""
    files, scheme = STORAGES[request.param]
    path = f"{scheme}{tmp_path}/run"

    def life(*failures, name="run", **options):
        return Loop(RunDirectory(f"{path}-{name}", files(*failures)), **options)

    return life


class Loop:
    """One life of a loop. At step s every weight is s, and each save closes its window first."""

    def __init__(self, directory, *, journal=False, **options):
        self.directory = directory
        self.files = directory.files
        self.weights = tf.Variable(tf.zeros([5]))
        self.log = MetricLog(directory)
        if journal:
            self.files.make_directory(directory.path)
            options["journal"] = Journal(directory)
        self.store = CheckpointStore(tf.train.Checkpoint(weights=self.weights), self.log, **options)
        self.step = 0

    def resume(self):
        self.step = self.store.resume().step
        return self

    def record(self, step):
        self.weights.assign(tf.fill([5], float(step)))
        self.log.add({"loss": 1 / step})
        self.step = step
        self.log.close(Progress(step, step * 32))
        return self

    def save(self, *steps):
        for step in steps:
            self.record(step).store.save(Progress(step, step * 32), reasons=("interval",))
        self.store.drain()
        return self

    def is_whole(self):
        """Whether the weights, the log and TensorFlow's state file say the same."""
        assert self.weights.numpy().tolist() == [float(self.step)] * 5
        assert [record.step for record in read_records(self.directory)] == list(range(10, self.step + 1, 10))
        newest = self.directory.state_prefix(self.step) if self.step else None
        assert tf.train.latest_checkpoint(self.directory.checkpoints) == newest
        return True

    def steps(self):
        return sorted(self.directory.committed_steps())

    def read(self, path):
        """All files under `path`, by their paths from there."""
        found = {}
        for name in self.files.list(path):
            below = f"{path}/{name}"
            if self.files.is_directory(below):
                found |= {f"{name}/{rest}": data for rest, data in self.read(below).items()}
            else:
                found[name] = self.files.read(below)
        return found


def overwrite(name, change):
    def damage(loop, step):
        path = f"{loop.directory.checkpoint(step)}/{name}"
        loop.files.write(path, change(loop.files.read(path)))

    return damage


DATA = "state.data-00000-of-00001"
DAMAGE = {
    "garbage for data": overwrite(DATA, lambda data: b"\xa5" * len(data)),
    "half of the data": overwrite(DATA, lambda data: data[: len(data) // 2]),
    "empty index": overwrite("state.index", lambda data: b""),
    "garbage for an index": overwrite("state.index", lambda data: b"\xa5" * len(data)),
    "no index": lambda loop, step: loop.files.remove(f"{loop.directory.checkpoint(step)}/state.index"),
    "torn manifest": overwrite("manifest.json", lambda data: data[: len(data) // 2]),
    "manifest of another step": overwrite("manifest.json", lambda data: data.replace(b'"step":30', b'"step":31')),
}


@pytest.mark.parametrize("async_save", [False, True])
def test_run_is_saved_pruned_and_resumed_by_new_objects(start, async_save):
    start(async_save=async_save, keep_last=2).resume().save(10, 20, 30).store.close()
    loop = start(async_save=async_save, keep_last=2).resume()
    assert (loop.step, loop.steps()) == (30, [20, 30])
    assert loop.is_whole()
    loop.save(40)
    loop.store.close()
    assert start().resume().is_whole()
    assert {name.split("/")[0] for name in loop.read(loop.directory.checkpoints)} == {
        "checkpoint",
        "step-0000000030",
        "step-0000000040",
    }
    assert loop.files.list(loop.directory.checkpoint(40)) == ["manifest.json", DATA, "state.index"]


def test_run_directory_of_a_scheme_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (10, 20):
        loop = Loop(RunDirectory(f"ram:/{tmp_path}/run")).resume()
        assert loop.step == step - 10
        loop.save(step)
    assert not list(tmp_path.iterdir())


def test_records_later_than_the_checkpoint_are_cut_into_orphans(start):
    loop = start().resume().save(10, 20)
    kept = loop.files.read(loop.directory.metrics)
    later = loop.record(30).files.read(loop.directory.metrics)[len(kept) :] + b'{"kind":"tr'
    loop.files.append(loop.directory.metrics, b'{"kind":"tr')

    loop = start().resume()
    assert loop.step == 20
    assert loop.is_whole()
    assert loop.files.read(loop.directory.metrics) == kept
    assert loop.read(loop.directory.orphans) == {"attempt-0001/metrics.jsonl": later}
    assert start().resume().save(30).is_whole()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_put_aside_and_the_next_older_one_used(start, damage):
    loop = start().resume().save(10, 20, 30)
    DAMAGE[damage](loop, 30)
    left = loop.read(loop.directory.checkpoint(30))

    loop = start(journal=True).resume()
    assert (loop.step, loop.steps()) == (20, [10, 20])
    assert loop.is_whole()
    aside = loop.read(f"{loop.directory.orphans_of(1)}/step-0000000030")
    reason = aside.pop("reason.txt").decode().rstrip()
    assert aside == left
    assert {"event": "quarantine", "step": 30, "reason": reason} in [
        {key: entry.get(key) for key in ("event", "step", "reason")} for entry in read_journal(loop.directory)
    ]
    loop.save(30)
    assert start().resume().step == 30


def test_start_is_refused_and_nothing_moved_while_no_checkpoint_is_usable(start):
    loop = start().resume().save(10, 20)
    for step, damage in ((10, "garbage for data"), (20, "torn manifest")):
        DAMAGE[damage](loop, step)
    before = loop.read(loop.directory.path)
    for _ in range(2):
        with pytest.raises(Unusable, match=r"step 20: .*; step 10: ") as refused:
            start().resume()
        assert refused.value.exit_code == EXIT_UNUSABLE == 66
        assert "\n" not in str(refused.value)
        assert loop.read(loop.directory.path) == before


def no_answer():
    return BlockingIOError(errno.EAGAIN, "no answer")


def test_start_while_the_storage_does_not_answer_is_refused_and_nothing_moved(start):
    """A network that is down says nothing of the checkpoints: none may be put aside, and no run begun anew."""
    loop = start().resume().save(10, 20)
    loop.files.remove(loop.directory.state_file)  # Derived, and written when all else is done.
    before = loop.read(loop.directory.path)
    refused = set()
    for moment in itertools.count():
        late = start(moment, no_answer, READING)
        with contextlib.suppress(Unusable):
            late.resume()
        if late.step == 0:
            refused.add(late.files.failed)
        loop.files.remove(loop.directory.state_file)
        assert loop.read(loop.directory.path) == before
        if late.files.counts.total() < moment:
            break
    assert late.step == 20
    assert refused == {"list", "exists", "is_directory", "read", "size", "crc32", "blocks"}


@pytest.mark.slow
def test_save_while_the_storage_does_not_answer_is_refused_and_nothing_lost(start):
    refused = set()
    for moment in itertools.count():
        life = functools.partial(start, name=moment, keep_last=1)
        life().resume().save(10, 20)
        loop = life(moment, no_answer, READING)
        with contextlib.suppress(Unusable):
            loop.resume()
        if loop.step == 20 and not loop.files.failed:
            with contextlib.suppress(Unwritable):
                loop.save(30)
            refused.add(loop.files.failed)
        assert life().resume().is_whole()
        if loop.files.counts.total() < moment:
            break
    assert refused == {None, "list", "exists", "size", "crc32"}


def test_start_is_refused_when_the_log_was_edited(start):
    loop = start().resume().save(10, 20)
    edited = loop.files.read(loop.directory.metrics).replace(b'"loss":0.05', b'"loss":0.01')
    loop.files.write(loop.directory.metrics, edited)
    before = loop.read(loop.directory.path)
    with pytest.raises(Unusable, match="record 2 was changed"):
        start().resume()
    assert loop.read(loop.directory.path) == before


def test_unfinished_checkpoint_is_discarded_and_a_foreign_folder_stays(start):
    loop = start().resume().save(10, 20)
    loop.files.rename(loop.directory.manifest(20), loop.directory.unfinished(20))
    foreign = loop.directory.checkpoint(30)
    loop.files.make_directory(foreign)
    loop.files.write(f"{foreign}/notes.txt", b"mine")

    with pytest.warns(UserWarning, match="step 30 .*not ours"):
        loop = start().resume()
    assert loop.step == 10
    assert loop.is_whole()
    assert loop.files.list(loop.directory.checkpoints) == ["checkpoint", "step-0000000010", "step-0000000030"]
    assert loop.read(foreign) == {"notes.txt": b"mine"}


@pytest.mark.slow
@pytest.mark.parametrize("start", ["gfile", "ram"], indirect=True)  # The local disk has tests of its own.
def test_process_that_ends_before_any_operation_of_a_start_or_a_save_is_made_good_by_the_next(start):
    """A start with a damaged checkpoint and records to cut, then a save that deletes an older one."""
    found = set()
    for moment in itertools.count():
        life = functools.partial(start, name=moment, keep_last=2)
        loop = life().resume().save(10, 20, 30)
        loop.files.write(f"{loop.directory.checkpoint(30)}/{DATA}", b"garbage")
        try:
            life(moment).resume().save(30)
        except Killed:
            pass
        else:
            break
        loop = life().resume()
        found.add(loop.step)
        assert loop.is_whole()
        loop.save(loop.step + 10)
        kept = [loop.step - 10, loop.step]
        assert loop.steps() == kept
        assert loop.files.list(loop.directory.checkpoints) == ["checkpoint", *(f"step-{step:010d}" for step in kept)]
        assert life().resume().is_whole()
        loop.files.remove_tree(loop.directory.path)  # `ram://` is slow where much is in it.
    assert found == {20, 30}
    assert moment > 60


@pytest.mark.parametrize("async_save", [False, True])
def test_operations_of_a_save_depend_neither_on_what_is_kept_nor_on_what_was_logged(start, async_save):
    def counted(loop, step):
        loop.record(step)
        loop.files.counts.clear()
        loop.store.save(Progress(step, step * 32), reasons=("interval",))
        loop.store.drain()
        return loop.files.counts.total()

    def saves(name, **options):
        return start(name=name, async_save=async_save, verify_saves="never", **options).resume()

    few, many = saves("few", keep_last=1), saves("many", keep_last=12)
    few.save(10)
    many.save(*range(10, 130, 10))
    for step in range(131, 400):
        many.record(step)
    assert counted(few, 20) == counted(many, 400) == A_SAVE + A_DELETION
    growing = saves("growing", keep_last=99).save(10)
    assert [counted(growing, step) for step in (20, 30, 40)] == [A_SAVE] * 3
    sharded = saves("sharded", keep_last=99, max_shard=8).save(10)
    data_files = [
        name for name in sharded.files.list(sharded.directory.checkpoint(10)) if name.startswith("state.data")
    ]
    assert len(data_files) > 1
    assert counted(sharded, 20) == A_SAVE + A_DATA_FILE * (len(data_files) - 1)
