"""The legs of a run: which steps were trained with which flags, by what the journal says of its attempts."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags, write_flags
from trainer.proof.legs import OF_THE_COURSE, Leg, join, legs_of, stretches, typed_flags
from trainer.run.config import Config, make_config

FLAGS = {"train_for": "100steps", "log_every": "7steps", "keep_last": 3, "tick": "1s"}


def life(attempt: int, resume: int | None = None, *, plan: bool = True, **flags: Any) -> list[dict[str, Any]]:
    """The lines of an attempt that began with `flags` beside the usual ones."""
    base = {"time": "2026-01-01T00:00:00.000000Z", "attempt": attempt}
    lines: list[dict[str, Any]] = [{**base, "event": "start", "flags": {**FLAGS, **flags}}]
    if resume is not None:
        lines.append({**base, "event": "resume", "step": resume})
    return [*lines, {**base, "event": "plan", "lines": []}] if plan else lines


def spans(legs: tuple[Leg, ...]) -> list[tuple[int, int, int]]:
    return [(leg.start, leg.end, leg.attempt) for leg in legs]


def test_one_attempt_is_one_leg() -> None:
    (leg,) = join(stretches(life(1), {}, 40))
    assert (leg.start, leg.end, leg.attempt, leg.noted) == (0, 40, 1, True)
    assert leg.flags == FLAGS


def test_an_attempt_counts_up_to_where_the_next_one_resumed() -> None:
    entries = [*life(1), *life(2, 20), *life(3, 10), *life(4, 30)]
    assert spans(stretches(entries, {}, 50)) == [(0, 10, 1), (10, 30, 3), (30, 50, 4)]


def test_attempts_with_equal_flags_are_one_leg_whatever_does_not_change_the_course() -> None:
    entries = [
        *life(1),
        *life(2, 10, tick="5s", keep_last=9),
        *life(3, 20, log_every="9steps"),
    ]
    legs = join(stretches(entries, {}, 50))
    assert spans(legs) == [(0, 20, 1), (20, 50, 3)]
    assert legs[1].flags["log_every"] == "9steps"


def test_a_segment_begins_a_leg_of_its_own() -> None:
    entries = [*life(1), *life(2, 10), *life(3, 20)]
    assert spans(join(stretches(entries, {}, 50), borders=[20])) == [(0, 20, 1), (20, 50, 3)]


def test_an_attempt_that_began_again_leaves_nothing_of_those_before() -> None:
    assert spans(stretches([*life(1), *life(2, log_every="9steps")], {}, 30)) == [(0, 30, 2)]


def test_an_attempt_that_ended_before_it_trained_made_nothing() -> None:
    assert spans(stretches([*life(1), *life(2, 10, plan=False), *life(3, 20)], {}, 30)) == [(0, 20, 1), (20, 30, 3)]


def test_a_rewind_is_part_of_no_attempt() -> None:
    rewind = {"time": "2026-01-01T00:00:00.000000Z", "attempt": 1, "event": "rewind", "orphans": "x", "step": 5}
    assert spans(stretches([*life(1), rewind, *life(2, 5)], {}, 30)) == [(0, 5, 1), (5, 30, 2)]


def test_what_was_done_at_step_0_under_other_flags_is_a_leg() -> None:
    legs = join(stretches([*life(1, eval_at_start=True), *life(2, 0, log_every="9steps")], {}, 30))
    assert spans(legs) == [(0, 0, 1), (0, 30, 2)]


def test_steps_that_no_attempt_tells_of_have_the_flags_of_the_file() -> None:
    legs = stretches(life(5, 20), {"log_every": "3steps"}, 30)
    assert [(leg.start, leg.end, leg.noted, leg.flags["log_every"]) for leg in legs] == [
        (0, 20, False, "3steps"),
        (20, 30, True, "7steps"),
    ]


def test_without_a_journal_there_is_one_leg_with_the_flags_of_the_file(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    write_flags(directory, {"experiment": "digits", "train_for": "9steps", "eval_at_start": True, "ema": 0.5}, {})
    (leg,) = legs_of(directory, None, until=9)
    assert (leg.start, leg.end, leg.noted) == (0, 9, False)
    config = leg.config(64)
    assert (config.train_for, config.eval_at_start, config.ema, config.epoch_examples) == ("9steps", True, 0.5, 64)


def test_the_journal_of_a_run_is_read(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    lines = [json.dumps(entry) for entry in [*life(1), *life(2, 20, train_for="200steps")]]
    (tmp_path / "journal.jsonl").write_text("\n".join([*lines, '{"time":"2026']))
    legs = legs_of(directory, None, until=150)
    assert spans(legs) == [(0, 20, 1), (20, 150, 2)]
    assert legs[1].config(None).train_for == "200steps"


@pytest.mark.parametrize("name", ["train_for", "reconcile", "keep_best", "accumulate", "seed", "monitor", "threads"])
def test_flags_of_which_the_course_depends(name: str) -> None:
    assert name in OF_THE_COURSE


@pytest.mark.parametrize("name", ["run_dir", "tick", "keep_every", "allow_change", "profile", "init_from"])
def test_flags_of_which_the_course_does_not_depend(name: str) -> None:
    assert name not in OF_THE_COURSE


def test_flags_of_a_file_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    config = make_config({"train_for": 10, "ema": 0.25, "keep_best": 2, "dry_run": True, "monitor": "a/b"}, {})
    flags = {name: getattr(config, name) for name in Config.__dataclass_fields__}
    directory = RunDirectory(tmp_path)
    write_flags(directory, flags, {"hidden": 3})
    assert Leg(typed_flags(read_flags(directory)), 0, 1, 1).config(None) == config


def test_a_flag_that_is_garbled_is_left_out() -> None:
    assert typed_flags({"keep_best": "many", "eval_at_start": "perhaps", "seed": "3"}) == {"seed": 3}


@given(
    st.lists(st.tuples(st.integers(0, 30) | st.none(), st.sampled_from(["7steps", "9steps"])), min_size=1, max_size=8)
)
def test_legs_follow_one_another_from_the_beginning_to_the_end(attempts: list[tuple[int | None, str]]) -> None:
    entries: list[Mapping[str, Any]] = []
    for number, (resume, log_every) in enumerate(attempts, 1):
        entries += life(number, resume, log_every=log_every)
    legs = join(stretches(entries, {}, 40))
    assert legs[0].start == 0
    assert legs[-1].end == 40
    assert all(one.end == other.start for one, other in itertools.pairwise(legs))
    assert all(leg.start < leg.end for leg in legs[1:])
