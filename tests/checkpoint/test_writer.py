"""The writer: one job at a time in its own thread, and no failure of it is lost."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import threading

import pytest

from trainer.checkpoint.writer import Writer
from trainer.errors import Unwritable

SECONDS_AT_MOST = 60


@pytest.fixture
def writer():
    writer = Writer()
    yield writer
    writer.collect(wait=True)
    writer.close()


def held(go, job=lambda: None):
    """Returns a job that begins when `go` is set, and the event that says that its thread has come to it."""
    reached = threading.Event()

    def wait():
        reached.set()
        assert go.wait(SECONDS_AT_MOST)
        return job()

    return wait, reached


def test_job_is_done_in_another_thread_and_its_outcome_collected_once(writer):
    writer.start(threading.get_ident)
    assert writer.collect(wait=True) not in (None, threading.get_ident())
    assert writer.collect(wait=True) is None


def test_all_jobs_are_done_by_one_thread(writer):
    def thread():
        writer.start(threading.get_ident)
        return writer.collect(wait=True)

    assert thread() == thread()


def test_job_under_way_is_not_waited_for_unless_asked(writer):
    go = threading.Event()
    job, reached = held(go, lambda: "done")
    assert not writer.busy
    writer.start(job)
    assert reached.wait(SECONDS_AT_MOST)
    assert writer.busy
    assert writer.collect(wait=False) is None
    assert writer.busy
    go.set()
    assert writer.collect(wait=True) == "done"
    assert not writer.busy


def test_second_job_before_the_first_is_collected_is_a_mistake_of_the_caller(writer):
    writer.start(lambda: 1)
    with pytest.raises(AssertionError):
        writer.start(lambda: 2)
    assert writer.collect(wait=True) == 1


@pytest.mark.parametrize("error", [Unwritable("no space left"), ValueError("a bug")])
def test_failure_is_raised_once_by_whoever_collects_and_the_next_job_is_done(writer, error):
    def fail():
        raise error

    writer.start(fail)
    with pytest.raises(type(error)) as raised:
        writer.collect(wait=True)
    assert raised.value is error
    assert writer.collect(wait=True) is None
    writer.start(lambda: "next")
    assert writer.collect(wait=True) == "next"


def test_failure_is_raised_without_waiting_too(writer):
    def fail():
        raise Unwritable("no space left")

    def look():
        while True:
            writer.collect(wait=False)

    writer.start(fail)
    with pytest.raises(Unwritable):
        look()


def test_wait_that_an_interrupt_breaks_off_loses_nothing(writer, monkeypatch):
    go = threading.Event()
    writer.start(held(go, lambda: "done")[0])
    with monkeypatch.context() as patched:
        patched.setattr(concurrent.futures, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.collect(wait=True)
    go.set()
    assert writer.collect(wait=True) == "done"


def interrupt(*_):
    raise KeyboardInterrupt


def test_closed_writer_leaves_no_thread(writer):
    before = threading.active_count()
    other = Writer()
    other.start(lambda: None)
    other.collect(wait=True)
    assert threading.active_count() == before + 1
    other.close()
    assert threading.active_count() == before


ENDING = """
import sys
sys.modules["tensorflow"] = None
from trainer.checkpoint.writer import Writer
from trainer.errors import Unwritable

def fail():
    raise {error}

writer = Writer()
writer.start({job})
{then}
print("the end", end="")
"""


@pytest.mark.parametrize(
    ("error", "job", "then", "code"),
    [
        ("Unwritable('no space left')", "fail", "", 74),
        ("ValueError('a bug')", "fail", "", 1),
        ("Unwritable('no space left')", "lambda: None", "", 0),
        ("Unwritable('no space left')", "lambda: None", "writer.collect(wait=True); writer.start(fail)", 74),
        ("Unwritable('no space left')", "lambda: None", "writer.collect(wait=True); writer.close()", 0),
    ],
    ids=["unwritable", "bug", "done", "second", "closed"],
)
def test_process_that_never_looks_at_a_failure_does_not_end_as_if_all_were_well(error, job, then, code):
    ended = subprocess.run(
        [sys.executable, "-c", ENDING.format(error=error, job=job, then=then)],
        capture_output=True,
        text=True,
        timeout=SECONDS_AT_MOST,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    # What it had printed, and not flushed, is not lost either.
    assert ended.stdout == "the end"
    assert ("error: no space left" in ended.stderr) == (code == 74)
