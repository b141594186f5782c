"""A whole run in one process: what it logs, saves, resumes and refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.checkpoint.store import CheckpointStore
from trainer.errors import ConfigError, Diverged, InUse, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.process.lock import locked
from trainer.process.signals import StopRequest
from trainer.run.program import Advance, Program
from trainer.storage.files import Files

pytestmark = pytest.mark.slow

Train = Callable[..., trainer.Result]
Manifests = Callable[..., dict[int, Manifest]]
Course = Callable[[str], dict[int, Any]]


@pytest.fixture(scope="module")
def descending(linear: Any) -> Any:
    """An experiment whose loss on its one split gets smaller with every step: full batches of what is evaluated."""

    @dataclasses.dataclass(frozen=True)
    class Descending(linear):
        batch_size: int = 10

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

    return Descending


def sequence(records: list[Record]) -> list[tuple[Any, ...]]:
    """What closed when: windows with what closed them, and evaluations."""
    return [
        (*(record.window or ()), *([record.closed_by] if record.closed_by else []))
        if record.kind == "train"
        else (record.split, record.step)
        for record in records
    ]


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a run that is the run's own course, by its path."""
    kept = [folder / "metrics.jsonl", folder / "run.json", *sorted((folder / "checkpoints").rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept if path.is_file()}


# --- The sequence of records and saves --------------------------------------------------------------------------------

CADENCES = {"train_for": "10steps", "log_every": "4steps", "save_every": "3steps", "eval_every": "5steps"}

SEQUENCES = {
    "carry": [(0, 4), ("validation", 5), (4, 8), (8, 10, "end"), ("validation", 10)],
    "flush": [
        (0, 3, "save"),
        (3, 4),
        ("validation", 5),
        (4, 6, "save"),
        (6, 8),
        (8, 9, "save"),
        (9, 10, "end"),
        ("validation", 10),
    ],
    "align": [(0, 4), ("validation", 5), (4, 8), (8, 10, "end"), ("validation", 10)],
}
SAVES = {
    "carry": {3: ["interval"], 6: ["interval"], 9: ["interval"], 10: ["final"]},
    "flush": {3: ["interval"], 6: ["interval"], 9: ["interval"], 10: ["final"]},
    "align": {4: ["interval"], 8: ["interval"], 10: ["interval", "final"]},
}
RECONCILE = pytest.mark.parametrize("reconcile", ["carry", "flush", "align"])


@RECONCILE
def test_saves_and_windows_follow_their_own_cadences_and_are_reconciled(
    reconcile: str, descending: Any, train: Train, commits: list[Manifest]
) -> None:
    result = train(descending(), reconcile=reconcile, keep_best=0, **CADENCES)
    assert sequence(result.records) == SEQUENCES[reconcile]
    assert {manifest.step: list(manifest.reasons) for manifest in commits} == SAVES[reconcile]
    assert not any(manifest.transient for manifest in commits)
    assert [manifest.parent for manifest in commits] == [None, *list(SAVES[reconcile])[:-1]]


def test_carry_tells_the_open_window_and_the_last_closed_one(
    descending: Any, train: Train, commits: list[Manifest]
) -> None:
    train(descending(), keep_best=0, **CADENCES)
    opened = {manifest.step: (manifest.open_window["from"], manifest.open_window["steps"]) for manifest in commits}
    assert opened == {3: (0, 3), 6: (4, 2), 9: (8, 1), 10: (10, 0)}
    closed = {m.step: (m.train["window"], m.train["lag"], m.train["relation"]) for m in commits if m.train}
    assert closed == {6: ([0, 4], 2, "window"), 9: ([4, 8], 1, "window"), 10: ([8, 10], 0, "window")}
    assert commits[0].train is None
    evaluated = {m.step: (known["relation"], known["step"], known["age"]) for m in commits for known in m.eval.values()}
    assert evaluated == {6: ("earlier", 5, 1), 9: ("earlier", 5, 4), 10: ("exact", 10, 0)}


def test_the_partial_mean_of_an_open_window_is_the_mean_that_a_record_there_would_have(
    descending: Any, train: Train, commits: list[Manifest]
) -> None:
    train(descending(), folder="carried", keep_best=0, **CADENCES)
    partial = commits[0].open_window["metrics"]
    record = train(descending(), folder="logged", train_for=3, log_every=3, eval_every="never").records[0]
    assert partial == record.metrics


@RECONCILE
def test_every_record_that_a_manifest_counts_is_the_prefix_of_the_log(
    reconcile: str, descending: Any, train: Train, commits: list[Manifest], tmp_path: pathlib.Path
) -> None:
    result = train(descending(), reconcile=reconcile, **CADENCES)
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    for manifest in commits:
        prefix = log[: manifest.log.bytes]
        assert prefix.count(b"\n") == manifest.log.records
        assert all(record.step <= manifest.step for record in result.records[: manifest.log.records])
    assert commits[-1].log.bytes == len(log)


def test_flush_closes_the_window_of_a_best_save_too(descending: Any, train: Train, commits: list[Manifest]) -> None:
    result = train(descending(), reconcile="flush", train_for=6, log_every=5, eval_every=2, save_every="never")
    assert sequence(result.records) == [
        ("validation", 2),
        (0, 2, "save"),
        ("validation", 4),
        (2, 4, "save"),
        (4, 5),
        (5, 6, "end"),
        ("validation", 6),
    ]
    assert [list(manifest.reasons) for manifest in commits] == [["best"], ["best"], ["final", "best"]]
    assert all(manifest.open_window["steps"] == 0 for manifest in commits)


def test_a_best_save_stays_where_it_is_under_align(descending: Any, train: Train, commits: list[Manifest]) -> None:
    train(descending(), reconcile="align", train_for=10, log_every=5, eval_every=3, save_every="never")
    assert [manifest.step for manifest in commits] == [3, 6, 9, 10]


@RECONCILE
def test_a_run_that_is_preempted_again_and_again_leaves_the_log_and_the_weights_of_one_that_never_was(
    reconcile: str,
    descending: Any,
    train: Train,
    commits: list[Manifest],
    course: Course,
    stop_at: Callable[[int], dict[str, Any]],
    tmp_path: pathlib.Path,
) -> None:
    options = {"reconcile": reconcile, "keep_last": 2, **CADENCES}
    train(descending(), folder="undisturbed", **options)
    log = (tmp_path / "undisturbed" / "metrics.jsonl").read_bytes()
    # A step of nothing, that of a save, one before a moved save, one before the end.
    for step in (2, 6, 7, 9):
        commits.clear()
        result = train(descending(), folder="killed", **options, **stop_at(step))
        assert (result.reason, result.exit_code, result.step) == ("preempted", 75, step)
        assert "signal" in commits[-1].reasons
        # The log does not depend on the signal that ended the attempt.
        assert log.startswith(b"".join(record.line() for record in result.records))
    result = train(descending(), folder="killed", **options)
    assert (result.reason, result.exit_code) == ("target reached", 0)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == log
    assert course("killed") == course("undisturbed")


@pytest.mark.parametrize(("step", "reconcile"), [(5, "carry"), (5, "flush"), (5, "align"), (10, "carry")])
def test_a_signal_that_cuts_an_evaluation_short_leaves_the_log_of_a_run_that_never_was_stopped(
    step: int,
    reconcile: str,
    descending: Any,
    train: Train,
    stop_at: Callable[[int], dict[str, Any]],
    tmp_path: pathlib.Path,
) -> None:
    options = {"reconcile": reconcile, **CADENCES}
    train(descending(), folder="undisturbed", **options)
    assert train(descending(), folder="killed", **options, **stop_at(step)).reason == "preempted"
    train(descending(), folder="killed", **options)
    logs = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in ("undisturbed", "killed")]
    # The evaluation made step 5 the best: what its save does to the window has to be made up for, too.
    assert logs[0] == logs[1]


def test_a_kill_after_an_evaluation_was_made_up_for_changes_nothing_either(
    descending: Any,
    train: Train,
    stop_at: Callable[[int], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    # The best save that is made up for closes the window, whose sums are in the checkpoint's files all the same.
    options = {"reconcile": "flush", **CADENCES}
    train(descending(), folder="undisturbed", **options)
    train(descending(), folder="killed", **options, **stop_at(5))
    steps = Program.run

    class Killed(BaseException):
        """As a kill, it asks nobody."""

    def run(program: Program, until: int, closes: list[int]) -> Advance:
        raise Killed

    # The second attempt evaluates step 5, which its first attempt could not, and dies before it trains a step.
    monkeypatch.setattr(Program, "run", run)
    with pytest.raises(Killed):
        train(descending(), folder="killed", **options)
    monkeypatch.setattr(Program, "run", steps)
    train(descending(), folder="killed", **options)
    logs = [(tmp_path / folder / "metrics.jsonl").read_bytes() for folder in ("undisturbed", "killed")]
    assert logs[0] == logs[1]


def test_an_evaluation_of_the_last_step_that_was_made_up_for_belongs_to_its_checkpoint(
    descending: Any,
    train: Train,
    course: Course,
    stop_at: Callable[[int], dict[str, Any]],
    tmp_path: pathlib.Path,
) -> None:
    train(descending(), folder="undisturbed", **CADENCES)
    train(descending(), folder="killed", **CADENCES, **stop_at(10))
    train(descending(), folder="killed", **CADENCES)
    before = content(tmp_path / "killed")
    again = train(descending(), folder="killed", **CADENCES)
    assert (again.reason, content(tmp_path / "killed")) == ("nothing to do", before)
    assert course("killed")[10] == course("undisturbed")[10]


def test_which_checkpoints_stay_does_not_depend_on_a_signal_that_cut_an_evaluation_short(
    descending: Any, train: Train, manifests: Manifests, stop_at: Callable[[int], dict[str, Any]]
) -> None:
    # Step 5 is the best when it is evaluated, so that its checkpoint counts among the last three.
    options = {**CADENCES, "train_for": "6steps", "save_every": "2steps"}
    train(descending(), folder="undisturbed", **options)
    train(descending(), folder="killed", **options, **stop_at(5))
    train(descending(), folder="killed", **options)
    kept = [
        [step for step, manifest in manifests(folder).items() if not manifest.transient]
        for folder in ("undisturbed", "killed")
    ]
    assert kept[0] == kept[1]


def test_an_evaluation_that_a_signal_cut_short_is_done_first_after_the_resume(
    descending: Any, train: Train, commits: list[Manifest], stop_at: Callable[[int], dict[str, Any]]
) -> None:
    options = {"train_for": "10steps", "log_every": "4steps", "eval_every": "5steps", "save_every": "never"}
    stopped = train(descending(), **options, **stop_at(5))
    assert sequence(stopped.records) == [(0, 4)]
    assert list(commits[-1].control["pending"]) == ["eval"]
    assert commits[-1].transient
    finished = train(descending(), **options)
    assert sequence(finished.records) == SEQUENCES["carry"]


def test_what_was_done_at_a_step_is_not_done_again_after_a_resume_there(
    descending: Any, train: Train, commits: list[Manifest], stop_at: Callable[[int], dict[str, Any]]
) -> None:
    options = {"keep_best": 0, "train_for": "8steps", "log_every": "4steps", "save_every": "4steps"}
    stopped = train(descending(), eval_every="never", **options, **stop_at(4))
    assert sequence(stopped.records) == [(0, 4)]
    train(descending(), eval_every="never", **options)
    assert [manifest.step for manifest in commits] == [4, 8]


@pytest.mark.parametrize(
    ("number", "code", "reason"), [(signal.SIGTERM, 75, "preempted"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_before_the_first_step_saves_that_step_and_says_why_it_stopped(
    number: signal.Signals, code: int, reason: str, linear: Any, train: Train
) -> None:
    request = StopRequest()
    request.note(number, None)
    result = train(linear(), train_for=3, stop_request=request)
    assert (result.exit_code, result.reason, result.step) == (code, reason, 0)
    assert train(linear(), train_for=3).reason == "target reached"


def test_a_signal_before_the_first_step_of_a_resume_finds_the_checkpoint_there_and_leaves_it(
    linear: Any, train: Train, commits: list[Manifest], tmp_path: pathlib.Path
) -> None:
    train(linear(), train_for=2)
    before = content(tmp_path / "run")
    commits.clear()
    request = StopRequest()
    request.note(signal.SIGTERM, None)
    result = train(linear(), train_for=4, stop_request=request)
    assert (result.exit_code, result.step) == (75, 2)
    assert commits == []
    assert content(tmp_path / "run") == before


def test_an_evaluation_before_the_first_step_comes_first_and_only_once(
    descending: Any, train: Train, stop_at: Callable[[int], dict[str, Any]]
) -> None:
    options = {"eval_at_start": True, "train_for": 4, "log_every": 2, "eval_every": 4, "save_every": 1}
    train(descending(), **options, **stop_at(2))
    expected = [("validation", 0), (0, 2), (2, 4), ("validation", 4)]
    assert sequence(train(descending(), **options).records) == expected


def test_nothing_fires_before_the_first_step_by_itself(descending: Any, train: Train, commits: list[Manifest]) -> None:
    result = train(descending(), train_for=2, log_every=1, eval_every=1, save_every=1)
    assert sequence(result.records) == [(0, 1), ("validation", 1), (1, 2), ("validation", 2)]
    assert [manifest.step for manifest in commits] == [1, 2]


def test_without_evaluations_the_windows_decide_and_each_log_step_is_a_boundary(
    linear: Any, train: Train, commits: list[Manifest]
) -> None:
    result = train(linear(batch_size=10), train_for=9, log_every=4, save_every="never")
    assert result.monitor == "train/loss"
    assert [(m.step, list(m.reasons)) for m in commits] == [(4, ["best"]), (8, ["best"]), (9, ["final", "best"])]


def test_evaluations_can_be_switched_off(descending: Any, train: Train) -> None:
    result = train(descending(), train_for=4, log_every=2, eval_every="never")
    assert sequence(result.records) == [(0, 2), (2, 4)]
    assert result.monitor == "train/loss"


def test_no_log_is_a_log_too(descending: Any, train: Train, commits: list[Manifest]) -> None:
    result = train(descending(), train_for=4, log_every="never", eval_every="2", save_every="never", keep_best=0)
    assert sequence(result.records) == [("validation", 2), ("validation", 4)]
    assert commits[-1].open_window["from"] == 0
    assert commits[-1].open_window["steps"] == 4


# --- What a record says -----------------------------------------------------------------------------------------------


def test_records_count_examples_and_virtual_epochs(descending: Any, train: Train) -> None:
    whole, virtual = (
        train(descending(), folder=name, train_for=4, log_every=2, eval_every=4, **options).records
        for name, options in (("whole", {}), ("virtual", {"epoch_examples": 40}))
    )
    assert [(record.step, record.examples, record.epoch) for record in whole] == [
        (2, 20, 2.0),
        (4, 40, 4.0),
        (4, 40, 4.0),
    ]
    assert [record.epoch for record in virtual] == [0.5, 1.0, 1.0]


def test_lines_of_the_log_have_the_keys_of_the_contract_in_their_order(
    descending: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    train(descending(), train_for=3, log_every=2, eval_every=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [
        ["kind", "step", "examples", "epoch", "window", "metrics", "learning_rate"],
        ["kind", "step", "examples", "epoch", "split", "weights", "metrics"],
        ["kind", "step", "examples", "epoch", "window", "metrics", "learning_rate", "closed_by"],
        ["kind", "step", "examples", "epoch", "split", "weights", "metrics"],
    ]
    # Metrics with columns are for summaries; the loss comes first.
    assert [list(line["metrics"]) for line in lines] == [["loss", "absolute"]] * 4
    assert lines[0]["learning_rate"] == 0.125
    assert lines[1]["weights"] == "raw"


def test_regularization_is_recorded_apart_from_the_loss(linear: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Decayed(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(tf.ones([4]), regularization=tf.reduce_sum(model.kernel**2) * 0 + 0.5)

    (record,) = train(Decayed(), train_for=3).records
    assert record.metrics == {"loss": 1.0, "regularization": 0.5}


def test_summaries_are_made_of_the_means_of_a_window_or_an_evaluation(descending: Any, train: Train) -> None:
    seen: list[Mapping[str, Any]] = []

    @dataclasses.dataclass(frozen=True)
    class Summarized(descending):
        def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
            seen.append(means)
            return {"root": means["loss"] ** 0.5, "spread": float(np.ptp(means["order"]))}

    for record in train(Summarized(), train_for=2, log_every=2, eval_every=2).records:
        assert list(record.metrics) == ["loss", "absolute", "root", "spread"]
        assert record.metrics["root"] == record.metrics["loss"] ** 0.5
        # Ten examples in file order: positions 0 to 9 hold them all.
        assert record.metrics["spread"] == pytest.approx(0.9)
    assert all(means["order"].shape == (10,) for means in seen)


def test_a_metric_that_is_not_finite_is_null_and_counted(descending: Any, train: Train, tmp_path: pathlib.Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Ratio(descending):
        batch_size: int = 5

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, metrics={"ratio": 1 / tf.cast(batch["index"], tf.float32)})

    window, evaluation = train(Ratio(), train_for=4, log_every=4, eval_every=4).records
    assert window.metrics["ratio"] is evaluation.metrics["ratio"] is None
    assert (window.nonfinite, evaluation.nonfinite) == ({"ratio": 2}, {"ratio": 1})
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_records_are_handed_over_once_each_in_order_and_only_when_they_are_durable(
    descending: Any, train: Train, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"
    durable = [b""]
    sync = Files.sync

    def noted(files: Files, path: str) -> None:
        sync(files, path)
        if path == str(metrics):
            durable.append(metrics.read_bytes())

    monkeypatch.setattr(Files, "sync", noted)
    received: list[Record] = []

    def on_record(record: Record) -> None:
        received.append(record)
        assert b"".join(known.line() for known in received) == durable[-1][: sum(len(r.line()) for r in received)]

    result = train(descending(), on_record=on_record, **CADENCES)
    assert received == result.records
    assert sequence(received) == SEQUENCES["carry"]


def test_a_resumed_run_hands_over_only_what_it_adds(
    descending: Any, train: Train, stop_at: Callable[[int], dict[str, Any]]
) -> None:
    first: list[Record] = []
    second: list[Record] = []
    train(descending(), on_record=first.append, **CADENCES, **stop_at(6))
    result = train(descending(), on_record=second.append, **CADENCES)
    assert first + second == result.records


# --- Best, last and how a run ended -----------------------------------------------------------------------------------


def test_the_result_says_how_the_run_ended_and_where_its_checkpoints_are(
    descending: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    result = train(descending(), **CADENCES)
    folder = tmp_path / "run"
    assert result.run_dir == str(folder)
    assert (result.step, result.examples, result.epoch) == (10, 100, 10.0)
    assert (result.reason, result.exit_code, result.monitor) == ("target reached", 0, "validation/loss")
    assert result.last is not None
    assert result.best is not None
    assert result.last.path == str(folder / "checkpoints" / "step-0000000010")
    evaluations = [record for record in result.records if record.kind == "eval"]
    assert (result.best.step, result.best.value) == (10, evaluations[-1].metrics["loss"])
    assert os.path.isdir(result.best.path)
    assert [record.line() for record in result.records] == (folder / "metrics.jsonl").read_bytes().splitlines(True)
    assert tf.train.latest_checkpoint(str(folder / "checkpoints")) == f"{result.last.path}/state"


def test_the_best_checkpoint_stays_when_newer_ones_push_it_out(
    descending: Any, train: Train, manifests: Manifests
) -> None:
    options = {"train_for": 8, "eval_every": 2, "save_every": 1, "keep_last": 2, "mode": "max"}
    result = train(descending(), **options)
    assert result.best is not None
    assert result.best.step == 2
    assert list(manifests()) == [2, 7, 8]


def test_keeping_no_best_still_tells_it_and_saves_nothing_for_it(
    descending: Any, train: Train, manifests: Manifests
) -> None:
    result = train(descending(), train_for=8, eval_every=2, save_every=3, keep_last=1, keep_best=0, mode="max")
    assert result.best is not None
    assert result.best.step == 2
    assert not os.path.isdir(result.best.path)
    assert list(manifests()) == [8]


def test_only_the_last_checkpoints_stay(linear: Any, train: Train, manifests: Manifests) -> None:
    train(linear(), train_for=9, save_every=2, keep_last=3, keep_best=0)
    assert list(manifests()) == [6, 8, 9]


def test_a_finished_run_that_is_started_again_changes_nothing(
    descending: Any, train: Train, commits: list[Manifest], tmp_path: pathlib.Path
) -> None:
    first = train(descending(), **CADENCES)
    before = content(tmp_path / "run")
    commits.clear()
    received: list[Record] = []
    again = train(descending(), on_record=received.append, **CADENCES)
    assert (again.reason, again.exit_code) == ("nothing to do", 0)
    assert content(tmp_path / "run") == before
    assert (commits, received) == ([], [])
    assert dataclasses.replace(again, reason=first.reason) == first


def test_a_larger_target_extends_a_finished_run(
    descending: Any, train: Train, commits: list[Manifest], tmp_path: pathlib.Path
) -> None:
    options = {**CADENCES, "keep_best": 0}
    train(descending(), **options)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    commits.clear()
    result = train(descending(), **{**options, "train_for": "14steps"})
    assert (result.reason, result.step) == ("target reached", 14)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().startswith(before)
    # The grids stay where they were.
    added = [(10, 12), (12, 14, "end"), ("validation", 14)]
    assert sequence(result.records) == [*SEQUENCES["carry"], *added]
    assert [manifest.step for manifest in commits] == [12, 14]
    straight = train(descending(), folder="straight", **{**options, "train_for": "14steps"})
    assert result.records[-1] == straight.records[-1]


@pytest.mark.parametrize(("target", "step"), [("22examples", 6), ("2epochs", 5), ("7steps,100epochs", 7)])
def test_a_target_is_reached_at_the_first_step_that_reaches_it(
    target: str, step: int, linear: Any, train: Train
) -> None:
    assert train(linear(), train_for=target).step == step


def test_the_saved_files_restore_in_plain_tensorflow(linear: Any, train: Train, machinery: Callable[..., Any]) -> None:
    result = train(linear(), train_for=3)
    machine = machinery(linear())
    machine.run(3)
    plain = linear().model([1, 2])
    tf.train.Checkpoint(model=plain).read(f"{result.last.path}/state").expect_partial()  # type: ignore[union-attr]
    np.testing.assert_array_equal(plain.kernel, machine.state.model.kernel)
    np.testing.assert_array_equal(plain.bias, machine.state.model.bias)


def test_the_journal_tells_each_attempt_from_its_start_to_its_stop(
    linear: Any, train: Train, stop_at: Callable[[int], dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    train(linear(), train_for=4, **stop_at(2))
    train(linear(), train_for=4)
    lines = read_journal(RunDirectory(tmp_path / "run"))
    events = [(line["attempt"], line["event"]) for line in lines]
    assert events[:2] == [(1, "start"), (1, "plan")]
    assert (1, "signal") in events
    assert (2, "resume") in events
    stops = [line for line in lines if line["event"] == "stop"]
    assert [(line["attempt"], line["exit_code"], line["step"], line["saved"]) for line in stops] == [
        (1, 75, 2, True),
        (2, 0, 4, True),
    ]


# --- Two networks -----------------------------------------------------------------------------------------------------


class Pair(tf.Module):
    """A generator that shifts noise, and a critic that is a line."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = tf.Variable(0.0)
        self.slope = tf.Variable(0.5)


@pytest.fixture(scope="module")
def adversarial(linear: Any) -> Any:
    @dataclasses.dataclass(frozen=True)
    class Adversarial(linear):
        def model(self, seed: Any) -> Pair:
            return Pair()

        def optimizer(self) -> Any:
            return {"generator": trainer.optim.Adam(0.0625), "critic": trainer.optim.SGD(0.125, momentum=0.5)}

        def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
            model = state.model
            with tf.GradientTape(persistent=True) as tape:
                fake = tf.random.stateless_normal([4], seed, alg="philox") + model.shift
                score = model.slope * (batch["y"] - fake)
                critic = 0.1 * model.slope**2 - tf.reduce_mean(score)
                generator = tf.reduce_mean(score)
            state.optimizer["critic"].apply(tape.gradient(critic, [model.slope]), [model.slope])
            state.optimizer["generator"].apply(tape.gradient(generator, [model.shift]), [model.shift])
            return trainer.Loss(score, {"fake": fake})

        def loss(self, model: Pair, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(model.slope * batch["y"])

    return Adversarial


def test_an_experiment_with_its_own_step_and_two_optimizers_trains_and_resumes_bit_for_bit(
    adversarial: Any,
    train: Train,
    manifests: Manifests,
    stop_at: Callable[[int], dict[str, Any]],
    tmp_path: pathlib.Path,
) -> None:
    options = {"train_for": 9, "log_every": 4, "save_every": 6}
    undisturbed = train(adversarial(), folder="undisturbed", **options)
    for record in undisturbed.records:
        assert record.learning_rate == {"generator": 0.0625, "critic": 0.125}
        assert list(record.metrics) == ["loss", "fake"]
    train(adversarial(), folder="killed", **options, **stop_at(5))
    train(adversarial(), folder="killed", **options)
    assert content(tmp_path / "killed")["metrics.jsonl"] == content(tmp_path / "undisturbed")["metrics.jsonl"]
    assert manifests("killed")[9].files == manifests("undisturbed")[9].files
    reader = tf.train.load_checkpoint(f"{undisturbed.last.path}/state")  # type: ignore[union-attr]
    assert reader.get_tensor("model/shift/.ATTRIBUTES/VARIABLE_VALUE") != 0
    assert reader.get_tensor("model/slope/.ATTRIBUTES/VARIABLE_VALUE") != 0.5
    names = " ".join(reader.get_variable_to_shape_map())
    assert "optimizer/generator/" in names
    assert "optimizer/critic/momentum/0" in names


# --- Divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches_in_a_chunk", ["many", "one"])
def test_a_loss_that_is_not_finite_ends_the_run_names_the_step_and_leaves_the_newest_checkpoint(
    batches_in_a_chunk: str, linear: Any, train: Train, manifests: Manifests, tmp_path: pathlib.Path
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Poisoned(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, per_example=loss.per_example / tf.where(batch["index"] == 15, 0.0, 1.0))

    options = {"train_for": 12, "save_every": 3, "log_every": 2, "keep_best": 0}
    tick = {"many": "1s", "one": "0.000001s"}[batches_in_a_chunk]
    experiment = Poisoned(examples=100, batch_size=3)
    for _ in range(2):  # The second attempt goes on from the checkpoint, and ends the same way.
        with pytest.raises(Diverged, match=r"step 6\b.*step 3 ") as caught:
            train(experiment, tick=tick, **options)
        assert caught.value.exit_code == 65
        assert "\n" not in str(caught.value)
        assert list(manifests()) == [3]
        assert manifests()[3].attempt == 1
    stop = read_journal(RunDirectory(tmp_path / "run"))[-1]
    assert (stop["event"], stop["exit_code"], stop["saved"]) == ("stop", 65, False)


@pytest.mark.parametrize("reason", ["interval", "best", "signal", "final"])
def test_weights_that_are_not_finite_are_never_committed_whatever_asks_for_the_save(
    reason: str, descending: Any, train: Train, manifests: Manifests, stop_at: Callable[[int], dict[str, Any]]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Kinked(descending):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            if not training:
                return trainer.Loss(tf.ones([10]))
            # The value is finite where the slope is infinite: at step 3, when the third batch of ten comes.
            kink = tf.sqrt(tf.nn.relu(model.bias - tf.stop_gradient(model.bias)))
            third = tf.reduce_any(batch["index"] == 25)
            return dataclasses.replace(loss, per_example=loss.per_example + tf.where(third, kink, 0.0))

    options: dict[str, Any] = {
        "interval": {"save_every": 3},
        "best": {"save_every": 1000, "monitor": "validation/loss", "eval_every": 3},
        "signal": {"save_every": 1000, **stop_at(3)},
        "final": {"save_every": 1000, "train_for": 3},
    }[reason]
    experiment = Kinked(examples=100)
    train(experiment, train_for=1, eval_every="never", keep_best=0)
    with pytest.raises(Diverged, match=r"step 3\b.*step 1 ") as caught:
        train(experiment, **{"train_for": 10, "eval_every": "never", "keep_best": int(reason == "best"), **options})
    assert caught.value.exit_code == 65
    assert list(manifests()) == [1]


# --- What is refused --------------------------------------------------------------------------------------------------


def returns(value: Any) -> Callable[..., Any]:
    return lambda *arguments, **options: value


def losing(make: Callable[[], Any]) -> dict[str, Any]:
    """An experiment whose loss returns what `make` makes; made within the trace."""
    return {"loss": lambda self, model, batch, *, training, seed: make()}


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a model that is no module": ({"model": returns(object())}, {}, r"Wrong\.model\(\) returned object; .*tf\.Module"),
    "a model without weights": ({"model": lambda self, seed: tf.Module()}, {}, r"no trainable variables"),
    "an optimizer that cannot": (
        {"optimizer": returns(object())},
        {},
        r"Wrong\.optimizer\(\) returned object; .*apply",
    ),
    "no optimizer": ({"optimizer": returns({})}, {}, r"Wrong\.optimizer\(\)"),
    "two optimizers and no step of its own": (
        {"optimizer": lambda self: {"a": trainer.optim.SGD(0.1), "b": trainer.optim.SGD(0.1)}},
        {},
        r"Wrong\.optimizer\(\).*train_step",
    ),
    "training data that is no source": (
        {"train_data": returns({"x": [1.0]})},
        {},
        r"Wrong\.train_data\(\) returned dict",
    ),
    "splits that are a list": ({"eval_data": returns([1])}, {}, r"Wrong\.eval_data\(\) returned list"),
    "a split that is no source": ({"eval_data": returns({"test": 3})}, {}, r"Wrong\.eval_data\(\)"),
    "a split called train": (
        {"eval_data": lambda self: {"train": self.source()}},
        {},
        r"Wrong\.eval_data\(\) names a split 'train'",
    ),
    "no examples": (
        {"train_data": lambda self: trainer.data.arrays({"x": np.zeros([0, 3])}, batch_size=4)},
        {},
        r"no examples",
    ),
    "a mean": (losing(lambda: trainer.Loss(tf.ones([]))), {}, r"per_example of shape \(\); expected \[4\]"),
    "integers": (losing(lambda: trainer.Loss(tf.ones([4], tf.int32))), {}, r"per_example of dtype int32"),
    "a bare tensor": (losing(lambda: tf.ones([4])), {}, r"loss\(\) returned \w*Tensor; expected trainer\.Loss"),
    "nothing": (losing(lambda: None), {}, r"loss\(\) returned NoneType; expected trainer\.Loss"),
    "a metric called loss": (losing(lambda: trainer.Loss(tf.ones([4]), {"loss": tf.ones([4])})), {}, r"named 'loss'"),
    "a scalar metric": (losing(lambda: trainer.Loss(tf.ones([4]), {"hit": tf.ones([])})), {}, r"hit of shape \(\)"),
    "one weight for all": (losing(lambda: trainer.Loss(tf.ones([4]), weights=tf.ones([]))), {}, r"weights of shape"),
    "a loss of no variable": (
        losing(lambda: trainer.Loss(tf.ones([4]))),
        {},
        r"none of the 2 variables has a gradient",
    ),
    "a step that returns no loss": ({"train_step": returns(None)}, {}, r"train_step\(\) returned NoneType"),
    "a summary called loss": ({"summarize": returns({"loss": 1.0})}, {}, r"summarize\(\).*'loss'"),
    "a summary of nothing": ({"summarize": returns(None)}, {}, r"summarize\(\) returned NoneType"),
    "a summary of text": ({"summarize": returns({"grade": "good"})}, {}, r"summarize\(\).*grade"),
    "a suggestion that is no flag": (
        {"suggested_flags": {"train_four": 3}},
        {},
        r"experiment suggests no option 'train_four'",
    ),
    "no target": ({}, {"train_for": None}, r"train_for is not set"),
    "an option that does not exist": ({}, {"log_evry": 3}, r"no option 'log_evry'; expected one of .*log_every"),
    "seconds in the log": ({}, {"log_every": "5s"}, r"log_every=5s.*clock_in_log"),
    "align without a log": ({}, {"reconcile": "align", "log_every": "never"}, r"align.*log_every=never"),
    "a monitor of no split": ({}, {"monitor": "nope/loss"}, r"monitor=nope/loss.*train/METRIC"),
    "a monitor of no metric": ({}, {"monitor": "train/acuracy"}, r"monitor=train/acuracy.*train/absolute.*train/loss"),
    "an epoch of nothing": ({}, {"epoch_examples": 0}, r"epoch_examples=0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_trained_is_refused_in_one_clean_line(
    what: str, linear: Any, train: Train, manifests: Manifests
) -> None:
    members, options, message = WRONG[what]
    with pytest.raises(ConfigError, match=message) as caught:
        train(type("Wrong", (linear,), members)(), **{"train_for": 2, "log_every": 1, **options})
    assert caught.value.exit_code == 64
    text = str(caught.value)
    assert "\n" not in text
    for noise in ("autograph", "AutoGraph", "in user code", "tensorflow/python"):
        assert noise not in text
    assert manifests() == {}


def test_what_is_no_experiment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dict is no experiment.*trainer\.Experiment"):
        trainer.Trainer({}, train_for=3)  # type: ignore[arg-type]


def test_a_monitor_that_does_not_exist_is_refused_before_any_step(
    linear: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ConfigError, match="acuracy"):
        train(linear(), train_for=6, log_every=3, save_every=1, monitor="train/acuracy")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_error_in_the_users_own_code_is_shown_as_it_is(linear: Any, train: Train, tmp_path: pathlib.Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Broken(linear):
        def model(self, seed: Any) -> Any:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(Broken(), train_for=1)
    # And the directory is free for the next try.
    assert train(linear(), train_for=1).reason == "target reached"


def test_a_run_directory_that_is_a_file_is_refused_and_left_alone(
    linear: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match=r"run_dir=.*is a file") as caught:
        train(linear(), train_for=1)
    assert caught.value.exit_code == 64
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_directory_inside_a_file_is_refused(linear: Any, train: Train, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="run_dir=") as caught:
        train(linear(), folder="file/run", train_for=1)
    assert caught.value.exit_code == 64


def test_a_log_of_unknown_origin_is_refused_and_left_alone(linear: Any, train: Train, tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"run\.json"):
        train(linear(), train_for=1)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "mine\n"


def test_a_run_directory_that_somebody_writes_is_refused_at_once_and_the_holder_named(
    linear: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    train(linear(), train_for=2)
    before = content(tmp_path / "run")
    with locked(str(tmp_path / "run" / "lock")), pytest.raises(InUse, match=f"process {os.getpid()}") as caught:
        train(linear(), train_for=4)
    assert caught.value.exit_code == 73
    assert "\n" not in str(caught.value)
    assert content(tmp_path / "run") == before
    assert train(linear(), train_for=4).step == 4


def test_resume_must_refuses_to_begin_and_makes_nothing(linear: Any, train: Train, tmp_path: pathlib.Path) -> None:
    with pytest.raises(Unusable, match="resume=must") as caught:
        train(linear(), train_for=2, resume="must")
    assert caught.value.exit_code == 66
    assert not (tmp_path / "run").exists()


def test_resume_must_goes_on_where_there_is_a_checkpoint(linear: Any, train: Train) -> None:
    train(linear(), train_for=2)
    assert train(linear(), train_for=4, resume="must").step == 4


def test_resume_never_refuses_to_go_on(linear: Any, train: Train, tmp_path: pathlib.Path) -> None:
    assert train(linear(), train_for=2, resume="never").step == 2
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match="resume=never") as caught:
        train(linear(), train_for=4, resume="never")
    assert caught.value.exit_code == 64
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"weighted": True}, {}, "weighted=False there, True here"),
        ({"examples": 11}, {}, "examples=10 there, 11 here"),
        ({}, {"seed": 18}, "seed=17"),
    ],
)
def test_a_resume_as_another_run_is_refused_and_changes_nothing(
    fields: dict[str, Any], options: dict[str, Any], message: str, linear: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    train(linear(), train_for=2)
    before = content(tmp_path / "run")
    with pytest.raises(ConfigError, match=message) as caught:
        train(linear(**fields), train_for=4, **options)
    assert caught.value.exit_code == 64
    assert content(tmp_path / "run") == before


def test_a_resume_on_other_data_is_refused(linear: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Drifting(linear):
        moved: float = trainer.field(0.0, on_resume="free")

        def arrays(self) -> dict[str, np.ndarray]:
            known = super().arrays()
            return {**known, "y": known["y"] + np.float32(self.moved)}

    train(Drifting(), train_for=2)
    with pytest.raises(ConfigError, match="other data: train"):
        train(Drifting(moved=0.25), train_for=4)


def test_a_resume_with_another_learning_rate_warns_in_one_line_and_follows_the_new_one(
    linear: Any, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train(linear(), train_for=2, progress="plain")
    assert "warning" not in "".join(capsys.readouterr())
    result = train(linear(learning_rate=0.5), train_for=4, progress="plain", log_every="3steps")
    output = capsys.readouterr()
    warned = [line for line in (output.out + output.err).splitlines() if "warning" in line]
    assert len([line for line in warned if "learning_rate" in line and "0.125" in line and "0.5" in line]) == 1
    assert len([line for line in warned if "log_every" in line and "3steps" in line]) == 1
    assert len(warned) == 2
    assert [record.learning_rate for record in result.records] == [0.125, 0.5, 0.5]


def test_a_free_parameter_changes_in_silence(linear: Any, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(linear(), train_for=2, progress="plain")
    train(linear(comment="a word"), train_for=4, progress="plain")
    assert "warning" not in "".join(capsys.readouterr())


def test_what_identifies_the_run_is_written_before_the_first_step_and_never_again(
    linear: Any, train: Train, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "run.json"
    seen: list[bytes] = []
    real = Program.run

    def run(program: Program, until: int, closes: list[int]) -> Advance:
        seen.append(path.read_bytes())
        return real(program, until, closes)

    monkeypatch.setattr(Program, "run", run)
    train(linear(), train_for=2)
    train(linear(learning_rate=0.25), train_for=4)
    assert {*seen, path.read_bytes()} == {seen[0]}
    known = json.loads(seen[0])
    assert (known["seed"], known["jit"], known["parameters"]["learning_rate"]) == (17, "none", 0.125)
    assert known["data"]["train"]["fingerprint"] == linear().train_data().fingerprint


def test_an_automatic_choice_stands_for_the_life_of_the_run(
    linear: Any, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train(linear(), train_for=1, jit="none")
    train(linear(), train_for=1, jit="auto", dry_run=True)
    assert "jit none" in capsys.readouterr().out
    train(linear(), folder="new", train_for=1, jit="auto", dry_run=True)
    assert "jit chunk" in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_makes_nothing(
    descending: Any, train: Train, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(descending(), dry_run=True, **CADENCES)
    assert (result.reason, result.exit_code, result.last, result.best) == ("dry run", 0, None, None)
    plan = capsys.readouterr().out
    for word in ("3 train records", "2 evaluations", "4 checkpoints", "carry", "validation/loss"):
        assert word in plan
    assert not (tmp_path / "run").exists()


def test_the_plan_of_a_run_with_random_order_is_the_same_number_of_records(descending: Any, train: Train) -> None:
    records = train(descending(shuffle=True, batch_size=4, last="short"), **CADENCES).records
    assert sequence(records) == SEQUENCES["carry"]
    assert records[-1].examples == 4 + 4 + 2 + 4 + 4 + 2 + 4 + 4 + 2 + 4


def test_variables_without_a_gradient_are_warned_of_by_name(
    linear: Any, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Spare(linear):
        def model(self, seed: Any) -> Any:
            model = super().model(seed)
            model.spare = tf.Variable(1.5, name="spare")
            return model

    train(Spare(), train_for=1, progress="plain")
    warned = [line for line in "".join(capsys.readouterr()).splitlines() if "warning" in line]
    assert len(warned) == 1
    assert "spare" in warned[0]


def test_what_the_experiment_suggests_is_followed_until_the_user_says_otherwise(linear: Any, train: Train) -> None:
    kind = type("Suggesting", (linear,), {"suggested_flags": {"train_for": "2steps", "log_every": "1steps"}})
    assert sequence(train(kind()).records) == [(0, 1), (1, 2)]
    assert sequence(train(kind(), folder="other", log_every=2).records) == [(0, 2)]


def test_a_run_is_kept_under_the_experiments_name_by_default(linear: Any) -> None:
    assert trainer.Trainer(linear(), train_for=1).directory.path == os.path.join("runs", "linear")


def test_a_signal_that_comes_while_a_checkpoint_is_saved_finds_a_save_of_its_own(
    linear: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = StopRequest()
    look = CheckpointStore.has

    def signalled(store: CheckpointStore, step: int) -> bool:
        if step == 6:
            request.signal = signal.SIGTERM
        return look(store, step)

    monkeypatch.setattr(CheckpointStore, "has", signalled)
    # Each log step is a boundary. The falling loss is largest, and so best, at step 3: step 6 has nothing to save.
    flags = {"log_every": 3, "save_every": "never", "monitor": "train/loss", "mode": "max"}
    result = train(linear(), train_for=9, stop_request=request, **flags)
    assert (result.step, result.exit_code, result.saved) == (6, 75, True)
