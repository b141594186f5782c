"""Speed follows what happens now; the time left counts the whole attempt."""

from __future__ import annotations

import pytest

from trainer.views.throughput import Throughput


def test_nothing_is_known_before_two_updates() -> None:
    throughput = Throughput()
    assert throughput.examples_per_second() is None
    assert throughput.seconds_left(100) is None
    throughput.update(5.0, 10, 640)
    assert throughput.examples_per_second() is None
    assert throughput.seconds_left(100) is None


def test_a_resumed_run_does_not_count_earlier_attempts() -> None:
    throughput = Throughput()
    throughput.update(0.0, 1000, 64_000)
    throughput.update(10.0, 1100, 70_400)
    assert throughput.examples_per_second() == pytest.approx(640)
    assert throughput.seconds_left(2100) == pytest.approx(100)


def test_the_speed_forgets_and_the_time_left_does_not() -> None:
    throughput = Throughput(window=30)
    for second in range(101):
        throughput.update(float(second), 10 * second, 640 * second)
    for second in range(1, 101):
        throughput.update(100.0 + second, 1000 + second, 64_000 + 64 * second)
    assert throughput.examples_per_second() == pytest.approx(64)
    assert throughput.seconds_left(1650) == pytest.approx(100)  # 5.5 steps a second all in all


def test_memory_is_bounded_at_any_pace() -> None:
    throughput = Throughput(window=30)
    for index in range(10_000):
        throughput.update(index * 0.01, index, index)
    assert len(throughput._recent) <= 110


def test_past_the_target_no_time_is_left() -> None:
    throughput = Throughput()
    throughput.update(0.0, 0, 0)
    throughput.update(1.0, 20, 20)
    assert throughput.seconds_left(10) == 0
