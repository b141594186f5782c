"""Rewinding: an older checkpoint is the newest, and what was later is whole in `orphans/`, whatever comes between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trainer.checkpoint.recovery import bound_orphans, recover
from trainer.checkpoint.rewind import rewind
from trainer.errors import Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, read_journal
from trainer.ledger.log import MetricLog, read_records

TARGET = 300


@pytest.fixture
def run(past):
    """One attempt, killed: checkpoints every 100 steps up to 500, of which 400 is damaged, and a torn record after."""
    for step in range(100, 600, 100):
        past.record(step).save(step)
    past.record(600)
    directory = past.directory
    with open(directory.metrics, "ab") as log:
        log.write(b'{"kind":"train","st')
    Path(directory.manifest(400)).write_bytes(b"{")
    Journal(directory).write("start")
    return directory


def vouched_log(directory, step):
    size = json.loads(Path(directory.manifest(step)).read_bytes())["log"]["bytes"]
    return Path(directory.metrics).read_bytes()[:size]


def without_journal(tree):
    return {name: content for name, content in tree.items() if name != "journal.jsonl"}


def rewinds(directory):
    return [entry for entry in read_journal(directory) if entry["event"] == "rewind"]


def change(path, old, new):
    data = Path(path).read_bytes()
    assert old in data
    Path(path).write_bytes(data.replace(old, new))


def test_later_checkpoints_and_records_are_in_orphans_and_what_is_left_ends_at_the_step(run, tree):
    moved = {step: tree(run.checkpoint(step)) for step in (400, 500)}
    whole, kept = Path(run.metrics).read_bytes(), vouched_log(run, TARGET)
    done, manifest = rewind(run, TARGET)

    assert manifest.step == TARGET
    assert run.step_folders() == [300, 200, 100]
    assert Path(run.metrics).read_bytes() == kept
    assert (done.step, done.from_step, done.moved, done.cut_bytes) == (300, 500, (400, 500), len(whole) - len(kept))
    assert done.orphans == "orphans/attempt-0001-rewind"
    aside = Path(run.path, done.orphans)
    assert (aside / "metrics.jsonl").read_bytes() == whole[len(kept) :]
    for step, before in moved.items():
        assert tree(aside / f"step-{step:010d}") == {**before, "reason.txt": b"rewound to step 300\n"}


def test_tensorflows_state_file_names_the_step(run):
    rewind(run, TARGET)
    assert Path(run.state_file).read_text().splitlines()[0] == 'model_checkpoint_path: "step-0000000300/state"'
    assert "0400" not in Path(run.state_file).read_text()


def test_the_journal_says_so_twice_under_the_number_of_the_last_attempt(run):
    done, _ = rewind(run, TARGET)
    begun, ended = rewinds(run)
    assert {key: ended[key] for key in done.to_json()} == done.to_json()
    assert {**begun, "time": ended["time"], "done": True} == ended
    assert (begun["attempt"], begun["done"]) == (1, False)
    assert Journal(run).attempt == 2


def test_a_second_time_there_is_nothing_to_do_and_nothing_is_written(run, tree):
    rewind(run, TARGET)
    before = tree(run.path)
    done, _ = rewind(run, TARGET)
    assert (done.from_step, done.moved, done.cut_bytes, done.orphans) == (300, (), 0, None)
    assert tree(run.path) == before


def test_only_later_records_are_cut_where_the_step_is_the_newest(run):
    done, _ = rewind(run, 500)
    assert (done.from_step, done.moved) == (500, ())
    assert done.cut_bytes > 0
    assert read_records(run)[-1].step == 500


def test_each_rewind_after_one_attempt_has_its_own_folder(run, tree):
    first, _ = rewind(run, TARGET)
    aside = tree(Path(run.path, first.orphans))
    second, _ = rewind(run, 100)
    assert second.orphans == "orphans/attempt-0001-rewind-2"
    assert second.moved == (200, 300)
    assert tree(Path(run.path, first.orphans)) == aside
    bound_orphans(run, 1)
    assert sorted(run.files.list(run.orphans)) == ["attempt-0001-rewind", "attempt-0001-rewind-2"]
    bound_orphans(run, 0)
    assert run.files.list(run.orphans) == []


def test_a_later_attempt_has_its_own_folder_too(run):
    rewind(run, TARGET)
    Journal(run).write("start")
    assert rewind(run, 100)[0].orphans == "orphans/attempt-0002-rewind"


def test_a_loop_without_a_journal_can_be_rewound(past):
    for step in (100, 200):
        past.record(step).save(step)
    assert rewind(past.directory, 100)[0].orphans == "orphans/attempt-0000-rewind"
    assert past.directory.step_folders() == [100]


def test_unfinished_checkpoints_stay_for_the_next_start(run):
    folder = Path(run.checkpoint(600))
    folder.mkdir()
    Path(run.unfinished(600)).touch()
    assert rewind(run, TARGET)[0].moved == (400, 500)
    assert folder.exists()


DAMAGE = {
    "truncated data": lambda run: change(f"{run.checkpoint(300)}/state.data-00000-of-00001", b"weights", b"w"),
    "a flipped byte": lambda run: change(f"{run.checkpoint(300)}/state.data-00000-of-00001", b"weights", b"weiGhts"),
    "a flipped byte in the index": lambda run: change(f"{run.checkpoint(300)}/state.index", b"index", b"inDex"),
    "torn manifest": lambda run: Path(run.manifest(300)).write_bytes(b"{"),
    "edited record": lambda run: change(run.metrics, b'"step":200', b'"step":201'),
    "missing log": lambda run: Path(run.metrics).unlink(),
    "no manifest": lambda run: Path(run.manifest(300)).rename(run.unfinished(300)),
    "of another run": lambda run: change(run.manifest(300), b'"ours"', b'"their"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_nothing_is_moved_where_the_checkpoint_or_its_records_are_damaged(run, tree, damage):
    DAMAGE[damage](run)
    before = tree(run.path)
    for _ in range(2):
        with pytest.raises(Unusable) as refused:
            rewind(run, TARGET)
        assert refused.value.exit_code == 66
        assert "\n" not in str(refused.value)
        assert tree(run.path) == before


def test_a_step_that_is_not_there_is_refused_naming_those_that_are(run, tree):
    before = tree(run.path)
    with pytest.raises(Unusable, match=r"no checkpoint of step 250.*100, 200, 300, 400, 500"):
        rewind(run, 250)
    assert tree(run.path) == before


def test_a_file_that_cannot_be_read_is_no_reason_to_move_anything(run, tree, monkeypatch):
    def broken(path):
        raise OSError(5, "Input/output error")

    before = tree(run.path)
    monkeypatch.setattr(run.files, "crc32", broken)
    with pytest.raises(Unusable, match="Input/output error"):
        rewind(run, TARGET)
    assert tree(run.path) == before


def interrupted(run, tmp_path, files):
    """Runs the rewind in copies of the run, in each of which one more operation is done before `files` fails.

    Yields the directory and the error.
    """
    for moment in range(1000):
        path = tmp_path / f"killed-{moment}"
        shutil.copytree(run.path, path)
        try:
            rewind(RunDirectory(path, files(moment)), TARGET)
        except BaseException as error:
            yield RunDirectory(path), error
        else:
            assert moment > 30, "there is more to do than that"
            return


def test_called_again_after_a_kill_at_any_moment_it_completes_what_was_begun(
    run, tree, watched_files, killed, tmp_path
):
    whole = tmp_path / "whole"
    shutil.copytree(run.path, whole)
    done, _ = rewind(RunDirectory(whole), TARGET)
    expected = without_journal(tree(whole))
    for directory, error in interrupted(run, tmp_path, lambda moment: watched_files(fail_at=moment)):
        assert isinstance(error, killed)
        again, _ = rewind(directory, TARGET)
        assert without_journal(tree(directory.path)) == expected
        ended = rewinds(directory)[-1]
        assert ended["done"]
        assert {key: ended[key] for key in done.to_json()} == done.to_json()
        # Only where nothing but the last sync was missing is there nothing left to say.
        assert again == done or again.orphans is None
        assert rewind(directory, TARGET)[0].orphans is None


def test_after_a_kill_at_any_moment_a_start_finds_a_checkpoint_with_its_records_and_nothing_is_lost(
    run, tree, watched_files, tmp_path
):
    later = Path(run.metrics).read_bytes()[len(vouched_log(run, 500)) :]
    found = []
    for directory, _ in interrupted(run, tmp_path, lambda moment: watched_files(fail_at=moment)):
        restored = []
        recovery = recover(
            directory, MetricLog(directory), restored.append, run="ours", orphans=directory.orphans_of(2)
        )
        assert recovery.manifest is not None
        found.append(recovery.manifest.step)
        assert Path(directory.metrics).read_bytes() == vouched_log(directory, recovery.manifest.step)
        assert directory.committed_steps()[0] == recovery.manifest.step
        content = tree(directory.path)
        for step in (100, 200, 300, 400, 500):
            assert b"weights of %d" % step in content.values()
        assert any(value.endswith(later) for name, value in content.items() if name.endswith("metrics.jsonl"))
    assert set(found) == {TARGET, 500}  # 400 is damaged.
    assert found == sorted(found, reverse=True)


def test_a_rewind_further_back_after_a_kill_puts_everything_aside(run, tree, watched_files, tmp_path):
    whole = Path(run.metrics).read_bytes()
    for directory, _ in interrupted(run, tmp_path, lambda moment: watched_files(fail_at=moment)):
        rewind(directory, 100)
        assert directory.step_folders()[-1] == 100
        assert directory.committed_steps() == [100]
        content = tree(directory.path)
        for step in (200, 300, 400, 500):
            assert b"weights of %d" % step in content.values()
        logs = [content[name] for name in sorted(content) if name.endswith("metrics.jsonl")]
        kept, *aside = sorted(logs, key=whole.index)
        assert kept == vouched_log(directory, 100)
        assert b"".join(aside) in (whole[len(kept) :], whole[len(kept) :] + aside[-1])


def test_a_disk_that_refuses_at_any_moment_is_said_and_the_next_call_completes_it(run, tree, watched_files, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(run.path, whole)
    rewind(RunDirectory(whole), TARGET)
    for directory, error in interrupted(
        run, tmp_path, lambda moment: watched_files(fail_at=moment, error=lambda: Unwritable("disk full"))
    ):
        assert isinstance(error, Unwritable)
        rewind(directory, TARGET)
        assert without_journal(tree(directory.path)) == without_journal(tree(whole))


def test_an_attempt_after_a_kill_ends_what_was_begun(run, watched_files, killed, tmp_path):
    """Its records are no part of what the rewind before it had planned."""
    with pytest.raises(killed):
        rewind(RunDirectory(run.path, watched_files(fail_at=8)), TARGET)
    assert len(rewinds(run)) == 1
    Journal(run).write("start")
    done, _ = rewind(run, TARGET)
    assert done.orphans == "orphans/attempt-0002-rewind"
    assert [entry["done"] for entry in rewinds(run)] == [False, False, True]
