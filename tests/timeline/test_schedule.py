"""The schedule, against a count of every step of the run in exact fractions."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.errors import EXIT_CONFIG, ConfigError
from trainer.timeline.cadence import Progress
from trainer.timeline.schedule import ALIGN, CARRY, EVALUATION, FLUSH, RECONCILE_MODES, SAVE, Due, Schedule

Duration = tuple[Fraction, str]
Closes = list[tuple[int, "str | None"]]
Events = dict[int, tuple[bool, tuple[str, ...], bool]]  # by step: an evaluation, the reasons to save, the stop


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run is asked to do, in numbers; `cadences` by flag."""

    cadences: dict[str, tuple[Duration, ...]]
    reconcile: str
    batch_size: int
    data_examples: int
    last: str
    epoch_examples: int

    def schedule(self, **changed: Any) -> Schedule:
        texts = {flag: text_of(durations) for flag, durations in self.cadences.items()}
        rest = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "cadences"}
        return Schedule(**{**texts, **rest, **changed})


def text_of(durations: Iterable[Duration]) -> str:
    return ",".join(f"{number.numerator}/{number.denominator}{unit}" for number, unit in durations) or "never"


class Truth:
    """What has to happen in a run, found by looking at each of its steps."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.examples = [0]
        self.closes: Closes = []
        self.events: Events = {}
        step, owed, target = 0, False, setup.cadences["train_for"]
        while not any(self.position(step, unit) >= number for number, unit in target):
            step += 1
            self.examples.append(self.examples[-1] + self._batch(self.examples[-1]))
            end = any(self.position(step, unit) >= number for number, unit in target)
            log, save = self._fires("log_every", step), self._fires("save_every", step)
            evaluate = self._fires("eval_every", step) or (end and bool(setup.cadences["eval_every"]))
            if setup.reconcile == ALIGN:
                owed |= save
                save = owed and (log or end)
                owed &= not save
            self._close(step, log=log, save=save, end=end)
            reasons = ("interval",) * save + ("final",) * end
            if evaluate or reasons:
                self.events[step] = (evaluate, reasons, end)
        self.last = step

    def _batch(self, examples: int) -> int:
        length = self._setup.data_examples
        left = length - examples % length
        return self._setup.batch_size if self._setup.last == "wrap" else min(self._setup.batch_size, left)

    def position(self, step: int, unit: str) -> Fraction:
        if unit == "run":
            ((number, unit),) = self._setup.cadences["train_for"]
            return self.position(step, unit) / number
        if unit == "epochs":
            return Fraction(self.examples[step], self._setup.epoch_examples)
        return Fraction(step if unit == "steps" else self.examples[step])

    def _fires(self, flag: str, step: int) -> bool:
        """Whether this step is the first to reach a multiple of one of the durations."""
        return any(
            math.floor(self.position(step, unit) / number) > math.floor(self.position(step - 1, unit) / number)
            for number, unit in self._setup.cadences[flag]
        )

    def _close(self, step: int, *, log: bool, save: bool, end: bool) -> None:
        flush = self._setup.reconcile == FLUSH
        if log:
            self.closes.append((step, None))
        elif end and (self._setup.cadences["log_every"] or flush):
            self.closes.append((step, "end"))
        elif save and flush:
            self.closes.append((step, "save"))


def fractions(low: Fraction | int, high: int) -> st.SearchStrategy[Fraction]:
    return st.fractions(min_value=low, max_value=high, max_denominator=12)


@st.composite
def setups(draw: st.DrawFn, reconcile: str | None = None) -> Setup:
    """Short runs of every kind: batches larger than the data or than a period, joined cadences, virtual epochs."""
    batch_size, data_examples = draw(st.integers(1, 20)), draw(st.integers(1, 50))
    epoch_examples = draw(st.just(data_examples) | st.integers(1, 80))
    last = draw(st.sampled_from(["wrap", "short"]))
    examples = draw(st.integers(1, 40 * (batch_size if last == "wrap" else min(batch_size, data_examples))))
    targets = {
        "steps": st.integers(1, 60).map(Fraction),
        "examples": st.just(Fraction(examples)),
        "epochs": st.just(Fraction(examples, epoch_examples)),
    }
    units = draw(st.lists(st.sampled_from(sorted(targets)), min_size=1, max_size=2, unique=True))
    train_for = tuple((draw(targets[unit]), unit) for unit in units)
    periods = {
        "steps": fractions(Fraction(1, 3), 30),
        "examples": fractions(Fraction(1, 2), 300),
        "epochs": fractions(Fraction(1, 12), 8),
    }
    if len(units) == 1:
        periods["run"] = fractions(Fraction(1, 12), 1) | st.integers(2, 40).map(lambda parts: Fraction(1, parts))
    mode = reconcile or draw(st.sampled_from(RECONCILE_MODES))

    def cadence(at_least: int = 0) -> tuple[Duration, ...]:
        units = draw(st.lists(st.sampled_from(sorted(periods)), min_size=at_least, max_size=2))
        return tuple((draw(periods[unit]), unit) for unit in units)

    return Setup(
        {
            "train_for": train_for,
            "log_every": cadence(at_least=int(mode == ALIGN)),
            "eval_every": cadence(),
            "save_every": cadence(),
        },
        reconcile=mode,
        batch_size=batch_size,
        data_examples=data_examples,
        last=last,
        epoch_examples=epoch_examples,
    )


CUTS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=6)
UNCUT = [(10**9, 10**9)]


@dataclasses.dataclass
class Walk:
    """What a caller of the schedule sees."""

    closes: Closes = dataclasses.field(default_factory=list)
    events: Events = dataclasses.field(default_factory=dict)
    boundaries: list[int] = dataclasses.field(default_factory=list)
    states: list[tuple[Progress, frozenset[str]]] = dataclasses.field(default_factory=list)
    """After each chunk, all that a resume from there knows."""


def walk_in_chunks(
    schedule: Schedule,
    cuts: Iterable[tuple[int, int]],
    *,
    start: tuple[Progress, frozenset[str]] = (Progress(), frozenset()),
    looks_at_boundaries_only: bool = True,
    clock: Callable[[int], float] = lambda step: 0.0,
) -> Walk:
    """Takes one chunk after another, cut in turn after the steps and the closed windows in `cuts`, to the end."""
    walk = Walk()
    now, pending = start
    before = now
    for max_steps, max_closes in itertools.cycle(cuts):
        chunk = schedule.next_chunk(now, pending=pending, max_steps=max_steps, max_closes=max_closes)
        assert now.step < chunk.until <= now.step + max_steps
        assert len(chunk.closes) <= max_closes
        assert all(now.step < step <= chunk.until for step in chunk.closes)
        now = schedule.progress(now, chunk.until, clock(chunk.until))
        closes = [(step, chunk.closed_by(step)) for step in chunk.closes]
        walk.closes += closes
        due = schedule.due(before, now, pending=pending)
        assert due.log == (closes[-1:] == [(now.step, due.closed_by)])
        if due.evaluate or due.save or due.stop:
            walk.events[now.step] = event(due)
        if chunk.boundary:
            walk.boundaries.append(now.step)
        else:
            assert not due.evaluate
            assert not due.stop
            assert set(due.save) <= {"time"}
        if chunk.boundary or due.save or not looks_at_boundaries_only:
            before = now
        pending = due.pending
        walk.states.append((now, pending))
        if due.stop:
            return walk
    raise AssertionError("unreachable")


def walk_by_steps(schedule: Schedule) -> Walk:
    """Asks after each single step what is due, as a loop of one's own would."""
    walk = Walk()
    now, pending = Progress(), frozenset[str]()
    while True:
        before, now = now, schedule.progress(now, now.step + 1)
        due = schedule.due(before, now, pending=pending)
        pending = due.pending
        if due.log:
            walk.closes.append((now.step, due.closed_by))
        if due.evaluate or due.save or due.stop:
            walk.events[now.step] = event(due)
        walk.states.append((now, pending))
        if due.stop:
            return walk


def event(due: Due) -> tuple[bool, tuple[str, ...], bool]:
    return due.evaluate, due.save, due.stop


def later(truth: Truth, step: int) -> tuple[Closes, Events]:
    """What has to happen after `step`."""
    closes = [close for close in truth.closes if close[0] > step]
    return closes, {at: what for at, what in truth.events.items() if at > step}


@given(setups())
@settings(max_examples=90, deadline=None)
def test_everything_is_due_at_exactly_the_first_step_that_reaches_it(setup: Setup) -> None:
    truth = Truth(setup)
    walk = walk_by_steps(setup.schedule())
    assert walk.closes == truth.closes
    assert walk.events == truth.events


@given(setups())
@settings(max_examples=90, deadline=None)
def test_the_boundaries_are_the_steps_at_which_something_else_than_logging_is_due(setup: Setup) -> None:
    truth = Truth(setup)
    walk = walk_in_chunks(setup.schedule(), UNCUT)
    assert walk.boundaries == list(truth.events)
    assert (walk.closes, walk.events) == (truth.closes, truth.events)
    assert [now.examples for now, _ in walk.states] == [truth.examples[step] for step in walk.boundaries]


@given(setups(), CUTS, st.booleans())
@settings(max_examples=120, deadline=None)
def test_where_a_chunk_is_cut_changes_nothing(setup: Setup, cuts: list[tuple[int, int]], boundaries: bool) -> None:
    truth = Truth(setup)
    walk = walk_in_chunks(setup.schedule(), cuts, looks_at_boundaries_only=boundaries)
    assert walk.closes == truth.closes
    assert walk.events == truth.events
    assert walk.boundaries == list(truth.events)


@given(setups(), CUTS, CUTS, st.data())
@settings(max_examples=90, deadline=None)
def test_a_resume_goes_on_as_if_nothing_had_happened(
    setup: Setup, cuts: list[tuple[int, int]], cuts_after: list[tuple[int, int]], data: st.DataObject
) -> None:
    truth = Truth(setup)
    states = walk_in_chunks(setup.schedule(), cuts).states[:-1]
    assume(states)
    start = data.draw(st.sampled_from(states))
    walk = walk_in_chunks(setup.schedule(), cuts_after, start=start)
    assert (walk.closes, walk.events) == later(truth, start[0].step)


@given(setups(), CUTS)
@settings(max_examples=60, deadline=None)
def test_the_next_save_is_known_from_everywhere(setup: Setup, cuts: list[tuple[int, int]]) -> None:
    schedule = setup.schedule()
    saves = [step for step, (_, reasons, _) in Truth(setup).events.items() if reasons]
    states = [(Progress(), frozenset[str]()), *walk_in_chunks(schedule, cuts).states[:-1]]
    for now, pending in states:
        assert schedule.next_save(now, pending=pending) == min(step for step in saves if step > now.step)


@given(setups())
@settings(max_examples=60, deadline=None)
def test_windows_are_contiguous_from_the_start_to_the_end(setup: Setup) -> None:
    closes = walk_in_chunks(setup.schedule(), UNCUT).closes
    ends = [step for step, _ in closes]
    assert ends == sorted(set(ends))
    assert all(step > 0 for step in ends)
    if setup.cadences["log_every"] or setup.reconcile == FLUSH:
        assert ends[-1] == Truth(setup).last
    assert all(closed_by != "end" for _, closed_by in closes[:-1])
    assert setup.reconcile == FLUSH or all(closed_by != "save" for _, closed_by in closes)


@given(setups(FLUSH))
@settings(max_examples=60, deadline=None)
def test_flush_closes_a_window_at_every_save_of_the_runs_own_course(setup: Setup) -> None:
    walk = walk_in_chunks(setup.schedule(), UNCUT)
    assert {step for step, (_, reasons, _) in walk.events.items() if reasons} <= dict(walk.closes).keys()


@given(setups(ALIGN))
@settings(max_examples=60, deadline=None)
def test_align_moves_the_saves_of_a_window_to_one_at_its_end(setup: Setup) -> None:
    walk = walk_in_chunks(setup.schedule(), UNCUT)
    carried = Truth(dataclasses.replace(setup, reconcile=CARRY))
    ends = [0, *(step for step, _ in walk.closes)]
    due = [step for step, (_, reasons, _) in carried.events.items() if "interval" in reasons]
    expected = {end for start, end in itertools.pairwise(ends) if any(start < step <= end for step in due)}
    assert {step for step, (_, reasons, _) in walk.events.items() if "interval" in reasons} == expected


@given(setups(), st.sampled_from(RECONCILE_MODES))
@settings(max_examples=60, deadline=None)
def test_what_is_evaluated_does_not_depend_on_how_saves_are_reconciled(setup: Setup, reconcile: str) -> None:
    assume(reconcile != ALIGN or setup.cadences["log_every"])
    walks = [walk_by_steps(setup.schedule(reconcile=mode)) for mode in (setup.reconcile, reconcile)]
    first, second = ([step for step, (evaluate, _, _) in walk.events.items() if evaluate] for walk in walks)
    assert first == second


@given(setups(), CUTS, st.lists(st.floats(0, 5), min_size=60, max_size=60), fractions(1, 30))
@settings(max_examples=90, deadline=None)
def test_a_clock_adds_saves_and_changes_nothing_else(
    setup: Setup, cuts: list[tuple[int, int]], seconds: list[float], period: Fraction
) -> None:
    truth = Truth(setup)
    total = list(itertools.accumulate(itertools.islice(itertools.cycle(seconds), truth.last), initial=0.0))
    save_every = text_of([*setup.cadences["save_every"], (period, "s")])
    walk = walk_in_chunks(setup.schedule(save_every=save_every), cuts, clock=total.__getitem__)
    looked_at = [0, *(now.step for now, _ in walk.states)]
    on_time = {
        step
        for before, step in itertools.pairwise(looked_at)
        if math.floor(Fraction(total[step]) / period) > math.floor(Fraction(total[before]) / period)
    }
    assert walk.closes == truth.closes
    assert {step for step, (_, reasons, _) in walk.events.items() if "time" in reasons} == on_time
    without = {
        step: (evaluate, tuple(reason for reason in reasons if reason != "time"), stop)
        for step, (evaluate, reasons, stop) in walk.events.items()
    }
    assert {step: what for step, what in without.items() if any(what)} == truth.events


@given(setups(), st.integers(1, 60), CUTS)
@settings(max_examples=60, deadline=None)
def test_a_longer_target_extends_a_finished_run_on_the_same_grids(
    setup: Setup, more: int, cuts: list[tuple[int, int]]
) -> None:
    assume(not any(unit == "run" for durations in setup.cadences.values() for _, unit in durations))
    now, pending = walk_in_chunks(setup.schedule(), cuts).states[-1]
    longer = dataclasses.replace(
        setup, cadences={**setup.cadences, "train_for": ((Fraction(now.step + more), "steps"),)}
    )
    walk = walk_in_chunks(longer.schedule(), cuts, start=(now, pending))
    closes, events = later(Truth(longer), now.step)
    assert walk.closes == closes
    if setup.reconcile != ALIGN:  # A save that was waiting for the end of the window was made at the end of the run.
        assert walk.events == events


def test_a_run_of_a_hundred_steps_as_the_documentation_tells_it() -> None:
    schedule = Schedule(train_for="100steps", log_every=7, eval_every=11, save_every=5)
    walk = walk_in_chunks(schedule, UNCUT)
    assert walk.closes == [*((step, None) for step in range(7, 99, 7)), (100, "end")]
    assert [step for step, (evaluate, _, _) in walk.events.items() if evaluate] == [*range(11, 100, 11), 100]
    assert [step for step, (_, reasons, _) in walk.events.items() if reasons] == list(range(5, 101, 5))
    assert walk.events[100] == (True, ("interval", "final"), True)


def test_a_last_window_that_the_cadence_closes_has_no_label() -> None:
    walk = walk_in_chunks(Schedule(train_for=21, log_every=7, save_every="never"), UNCUT)
    assert walk.closes == [(7, None), (14, None), (21, None)]


def test_flush_labels_the_windows_that_a_save_closes() -> None:
    walk = walk_in_chunks(Schedule(train_for=12, log_every=4, save_every=3, reconcile=FLUSH), UNCUT)
    assert walk.closes == [(3, "save"), (4, None), (6, "save"), (8, None), (9, "save"), (12, None)]


def test_align_merges_the_saves_of_one_window_and_keeps_the_last_one_in_place() -> None:
    walk = walk_in_chunks(Schedule(train_for=25, log_every=10, save_every=4, reconcile=ALIGN), UNCUT)
    assert {step: reasons for step, (_, reasons, _) in walk.events.items()} == {
        10: ("interval",),
        20: ("interval",),
        25: ("interval", "final"),
    }


def test_a_save_by_the_clock_stays_where_it_is_while_an_aligned_one_waits() -> None:
    schedule = Schedule(train_for=100, log_every=10, save_every="4steps,60s", reconcile=ALIGN)
    first = schedule.due(Progress(), Progress(5, 5, 61.0))
    assert (first.save, first.log, first.pending) == (("time",), False, frozenset({SAVE}))
    assert schedule.next_boundary(Progress(5, 5, 61.0), pending=first.pending) == 10
    second = schedule.due(Progress(5, 5, 61.0), Progress(10, 10, 70.0), pending=first.pending)
    assert (second.save, second.pending) == (("interval",), frozenset())


@pytest.mark.parametrize("reconcile", RECONCILE_MODES)
def test_a_save_by_the_clock_never_closes_a_window(reconcile: str) -> None:
    schedule = Schedule(train_for=100, log_every=10, save_every="60s", reconcile=reconcile)
    due = schedule.due(Progress(2, 2, 59.0), Progress(3, 3, 60.0))
    assert due == Due(log=False, closed_by=None, evaluate=False, save=("time",), stop=False, pending=frozenset())


def test_nothing_is_due_at_step_0() -> None:
    schedule = Schedule(train_for=10, log_every=1, eval_every=1, save_every="1step,1s")
    due = schedule.due(Progress(), Progress())
    assert due == Due(log=False, closed_by=None, evaluate=False, save=(), stop=False, pending=frozenset())
    assert schedule.next_boundary(Progress()) == 1


def test_an_evaluation_that_is_asked_for_at_the_start_is_all_that_is_due_there() -> None:
    schedule = Schedule(train_for=10, log_every=1, eval_every=5, save_every=1)
    due = schedule.due(Progress(), Progress(), pending={EVALUATION})
    assert due == Due(log=False, closed_by=None, evaluate=True, save=(), stop=False, pending=frozenset())


def test_what_was_done_at_a_step_is_not_done_again_and_what_was_not_is_done_first() -> None:
    schedule = Schedule(train_for=20, log_every=5, eval_every=5, save_every=5)
    there = Progress(10, 10)
    assert event(schedule.due(there, there)) == (False, (), False)
    assert event(schedule.due(there, there, pending={EVALUATION})) == (True, (), False)


def test_a_finished_run_has_nothing_to_do() -> None:
    schedule = Schedule(train_for=20, log_every=7, eval_every=7, save_every=7, reconcile=FLUSH)
    end = Progress(20, 20)
    assert schedule.finished(end)
    assert schedule.due(end, end) == Due(
        log=False, closed_by=None, evaluate=False, save=(), stop=True, pending=frozenset()
    )


def test_a_target_in_examples_is_overshot_by_less_than_a_batch() -> None:
    schedule = Schedule(train_for="1000examples", save_every="never", batch_size=64)
    last = schedule.last_step(Progress())
    assert last == 16
    assert [schedule.finished(schedule.progress(Progress(), step)) for step in (15, 16)] == [False, True]


def test_the_first_of_several_targets_ends_the_run() -> None:
    schedule = Schedule(train_for="100steps,3epochs", save_every="never", batch_size=4, data_examples=10, last="short")
    assert schedule.last_step(Progress()) == 9


def test_the_clock_ends_a_run_that_has_only_a_time_for_its_target() -> None:
    schedule = Schedule(train_for="1m", log_every=4, eval_every=4, save_every=100)
    assert schedule.last_step(Progress()) is None
    chunk = schedule.next_chunk(Progress(8, 8, 50.0), max_steps=3, max_closes=9)
    assert (chunk.until, chunk.closes, chunk.boundary) == (11, (), False)
    due = schedule.due(Progress(8, 8, 50.0), Progress(11, 11, 60.0))
    assert due == Due(log=True, closed_by="end", evaluate=True, save=("final",), stop=True, pending=frozenset())


def test_with_clock_in_log_the_clock_closes_windows_and_evaluates() -> None:
    schedule = Schedule(train_for=100, log_every="10s", eval_every="20s", save_every="never", clock_in_log=True)
    assert schedule.next_chunk(Progress(5, 5, 9.0), max_steps=9, max_closes=9).closes == ()
    assert not schedule.due(Progress(5, 5, 9.0), Progress(6, 6, 9.9)).log
    due = schedule.due(Progress(5, 5, 9.0), Progress(7, 7, 20.0))
    assert (due.log, due.closed_by, due.evaluate) == (True, None, True)


def test_decisions_on_train_records_make_log_steps_boundaries() -> None:
    schedule = Schedule(train_for=20, log_every=6, save_every="never").deciding_on_windows()
    assert walk_boundaries(schedule) == [6, 12, 18, 20]


def test_marks_are_boundaries_at_which_nothing_else_is_due() -> None:
    schedule = Schedule(train_for=20, log_every=6, save_every=9, marks=[13, 4])
    assert walk_boundaries(schedule) == [4, 9, 13, 18, 20]
    assert event(schedule.due(Progress(), Progress(4, 4))) == (False, (), False)


def walk_boundaries(schedule: Schedule) -> list[int]:
    def boundaries() -> Iterator[int]:
        now = Progress()
        while not schedule.finished(now):
            step = schedule.next_boundary(now)
            assert step is not None
            yield step
            now = schedule.progress(now, step)

    return list(boundaries())


def test_grids_are_exact_in_very_long_runs() -> None:
    schedule = Schedule(train_for=10**18, log_every="1/3run", save_every="1e17examples", batch_size=3)
    at = schedule.progress(Progress(), 2 * 10**17)
    assert schedule.next_boundary(at) == -(-7 * 10**17 // 3)
    assert schedule.next_chunk(Progress(), max_steps=10**18, max_closes=9).until == -(-(10**17) // 3)
    far = schedule.progress(Progress(), 10**18 - 1)
    assert schedule.next_chunk(far, max_steps=9, max_closes=9).closes == (10**18,)


def test_epochs_are_those_of_each_alone_also_of_a_length_that_no_float_has() -> None:
    schedule = Schedule(train_for="9steps", batch_size=4, epoch_examples=2**53 + 1)
    assert schedule.epochs([4, 7, 2**60 + 1]) == [schedule.epoch(count) for count in (4, 7, 2**60 + 1)]
    assert Schedule(train_for="9steps", save_every="never", batch_size=4).epochs([4]) is None


def test_data_that_is_taken_up_later_has_passes_from_there_and_grids_stay_where_they_were() -> None:
    schedule = Schedule(
        train_for="8steps", save_every="1epoch", batch_size=4, data_examples=10, last="short", epoch_examples=8
    )
    now, ends, saves = Progress(2, 6), [], []
    later = schedule.anchored(6)
    while not later.finished(now):
        before, now = now, later.progress(now, now.step + 1)
        ends.append(now.examples)
        if "interval" in later.due(before, now).save:
            saves.append(now.examples)
    # Batches of 4, 4 and 2 from 6 on; an epoch is 8 examples from 0 on.
    assert ends == [10, 14, 16, 20, 24, 26]
    assert saves == [10, 16, 24]
    assert later.last_step(Progress(2, 6)) == 8
    assert schedule.stepping.origin == 0


def test_epochs_are_examples_over_epoch_examples() -> None:
    assert Schedule(train_for=1, data_examples=1500, batch_size=64).epoch(19200) == 12.8
    assert Schedule(train_for=1, data_examples=1500, epoch_examples=3000).epoch(19200) == 6.4
    assert Schedule(train_for=1, save_every="never").epoch(19200) is None


@pytest.mark.parametrize(
    ("keep_every", "saves", "kept"),
    [
        ("never", [50, 100], []),
        ("100steps", [50, 100, 150, 200], [100, 200]),
        # The first at or after a point, however much later; one for all the points that were passed.
        ("100steps", [90, 110, 190, 260, 590, 601], [110, 260, 590, 601]),
        ("100steps", [99, 199, 200, 201], [199, 200]),
        # Anchored at 0, and step 0 is no point.
        ("100steps", [0, 1, 99], []),
        (100, [100, 101], [100]),
        ("100steps,70steps", [69, 70, 100, 139, 140, 200], [70, 100, 140, 200]),
        ("2.5steps", [1, 2, 3, 4, 5, 6, 7, 8], [3, 5, 8]),
        ("1/4run", [100, 250, 400, 999, 1000], [250, 999, 1000]),
        ("320examples", [9, 10, 19, 21], [10, 21]),
        ("2epochs", [20, 62, 63, 124, 126], [63, 126]),
    ],
)
def test_the_first_checkpoint_at_or_after_each_point_of_keep_every_stays_for_good(
    keep_every: str | int, saves: list[int], kept: list[int]
) -> None:
    schedule = Schedule(
        train_for="1000steps", save_every="never", keep_every=keep_every, batch_size=32, data_examples=1000
    )
    assert kept_for_good(schedule, saves) == kept


def kept_for_good(schedule: Schedule, saves: Iterable[int]) -> list[int]:
    before, kept = Progress(), []
    for step in saves:
        now = schedule.progress(before, step)
        if schedule.keeps_for_good(before, now):
            kept.append(step)
        before = now
    return kept


@given(setups(), st.data())
@settings(max_examples=60, deadline=None)
def test_each_point_of_keep_every_has_its_checkpoint_and_none_other_stays(setup: Setup, data: st.DataObject) -> None:
    truth = Truth(setup)
    units = ["steps", "examples", "epochs", *(["run"] if len(setup.cadences["train_for"]) == 1 else [])]
    periods = st.lists(st.tuples(fractions(Fraction(1, 3), 50), st.sampled_from(units)), max_size=2)
    keep = tuple(data.draw(periods))
    saves = sorted(data.draw(st.sets(st.integers(1, truth.last))))
    expected = set()
    for number, unit in keep:
        for save in saves:
            # A point that this one has reached, and the one before it has not.
            earlier = [other for other in saves if other < save]
            since = truth.position(earlier[-1], unit) if earlier else Fraction(0)
            if math.floor(truth.position(save, unit) / number) * number > since:
                expected.add(save)
    assert kept_for_good(setup.schedule(keep_every=text_of(keep)), saves) == sorted(expected)


def test_the_clock_has_no_say_in_what_stays_for_good() -> None:
    schedule = Schedule(train_for=100, save_every="1s", keep_every="50steps")
    assert not schedule.keeps_for_good(Progress(10, 10, 5.0), Progress(49, 49, 9000.0))
    assert schedule.keeps_for_good(Progress(49, 49, 9000.0), Progress(50, 50, 9000.0))


def test_what_stays_for_good_makes_no_boundary() -> None:
    assert walk_boundaries(Schedule(train_for=100, save_every=30, keep_every=7)) == [30, 60, 90, 100]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"keep_every": "10m"}, ["keep_every=600s", "clock"]),
        ({"keep_every": "1epoch,2h"}, ["keep_every=1epoch,7200s", "steps, examples or epochs"]),
        ({"keep_every": "often"}, ["'often'"]),
        ({"train_for": "1h", "keep_every": "1/2run"}, ["keep_every=0.5run", "train_for"]),
        ({"data_examples": None, "save_every": "never", "keep_every": "1epoch"}, ["keep_every=1epoch"]),
        ({"log_every": "10s"}, ["log_every=10s", "clock_in_log"]),
        ({"eval_every": "1epoch,2h"}, ["eval_every=1epoch,7200s", "clock_in_log"]),
        ({"reconcile": ALIGN, "log_every": "never"}, ["align", "log_every=never"]),
        ({"reconcile": "both"}, ["reconcile=both", "carry, flush, align"]),
        ({"train_for": "never"}, ["train_for=never"]),
        ({"train_for": "1/2run"}, ["train_for=1/2run"]),
        ({"train_for": "1h", "log_every": "1/15run"}, ["log_every=1/15run", "train_for"]),
        ({"data_examples": None, "save_every": "2epochs"}, ["save_every=2epochs", "epoch_examples"]),
        ({"epoch_examples": 0}, ["epoch_examples=0"]),
        ({"save_every": "often"}, ["'often'", "100steps"]),
        ({"save_every": "auto,10steps"}, ["'auto,10steps'", "auto stands alone"]),
        ({"train_for": "auto"}, ["train_for=auto", "save_every"]),
        ({"log_every": "auto"}, ["log_every=auto", "save_every"]),
        ({"eval_every": "auto"}, ["eval_every=auto", "save_every"]),
        ({"keep_every": "auto"}, ["keep_every=auto", "save_every"]),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_one_line(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule(**{"train_for": "10steps", "data_examples": 100, **arguments})
    assert caught.value.exit_code == EXIT_CONFIG
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in names)


def test_seconds_are_welcome_where_the_log_does_not_see_them() -> None:
    Schedule(train_for="100steps,1h", save_every="10m,50steps")


@pytest.mark.parametrize("reconcile", RECONCILE_MODES)
def test_automatic_saves_are_the_callers_and_the_schedule_has_only_the_last_one(reconcile: str) -> None:
    others = {"train_for": 100, "log_every": 10, "eval_every": 25, "reconcile": reconcile}
    auto, never = (Schedule(**others, save_every=text) for text in ("auto", "never"))
    assert walk_boundaries(auto) == walk_boundaries(never) == [25, 50, 75, 100]
    assert auto.next_save(Progress(3, 3)) == 100
    for step in range(1, 101):
        before, now = Progress(step - 1, step - 1, 1e3 * (step - 1)), Progress(step, step, 1e3 * step)
        assert auto.due(before, now) == never.due(before, now)
