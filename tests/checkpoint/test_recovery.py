"""Finding the checkpoint to resume from: what is used, what is put aside, and when nothing may be touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from trainer.checkpoint.recovery import Damaged, recover
from trainer.errors import Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal, read_journal
from trainer.ledger.log import MetricLog

ATTEMPT = 2


@pytest.fixture
def killed_run(past):
    """Checkpoints at 200, 400 and 600, records every 100 steps up to 700 and a torn one, and 800 half written."""
    for step in (100, 200, 300, 400, 500, 600):
        past.record(step)
        if step % 200 == 0:
            past.save(step)
    past.record(700).files(800)
    with open(past.directory.metrics, "ab") as log:
        log.write(b'{"kind":"train","st')
    return past


def resume(directory, restore=lambda manifest: None, *, run="ours", attempt=ATTEMPT, journal=None):
    log = MetricLog(directory)
    return recover(directory, log, restore, run=run, orphans=directory.orphans_of(attempt), journal=journal), log


def vouched_log(directory, step):
    """Returns the bytes of the log that the checkpoint of `step` counts."""
    size = json.loads(Path(directory.manifest(step)).read_bytes())["log"]["bytes"]
    return Path(directory.metrics).read_bytes()[:size]


def rewrite(directory, step, /, **values):
    path = Path(directory.manifest(step))
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def state_file(directory, step):
    return Path(directory.checkpoint(step)) / "state.data-00000-of-00001"


def change_size(directory, step):
    files = json.loads(Path(directory.manifest(step)).read_bytes())["files"]
    files[0]["bytes"] += 1
    rewrite(directory, step, files=files)


DAMAGE = {
    "missing index": lambda directory, step: (Path(directory.checkpoint(step)) / "state.index").unlink(),
    "truncated data": lambda directory, step: state_file(directory, step).write_bytes(b"weig"),
    "longer data": lambda directory, step: state_file(directory, step).write_bytes(b"weights of more"),
    "empty manifest": lambda directory, step: Path(directory.manifest(step)).write_bytes(b""),
    "torn manifest": lambda directory, step: Path(directory.manifest(step)).write_bytes(b'{"format":1,"step":6'),
    "binary manifest": lambda directory, step: Path(directory.manifest(step)).write_bytes(b"\x00\xff\xfe"),
    "manifest is a list": lambda directory, step: Path(directory.manifest(step)).write_bytes(b"[]"),
    "another format": lambda directory, step: rewrite(directory, step, format=99),
    "another step": lambda directory, step: rewrite(directory, step, step=step + 1),
    "negative step": lambda directory, step: rewrite(directory, step, step=-step),
    "another size": change_size,
    "no files": lambda directory, step: rewrite(directory, step, files=[]),
    "files outside": lambda directory, step: rewrite(
        directory, step, files=[{"name": "../checkpoint", "bytes": 0, "crc32": "00000000"}]
    ),
    "another run": lambda directory, step: rewrite(directory, step, run="theirs"),
    "no run": lambda directory, step: rewrite(directory, step, run=None),
    "no log": lambda directory, step: rewrite(directory, step, log=None),
    "log is text": lambda directory, step: rewrite(directory, step, log="x"),
    "no examples": lambda directory, step: rewrite(directory, step, examples=None),
    "reasons are a number": lambda directory, step: rewrite(directory, step, reasons=5),
    "window is text": lambda directory, step: rewrite(directory, step, open_window="x"),
    "window without a start": lambda directory, step: rewrite(directory, step, open_window={}),
    "train relation is a number": lambda directory, step: rewrite(directory, step, train=5),
    "train relation without a window": lambda directory, step: rewrite(directory, step, train={"metrics": {}}),
    "evaluation is text": lambda directory, step: rewrite(directory, step, eval="x"),
    "evaluation without a step": lambda directory, step: rewrite(directory, step, eval={"validation": {}}),
    "control is a number": lambda directory, step: rewrite(directory, step, control=7),
}


def test_first_start_finds_nothing_and_makes_nothing(past, tree, tmp_path):
    recovery, log = resume(past.directory)
    assert (recovery.manifest, recovery.quarantined, recovery.cut.bytes) == (None, (), 0)
    assert log.position.records == 0
    assert tree(tmp_path) == {}


def test_newest_checkpoint_is_used_and_later_records_are_cut_into_orphans(killed_run):
    directory = killed_run.directory
    whole, kept = Path(directory.metrics).read_bytes(), vouched_log(directory, 600)
    tried = []
    recovery, log = resume(directory, tried.append)
    assert recovery.manifest.step == 600
    assert [manifest.step for manifest in tried] == [600]
    assert Path(directory.metrics).read_bytes() == kept
    assert recovery.cut.bytes == len(whole) - len(kept)
    assert (Path(directory.orphans_of(ATTEMPT)) / "metrics.jsonl").read_bytes() == whole[len(kept) :]
    assert log.position == recovery.manifest.log


def test_unfinished_checkpoints_are_removed_and_journaled(killed_run):
    journal = Journal(killed_run.directory)
    resume(killed_run.directory, journal=journal)
    assert killed_run.directory.step_folders() == [600, 400, 200]
    events = [(entry["event"], entry["steps"]) for entry in read_journal(killed_run.directory)]
    assert events == [("prune", [800])]


def test_run_killed_before_its_first_checkpoint_starts_from_an_empty_log(past):
    past.record(100).record(200).files(300)
    Path(past.directory.path, "notes.txt").write_text("mine")
    whole = Path(past.directory.metrics).read_bytes()
    recovery, log = resume(past.directory)
    assert recovery.manifest is None
    assert Path(past.directory.metrics).read_bytes() == b""
    assert (Path(past.directory.orphans_of(ATTEMPT)) / "metrics.jsonl").read_bytes() == whole
    assert past.directory.step_folders() == []
    assert Path(past.directory.path, "notes.txt").read_text() == "mine"
    assert (log.position.records, log.position.bytes) == (0, 0)


@pytest.mark.parametrize("damage", DAMAGE)
def test_bad_newest_checkpoint_is_put_aside_with_its_reason_and_the_next_older_used(killed_run, tree, damage):
    directory = killed_run.directory
    DAMAGE[damage](directory, 600)
    before, kept = tree(directory.checkpoint(600)), vouched_log(directory, 400)
    whole = Path(directory.metrics).read_bytes()
    journal = Journal(directory)

    recovery, log = resume(directory, journal=journal)

    assert recovery.manifest.step == 400
    assert [step for step, _ in recovery.quarantined] == [600]
    assert directory.step_folders() == [400, 200]
    aside = tree(Path(directory.orphans_of(ATTEMPT)) / "step-0000000600")
    reason = aside.pop("reason.txt").decode().strip()
    assert aside == before
    assert reason == recovery.quarantined[0][1]
    assert reason.count("\n") == 0
    assert Path(directory.metrics).read_bytes() == kept
    assert (Path(directory.orphans_of(ATTEMPT)) / "metrics.jsonl").read_bytes() == whole[len(kept) :]
    assert log.position == recovery.manifest.log
    events = [(entry["event"], entry.get("step"), entry.get("reason")) for entry in read_journal(directory)]
    assert ("quarantine", 600, reason) in events


def test_checkpoint_whose_content_does_not_restore_is_put_aside(killed_run):
    def restore(manifest):
        if manifest.step > 200:
            raise Damaged(f"no weights in {manifest.step}")

    recovery, _ = resume(killed_run.directory, restore)
    assert recovery.manifest.step == 200
    assert recovery.quarantined == ((600, "no weights in 600"), (400, "no weights in 400"))
    assert killed_run.directory.step_folders() == [200]


def test_any_run_is_accepted_where_the_caller_has_no_id(killed_run):
    recovery, _ = resume(killed_run.directory, run=None)
    assert recovery.manifest.step == 600


def test_nothing_is_moved_when_no_checkpoint_can_be_used(killed_run, tree):
    directory = killed_run.directory
    DAMAGE["torn manifest"](directory, 600)
    DAMAGE["missing index"](directory, 400)
    DAMAGE["another run"](directory, 200)
    before = tree(directory.path)
    for _ in range(2):
        with pytest.raises(Unusable) as refused:
            resume(directory)
        message = str(refused.value)
        assert refused.value.exit_code == 66
        assert "\n" not in message
        for step in (600, 400, 200):
            assert f"step {step}" in message
        assert "state.index is missing" in message
        assert tree(directory.path) == before


@pytest.mark.parametrize("newest", ["whole", "damaged"])
def test_nothing_is_moved_when_the_log_is_not_what_the_checkpoint_vouches_for(killed_run, tree, newest):
    directory = killed_run.directory
    if newest == "damaged":
        DAMAGE["torn manifest"](directory, 600)
    lines = Path(directory.metrics).read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"loss":0.', b'"loss":9.')
    Path(directory.metrics).write_bytes(b"\n".join(lines))
    before = tree(directory.path)
    for _ in range(2):
        with pytest.raises(Unusable, match=r"record.* 3 ") as refused:
            resume(directory)
        assert refused.value.exit_code == 66
        assert tree(directory.path) == before


@pytest.mark.parametrize("left", [0, 1, 400])
def test_log_that_is_shorter_than_the_checkpoint_says_is_refused(killed_run, tree, left):
    directory = killed_run.directory
    Path(directory.metrics).write_bytes(vouched_log(directory, 600)[:left])
    before = tree(directory.path)
    with pytest.raises(Unusable):
        resume(directory)
    assert tree(directory.path) == before


def test_log_that_is_gone_is_refused(killed_run, tree):
    Path(killed_run.directory.metrics).unlink()
    before = tree(killed_run.directory.path)
    with pytest.raises(Unusable):
        resume(killed_run.directory)
    assert tree(killed_run.directory.path) == before


def test_start_that_is_killed_at_any_moment_is_made_good_by_the_next(killed_run, tree, watched_files, killed, tmp_path):
    """With a damaged checkpoint, records to cut and an unfinished checkpoint: all that a start can have to do."""
    DAMAGE["truncated data"](killed_run.directory, 600)
    damaged, kept = tree(killed_run.directory.checkpoint(600)), vouched_log(killed_run.directory, 400)
    later = Path(killed_run.directory.metrics).read_bytes()[len(kept) :]

    moments = 0
    while True:
        path = tmp_path / f"killed-{moments}"
        shutil.copytree(killed_run.directory.path, path)
        try:
            resume(RunDirectory(path, watched_files(fail_at=moments)), attempt=2)
        except killed:
            pass
        else:
            break
        moments += 1
        directory = RunDirectory(path)
        recovery, _ = resume(directory, attempt=3)
        assert recovery.manifest.step == 400
        assert directory.step_folders() == [400, 200]
        assert Path(directory.metrics).read_bytes() == kept
        orphans = tree(directory.orphans)
        assert later in [content for name, content in orphans.items() if name.endswith("metrics.jsonl")]
        assert put_aside(orphans, 600) == damaged
    assert moments > 10


def put_aside(orphans, step):
    """Returns what was put aside of one checkpoint, by one start or by several that were killed on the way."""
    found = {}
    for name, content in orphans.items():
        file = Path(name)
        if file.parent.name == f"step-{step:010d}" and file.name != "reason.txt":
            assert file.name not in found, "it was put aside twice"
            found[file.name] = content
    return found


@pytest.mark.parametrize("bad", [[600], [600, 400]])
@pytest.mark.parametrize("unreadable", ["manifest.json", "state.index"])
def test_checkpoint_that_could_not_be_read_once_never_leads_to_a_log_that_does_not_verify(
    killed_run, tree, watched_files, killed, tmp_path, bad, unreadable
):
    """Whenever the start that saw an error of the disk is killed: the next one may well be able to read again."""

    class Flaky(watched_files):
        def read(self, path):
            self._may_fail(path)
            return super().read(path)

        def crc32(self, path):
            self._may_fail(path)
            return super().crc32(path)

        def _may_fail(self, path):
            if path in [f"{directory.checkpoint(step)}/{unreadable}" for step in bad]:
                raise OSError(errno.EIO, "Input/output error", path)

    whole = Path(killed_run.directory.metrics).read_bytes()
    moments, found = 0, set()
    while True:
        path = tmp_path / f"killed-{moments}"
        shutil.copytree(killed_run.directory.path, path)
        directory = RunDirectory(path, Flaky(fail_at=moments))
        try:
            recovery, _ = resume(directory, attempt=2)
        except killed:
            pass
        else:
            assert [step for step, _ in recovery.quarantined] == bad
            break
        moments += 1
        recovery, log = resume(RunDirectory(path), attempt=3)
        found.add(recovery.manifest.step)
        assert log.position == recovery.manifest.log
        assert Path(directory.metrics).read_bytes() == vouched_log(directory, recovery.manifest.step)
        orphans = tree(directory.orphans)
        assert [step for step in (600, 400) if step not in directory.committed_steps()] == [
            step for step in (600, 400) if put_aside(orphans, step)
        ]
        later = [content for name, content in orphans.items() if name.endswith("metrics.jsonl")]
        assert any(whole == Path(directory.metrics).read_bytes() + content for content in later)
        # And so it stays.
        assert resume(RunDirectory(path), attempt=4)[0].manifest == recovery.manifest
    # Before anything was moved, between two that were, and after all.
    assert found == {600, 400, 200} - ({200} if bad == [600] else set())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_error_that_says_nothing_of_the_checkpoint_puts_nothing_aside(killed_run, tree, watched_files, number):
    class Short(watched_files):
        def crc32(self, path):
            raise OSError(number, os.strerror(number), path)

    directory = killed_run.directory
    before = tree(directory.path)
    with pytest.raises(Unusable, match="checkpoint 600") as refused:
        resume(RunDirectory(directory.path, Short()))
    assert os.strerror(number) in str(refused.value)
    assert tree(directory.path) == before
    assert resume(directory)[0].manifest.step == 600


def test_newer_checkpoints_go_before_newer_records(killed_run, watched_files):
    DAMAGE["truncated data"](killed_run.directory, 600)
    directory = RunDirectory(killed_run.directory.path, watched_files())
    resume(directory)
    aside = f"{directory.orphans_of(ATTEMPT)}/step-0000000600"
    moved = [directory.files.done.index(("rename", f"{aside}/{name}")) for name in ("state.index", "manifest.json")]
    cut = directory.files.done.index(("truncate", directory.metrics))
    discarded = directory.files.done.index(("remove", directory.unfinished(800)))
    assert moved[0] < moved[1] < cut < discarded


def test_folder_that_is_no_checkpoint_and_not_marked_as_ours_stays_and_is_told(killed_run, tree):
    directory = killed_run.directory
    Path(directory.unfinished(800)).unlink()
    before = tree(directory.checkpoint(800))
    journal = Journal(directory)
    recovery, _ = resume(directory, journal=journal)
    assert recovery.foreign == (800,)
    assert [line for line in recovery.warnings() if "800" in line and "stays" in line]
    assert tree(directory.checkpoint(800)) == before
    assert not [entry for entry in read_journal(directory) if entry["event"] == "prune"]


def test_checkpoint_that_goes_bad_again_is_put_aside_again(killed_run):
    directory = killed_run.directory
    for _ in range(2):
        DAMAGE["truncated data"](directory, 600)
        recovery, log = resume(directory, attempt=0)
        assert recovery.manifest.step == 400
        assert directory.step_folders() == [400, 200]
        killed_run.log = log
        killed_run.record(500).record(600).save(600)
    assert resume(directory, attempt=0)[0].manifest.step == 600
