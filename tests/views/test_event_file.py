"""The wire format: damage is noticed, a torn tail is not damage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.views import event_file
from trainer.views.event_file import Event


def summary(step: int, *scalars: tuple[str, float | None]) -> Event:
    return Event(1.5, step, event_file.SUMMARY, event_file.encode_summary(scalars))


EVENTS = [
    Event(1.25, 0, event_file.FILE_VERSION, event_file.VERSION_2),
    summary(100, ("train/loss", 0.5), ("train/accuracy", 0.25)),
    summary(2**40, ("a tag of a good length, so that its size needs two bytes " * 4, -3.0)),
]


def read(path: Path, *, strict: bool = True) -> list[Event]:
    return list(event_file.read_events(path, strict=strict))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = write(tmp_path / "events", b"".join(map(event_file.encode_event, EVENTS)))
    assert read(path) == EVENTS
    assert list(event_file.decode_summary(EVENTS[1].payload)) == [("train/loss", 0.5), ("train/accuracy", 0.25)]


def test_an_event_torn_at_any_byte_is_left_out_without_complaint(tmp_path: Path) -> None:
    frames = [event_file.encode_event(event) for event in EVENTS[:2]]
    for kept in range(len(frames[1])):
        assert read(write(tmp_path / "events", frames[0] + frames[1][:kept])) == EVENTS[:1]


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    frames = [event_file.encode_event(event) for event in EVENTS[:2]]
    data = b"".join(frames)
    for at in range(len(frames[0])):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        path = write(tmp_path / "events", bytes(damaged))
        with pytest.raises(ValueError, match=r"CRC of an? .* does not match \(byte 0\)"):
            read(path)
        assert read(path, strict=False) == []  # as for TensorBoard: the file ends there


def test_what_float32_cannot_hold_is_infinite_and_none_is_nan() -> None:
    payload = event_file.encode_summary([("big", 1e300), ("small", -1e300), ("none", None), ("inf", math.inf)])
    values = dict(event_file.decode_summary(payload))
    assert values["big"] == values["inf"] == math.inf
    assert values["small"] == -math.inf
    assert math.isnan(values["none"])


@given(
    st.integers(1, 3).flatmap(
        lambda scalars: st.lists(
            st.tuples(
                st.integers(0, 2**62) | st.integers(0, 200),
                st.lists(st.none() | st.floats(allow_nan=False), min_size=scalars, max_size=scalars),
            ),
            min_size=1,
            max_size=5,
        )
    )
)
def test_many_at_once_are_written_as_one_by_one(events: list[tuple[int, list[float | None]]]) -> None:
    tags = ["train/loss", "of a good length " * 20, "é"][: len(events[0][1])]
    steps, values = [step for step, _ in events], [value for _, value in events]
    one_by_one = [event_file.encode_event(summary(step, *zip(tags, value, strict=True))) for step, value in events]
    assert event_file.encode_summaries(1.5, tags, steps, values) == b"".join(one_by_one)
