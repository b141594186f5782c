"""Virtual epochs: a run is the same number of examples, epochs, saves and evaluations, whatever its batches."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import subprocess
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.timeline.cadence import Progress
from trainer.timeline.plan import make_plan
from trainer.timeline.schedule import Schedule

Command = Callable[..., subprocess.CompletedProcess[str]]

EPOCH = 1_000
"""Examples; a pass over the digits has 1,500."""


@dataclasses.dataclass
class Course:
    """Where a run saved, evaluated and ended, each in examples, and the epochs that it told."""

    saves: list[int] = dataclasses.field(default_factory=list)
    evaluations: list[int] = dataclasses.field(default_factory=list)
    epochs: list[float] = dataclasses.field(default_factory=list)
    end: int = 0


@pytest.mark.slow
def test_half_the_batch_makes_the_same_run_on_the_command_line(command: Command, tmp_path: pathlib.Path) -> None:
    flags = (
        "--epoch_examples=1_000",
        "--train_for=14.3epochs",
        "--save_every=1/15run",
        "--eval_every=1epoch",
        "--keep_last=99",
        "--keep_best=0",
        "--jit=none",
        "--set=hidden=8",
    )
    courses = {}
    for batch in (50, 100):
        ended = command("main", *flags, f"--set=batch_size={batch}", f"--run_dir=run-{batch}")
        assert ended.returncode == 0, ended.stderr
        assert f"train  14.3 epochs = {14_300 // batch} steps: 14,300 examples, 14.3 epochs\n" in ended.stdout
        # The last epoch is not whole: the end adds an evaluation to the 14 of the cadence, and no save to the 15.
        assert ": 15 evaluations\n" in ended.stdout
        assert ": 15 checkpoints\n" in ended.stdout
        courses[batch] = course_of(tmp_path / f"run-{batch}")
    for batch, course in courses.items():
        assert_on_grid(course, batch, Fraction(EPOCH), Fraction(14_300, 15), 14_300)
        assert course.end == 14_300
        assert [f"{epoch:.4g}" for epoch in course.epochs] == [*map(str, range(1, 15)), "14.3"]
    assert_same(courses[50], courses[100], within=100)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1_000_000", "1000000"])
def test_large_numbers_of_examples_are_written_as_people_write_them(number: str, command: Command) -> None:
    flags = ("--experiment=regression", f"--epoch_examples={number}", "--train_for=14.3epochs", "--save_every=1/15run")
    ended = command("main", *flags, "--set=batch_size=1000", "--dry_run")
    assert ended.returncode == 0, ended.stderr
    assert "train  14.3 epochs = 14,300 steps: 14,300,000 examples, 14.3 epochs\n" in ended.stdout
    assert "save   every 1/15 of the run = 953.333 steps: 15 checkpoints\n" in ended.stdout


@given(
    epoch=st.integers(50, 100_000),
    epochs=st.fractions(1, 40, max_denominator=20),
    parts=st.integers(1, 40),
    data=st.integers(10, 200_000),
    last=st.sampled_from(["wrap", "short"]),
    batches=st.tuples(st.integers(1, 512), st.integers(1, 512)),
)
def test_the_batch_moves_nothing_by_more_than_itself(
    epoch: int, epochs: Fraction, parts: int, data: int, last: str, batches: tuple[int, int]
) -> None:
    target = epochs * epoch
    # Points that are closer than a batch can fall due together: no batch may be longer than what lies between two.
    closest = min(Fraction(epoch), target / parts, target % epoch or Fraction(epoch))
    assume(max(batches) <= closest)
    assume(target / min(batches) < 3_000)
    courses = []
    for batch in batches:
        schedule = Schedule(
            train_for=f"{epochs}epochs",
            save_every=f"1/{parts}run",
            eval_every="1epoch",
            log_every="never",
            epoch_examples=epoch,
            batch_size=batch,
            data_examples=data,
            last=last,
        )
        course = walked(schedule)
        assert_on_grid(course, batch, Fraction(epoch), target / parts, target)
        plan = make_plan(schedule)
        assert (plan.checkpoints, plan.evaluations) == (len(course.saves), len(course.evaluations))
        assert plan.examples == course.end
        courses.append(course)
    assert_same(*courses, within=max(batches))


def assert_on_grid(course: Course, batch: int, evaluates: Fraction, saves: Fraction, target: Fraction | int) -> None:
    """Each thing is done at the first batch that reaches its point, and at the end."""
    for found, period in ((course.evaluations, evaluates), (course.saves, saves)):
        due = [period * index for index in range(1, math.floor(target / period) + 1)]
        due += [] if target % period == 0 else [Fraction(target)]
        assert len(found) == len(due)
        assert all(0 <= examples - point < batch for examples, point in zip(found, due, strict=True))
    assert 0 <= course.end - target < batch


def assert_same(one: Course, other: Course, *, within: int) -> None:
    """Two runs do the same things, at the same examples but for a batch."""
    for left, right in ((one.saves, other.saves), (one.evaluations, other.evaluations), ([one.end], [other.end])):
        assert len(left) == len(right)
        assert all(abs(a - b) < within for a, b in zip(left, right, strict=True))


def walked(schedule: Schedule) -> Course:
    """What a run of `schedule` does, from boundary to boundary."""
    course, now = Course(), Progress()
    while not schedule.finished(now):
        boundary = schedule.next_boundary(now)
        assert boundary is not None
        before, now = now, schedule.progress(now, boundary)
        due = schedule.due(before, now)
        course.saves += [now.examples] if due.save else []
        course.evaluations += [now.examples] if due.evaluate else []
    course.end = now.examples
    return course


def course_of(run: pathlib.Path) -> Course:
    """What a run did, by its log and its manifests."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [record for record in records if record["kind"] == "eval"]
    manifests = [json.loads(path.read_text()) for path in sorted(run.glob("checkpoints/step-*/manifest.json"))]
    return Course(
        saves=[manifest["examples"] for manifest in manifests],
        evaluations=[record["examples"] for record in evaluations],
        epochs=[record["epoch"] for record in evaluations],
        end=records[-1]["examples"],
    )
