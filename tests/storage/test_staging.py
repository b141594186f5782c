"""A folder that comes into being at once: whatever happens, what was there is there, or all of the new one is."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from trainer.errors import ConfigError, Unwritable
from trainer.storage import staging
from trainer.storage.staging import staged

NEW = {"a": b"new", "below/b": b"also new", "below/deeper/c": b""}
OLD = {"a": b"old", "other": b"old too"}


def always(folder: str) -> bool:
    return True


def never(folder: str) -> bool:
    return False


def fill(folder: str | pathlib.Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(
    target: pathlib.Path,
    replaceable: Callable[[str], bool] = never,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    with staged(str(target), replaceable) as folder:
        assert os.listdir(folder) == []
        fill(folder, NEW)
        meanwhile()


@pytest.fixture
def target(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "made" / "for it" / "target"


def test_it_is_there_when_the_block_ends_and_nothing_is_beside_it(target: pathlib.Path) -> None:
    with staged(str(target), never) as folder:
        fill(folder, NEW)
        assert not target.exists()
    assert files_in(target) == NEW
    assert os.listdir(target.parent) == ["target"]
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(target.parent.stat().st_mode)


def test_an_empty_folder_is_in_nobodys_way(target: pathlib.Path) -> None:
    target.mkdir(parents=True)
    put(target)
    assert files_in(target) == NEW


def test_what_may_be_replaced_is_and_nothing_of_it_stays(target: pathlib.Path) -> None:
    fill(target, OLD)
    asked = []
    put(target, lambda folder: asked.append(folder) is None)
    assert files_in(target) == NEW
    assert os.listdir(target.parent) == ["target"]
    assert asked == [os.path.realpath(target)]


def test_what_is_there_is_never_missing_while_it_is_replaced(
    target: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(target, OLD)

    def refused(*paths: str) -> None:
        raise AssertionError("one name after the other")

    monkeypatch.setattr(os, "rename", refused)
    put(target, always)
    assert files_in(target) == NEW


def test_a_file_system_that_exchanges_no_names_does_it_one_after_the_other(
    target: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*paths: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(staging, "_exchange", cannot)
    fill(target, OLD)
    put(target, always)
    assert files_in(target) == NEW
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("error", [ConfigError("wrong"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there_and_nothing_else(target: pathlib.Path, error: BaseException) -> None:
    def fail() -> None:
        raise error

    fill(target, OLD)
    with pytest.raises(type(error)):
        put(target, always, fail)
    assert files_in(target) == OLD
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_comes_into_its_place_meanwhile_stays(target: pathlib.Path, kind: str) -> None:
    def come() -> None:
        fill(target, OLD) if kind == "folder" else target.write_bytes(b"theirs")

    with pytest.raises(ConfigError, match="has come into being meanwhile") as caught:
        put(target, meanwhile=come)
    assert "\n" not in str(caught.value)
    assert (files_in(target) == OLD) if kind == "folder" else (target.read_bytes() == b"theirs")
    assert os.listdir(target.parent) == ["target"]


def test_a_link_is_followed(target: pathlib.Path, tmp_path: pathlib.Path) -> None:
    fill(target, OLD)
    link = tmp_path / "link"
    link.symlink_to(target)
    put(link, always)
    assert link.is_symlink()
    assert files_in(target) == NEW


def test_every_file_and_folder_is_durable_before_it_has_its_name_and_the_name_after(
    target: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.parent.mkdir(parents=True)
    seen: list[str] = []
    fsync, rename = os.fsync, os.rename

    def traced_fsync(descriptor: int) -> None:
        seen.append(f"{os.fstat(descriptor).st_ino}")
        fsync(descriptor)

    def traced_rename(source: str, to: str) -> None:
        seen.append("rename")
        rename(source, to)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "rename", traced_rename)
    put(target)
    before, after = seen[: seen.index("rename")], seen[seen.index("rename") + 1 :]
    inside = {str(path.stat().st_ino) for path in (target, *target.rglob("*"))}
    assert inside <= set(before)
    assert str(target.parent.stat().st_ino) in after


def test_what_a_killed_maker_left_is_removed_and_what_a_living_one_writes_is_not(target: pathlib.Path) -> None:
    with staged(str(target), never) as abandoned:
        pass
    fill(abandoned, {"half": b"written"})  # It has the name that a killed maker's has, and no lock.
    others = [target.parent / ".target.staged-mine", target.parent / ".other.staged-0123456789ab"]
    for other in others:
        other.mkdir()
    (target.parent / ".target.staged-0123456789ab").write_bytes(b"no folder")
    target.rmdir()

    with staged(str(target), always) as living:
        assert not os.path.exists(abandoned)
        fill(living, OLD)
        put(target)
        assert files_in(pathlib.Path(living)) == OLD
    assert files_in(target) == OLD
    assert all(other.is_dir() for other in others)
    assert len(os.listdir(target.parent)) == 4


@pytest.mark.parametrize("after", ["mkdir", "open", "flock"])
def test_a_folder_that_another_takes_for_abandoned_before_it_is_locked_is_made_anew(
    after: str, target: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = fcntl if after == "flock" else os
    operation = getattr(module, after)
    removed = []

    def then_removed(*arguments: Any) -> Any:
        done = operation(*arguments)
        if not removed and (found := list(target.parent.glob(".target.staged-*"))):
            removed.append(found[0])
            found[0].rmdir()
        return done

    monkeypatch.setattr(module, after, then_removed)
    put(target)
    assert removed
    assert files_in(target) == NEW
    assert os.listdir(target.parent) == ["target"]


MAKE = """
import os, signal, sys
from trainer.storage import staging
kill_at, target = int(sys.argv[1]), sys.argv[2]
done = 0
def counted(operation):
    def run(*arguments, **options):
        global done
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*arguments, **options)
    return run
for name in ("mkdir", "fsync", "rename", "rmdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
staging._exchange = counted(staging._exchange)
with staging.staged(target, lambda folder: True) as folder:
    for name in ("a", "b"):
        with open(os.path.join(folder, name), "w") as file:
            file.write("new")
print(done)
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [{}, {"a": b"old", "b": b"old"}], ids=["new", "replaced"])
def test_a_kill_at_any_moment_leaves_what_was_there_or_the_whole_new_one(
    before: dict[str, bytes], tmp_path: pathlib.Path
) -> None:
    def make(target: pathlib.Path, kill_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MAKE, str(kill_at), str(target)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    new = {"a": b"new", "b": b"new"}
    operations, outcomes = 0, []
    while True:
        operations += 1
        target = tmp_path / str(operations) / "target"
        target.parent.mkdir()
        if before:
            fill(target, before)
        killed = make(target, operations)
        found = files_in(target)
        assert found in (before, new)
        outcomes.append(found == new)
        if killed.returncode == 0:
            break
        assert make(target, 0).returncode == 0
        assert files_in(target) == new
        assert os.listdir(target.parent) == ["target"]
    assert operations > 5
    assert outcomes == sorted(outcomes), "once it is there, it is there"
    assert outcomes[-1]


def test_a_place_that_cannot_be_written_is_one_line(target: pathlib.Path) -> None:
    target.parent.parent.mkdir()
    target.parent.write_bytes(b"a file")
    with pytest.raises(Unwritable) as caught:
        put(target)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_what_was_there(target: pathlib.Path) -> None:
    fill(target, OLD)
    program = (
        "import sys; from trainer.storage.staging import staged; from trainer.storage.files import Files\n"
        "with staged(sys.argv[1], lambda folder: True) as folder: Files().write(folder + '/a', bytes(9999))\n"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    command = [sys.executable, "-c", program, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=limited)
    assert "Unwritable: cannot write" in done.stderr
    assert files_in(target) == OLD
    assert os.listdir(target.parent) == ["target"]
