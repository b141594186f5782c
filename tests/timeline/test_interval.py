"""The automatic interval: the formula's laws, and whole lives of runs under interruptions played again."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.timeline.interval import (
    DALY,
    FIRST_STALL_S,
    GUESS,
    LEAST,
    LEAST_S,
    OVERHEAD,
    RECENT_SAVES,
    RULES,
    SAVE,
    AutoInterval,
    SaveCost,
    Uptime,
    daly,
)

MINUTE, HOUR = 60.0, 3600.0
PRIOR_S, BUDGET = 4 * HOUR, 0.03
LIMIT = 0.5
"""A share of time that no interval here comes near."""

POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
MEASURED = st.floats(0, 1e12)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
UPTIMES = st.lists(st.builds(Uptime, MEASURED, st.booleans()), max_size=12)
SAVES = st.lists(st.builds(SaveCost, MEASURED, MEASURED), max_size=12)


def make(**given: Any) -> AutoInterval:
    return AutoInterval(**{"mtbf_s": PRIOR_S, "overhead": BUDGET, **given})


def steady(stall_s: float, count: int = RECENT_SAVES) -> list[SaveCost]:
    return [SaveCost(stall_s, stall_s)] * count


def interval_of(**given: Any) -> float:
    return make(**given).choice.interval_s


# The formula.


@pytest.mark.parametrize(("mtbf_min", "expected_min"), [(24 * 60, "117"), (6 * 60, "57"), (15, "9.1")])
def test_the_formula_gives_the_values_of_the_paper(mtbf_min: float, expected_min: str) -> None:
    assert f"{daly(5 * MINUTE, mtbf_min * MINUTE) / MINUTE:.{1 if '.' in expected_min else 0}f}" == expected_min


@given(st.floats(1e-3, 1e4), st.floats(1, 1e7))
def test_the_formula_is_the_one_that_is_written_down(stall: float, mtbf: float) -> None:
    ratio = stall / (2 * mtbf)
    written = math.sqrt(2 * stall * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall if ratio < 1 else mtbf
    assert daly(stall, mtbf) == pytest.approx(written, rel=1e-9)


def test_from_a_stall_of_twice_the_time_between_interruptions_on_it_is_that_time() -> None:
    assert daly(20, 10) == daly(1e9, 10) == 10
    assert daly(math.nextafter(20, 0), 10) == pytest.approx(10 * 8 / 9)


@given(POSITIVE, POSITIVE)
def test_the_formula_is_positive_finite_and_never_longer_than_the_mean_time(stall: float, mtbf: float) -> None:
    assert 0 < daly(stall, mtbf) <= mtbf


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9), st.floats(1, 1e6))
def test_the_interval_grows_with_the_stall(stall: float, mtbf: float, times: float) -> None:
    assert daly(stall * times, mtbf) >= daly(stall, mtbf) * (1 - 1e-12)


@given(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9), st.floats(1, 1e6))
def test_the_interval_grows_with_the_time_between_interruptions(stall: float, mtbf: float, times: float) -> None:
    longer = daly(stall, mtbf * times)
    # Where the stall is twice that time the formula gives way to M, and leaps by a ninth of it.
    leap = 8 / 9 if 2 * mtbf <= stall < 2 * mtbf * times else 1
    assert longer >= daly(stall, mtbf) * leap * (1 - 1e-12)


# The choice.


@given(POSITIVE, SHARES, UPTIMES, SAVES, st.lists(st.tuples(MEASURED, MEASURED, MEASURED), max_size=12))
@settings(deadline=None)
def test_whatever_was_measured_the_interval_keeps_its_bounds(
    mtbf: float,
    overhead: float,
    attempts: list[Uptime],
    saves: list[SaveCost],
    learnt: list[tuple[float, float, float]],
) -> None:
    auto = AutoInterval(mtbf_s=mtbf, overhead=overhead, attempts=attempts, saves=saves)
    choices = [auto.choice]
    for stall, save, uptime in learnt:
        choices.append(auto.saved(SaveCost(stall, save), uptime_s=uptime))
        assert choices[-1] is auto.choice
        assert choices[-1].interval_s >= save
    for choice in choices:
        assert LEAST_S <= choice.interval_s < math.inf
        assert choice.interval_s >= min(choice.stall_s * (1 - overhead) / overhead, 1.7e308) * (1 - 1e-12)
        assert 0 <= choice.stall_s < math.inf
        assert 0 < choice.mtbf_s < math.inf
        assert choice.rule in RULES


@given(UPTIMES, st.floats(1e-3, 1e4), st.floats(1, 1e4), SHARES)
@settings(deadline=None)
def test_larger_stalls_make_it_longer(attempts: list[Uptime], stall: float, times: float, overhead: float) -> None:
    small, large = (interval_of(attempts=attempts, overhead=overhead, saves=steady(s)) for s in (stall, stall * times))
    assert large >= small * (1 - 1e-12)


@given(UPTIMES, st.floats(1e-3, 1e4), st.floats(1, 1e6), st.floats(1, 1e4), st.floats(1e-3, 2 / 3))
@settings(deadline=None)
def test_rarer_interruptions_make_it_longer(
    attempts: list[Uptime], stall: float, mtbf: float, times: float, overhead: float
) -> None:
    short, long = (
        interval_of(mtbf_s=mean, attempts=attempts, overhead=overhead, saves=steady(stall))
        for mean in (mtbf, mtbf * times)
    )
    # Up to a share of two thirds the budget hides the formula's leap.
    assert long >= short * (1 - 1e-12)


@given(UPTIMES, st.integers(0, 11), st.floats(0, 1))
@settings(deadline=None)
def test_an_interruption_more_never_makes_it_longer(attempts: list[Uptime], place: int, share: float) -> None:
    attempts = [*attempts, Uptime(HOUR, interrupted=False)]
    whole = attempts[place % len(attempts)]
    parts = [Uptime(whole.seconds * share, True), Uptime(whole.seconds * (1 - share), whole.interrupted)]
    at = attempts.index(whole)
    split = [*attempts[:at], *parts, *attempts[at + 1 :]]
    one, more = (make(attempts=lives, saves=steady(10)).choice for lives in (attempts, split))
    assert more.mtbf_s <= one.mtbf_s * (1 + 1e-12)
    assert more.interval_s <= one.interval_s * (1 + 1e-12)


def test_before_any_save_a_documented_stall_is_guessed() -> None:
    choice = make().choice
    assert (choice.stall_s, choice.mtbf_s, choice.rule) == (FIRST_STALL_S, PRIOR_S, GUESS)
    assert choice.interval_s == daly(FIRST_STALL_S, PRIOR_S)


def test_the_saves_of_the_attempt_before_replace_the_guess() -> None:
    choice = make(saves=[SaveCost(0.25, 1)]).choice
    assert (choice.stall_s, choice.rule) == (0.25, DALY)
    assert choice.interval_s == daly(0.25, PRIOR_S)


def test_each_rule_is_named_where_it_decides() -> None:
    rules = {
        DALY: make(saves=[SaveCost(1, 2)]),
        OVERHEAD: make(saves=[SaveCost(60, 70)]),
        SAVE: make(saves=[SaveCost(1, 1000)]),
        LEAST: make(saves=[SaveCost(0, 0)]),
        GUESS: make(),
    }
    assert {name: auto.choice.rule for name, auto in rules.items()} == {name: name for name in RULES}
    assert rules[OVERHEAD].choice.interval_s == pytest.approx(60 * 0.97 / 0.03)
    assert rules[SAVE].choice.interval_s == 1000
    assert rules[LEAST].choice.interval_s == LEAST_S


def test_a_save_is_due_when_the_interval_has_passed() -> None:
    auto = make(saves=[SaveCost(1, 1)])
    interval = auto.choice.interval_s
    assert [auto.due(seconds) for seconds in (0, interval / 2, interval, 2 * interval)] == [False, False, True, True]


def test_asking_changes_nothing() -> None:
    auto = make(saves=[SaveCost(1, 1)])
    before = auto.choice
    assert [auto.due(seconds) for seconds in (1e3, 1e6)] == [True, True]
    assert auto.choice is before


def test_the_first_slow_save_is_forgotten_at_the_second() -> None:
    auto = make()
    assert auto.saved(SaveCost(10, 12), uptime_s=170).stall_s == 10
    assert auto.saved(SaveCost(0.5, 2), uptime_s=500).stall_s == 0.5


def test_one_hanging_disk_is_paid_for_and_no_new_rule() -> None:
    auto = make(saves=steady(1))
    usual = auto.choice
    hung = auto.saved(SaveCost(100, 100), uptime_s=HOUR)
    assert hung.stall_s == usual.stall_s
    assert hung.rule == OVERHEAD
    assert hung.interval_s == pytest.approx((7 * 1 + 100) / 8 * 0.97 / 0.03)
    for _ in range(RECENT_SAVES):
        last = auto.saved(SaveCost(1, 1), uptime_s=HOUR)
    assert last.rule == DALY


def test_it_follows_stalls_up_and_down() -> None:
    auto = make(overhead=LIMIT)
    intervals = []
    for stall in (1.0, 30.0, 1.0):
        for _ in range(RECENT_SAVES):
            auto.saved(SaveCost(stall, stall), uptime_s=HOUR)
        intervals.append(auto.choice.interval_s)
        assert auto.choice.stall_s == stall
    assert intervals[1] > 4 * intervals[0]
    assert intervals[2] == intervals[0]


def test_it_follows_the_weather_up_and_down() -> None:
    calm, stormy = [Uptime(24 * HOUR, True)] * 10, [Uptime(20 * MINUTE, True)] * 10
    lives: list[list[Uptime]] = [[], stormy, stormy + calm, stormy + calm + stormy]
    told = [make(attempts=attempts, saves=steady(1)).choice for attempts in lives]
    assert told[1].mtbf_s < 2 * 20 * MINUTE
    assert told[2].mtbf_s > 24 * HOUR / 2
    assert told[3].mtbf_s < 24 * HOUR / 4
    assert told[1].interval_s < told[0].interval_s < told[2].interval_s
    assert told[3].interval_s < told[2].interval_s


def test_a_long_quiet_makes_it_longer_while_it_lasts() -> None:
    auto = make(attempts=[Uptime(20 * MINUTE, True)] * 10, saves=steady(1))
    intervals = [auto.saved(SaveCost(1, 1), uptime_s=hours * HOUR).interval_s for hours in range(1, 48)]
    assert intervals == sorted(intervals)
    assert intervals[-1] > 3 * intervals[0]


def test_its_own_uptime_is_counted_once() -> None:
    auto = make(saves=steady(1))
    auto.saved(SaveCost(1, 1), uptime_s=HOUR)
    assert auto.saved(SaveCost(1, 1), uptime_s=2 * HOUR).mtbf_s == PRIOR_S + 2 * HOUR


def test_an_attempt_that_ended_by_itself_is_time_without_an_interruption() -> None:
    assert make(attempts=[Uptime(HOUR, False)] * 3).choice.mtbf_s == PRIOR_S + 3 * HOUR


def test_one_that_is_made_again_from_what_was_told_chooses_the_same() -> None:
    lives, costs = [Uptime(HOUR, True), Uptime(2 * HOUR, True)], [SaveCost(stall, 5) for stall in (4.0, 1.0, 2.0)]
    going = make(attempts=lives)
    for cost in costs:
        told = going.saved(cost, uptime_s=0.0)
    assert make(attempts=iter(lives), saves=iter(costs)).choice == told


def test_the_journal_is_told_with_the_names_of_the_contract() -> None:
    choice = make(saves=[SaveCost(1 / 3, 1)]).choice
    interval = round(choice.interval_s, 6)
    assert choice.to_json() == {"interval_s": interval, "stall_s": 0.333333, "mtbf_s": PRIOR_S, "rule": DALY}


@pytest.mark.parametrize("overhead", [0, 1, -0.03, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(overhead: float) -> None:
    with pytest.raises(ConfigError, match=r"^save_overhead=.* is no share of the time; expected .*0\.03$"):
        make(overhead=overhead)


@pytest.mark.parametrize("mtbf", [0, -1, math.inf, math.nan])
def test_a_mean_time_that_is_none_is_refused(mtbf: float) -> None:
    with pytest.raises(ConfigError, match=r"^mtbf=.* is not positive; expected .*4h$"):
        make(mtbf_s=mtbf)


@pytest.mark.parametrize("seconds", [-1e-9, math.inf, math.nan, 1e13])
def test_what_no_clock_measured_is_refused(seconds: float) -> None:
    auto = make()
    for told in (
        lambda: Uptime(seconds, True),
        lambda: SaveCost(seconds, 1),
        lambda: SaveCost(1, seconds),
        lambda: auto.saved(SaveCost(1, 1), uptime_s=seconds),
    ):
        with pytest.raises(ValueError, match="no time that a process can have measured"):
            told()
    assert auto.choice == make().choice


# The budget.


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=60), SHARES.filter(lambda share: share > 1e-6))
@settings(deadline=None)
def test_whatever_saves_take_all_but_the_newest_are_within_the_budget(stalls: list[float], overhead: float) -> None:
    auto = make(overhead=overhead, mtbf_s=1.0)
    trained, uptime = 0.0, 0.0
    for stall in stalls:
        interval = auto.choice.interval_s
        trained += interval
        uptime += interval + stall
        auto.saved(SaveCost(stall, stall), uptime_s=min(uptime, 1e12))
    paid = math.fsum(stalls[:-RECENT_SAVES])
    assert paid <= overhead * (trained + paid) * (1 + 1e-9)


# Whole lives of runs.


@dataclasses.dataclass(frozen=True)
class Lived:
    """What became of a run's time."""

    useful: float
    """The share of it whose steps were saved."""
    cost: float
    """The share of it that training stood still for saves."""


RESTART_S = 90.0
"""From an interruption to the first new step."""


MANY = 60
"""How many attempts are told: what is older than twelve times `MEMORY` has no weight."""


def live(lives: Sequence[float], overhead: float, stall_of: Callable[[int], float]) -> Lived:
    """A run through attempts of these lengths that saves automatically.

    Each attempt begins with nothing but what a journal tells. A save stalls for `stall_of(its number in the attempt)`
    and is committed when as much time again has passed.
    """
    attempts: list[Uptime] = []
    saves: list[SaveCost] = []
    useful = stood = 0.0
    for life in lives:
        auto = make(overhead=overhead, attempts=attempts[-MANY:], saves=saves[-RECENT_SAVES:])
        now = RESTART_S
        for nth in itertools.count():
            interval, stall = auto.choice.interval_s, stall_of(nth)
            now += interval
            stood += min(stall, max(0.0, life - now))
            if now + 2 * stall > life:
                break
            now += stall
            useful += interval
            saves.append(SaveCost(stall, 2 * stall))
            auto.saved(saves[-1], uptime_s=now)
        attempts.append(Uptime(life, interrupted=True))
    return Lived(useful / sum(lives), stood / sum(lives))


def useful_at(interval: float, lives: np.ndarray[Any, Any], stall: float) -> float:
    """The useful share of the time with a fixed interval."""
    saves = np.floor(np.maximum(0.0, lives - RESTART_S - stall) / (interval + stall))
    return float((saves * interval).sum() / lives.sum())


def best_fixed(lives: Sequence[float], overhead: float, stall: float) -> tuple[float, float]:
    """The best fixed interval within the budget, found by search in hindsight, and the useful share with it."""
    spans = np.array(lives)
    shortest = max(stall * (1 - overhead) / overhead, LEAST_S)
    around = np.geomspace(shortest, max(60 * HOUR, 2 * shortest), 300)
    place = int(np.argmax([useful_at(interval, spans, stall) for interval in around]))
    near = np.geomspace(around[max(0, place - 1)], around[min(len(around), place + 2) - 1], 60)
    useful, best = max((useful_at(interval, spans, stall), interval) for interval in near)
    return float(best), useful


def exponential(rng: random.Random, mtbf: float, horizon: float) -> list[float]:
    """The times of interruptions that remember nothing."""
    times = itertools.accumulate(iter(lambda: rng.expovariate(1 / mtbf), None))
    return list(itertools.takewhile(lambda time: time < horizon, times))


def bursty(rng: random.Random, mtbf: float, horizon: float) -> list[float]:
    """Clusters: long calms, with an interruption in 3 mean times, and short storms, with 6 in one."""
    times: list[float] = []
    began, storm = 0.0, False
    while began < horizon:
        ended = min(horizon, began + rng.expovariate(1 / (mtbf * (1.5 if storm else 6))))
        inside = exponential(rng, mtbf / 6 if storm else 3 * mtbf, ended - began)
        times += [began + time for time in inside]
        began, storm = ended, not storm
    return times


def switching(rng: random.Random, mtbf: float, horizon: float) -> list[float]:
    """Four seasons, each with interruptions that remember nothing."""
    season = horizon / 4
    means = (mtbf, 8 * mtbf, mtbf / 4, mtbf)
    return [place * season + time for place, mean in enumerate(means) for time in exponential(rng, mean, season)]


def lives_of(weather: Callable[..., list[float]], seed: int, mtbf: float, horizon: float) -> list[float]:
    """The lengths of the attempts between the interruptions."""
    borders = [0.0, *weather(random.Random(seed), mtbf, horizon), horizon]
    return [after - before for before, after in itertools.pairwise(borders)]


WEATHERS = pytest.mark.parametrize("weather", [exponential, bursty, switching])
SEEDS = pytest.mark.parametrize("seed", [1, 2])


def assert_as_good_as_the_best(weather: Callable[..., list[float]], seed: int, mtbf: float, stall: float) -> None:
    """Under a budget that binds, and under one that does not."""
    horizon = min(4000 * HOUR, max(500 * HOUR, 200 * mtbf))
    lives = lives_of(weather, seed, mtbf, horizon)
    print(f"{weather.__name__}, seed {seed}: {len(lives) - 1} interruptions in {horizon / HOUR:.0f} h")
    for overhead in (BUDGET, LIMIT):
        lived = live(lives, overhead, lambda nth: stall)
        best, useful = best_fixed(lives, overhead, stall)
        print(
            f"M {mtbf / MINUTE:.0f} min, stall {stall:.0f} s, budget {overhead:.2f}: best fixed {best:.0f} s, "
            f"{useful:.4f} useful; auto {lived.useful:.4f}, {lived.useful / useful:.4f} of it, cost {lived.cost:.4f}"
        )
        assert lived.useful >= 0.98 * useful
        assert lived.cost <= overhead


@WEATHERS
def test_hours_between_interruptions_are_used_as_well_as_by_the_best_fixed_interval(
    weather: Callable[..., list[float]],
) -> None:
    assert_as_good_as_the_best(weather, 1, 4 * HOUR, 10)


def test_an_interval_that_learns_nothing_would_be_worse_than_that() -> None:
    lives = lives_of(exponential, 1, 20 * MINUTE, 1000 * HOUR)
    _, useful = best_fixed(lives, LIMIT, 10)
    assert useful_at(daly(10, PRIOR_S), np.array(lives), 10) < 0.95 * useful


@SEEDS
def test_each_season_is_used_as_well_as_by_the_interval_that_is_best_in_it(seed: int) -> None:
    rng = random.Random(seed)
    seasons = []
    for mtbf in (4 * HOUR, 30 * MINUTE, 24 * HOUR, HOUR):
        borders = [0.0, *exponential(rng, mtbf, 500 * HOUR), 500 * HOUR]
        seasons.append([after - before for before, after in itertools.pairwise(borders)])
    best = sum(sum(season) * best_fixed(season, LIMIT, 10)[1] for season in seasons)
    lives = [life for season in seasons for life in season]
    lived = live(lives, LIMIT, lambda nth: 10)
    print(f"seed {seed}: auto {lived.useful:.4f}, {lived.useful * sum(lives) / best:.4f} of the best of each season")
    assert lived.useful * sum(lives) >= 0.98 * best


@WEATHERS
def test_slow_first_saves_and_hanging_disks_are_within_the_budget_too(weather: Callable[..., list[float]]) -> None:
    rng = random.Random(1)
    lives = lives_of(weather, 1, HOUR, 500 * HOUR)

    def stall_of(nth: int) -> float:
        return (10 if nth == 0 else 1) * rng.expovariate(1 / 5) + (60 if rng.random() < 0.02 else 0)

    lived = live(lives, BUDGET, stall_of)
    print(f"{weather.__name__}, seed 1: useful {lived.useful:.4f} at a cost of {lived.cost:.4f}")
    assert lived.cost <= BUDGET
    assert lived.cost > BUDGET / 2


@pytest.mark.slow
@WEATHERS
@SEEDS
@pytest.mark.parametrize("mtbf", [20 * MINUTE, 4 * HOUR, 24 * HOUR])
@pytest.mark.parametrize("stall", [1.0, 10.0, 60.0])
def test_useful_time_is_within_two_percent_of_the_best_fixed_interval(
    weather: Callable[..., list[float]], seed: int, mtbf: float, stall: float
) -> None:
    assert_as_good_as_the_best(weather, seed, mtbf, stall)
