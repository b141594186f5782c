"""One checkpoint's folder: how it is begun, committed and moved, and that nothing of others' is taken away."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pytest

from trainer.checkpoint import folder
from trainer.errors import Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest

# What a kill leaves behind at one moment or another: TensorFlow's temporary and half-written files, and ours.
LEFTOVERS = (
    "state_temp/part-00000-of-00001.data-00000-of-00001",
    "state_temp/part-00000-of-00001.data-00000-of-00001.tempstate1234567890",
    "state.data-00000-of-00001",
    "state.data-00000-of-00002",
    "state.data-00001-of-00002",
    "state.index",
    "manifest.json.tmp",
)
FOREIGN = ("notes.txt", "state.txt", "manifest.json.bak", "plots/loss.png", "model.index")


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "run")


def put(path: str, *names: str) -> None:
    for name in names:
        file = Path(path) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"content of " + name.encode())


def test_folder_is_marked_as_unfinished_before_anything_is_written_into_it(tmp_path, watched_files):
    directory = RunDirectory(tmp_path / "run", watched_files())
    Path(directory.checkpoints).mkdir(parents=True)
    assert folder.begin(directory, 500) is None
    path = directory.checkpoint(500)
    # The mark durably, and in a folder whose own name is durable.
    assert directory.files.done == [
        ("make_directory", path),
        ("sync_directory", directory.checkpoints),
        ("write", f"{path}/manifest.json.tmp"),
        ("sync_directory", path),
    ]


def test_what_is_unfinished_makes_room_for_the_next_try(past, tree):
    past.files(500)
    assert folder.begin(past.directory, 500) is None
    assert tree(past.directory.checkpoint(500)) == {"manifest.json.tmp": b""}


@pytest.mark.parametrize("names", [FOREIGN, ("state.index",), ("state.index", "manifest.json")])
def test_what_nothing_marks_as_unfinished_is_moved_out_of_the_way(directory, tree, names):
    put(directory.checkpoint(500), *names)
    before = tree(directory.checkpoint(500))
    for number in ("", "-2"):
        moved = folder.begin(directory, 500)
        assert moved == f"{directory.checkpoint(500)}.foreign{number}"
        assert tree(moved) == before
        assert tree(directory.checkpoint(500)) == {"manifest.json.tmp": b""}
        Path(directory.unfinished(500)).unlink()
        put(directory.checkpoint(500), *names)
    assert directory.step_folders() == [500]


def test_run_directory_that_was_taken_away_is_not_made_again(directory, tmp_path):
    with pytest.raises(Unwritable):
        folder.begin(directory, 500)
    assert list(tmp_path.iterdir()) == []


def test_description_gives_size_and_crc32_of_each_state_file(directory):
    put(directory.checkpoint(500), "state.data-00000-of-00002", "state.data-00001-of-00002", "state.index", *FOREIGN)
    described = folder.describe_files(directory, 500)
    assert [file.name for file in described] == [
        "state.data-00000-of-00002",
        "state.data-00001-of-00002",
        "state.index",
    ]
    for file in described:
        content = b"content of " + file.name.encode()
        assert (file.bytes, file.crc32) == (len(content), f"{zlib.crc32(content):08x}")


def test_state_files_and_their_names_are_durable_once_described(tmp_path, watched_files):
    directory = RunDirectory(tmp_path, watched_files())
    put(directory.checkpoint(500), "state.data-00000-of-00001", "state.index")
    folder.describe_files(directory, 500)
    path = directory.checkpoint(500)
    assert sorted(directory.files.done[:-1]) == [
        ("sync", f"{path}/state.data-00000-of-00001"),
        ("sync", f"{path}/state.index"),
    ]
    assert directory.files.done[-1] == ("sync_directory", path)


def test_checkpoint_exists_from_its_manifest_on(past):
    past.files(500)
    assert past.directory.step_folders() == [500]
    assert past.directory.committed_steps() == []
    put(past.directory.checkpoint(500), "manifest.json.tmp")
    assert past.directory.committed_steps() == []
    past.save(600)
    assert past.directory.committed_steps() == [600]


def test_manifest_is_put_in_place_whole_and_durably(tmp_path, watched_files, manifest):
    directory = RunDirectory(tmp_path, watched_files())
    Path(directory.checkpoint(500)).mkdir(parents=True)
    folder.commit(directory, manifest(500))
    path = directory.manifest(500)
    assert directory.files.done == [
        ("write", f"{path}.tmp"),
        ("rename", path),
        ("sync_directory", directory.checkpoint(500)),
    ]
    assert Manifest.parse(Path(path).read_bytes()) == manifest(500)


def test_deleted_checkpoint_is_gone_with_all_that_a_kill_can_leave(directory, tree):
    put(directory.checkpoint(500), *LEFTOVERS, "manifest.json")
    put(directory.checkpoint(600), "state.index")
    folder.delete(directory, 500)
    assert tree(directory.checkpoints).keys() == {"step-0000000600", "step-0000000600/state.index"}


def test_deletion_takes_the_manifest_first(tmp_path, watched_files):
    directory = RunDirectory(tmp_path, watched_files())
    put(directory.checkpoint(500), "state.data-00000-of-00001", "state.index", "manifest.json")
    folder.delete(directory, 500)
    # Durably, or a power cut could bring back a manifest whose files are gone.
    assert directory.files.done[:2] == [
        ("rename", directory.unfinished(500)),
        ("sync_directory", directory.checkpoint(500)),
    ]


def test_deletion_that_is_killed_at_any_moment_leaves_a_whole_checkpoint_or_one_known_as_unfinished(
    past, tree, tmp_path, watched_files, killed
):
    past.save(100).save(200)
    put(past.directory.checkpoint(100), "state_temp/part-00000-of-00001.data-00000-of-00001", "notes.txt")
    before = tree(past.directory.checkpoint(100))
    moments = 0
    while True:
        directory = RunDirectory(tmp_path / f"killed-{moments}", watched_files(fail_at=moments))
        shutil.copytree(past.directory.path, directory.path)
        try:
            folder.delete(directory, 100)
        except killed:
            pass
        else:
            break
        moments += 1
        if 100 in directory.committed_steps():
            assert tree(directory.checkpoint(100)) == before
        else:
            folder.discard_unfinished(RunDirectory(directory.path))
            assert tree(directory.checkpoint(100)) == {"notes.txt": b"content of notes.txt"}
    assert moments > 6


@pytest.mark.parametrize("committed", [True, False])
def test_files_that_are_not_ours_stay_in_a_deleted_checkpoint(directory, tree, committed):
    put(directory.checkpoint(500), *FOREIGN)
    before = tree(directory.checkpoint(500))
    put(directory.checkpoint(500), *LEFTOVERS, *["manifest.json"] * committed)
    folder.delete(directory, 500)
    assert tree(directory.checkpoint(500)) == before
    assert directory.committed_steps() == []


def test_unfinished_checkpoints_are_discarded_and_named(past):
    past.save(100).files(200).save(300).files(400)
    Path(past.directory.checkpoint(500)).mkdir()
    deleted, foreign = folder.discard_unfinished(past.directory)
    assert (sorted(deleted), foreign) == ([200, 400, 500], [])
    assert past.directory.step_folders() == past.directory.committed_steps() == [300, 100]
    assert folder.discard_unfinished(past.directory) == ([], [])


@pytest.mark.parametrize("names", [("state.index",), ("state.index", "state.data-00000-of-00001"), FOREIGN])
def test_folder_that_nothing_marks_as_ours_stays_and_is_named(past, tree, names):
    past.save(100).files(300)
    put(past.directory.checkpoint(200), *names)
    before = tree(past.directory.checkpoint(200))
    for deleted in ([300], []):
        assert folder.discard_unfinished(past.directory) == (deleted, [200])
        assert tree(past.directory.checkpoint(200)) == before


def test_checkpoint_whose_manifest_was_about_to_be_replaced_is_no_unfinished_one(past, tree):
    past.save(100)
    put(past.directory.checkpoint(100), "manifest.json.tmp")
    before = tree(past.directory.checkpoints)
    assert folder.discard_unfinished(past.directory) == ([], [])
    assert tree(past.directory.checkpoints) == before
    folder.delete(past.directory, 100)
    assert past.directory.step_folders() == []


def test_move_that_is_killed_at_any_moment_loses_nothing_and_takes_the_manifest_last(
    past, tree, tmp_path, watched_files, killed
):
    past.save(100)
    put(past.directory.checkpoint(100), "notes.txt")
    before = tree(past.directory.checkpoint(100))
    moments = 0
    while True:
        directory = RunDirectory(tmp_path / f"killed-{moments}", watched_files(fail_at=moments))
        shutil.copytree(past.directory.path, directory.path)
        target = tmp_path / f"target-{moments}"
        try:
            folder.move(directory, 100, str(target))
        except killed:
            pass
        else:
            break
        moments += 1
        left, moved = tree(directory.checkpoint(100)), tree(target)
        assert left | moved == before
        assert not left.keys() & moved.keys()
        assert not left or "manifest.json" in left
    assert tree(target) == before
    assert directory.step_folders() == []
    assert moments > 8


def test_other_things_among_the_checkpoints_are_left_alone(past, tree):
    past.save(100)
    names = ("README", "ckpt-7.index", "step-12/state.index", "step-0000000200.bak/state.index", "best/state.index")
    put(past.directory.checkpoints, *names)
    before = tree(past.directory.checkpoints)
    assert folder.discard_unfinished(past.directory) == ([], [])
    assert tree(past.directory.checkpoints) == before


def test_file_with_the_name_of_a_checkpoint_is_left_alone(past, tree):
    past.save(100)
    put(past.directory.checkpoints, "step-0000000200")
    before = tree(past.directory.checkpoints)
    folder.discard_unfinished(past.directory)
    assert tree(past.directory.checkpoints) == before


def test_no_checkpoint_leaves_the_state_file_unwritten(directory, tree, tmp_path):
    folder.point_state_file(directory, [])
    assert tree(tmp_path) == {}


def test_state_file_is_replaced_at_once(tmp_path, watched_files):
    directory = RunDirectory(tmp_path, watched_files())
    Path(directory.checkpoints).mkdir()
    folder.point_state_file(directory, [100, 300, 200])
    assert directory.files.done[:2] == [
        ("write", f"{directory.state_file}.tmp"),
        ("rename", directory.state_file),
    ]
    first_line = Path(directory.state_file).read_text().splitlines()[0]
    assert first_line == 'model_checkpoint_path: "step-0000000300/state"'
