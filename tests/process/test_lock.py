"""One writer a run directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from trainer.errors import InUse, Unwritable
from trainer.process.lock import locked

HOLDER = """
import sys, time
from trainer.process.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_second_process_is_refused_and_told_who_holds_the_directory(path, holder):
    with pytest.raises(InUse) as refused, locked(path):
        pytest.fail("two processes hold the lock")
    message = str(refused.value)
    assert refused.value.exit_code == 73
    assert os.path.dirname(path) in message
    assert f"process {holder.pid} " in message
    assert socket.gethostname() in message
    with open(path) as file:
        since = json.load(file)["since"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", since)
    assert since in message
    assert "\n" not in message


def test_refusal_leaves_the_holder_in_place(path, holder):
    for _ in range(2):
        with pytest.raises(InUse, match=f"process {holder.pid} "), locked(path):
            pytest.fail("two processes hold the lock")


def test_lock_of_a_killed_process_does_not_hold(path, holder):
    holder.kill()
    holder.wait()
    with locked(path), open(path) as file:
        assert json.load(file)["pid"] == os.getpid()


def test_lock_is_free_again_when_its_block_ends(path):
    with locked(path):
        pass
    with pytest.raises(RuntimeError), locked(path):
        raise RuntimeError
    with locked(path):
        pass


def test_second_lock_in_one_process_is_refused_too(path):
    with locked(path):
        with pytest.raises(InUse, match=f"process {os.getpid()} "), locked(path):
            pytest.fail("the lock is held twice")
        # The refused one let nothing go.
        with pytest.raises(InUse), locked(path):
            pytest.fail("the lock is held twice")


def test_longer_note_of_an_earlier_holder_is_replaced(path):
    with open(path, "w") as file:
        json.dump({"host": "a" * 200, "pid": 1, "since": "2020-01-01T00:00:00Z"}, file)
    with locked(path), open(path) as file:
        assert json.load(file)["host"] == socket.gethostname()


@pytest.mark.parametrize("note", ["", "{", "{}", "[]", "5", "\0\0"])
def test_holder_without_a_readable_note_is_refused_all_the_same(path, note):
    with locked(path):
        with open(path, "w") as file:
            file.write(note)
        with pytest.raises(InUse, match="in use by another process"), locked(path):
            pytest.fail("two hold the lock")


def test_lock_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    path = str(tmp_path / "missing" / "lock")
    with pytest.raises(Unwritable, match=r"cannot write .*missing/lock") as refused, locked(path):
        pytest.fail("there is no such folder")
    assert "\n" not in str(refused.value)


def test_lock_holds_after_somebody_deleted_its_file(path, holder):
    os.remove(path)
    with pytest.raises(InUse), locked(path):
        pytest.fail("two processes hold the lock")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_lock_is_good_while_the_folder_is_there_whatever_happens_in_it(folder):
    with locked(str(folder / "lock")) as lock:
        lock.check()
        (folder / "metrics.jsonl").touch()
        os.remove(folder / "lock")
        os.chmod(folder, 0o755)
        lock.check()


def remove(folder):
    shutil.rmtree(folder)


def replace(folder):
    folder.rename(folder.with_name("moved"))
    folder.mkdir()


def replace_with_its_copy(folder):
    shutil.copytree(folder, folder.with_name("copy"))
    remove(folder)
    folder.with_name("copy").rename(folder)


def replace_with_a_file(folder):
    remove(folder)
    folder.touch()


@pytest.mark.parametrize("change", [remove, replace, replace_with_its_copy, replace_with_a_file])
def test_folder_that_is_another_one_than_was_locked_is_not_written_to_any_more(folder, change):
    with locked(str(folder / "lock")) as lock:
        change(folder)
        with pytest.raises(Unwritable, match="was removed or replaced") as refused:
            lock.check()
        assert refused.value.exit_code == 74
        assert str(folder) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_folder_that_is_moved_away_and_back_is_the_same(folder):
    with locked(str(folder / "lock")) as lock:
        folder.rename(folder.with_name("moved"))
        with pytest.raises(Unwritable):
            lock.check()
        folder.with_name("moved").rename(folder)
        lock.check()


def test_lock_of_the_file_alone_is_held_beside_that_of_the_folder(folder):
    with locked(str(folder / "lock")) as whole, locked(str(folder / "other.lock"), folder=False) as file:
        whole.check()
        file.check()
        with pytest.raises(InUse), locked(str(folder / "lock")):
            pytest.fail("two hold the folder")


def test_lock_of_the_file_alone_keeps_out_who_wants_the_same(path):
    with locked(path, folder=False):
        with pytest.raises(InUse, match=f"process {os.getpid()} ") as refused, locked(path, folder=False):
            pytest.fail("two processes hold the lock")
        assert path in str(refused.value)
        assert "\n" not in str(refused.value)
    with locked(path, folder=False):
        pass


@pytest.mark.parametrize("change", [remove, replace, replace_with_its_copy, lambda folder: os.remove(folder / "lock")])
def test_whose_file_was_removed_or_replaced_does_not_write_any_more(folder, change):
    with locked(str(folder / "lock"), folder=False) as lock:
        lock.check()
        change(folder)
        with pytest.raises(Unwritable, match="was removed or replaced"):
            lock.check()


def test_only_who_holds_the_whole_folder_is_sent_to_another_run(path):
    for folder in (True, False):
        with locked(path, folder=folder), pytest.raises(InUse) as refused, locked(path, folder=folder):
            pytest.fail("two hold the lock")
        assert ("another run_dir" in str(refused.value)) == folder
        with pytest.raises(Unwritable) as refused, locked(os.path.join(path, "below"), folder=folder):
            pytest.fail("a file is no folder")
        assert ("another run_dir" in str(refused.value)) == folder


def test_a_process_that_is_forked_meanwhile_holds_nothing_when_the_holder_is_gone(path):
    wait, word = os.pipe()
    with locked(path):
        child = os.fork()
        if child == 0:
            os.read(wait, 1)
            os._exit(0)
    try:
        with locked(path):
            pass
    finally:
        os.write(word, b".")
        os.waitpid(child, 0)
        os.close(wait)
        os.close(word)
