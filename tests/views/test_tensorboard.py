"""TensorBoard shows the metric log: each step once, whatever happened to the attempts before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.ledger.record import Record
from trainer.views.tensorboard import EventWriter, first_difference, read_scalars, rewind_events, scalars_of

MakeRecord = Callable[..., Record]


def write(directory: Path, attempt: int, resume_step: int, records: Iterable[Record], **options: Any) -> Path:
    """One attempt's events; returns its file."""
    before = set(directory.glob("*"))
    writer = EventWriter(directory, attempt, resume_step, clock=lambda: 1000.0 + attempt, **options)
    writer.add(records)
    writer.close()
    (path,) = set(directory.glob("*")) - before
    return path


def shown(records: Iterable[Record]) -> list[tuple[int, str, float]]:
    """What TensorBoard should show of `records`."""
    return [
        (record.step, tag, float(np.float32(math.nan if value is None else value)))
        for record in records
        for tag, value in scalars_of(record)
    ]


def test_a_train_record_and_an_evaluation_have_their_tags(train: MakeRecord, evaluation: MakeRecord) -> None:
    assert [tag for tag, _ in scalars_of(train(300))] == ["train/loss", "train/accuracy", "learning_rate", "epoch"]
    assert [tag for tag, _ in scalars_of(evaluation(300))] == ["validation/loss", "validation/accuracy"]


def test_several_learning_rates_have_a_tag_each(train: MakeRecord) -> None:
    record = train(300, learning_rate={"generator": 0.001, "critic": 0.0004}, epoch=None)
    assert scalars_of(record)[2:] == [("learning_rate/generator", 0.001), ("learning_rate/critic", 0.0004)]


def test_scalars_come_back_as_float32(tmp_path: Path, train: MakeRecord, evaluation: MakeRecord) -> None:
    records = [train(100), train(200, loss=1 / 3), evaluation(200)]
    write(tmp_path, 1, -1, records)
    assert read_scalars(tmp_path) == shown(records)
    assert first_difference(tmp_path, records) is None


def test_a_metric_that_is_not_finite_is_nan(tmp_path: Path, train: MakeRecord) -> None:
    write(tmp_path, 1, -1, [train(100, loss=None)])
    ((_, tag, value),) = [scalar for scalar in read_scalars(tmp_path) if scalar[1] == "train/loss"]
    assert tag == "train/loss"
    assert math.isnan(value)
    assert first_difference(tmp_path, [train(100, loss=None)]) is None


def test_after_a_resume_each_step_shows_once_and_the_later_attempt_wins(tmp_path: Path, train: MakeRecord) -> None:
    write(tmp_path, 1, -1, [train(100), train(200), train(300, loss=9.0)])
    write(tmp_path, 2, 200, [train(300), train(400)])
    assert read_scalars(tmp_path) == shown([train(100), train(200), train(300), train(400)])


def test_a_resume_that_logs_nothing_still_drops_what_was_later(tmp_path: Path, train: MakeRecord) -> None:
    write(tmp_path, 1, -1, [train(100), train(200)])
    write(tmp_path, 2, 100, [])
    assert read_scalars(tmp_path) == shown([train(100)])


def test_a_fresh_start_after_an_attempt_without_a_checkpoint_drops_everything(
    tmp_path: Path, train: MakeRecord, evaluation: MakeRecord
) -> None:
    write(tmp_path, 1, -1, [evaluation(0), train(100, loss=9.0)])
    write(tmp_path, 2, -1, [train(100)])
    assert read_scalars(tmp_path) == shown([train(100)])


def test_a_torn_tail_does_not_disturb_the_next_attempt(tmp_path: Path, train: MakeRecord) -> None:
    path = write(tmp_path, 1, -1, [train(100), train(200), train(300)])
    path.write_bytes(path.read_bytes()[:-5])
    write(tmp_path, 2, 200, [train(300), train(400)])
    assert read_scalars(tmp_path) == shown([train(100), train(200), train(300), train(400)])


def test_attempts_are_read_in_order_beyond_nine(tmp_path: Path, train: MakeRecord) -> None:
    for attempt in range(1, 13):
        write(
            tmp_path, attempt, 100 * (attempt - 1) or -1, [train(100 * attempt), train(100 * attempt + 100, loss=9.0)]
        )
    expected = [*(train(100 * attempt) for attempt in range(1, 13)), train(1300, loss=9.0)]
    assert read_scalars(tmp_path) == shown(expected)


def test_events_lost_in_a_kill_are_written_again(tmp_path: Path, train: MakeRecord) -> None:
    log = [train(100), train(200), train(300)]
    write(tmp_path, 1, -1, log[:1])  # the events of 200 and 300 never reached the disk, their records did
    path = write(tmp_path, 2, 300, [train(400)], earlier=lambda: log)
    assert read_scalars(tmp_path) == shown([*log, train(400)])
    assert path.name == "events.out.tfevents.0000000002.trainer"


def test_a_record_cut_from_the_log_at_the_step_resumed_from_is_not_shown_twice(
    tmp_path: Path, train: MakeRecord, evaluation: MakeRecord
) -> None:
    """A save on a signal left the evaluation of step 200 to do. Attempt 2 did it, and was killed before it saved."""
    log = [train(100), train(200)]
    write(tmp_path, 1, -1, log)
    write(tmp_path, 2, 200, [evaluation(200)], earlier=lambda: log)
    write(tmp_path, 3, 200, [evaluation(200), train(300)], earlier=lambda: log)
    assert read_scalars(tmp_path) == shown([*log, evaluation(200), train(300)])


@pytest.mark.parametrize("resume_step", [-1, 200])
def test_a_missing_directory_is_made_again_from_the_log(tmp_path: Path, train: MakeRecord, resume_step: int) -> None:
    log = [train(100), train(200)][: 0 if resume_step < 0 else 2]
    write(tmp_path / "events", 3, resume_step, [train(300)], earlier=lambda: log)
    assert read_scalars(tmp_path / "events") == shown([*log, train(300)])


def test_a_damaged_file_raises_and_is_made_up_for_by_the_next_attempt(tmp_path: Path, train: MakeRecord) -> None:
    log = [train(100), train(200), train(300)]
    path = write(tmp_path, 1, -1, log)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"0000000001\.trainer: the CRC"):
        read_scalars(tmp_path)
    assert first_difference(tmp_path, log) in (100, 200)
    write(tmp_path, 2, 300, [train(400)], earlier=lambda: log)
    assert read_scalars(tmp_path, strict=False) == shown([*log, train(400)])


def test_what_is_complete_is_not_written_again(tmp_path: Path, train: MakeRecord) -> None:
    log = [train(100 * index) for index in range(1, 50)]
    write(tmp_path, 1, -1, log)
    path = write(tmp_path, 2, log[-1].step, [], earlier=lambda: log)
    assert path.stat().st_size < 100


def test_a_file_sorts_last_even_if_its_attempt_does_not(tmp_path: Path, train: MakeRecord) -> None:
    write(tmp_path, 7, -1, [train(100, loss=9.0)])  # left behind by an earlier life of the run directory
    write(tmp_path, 1, -1, [train(100)])
    assert read_scalars(tmp_path) == shown([train(100)])


def test_files_of_others_are_left_alone(tmp_path: Path, train: MakeRecord) -> None:
    (tmp_path / "events.out.tfevents.1700000000.host.profile-empty").write_bytes(b"not ours")
    write(tmp_path, 1, -1, [train(100)], earlier=list)
    assert read_scalars(tmp_path) == shown([train(100)])


def test_a_directory_that_is_missing_shows_nothing(tmp_path: Path, train: MakeRecord) -> None:
    assert read_scalars(tmp_path / "events") == []
    assert first_difference(tmp_path / "events", []) is None
    assert first_difference(tmp_path / "events", [train(100)]) == 100


def test_flush_hands_over_what_was_added(tmp_path: Path, train: MakeRecord) -> None:
    writer = EventWriter(tmp_path, 1, -1)
    writer.add([train(100)])
    assert read_scalars(tmp_path) == []
    writer.flush()
    assert read_scalars(tmp_path) == shown([train(100)])
    writer.close()


def test_tensorflow_reads_the_file(tmp_path: Path, train: MakeRecord, evaluation: MakeRecord) -> None:
    tf = pytest.importorskip("tensorflow")
    records = [train(100), train(200, loss=None), evaluation(200), train(70_000)]
    path = write(tmp_path, 2, 50, records)
    version, start, *summaries = tf.compat.v1.train.summary_iterator(str(path))
    assert (version.wall_time, version.step, version.file_version) == (1002.0, 0, "brain.Event:2")
    assert (start.step, start.session_log.status) == (51, tf.compat.v1.SessionLog.START)
    read = [(event.step, value.tag, value.simple_value) for event in summaries for value in event.summary.value]
    for ours, theirs in itertools.zip_longest(shown(records), read):
        np.testing.assert_equal(theirs, ours)


def test_a_resume_goes_back_to_where_the_events_were_when_its_checkpoint_was_saved(
    tmp_path: Path, train: MakeRecord, evaluation: MakeRecord
) -> None:
    log = [train(100), train(200)]
    first = EventWriter(tmp_path, 1, -1)
    first.add(log)
    first.flush()
    saved = first.position
    first.add([evaluation(200), train(300)])
    first.close()
    write(tmp_path, 2, 150, [train(300)])

    def earlier() -> list[Record]:
        raise AssertionError("the log need not be read")

    resumed = EventWriter(tmp_path, 3, 200, position=saved, earlier=earlier)
    resumed.add([evaluation(200), train(300)])
    resumed.close()
    assert first_difference(tmp_path, [*log, evaluation(200), train(300)]) is None
    assert len(list(tmp_path.iterdir())) == 2


def test_events_that_are_shorter_than_when_the_checkpoint_was_saved_are_made_again_from_the_log(
    tmp_path: Path, train: MakeRecord
) -> None:
    log = [train(100), train(200)]
    first = EventWriter(tmp_path, 1, -1)
    first.add(log)
    first.close()
    (path,) = tmp_path.iterdir()
    saved = {"file": path.name, "bytes": path.stat().st_size}
    path.write_bytes(path.read_bytes()[:-7])
    EventWriter(tmp_path, 2, 200, position=saved, earlier=lambda: log).close()
    assert first_difference(tmp_path, log) is None


def test_events_are_cut_back_with_the_log_and_the_next_attempt_goes_on_from_there(
    tmp_path: Path, train: MakeRecord
) -> None:
    log = [train(100), train(200), train(300)]
    first = EventWriter(tmp_path, 1, -1)
    first.add(log[:1])
    first.flush()
    saved = first.position
    first.add(log[1:])
    first.close()
    write(tmp_path, 2, 300, [train(400)])
    for _ in range(2):
        rewind_events(tmp_path, 100, position=saved, earlier=lambda: log[:1])
        assert first_difference(tmp_path, log[:1]) is None
        assert len(list(tmp_path.iterdir())) == 1
    resumed = EventWriter(tmp_path, 3, 100, position=saved, earlier=lambda: log[:1])
    resumed.add([train(200, loss=9.0)])
    resumed.close()
    assert read_scalars(tmp_path) == shown([train(100), train(200, loss=9.0)])


@pytest.mark.parametrize("position", [None, {"file": "events.out.tfevents.0000000007.trainer", "bytes": 12}])
def test_events_that_cannot_be_cut_back_show_the_log_all_the_same(
    tmp_path: Path, train: MakeRecord, position: dict[str, Any] | None
) -> None:
    log = [train(100), train(200), train(300)]
    write(tmp_path, 1, -1, log)
    for _ in range(2):
        rewind_events(tmp_path, 100, position=position, earlier=lambda: log[:1])
        assert read_scalars(tmp_path) == shown(log[:1])
        assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path, 2, 100, [train(200, loss=9.0)], position=position, earlier=lambda: log[:1])
    assert read_scalars(tmp_path) == shown([train(100), train(200, loss=9.0)])


def test_where_there_are_no_events_of_ours_a_rewind_makes_none(tmp_path: Path, train: MakeRecord) -> None:
    rewind_events(tmp_path / "events", 100, position=None, earlier=lambda: [train(100)])
    assert not (tmp_path / "events").exists()
    other = tmp_path / "events.out.tfevents.1700000000.host"
    other.write_bytes(b"not ours")
    rewind_events(tmp_path, 100, position=None, earlier=lambda: [train(100)])
    assert list(tmp_path.iterdir()) == [other]
