"""Every crash point: wherever a run stops, what is left of its files leads to the same bytes as if it never had.

Each operation of a run is a moment at which its process may be killed or its machine may crash, and so is the middle of
those that have one. For each moment, and for each way in which a disk may lose what was not synced, the run directory
is rebuilt: every checkpoint in it has to be whole and to find its records, the newest has to be resumed from, and the
run has to end as one that nothing happened to.

`SEED=…` repeats what a test left to chance.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
from collections.abc import Callable
from unittest import mock

import pytest
from crash_proof import Proof, Undisturbed, Violation, crash_points, folder_of, kills, manifests, record
from disk import Disk, Operation, Recorder, Tree, read_tree, write_tree
from small_run import STEPS

from trainer.checkpoint import folder, store
from trainer.checkpoint.rewind import rewind
from trainer.checkpoint.saver import Save, Saved, Saver
from trainer.checkpoint.snapshot import Snapshot
from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import MetricLog
from trainer.ledger.manifest import Manifest

pytestmark = pytest.mark.slow

SIGNALS = (2, 5, 10, 11, 22)
CUT_SHORT = 18
TRANSIENT = (*SIGNALS, CUT_SHORT)
LIVES = ({"signals": SIGNALS, "evaluation_cut_short": CUT_SHORT}, {"signals": SIGNALS})
NAMES_CHANGE = ("rename", "remove", "make_directory")
RESUMES_AT_MOST = 600
"""In each test; by chance, where more directories differ."""


@pytest.fixture(autouse=True)
def instant_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync does is the model's business here; real ones would only take time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """What a run does that saves in place."""
    return record(tmp_path_factory.mktemp("recorded") / "run", *LIVES)


@pytest.fixture
def seed() -> str:
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(2**32))
    print(f"SEED={seed}")
    return seed


@pytest.mark.parametrize("async_save", [False, True], ids=["in place", "asynchronous"])
def test_run_that_stops_anywhere_ends_in_the_same_bytes(
    async_save: bool, undisturbed: Undisturbed, tmp_path: pathlib.Path, seed: str
) -> None:
    disk = Disk()
    proof = Proof(undisturbed, tmp_path / "left", transient=TRANSIENT)
    proof.look_at(crash_points(disk, record(tmp_path / "run", *LIVES, async_save=async_save), seed))
    assert disk.tree() == read_tree(tmp_path / "run"), "not every operation was recorded"
    print(proof.resume(at_most=RESUMES_AT_MOST, seed=seed))


def test_machine_that_crashes_after_a_kill_takes_nothing_that_the_next_process_counted_on(
    undisturbed: Undisturbed, operations: list[Operation], tmp_path: pathlib.Path, seed: str
) -> None:
    """What a kill left unsynced is unsynced for the process that goes on with it, too."""
    chance = random.Random(seed)
    proof = Proof(undisturbed, tmp_path / "left", transient=TRANSIENT)
    for kill in kills(Disk(), operations, tmp_path / "next"):
        if kill.operation.name in NAMES_CHANGE or chance.random() < 0.1:
            proof.look_at(kill.crash_points(seed, until=min(kill.newest + 4, STEPS), signals=SIGNALS))
    print(proof.resume(at_most=RESUMES_AT_MOST, seed=seed))


def test_resume_that_stops_anywhere_is_made_good_by_the_next(
    undisturbed: Undisturbed, operations: list[Operation], tmp_path: pathlib.Path, seed: str
) -> None:
    base, damaged = disaster(operations)
    write_tree(tmp_path / "run", base)
    disk, resumed = Disk(base), record(tmp_path / "run", {"until": 20})
    assert {
        ("remove", f"{folder_of(24)}/state.data-00000-of-00001"),
        ("rename", f"{folder_of(22)}/manifest.json"),
        ("rename", f"{folder_of(20)}/manifest.json"),
        ("truncate", "metrics.jsonl"),
        ("remove", f"{folder_of(8)}/state.index"),
    } <= {(operation.name, operation.path) for operation in resumed}, "there was too little to do"
    proof = Proof(undisturbed, tmp_path / "left", transient=TRANSIENT, damaged=damaged)
    proof.look_at(crash_points(disk, resumed, seed, floor=18))
    assert disk.tree() == read_tree(tmp_path / "run"), "not every operation was recorded"
    for kill in kills(Disk(base), resumed, tmp_path / "next", floor=18):
        if kill.operation.name in NAMES_CHANGE:
            proof.look_at(kill.crash_points(seed, until=18))
    print(proof.resume(at_most=RESUMES_AT_MOST, seed=seed))


def test_rewind_that_stops_anywhere_leaves_a_run_that_resumes(
    undisturbed: Undisturbed, tmp_path: pathlib.Path, seed: str
) -> None:
    path = tmp_path / "run"
    record(path, {"until": 22, "signals": SIGNALS})
    base, files = read_tree(path), Recorder(path)
    with files.recording():
        rewind(RunDirectory(path, files), 12)
    assert sorted(manifests(read_tree(path))) == [12]
    disk, later = Disk(base), [step for step in manifests(base) if step > 12]
    assert len(later) > 2
    proof = Proof(undisturbed, tmp_path / "left", transient=TRANSIENT, moving=later)
    proof.look_at(crash_points(disk, files.operations, seed, floor=12))
    assert disk.tree() == read_tree(path), "not every operation was recorded"
    print(proof.resume(at_most=RESUMES_AT_MOST, seed=seed))


def disaster(operations: list[Operation]) -> tuple[Tree, dict[int, bytes]]:
    """All that a start can have to do: the run was killed while it wrote checkpoint 24, somebody has damaged 20 and 22,
    so that there are records to cut, and 6 and 8 are there again, which it had deleted.

    Returns:
      What is there, and the contents of the damaged files by their steps.
    """
    disk, returned = Disk(), {}
    for operation in operations:
        if (operation.name, operation.path) == ("tensors", folder_of(24)):
            disk.apply(operation.torn()[4])
            break
        disk.apply(operation)
        if operation.name == "committed" and operation.step in (6, 8):
            tree = disk.tree()
            returned |= {name: tree[name] for name in tree if name.startswith(folder_of(operation.step))}
    tree, damaged = {**returned, **disk.tree()}, {}
    for step in (20, 22):
        name = f"{folder_of(step)}/state.data-00000-of-00001"
        content = tree[name]
        assert content is not None
        tree[name] = damaged[step] = content[:-1] + bytes([content[-1] ^ 1])
    return dict(sorted(tree.items())), damaged


Mistake = Callable[[pytest.MonkeyPatch], None]


def careless(owner: object, name: str, *skipped: str) -> Mistake:
    """A function that leaves out some operations on files."""

    def make(monkeypatch: pytest.MonkeyPatch) -> None:
        careful = getattr(owner, name)

        def mistaken(*arguments: object, **options: object) -> object:
            nothing = dict.fromkeys(skipped, lambda *arguments: None)
            with mock.patch.multiple(Recorder, **nothing):
                return careful(*arguments, **options)

        monkeypatch.setattr(owner, name, mistaken)

    return make


def deletes_before_it_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Saver.write

    def mistaken(saver: Saver, save: Save) -> Saved:
        early = save.decision.delete
        for step in early:
            folder.delete(saver._directory, step)
        late = dataclasses.replace(save, decision=dataclasses.replace(save.decision, delete=()))
        return dataclasses.replace(write(saver, late), deleted=early)

    monkeypatch.setattr(Saver, "write", mistaken)


def deletes_the_files_first(monkeypatch: pytest.MonkeyPatch) -> None:
    delete = folder.delete

    def mistaken(directory: RunDirectory, step: int) -> None:
        directory.files.remove(f"{directory.state_prefix(step)}.index")
        delete(directory, step)

    monkeypatch.setattr(folder, "delete", mistaken)


def cuts_the_log_first(monkeypatch: pytest.MonkeyPatch) -> None:
    verify = MetricLog.verify

    def mistaken(log: MetricLog, manifest: Manifest | None) -> None:
        verify(log, manifest)
        log.cut(log.directory.orphans_of(1))

    monkeypatch.setattr(MetricLog, "verify", mistaken)


def writes_what_training_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshot, "take", lambda snapshot: None)


LOST = "was there to count on and is lost"
NOT_WHOLE = "is not whole"
NO_RECORDS = "does not find its records"
UNKNOWN = "does not know its own unfinished checkpoints"
MISTAKES = {
    "records are not synced": (careless(MetricLog, "sync", "sync"), NO_RECORDS),
    "the log's name is not synced": (careless(MetricLog, "sync", "sync_directory"), NO_RECORDS),
    "an unfinished checkpoint is not marked": (careless(folder, "begin", "write"), UNKNOWN),
    "the folder of a checkpoint is not synced": (careless(folder, "begin", "sync_directory"), LOST),
    "tensors are not synced": (careless(folder, "describe_files", "sync"), NOT_WHOLE),
    "the tensors' names are not synced": (careless(folder, "describe_files", "sync_directory"), NOT_WHOLE),
    "a commit is not synced": (careless(folder, "commit", "sync_directory"), LOST),
    "a deletion is not synced": (careless(folder, "delete", "sync_directory"), NOT_WHOLE),
    "a deletion takes the files first": (deletes_the_files_first, NOT_WHOLE),
    "old checkpoints go before the new one is committed": (deletes_before_it_commits, LOST),
    "a quarantine is not synced": (careless(folder, "move", "sync_directory"), NO_RECORDS),
    "a resume cuts the log first": (cuts_the_log_first, NO_RECORDS),
    "a resume syncs nothing": (careless(store, "recover", "sync_directory"), LOST),
    "a snapshot is not taken": (writes_what_training_changes, "has the weights of another step"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_proof_sees_the_mistake_that(
    mistake: str,
    undisturbed: Undisturbed,
    operations: list[Operation],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: str,
) -> None:
    make, seen = MISTAKES[mistake]
    make(monkeypatch)

    def prove() -> None:
        base, damaged = disaster(operations)
        proof = Proof(undisturbed, tmp_path / "left", transient=TRANSIENT, damaged=damaged)
        for kill in kills(Disk(), operations, tmp_path / "next"):
            if str(kill.operation).endswith(f"{folder_of(11)}/manifest.json"):
                proof.look_at(kill.crash_points(seed, until=12))
        saves = record(tmp_path / "run", {"until": 12, "signals": SIGNALS}, async_save=True)
        proof.look_at(crash_points(Disk(), saves, seed))
        write_tree(tmp_path / "again", base)
        proof.look_at(crash_points(Disk(base), record(tmp_path / "again", {"until": 18}), seed, floor=18))
        proof.resume(at_most=RESUMES_AT_MOST, seed=seed)

    with pytest.raises(Violation, match=seen):
        prove()
