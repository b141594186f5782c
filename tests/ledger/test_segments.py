"""Segments are read as they were written, or refused, and say where the passes over the data began."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import EXIT_UNUSABLE, Unusable
from trainer.ledger.manifest import LogPosition, Manifest
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import KINDS, DataOrigin, Segment, data_origin, facts_in_force, plain, read_segments

INFO = RunInfo("m:E", {"hidden": 4}, 17, "none", False, {}, {}, {}, {"train": {"fingerprint": "a"}}, 10, False)
SEGMENT = Segment(1, 500, 32000, ("data",), {"hidden": 4}, {"train": {"fingerprint": "b"}}, 17)

COUNTS = st.integers(0, 10**12)
PARAMETERS = st.dictionaries(
    st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.floats() | st.lists(st.floats(), max_size=2)
)
SEGMENTS = st.lists(
    st.builds(
        Segment,
        st.just(0),
        COUNTS,
        COUNTS,
        st.sets(st.sampled_from(KINDS)).map(tuple),
        PARAMETERS,
        st.just({"train": {"fingerprint": "c"}}),
        st.integers(),
    ),
    max_size=5,
).map(lambda found: tuple(dataclasses.replace(item, segment=index) for index, item in enumerate(found, start=1)))


def manifest(segments: Any) -> Manifest:
    control = {"segments": segments}
    return Manifest(600, 38400, None, "run", ("final",), 1, None, (), LogPosition(0, 0, ""), None, {}, {}, control, {})


@given(SEGMENTS)
def test_they_are_read_as_they_were_written_whatever_the_parameters(segments: tuple[Segment, ...]) -> None:
    written = json.dumps([segment.to_json() for segment in segments], allow_nan=False)
    read = read_segments(manifest(json.loads(written)))
    assert read == tuple(dataclasses.replace(item, parameters=plain(item.parameters)) for item in segments)


@given(SEGMENTS)
def test_passes_begin_at_the_last_change_of_the_training_data_or_the_seed(segments: tuple[Segment, ...]) -> None:
    origin = DataOrigin()
    for segment in segments:
        if "data" in segment.changed or "seed" in segment.changed:
            origin = DataOrigin(segment.segment, segment.examples)
    assert data_origin(segments) == origin


def test_a_run_without_a_checkpoint_or_of_an_older_version_has_none() -> None:
    assert read_segments(None) == ()
    assert read_segments(dataclasses.replace(manifest(None), control={"best": {}})) == ()


def test_what_holds_is_what_the_last_one_says_and_before_the_first_run_json() -> None:
    assert facts_in_force(INFO, ()) == INFO
    later = dataclasses.replace(SEGMENT, segment=2, parameters={"hidden": 8}, seed=18)
    known = facts_in_force(INFO, (SEGMENT, later))
    assert (known.parameters, known.seed, known.data) == ({"hidden": 8}, 18, SEGMENT.data)
    assert (known.experiment, known.run_id, known.epoch_examples) == (INFO.experiment, INFO.run_id, 10)


def test_numbers_that_json_does_not_know_are_equal_when_they_are_the_same() -> None:
    assert plain({"a": [float("nan"), 1.5]}) == plain({"a": (float("nan"), 1.5)})
    assert plain(float("inf")) != plain(float("-inf"))


@pytest.mark.parametrize(
    "segments",
    [
        *(None, 3, {}, [3], [{}], [[]]),
        [{**SEGMENT.to_json(), "step": -1}],
        [{**SEGMENT.to_json(), "examples": "many"}],
        [{**SEGMENT.to_json(), "parameters": []}],
        [{**SEGMENT.to_json(), "changed": None}],
        [{**SEGMENT.to_json(), "segment": 2}],
        [SEGMENT.to_json(), SEGMENT.to_json()],
    ],
)
def test_what_this_version_did_not_write_is_refused_in_one_line(segments: Any) -> None:
    with pytest.raises(Unusable, match="step 600") as caught:
        read_segments(manifest(segments))
    assert caught.value.exit_code == EXIT_UNUSABLE
    assert "\n" not in str(caught.value)
