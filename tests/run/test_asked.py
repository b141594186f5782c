"""What is asked of a run at a boundary, and whether there is time for it."""

from __future__ import annotations

import signal
import time

import pytest

from trainer.checkpoint.save_times import SaveTime, SaveTimes
from trainer.process.signals import StopRequest
from trainer.run.asked import Asked, look

GRACE_S = 10.0


def asked_by(*numbers: signal.Signals, seconds_ago: float = 0.0) -> StopRequest:
    request = StopRequest()
    for number in numbers:
        request.note(number, None)
    if request:
        request._signalled = time.monotonic() - seconds_ago
    return request


def out_of_time(seconds_ago: float = 0.0) -> StopRequest:
    request = StopRequest()
    request.end_at(time.monotonic() - seconds_ago)
    assert request
    return request


def saves_of(seconds: float) -> SaveTimes:
    return SaveTimes([SaveTime(seconds, 0.0)])


def test_where_nothing_is_asked_there_is_nothing_to_do_and_all_the_time() -> None:
    asked = look(StopRequest(), saves_of(1000), grace_s=GRACE_S)
    assert (asked.stop, asked.save, asked.cause, asked.left_s, asked.reasons) == (False, False, None, None, [])
    assert asked.fits
    assert asked.notes(5, there=False) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_and_is_why_the_state_is_saved(number: signal.Signals) -> None:
    asked = look(asked_by(number), SaveTimes(), grace_s=GRACE_S)
    assert (asked.stop, asked.save, asked.reasons) == (True, False, ["signal"])
    assert asked.notes(5, there=False) == [{"signal": number.name, "step": 5}]


def test_the_end_of_the_time_stops_for_a_reason_of_its_own() -> None:
    asked = look(out_of_time(), SaveTimes(), grace_s=GRACE_S)
    assert (asked.stop, asked.reasons) == (True, ["runtime"])
    assert asked.notes(5, there=False) == [{"signal": "max_runtime", "step": 5}]


def test_a_request_to_save_stops_nothing_and_has_all_the_time() -> None:
    asked = look(asked_by(signal.SIGUSR2), saves_of(1000), grace_s=GRACE_S)
    assert (asked.stop, asked.save, asked.reasons, asked.left_s) == (False, True, ["request"], None)
    assert asked.fits
    assert asked.fits_verified
    assert asked.notes(5, there=False) == [{"signal": "SIGUSR2", "step": 5}]


def test_both_can_be_asked_at_once() -> None:
    asked = look(asked_by(signal.SIGUSR2, signal.SIGTERM), SaveTimes(), grace_s=GRACE_S)
    assert asked.reasons == ["signal", "request"]
    assert [line["signal"] for line in asked.notes(5, there=False)] == ["SIGTERM", "SIGUSR2"]


@pytest.mark.parametrize("request_of", [lambda ago: asked_by(signal.SIGTERM, seconds_ago=ago), out_of_time])
def test_the_grace_counts_from_when_it_was_asked(request_of: object) -> None:
    assert callable(request_of)
    asked = look(request_of(4.0), SaveTimes(), grace_s=GRACE_S)
    assert asked.left_s is not None
    assert 0 < asked.left_s <= 6.0


@pytest.mark.parametrize(("seconds", "fits"), [(1, True), (60, False)])
def test_a_save_that_would_not_be_done_within_the_grace_does_not_fit(seconds: float, fits: bool) -> None:
    asked = look(asked_by(signal.SIGTERM, seconds_ago=4.0), saves_of(seconds), grace_s=GRACE_S)
    assert (asked.fits, asked.fits_verified) == (fits, fits)


def test_nor_does_one_that_has_to_wait_for_the_save_under_way() -> None:
    times = saves_of(4)
    assert look(asked_by(signal.SIGTERM, seconds_ago=4.0), times, grace_s=GRACE_S).fits
    times.begin()
    assert not look(asked_by(signal.SIGTERM, seconds_ago=4.0), times, grace_s=GRACE_S).fits


def test_before_any_save_was_measured_it_is_tried() -> None:
    assert look(asked_by(signal.SIGTERM), SaveTimes(), grace_s=GRACE_S).fits


def test_a_stop_without_the_time_to_save_says_so_and_by_what_it_is_told() -> None:
    asked = Asked(stop=True, cause="SIGTERM", left_s=2.34567, needed_s=12.34567)
    line = {"signal": "SIGTERM", "step": 5, "saved": False, "needed_s": 12.346, "left_s": 2.346}
    assert asked.notes(5, there=False) == [line]
    # Where the step has its checkpoint already there is nothing that would not fit.
    assert asked.notes(5, there=True) == [{"signal": "SIGTERM", "step": 5}]
    late = Asked(stop=True, cause="SIGTERM", left_s=-3.0, needed_s=1.0)
    assert late.notes(5, there=False)[0]["left_s"] == 0
