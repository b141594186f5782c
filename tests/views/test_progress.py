"""What a person sees, letter by letter."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import pytest

from trainer.errors import ConfigError
from trainer.ledger.record import Record
from trainer.views.progress import Progress, make_progress

MakeRecord = Callable[..., Record]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is told to move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _terminal_of_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def plain(records: Sequence[Record], total_steps: int | None = None) -> list[str]:
    stream = io.StringIO()
    progress = make_progress("plain", stream)
    progress.start(step=0, total_steps=total_steps, plan_lines=[])
    progress.records(records)
    return stream.getvalue().splitlines()


def tell(progress: Progress, records: Sequence[Record]) -> None:
    """A short run, from its start to its stop."""
    progress.start(step=0, total_steps=400, plan_lines=["log every 100 steps"])
    progress.update(step=100, epoch=4.27, examples=6400, next_save="step 400")
    progress.records(records)
    progress.message("saved step 300 (interval, best)")
    progress.stop()


def test_plain_lines(train: MakeRecord, evaluation: MakeRecord) -> None:
    assert plain([train(300), evaluation(300)]) == [
        "step    300  epoch  12.80  train (200, 300]   loss 0.4120  accuracy 0.8700  lr 0.001",
        "step    300  epoch  12.80  validation         loss 0.3980  accuracy 0.8800",
    ]


def test_columns_are_as_wide_as_the_run_is_long(train: MakeRecord, evaluation: MakeRecord) -> None:
    assert plain([train(100, epoch=None), evaluation(12_345_678, epoch=None)], 20_000_000) == [
        "step      100  train (0, 100]              loss 0.4120  accuracy 0.8700  lr 0.001",
        "step 12345678  validation                  loss 0.3980  accuracy 0.8800",
    ]


def test_columns_grow_and_stay(evaluation: MakeRecord) -> None:
    records = [evaluation(step, split=split) for step, split in ((1, "a"), (2, "another-distribution"), (3, "a"))]
    assert plain(records) == [
        "step      1  epoch   0.04  a                  loss 0.3980  accuracy 0.8800",
        "step      2  epoch   0.09  another-distribution  loss 0.3980  accuracy 0.8800",
        "step      3  epoch   0.13  a                     loss 0.3980  accuracy 0.8800",
    ]


def test_a_line_tells_what_was_unusual(train: MakeRecord, evaluation: MakeRecord) -> None:
    rates = {"generator": 0.001, "critic": 4e-5}
    record = train(250, window=50, loss=None, learning_rate=rates, closed_by="save", skipped=2, nonfinite={"loss": 3})
    assert plain([record, evaluation(250, weights="ema", loss=4.12e-5)]) == [
        "step    250  epoch  10.67  train (200, 250]   loss    nan  accuracy 0.8700"
        "  lr/generator 0.001  lr/critic 4e-05  closed by save  skipped 2  nonfinite loss 3",
        "step    250  epoch  10.67  validation (ema)   loss 4.12e-05  accuracy 0.8800",
    ]


def test_auto_is_plain_where_there_is_no_terminal(train: MakeRecord) -> None:
    stream = io.StringIO()
    tell(make_progress("auto", stream), [train(300)])
    assert stream.getvalue().splitlines() == [
        "log every 100 steps",
        "step    300  epoch  12.80  train (200, 300]   loss 0.4120  accuracy 0.8700  lr 0.001",
        "saved step 300 (interval, best)",
    ]


def test_never_is_silent(train: MakeRecord, capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    tell(make_progress("never", stream), [train(300)])
    tell(make_progress("never"), [train(300)])
    assert stream.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_standard_output_is_looked_up_when_it_is_needed(train: MakeRecord, capsys: pytest.CaptureFixture[str]) -> None:
    tell(make_progress("plain"), [train(300)])
    assert capsys.readouterr().out.count("\n") == 3


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'loud' is not known; expected one of auto, bar, plain, never"):
        make_progress("loud")


def test_a_bar_without_a_terminal_has_no_control_codes_and_comes_last(train: MakeRecord) -> None:
    stream = io.StringIO()
    tell(make_progress("bar", stream), [train(300)])
    assert stream.getvalue().splitlines() == [
        "log every 100 steps",
        "step    300  epoch  12.80  train (200, 300]   loss 0.4120  accuracy 0.8700  lr 0.001",
        "saved step 300 (interval, best)",
        "step 100/400   ━━━━━━──────────────────  25%   epoch 4.27   loss 0.4120   next save step 400",
    ]


def frames(stream: Terminal) -> list[str]:
    """What was drawn, line by line, without its control codes."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())) if line]


def test_the_bar_tells_speed_time_left_and_the_next_save(train: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream, clock = Terminal(), Clock()
    progress = make_progress("auto", stream, clock)
    progress.start(step=1000, total_steps=10_000, plan_lines=[])
    progress.records([train(1100)])
    progress.update(step=1100, epoch=46.93, examples=70_400, next_save="step 2000")
    clock.now = 10.0
    progress.update(step=2000, epoch=85.33, examples=128_000, next_save="in 40s")
    progress.stop()
    assert frames(stream)[-1] == (
        "step  2000/10000   ━━──────────  20%   epoch 85.33   loss 0.4120"
        "   5.76k examples/s   1m 29s left   next save in 40s"
    )
    assert "step   1100  epoch  46.93  train (1000, 1100]    loss 0.4120  accuracy 0.8700  lr 0.001" in frames(stream)


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
def test_the_bar_fits_its_terminal(columns: int, train: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream, clock = Terminal(), Clock()
    progress = make_progress("bar", stream, clock)
    progress.start(step=0, total_steps=10_000, plan_lines=[])
    for step in range(0, 10_001, 1000):
        clock.now = step / 100
        progress.update(step=step, epoch=step / 23, examples=64 * step, next_save="step 10000")
    progress.stop()
    assert max(map(len, frames(stream))) < columns
    assert frames(stream)[-1].startswith("step 10000/10000")


def test_the_bar_is_drawn_at_most_eight_times_a_second() -> None:
    stream, clock = Terminal(), Clock()
    progress = make_progress("bar", stream, clock)
    progress.start(step=0, total_steps=None, plan_lines=[])
    for step in range(1, 1001):
        clock.now = step / 1000
        progress.update(step=step, epoch=None, examples=step, next_save=None)
    assert len(frames(stream)) <= 1 + 8
    progress.stop()
    assert frames(stream)[-1] == "step 1000   1.00k examples/s"


def test_stop_may_come_twice_and_first(train: MakeRecord) -> None:
    for mode in ("bar", "plain", "never"):
        progress = make_progress(mode, Terminal())
        progress.stop()
        tell(progress, [train(300)])
        progress.stop()


def test_text_that_looks_like_markup_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    progress = make_progress("bar", stream)
    progress.message("window (200, 300] of [bold]x[/bold] :smile:")
    assert stream.getvalue() == "window (200, 300] of [bold]x[/bold] :smile:\n"


@pytest.mark.parametrize("mode", ["bar", "plain"])
def test_an_ascii_terminal_does_not_stop_the_run(mode: str, evaluation: MakeRecord) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    tell(make_progress(mode, stream), [evaluation(300, split="prüfung")])
    stream.flush()
    assert b"pr?fung" in raw.getvalue()
    if mode == "bar":
        assert b"======------------------  25%" in raw.getvalue()
