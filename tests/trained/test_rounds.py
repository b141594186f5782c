"""Which checkpoints are evaluated, and when: those asked for, and those that come, whatever retention does."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import pytest

from trainer.checkpoint import folder
from trainer.checkpoint.recovery import Damaged
from trainer.errors import ConfigError, Unusable, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import Journal
from trainer.ledger.manifest import LogPosition, Manifest
from trainer.trained import rounds
from trainer.trained.rounds import Gone, Rounds, Skip, Target, targets, wait_for_checkpoint

Save = Callable[..., None]


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.files.make_directory(made.checkpoints)
    return made


@pytest.fixture
def save(directory: RunDirectory) -> Save:
    """Commits a checkpoint, the first of which is the best."""

    def commit(step: int, content: str = "index") -> None:
        folder.begin(directory, step)
        pathlib.Path(f"{directory.state_prefix(step)}.index").write_text(content)
        manifest = Manifest(
            step=step,
            examples=step * 64,
            epoch=None,
            run=None,
            reasons=("interval",),
            attempt=1,
            parent=None,
            files=folder.describe_files(directory, step),
            log=LogPosition(0, 0, ""),
            train=None,
            open_window={"from": step, "steps": 0, "metrics": {}},
            eval={},
            control={"best": {"validation/loss": [{"value": 0.5, "step": 10}]}},
            data={},
        )
        folder.commit(directory, manifest)

    return commit


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for a clock; a wait that never ends ends the test."""
    rests = iter(range(100))

    def rest(interrupted: Callable[[], bool]) -> None:
        next(rests)

    monkeypatch.setattr(rounds, "rest", rest)


class Visited:
    """Notes what is evaluated and what is skipped; what happens on the way is up to the test."""

    def __init__(self, directory: RunDirectory, on_visit: Callable[[int], None] = lambda step: None) -> None:
        self.steps: list[int] = []
        self.skips: list[Skip] = []
        self.messages: list[str] = []
        self.stop = False
        self._on_visit = on_visit
        self.rounds = Rounds(directory, self.evaluate, self.skips.append, lambda: self.stop)

    def evaluate(self, manifest: Manifest) -> bool:
        self._on_visit(manifest.step)
        self.steps.append(manifest.step)
        return not self.stop

    def follow(self) -> str | None:
        return self.rounds.follow(self.messages.append)


def remove(directory: RunDirectory, step: int) -> None:
    shutil.rmtree(directory.checkpoint(step))


# What is asked for.


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("latest", [(30, "latest")]),
        ("best", [(10, "best")]),
        ("20", [(20, "20")]),
        ("2_0", [(20, "20")]),
        ("all", [(10, "all"), (20, "all"), (30, "all")]),
        ("latest,best, 20", [(10, "best"), (20, "20"), (30, "latest")]),
        ("latest,30", [(30, "latest")]),
        ("all,latest", [(10, "all"), (20, "all"), (30, "latest")]),
    ],
)
def test_words_mean_checkpoints_oldest_first_and_each_once(
    which: str, expected: list[tuple[int, str]], directory: RunDirectory, save: Save
) -> None:
    for step in (10, 20, 30):
        save(step)
    assert targets(directory, which) == ([Target(*item) for item in expected], [])


@pytest.mark.parametrize("which", ["", "newest", "latest,", "-3", "best,worst"])
def test_a_word_that_means_nothing_is_64_and_says_what_there_is(
    which: str, directory: RunDirectory, save: Save
) -> None:
    save(10)
    with pytest.raises(ConfigError, match="expected best, latest, before-plateau, all or a step") as caught:
        targets(directory, which)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"which={which}: ")


def test_a_step_that_is_not_there_is_66_and_says_which_are(directory: RunDirectory, save: Save) -> None:
    save(10)
    with pytest.raises(Unusable, match="no checkpoint of step 20; there"):
        targets(directory, "all,20")


def test_a_run_without_checkpoints_has_nothing_to_evaluate(directory: RunDirectory) -> None:
    for which in ("latest", "all"):
        with pytest.raises(Unusable, match="has no checkpoint"):
            targets(directory, which)


def test_the_newest_that_can_be_used_is_the_latest_and_what_was_passed_over_is_told(
    directory: RunDirectory, save: Save
) -> None:
    for step in (10, 20):
        save(step)
    pathlib.Path(directory.manifest(20)).write_text("{")
    found, passed = targets(directory, "latest")
    assert found == [Target(10, "latest")]
    assert [skip.step for skip in passed] == [20]
    assert "checkpoint 20" in passed[0].reason
    assert not passed[0].failed


# Going there.


def test_what_retention_removed_is_told_and_the_others_are_evaluated(directory: RunDirectory, save: Save) -> None:
    for step in (10, 20, 30):
        save(step)
    visited = Visited(directory)
    remove(directory, 20)
    assert visited.rounds.visit([Target(10, "all"), Target(20, "all"), Target(30, "latest")])
    assert visited.steps == [10, 30]
    assert [(skip.step, skip.failed) for skip in visited.skips] == [(20, False)]
    assert "removed" in visited.skips[0].reason


@pytest.mark.parametrize("which", ["all", "20"])
def test_what_is_removed_while_it_is_read_is_told_once(which: str, directory: RunDirectory, save: Save) -> None:
    save(20)

    def vanish(step: int) -> None:
        remove(directory, step)
        raise Gone

    visited = Visited(directory, vanish)
    assert visited.rounds.visit([Target(20, which)])
    assert [(skip.step, skip.failed) for skip in visited.skips] == [(20, False)]


def test_the_latest_is_taken_again_where_it_was_removed_while_it_was_read(directory: RunDirectory, save: Save) -> None:
    save(10)

    def overtake(step: int) -> None:
        if step < 40:
            save(step + 10)
            remove(directory, step)
            raise Gone

    visited = Visited(directory, overtake)
    assert visited.rounds.visit([Target(10, "latest")])
    assert (visited.steps, visited.skips) == ([40], [])


def test_a_latest_that_is_never_caught_is_given_up(directory: RunDirectory, save: Save) -> None:
    save(10)

    def overtake(step: int) -> None:
        save(step + 10)
        remove(directory, step)
        raise Gone

    visited = Visited(directory, overtake)
    assert visited.rounds.visit([Target(10, "latest")])
    assert len(visited.skips) == 1
    assert not visited.skips[0].failed


@pytest.mark.parametrize(("which", "failed"), [("20", True), ("latest", True), ("all", False)])
@pytest.mark.parametrize("where", ["manifest", "tensors"])
def test_damage_is_told_and_is_a_failure_where_that_checkpoint_was_named(
    where: str, which: str, failed: bool, directory: RunDirectory, save: Save
) -> None:
    for step in (10, 20):
        save(step)
    if where == "manifest" and which != "latest":
        pathlib.Path(directory.manifest(20)).write_text("{")

    def read(step: int) -> None:
        if step == 20:
            raise Damaged("checkpoint 20 cannot be read")

    visited = Visited(directory, read)
    assert visited.rounds.visit([Target(20, which), Target(10, "all")])
    assert visited.steps == [10]
    assert [(skip.step, skip.failed) for skip in visited.skips] == [(20, failed)]
    assert "checkpoint 20" in visited.skips[0].reason


def test_what_is_not_the_checkpoints_fault_ends_it(directory: RunDirectory, save: Save) -> None:
    save(10)

    def fail(step: int) -> None:
        raise Unusable("the data cannot be read")

    visited = Visited(directory, fail)
    with pytest.raises(Unusable, match="the data"):
        visited.rounds.visit([Target(10, "all")])


def test_nothing_is_begun_once_it_is_to_stop(directory: RunDirectory, save: Save) -> None:
    for step in (10, 20):
        save(step)
    visited = Visited(directory)
    visited.stop = True
    assert not visited.rounds.visit([Target(10, "all")])
    assert visited.steps == []


# Following.


def ended(directory: RunDirectory, reason: str = "target reached", exit_code: int = 0) -> None:
    Journal(directory, attempt=1).write("stop", reason=reason, exit_code=exit_code, step=1, saved=True)


def test_it_takes_what_is_there_oldest_first_then_each_that_comes_and_ends_with_the_run(
    directory: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (20, 10):
        save(step)
    visited = Visited(directory)
    happens = iter([lambda: save(30), lambda: None, lambda: (save(40), save(50), ended(directory))])
    monkeypatch.setattr(rounds, "rest", lambda interrupted: next(happens)())
    assert visited.follow() == "target reached"
    assert visited.steps == [10, 20, 30, 40, 50]


def test_what_is_saved_just_before_the_end_is_not_missed(directory: RunDirectory, save: Save) -> None:
    def come_to_an_end(step: int) -> None:
        if step == 10:
            save(20)
            ended(directory)

    save(10)
    visited = Visited(directory, come_to_an_end)
    assert visited.follow() == "target reached"
    assert visited.steps == [10, 20]


@pytest.mark.parametrize(("reason", "exit_code"), [("preempted", 75), ("interrupted", 130), ("error", 74)])
def test_it_waits_for_a_run_that_was_stopped_and_says_so_once(
    reason: str, exit_code: int, directory: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(10)
    ended(directory, reason, exit_code)
    visited = Visited(directory)

    def go_on() -> None:
        Journal(directory).write("start", host="vm")

    happens = iter([lambda: None, lambda: None, go_on, lambda: save(20), lambda: ended(directory)])
    monkeypatch.setattr(rounds, "rest", lambda interrupted: next(happens)())
    assert visited.follow() == "target reached"
    assert visited.steps == [10, 20]
    assert len(visited.messages) == 1
    assert reason in visited.messages[0]


def test_a_step_that_is_trained_again_is_another_checkpoint(
    directory: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(10)
    visited = Visited(directory)

    def again() -> None:
        remove(directory, 10)
        save(10, "another index")

    happens = iter([lambda: None, again, lambda: ended(directory)])
    monkeypatch.setattr(rounds, "rest", lambda interrupted: next(happens)())
    visited.follow()
    assert visited.steps == [10, 10]


def test_a_damaged_one_is_told_once_and_passed(
    directory: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        save(step)
    pathlib.Path(directory.manifest(10)).write_text("{")
    visited = Visited(directory)
    happens = iter([lambda: None, lambda: None, lambda: ended(directory)])
    monkeypatch.setattr(rounds, "rest", lambda interrupted: next(happens)())
    visited.follow()
    assert visited.steps == [20]
    assert [(skip.step, skip.failed) for skip in visited.skips] == [(10, False)]


def test_it_stops_when_it_is_to_stop(directory: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(10)
    visited = Visited(directory)
    monkeypatch.setattr(rounds, "rest", lambda interrupted: setattr(visited, "stop", True))
    assert visited.follow() is None
    assert visited.steps == [10]


# Waiting for the first.


def test_it_waits_for_the_first_checkpoint_and_for_the_directory_too(
    directory: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.rmdir(directory.checkpoints)
    os.rmdir(directory.path)
    told: list[str] = []
    begin = [lambda: os.makedirs(directory.checkpoints), lambda: None, lambda: save(10)]
    happens = iter(begin)
    monkeypatch.setattr(rounds, "rest", lambda interrupted: next(happens)())
    assert wait_for_checkpoint(directory, lambda: False, told.append)
    assert told == [f"waiting for the first checkpoint in {directory.path}"]


def test_it_waits_no_longer_than_it_is_to(directory: RunDirectory) -> None:
    assert not wait_for_checkpoint(directory, lambda: True, lambda line: None)


def test_it_does_not_wait_for_what_never_comes(directory: RunDirectory, tmp_path: pathlib.Path) -> None:
    ended(directory)
    with pytest.raises(Unusable, match=r"has no checkpoint, and its run has ended"):
        wait_for_checkpoint(directory, lambda: False, lambda line: None)
    (tmp_path / "file").write_text("text")
    with pytest.raises(Unusable, match="is a file"):
        wait_for_checkpoint(RunDirectory(tmp_path / "file"), lambda: False, lambda line: None)


def test_an_error_of_writing_is_not_swallowed(directory: RunDirectory, save: Save) -> None:
    save(10)

    def full(step: int) -> None:
        raise Unwritable("no space left")

    with pytest.raises(Unwritable):
        Visited(directory, full).follow()
