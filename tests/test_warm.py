"""Processes that the server of commands forks are as those that `python -m` starts."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import warm

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., warm.Process]

PROBE = """
import json, locale, os, pathlib, signal, sys, tempfile, threading

main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv,
    "main": [main.__name__, main.__spec__.name, main.__file__],
    "cwd": os.getcwd(),
    "path": sys.path,
    "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
    "signals": {int(number): str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "wakes": signal.set_wakeup_fd(-1),
    "threads": [thread.name for thread in threading.enumerate()],
    "streams": [
        [stream.name, stream.fileno(), stream.encoding, stream.errors, stream.line_buffering, stream.isatty()]
        for stream in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "read": sys.stdin.read(),
    "temporary": tempfile.gettempdir(),
    "group": [os.getpgrp(), os.getsid(0)],
    "umask": os.umask(0),
    "encoding": locale.getpreferredencoding(),
    "sockets": sorted(link for link in map(os.readlink, filter(os.path.islink, pathlib.Path("/proc/self/fd").glob("*")))
                      if "socket" in link),
}))
print("to stderr", file=sys.stderr)
sys.exit(7)
"""
FLAGS = ("main", "--experiment=probe:Probe", "--set", "a=b c", "--run_dir=")


@pytest.fixture
def probe(tmp_path: pathlib.Path) -> Callable[[str], None]:
    """Has the process run this as soon as it imports its experiment."""

    def write(code: str) -> None:
        (tmp_path / "probe.py").write_text(code)

    return write


def test_it_is_in_all_that_a_command_can_see_as_one_of_its_own(
    command: Command,
    cold_command: Command,
    probe: Callable[[str], None],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe(PROBE)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "more"), prepend=os.pathsep)
    monkeypatch.setenv("A_VARIABLE", "new")
    monkeypatch.delenv("HOME", raising=False)
    ours, theirs = command(*FLAGS), cold_command(*FLAGS)
    assert json.loads(ours.stdout) == json.loads(theirs.stdout)
    assert (ours.returncode, ours.stderr, ours.args) == (7, "to stderr\n", theirs.args)
    told = json.loads(ours.stdout)
    assert told["argv"][1:] == list(FLAGS[1:])
    assert told["path"][:2] == [str(tmp_path), str(tmp_path / "more")]
    assert told["temporary"] == str(tmp_path / "temporary")
    assert told["sockets"] == []


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        ("raise KeyError('what')", 1, "KeyError: 'what'"),
        ("import sys; sys.exit('why')", 1, "why"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os; os.abort()", -signal.SIGABRT, ""),
        ("import os; os._exit(75)", 75, ""),
        ("import trainer.errors; raise trainer.errors.InUse('taken')", 73, "error: taken"),
    ],
)
def test_it_ends_as_one_of_its_own(
    code: str, returncode: int, said: str, command: Command, probe: Callable[[str], None]
) -> None:
    probe(code)
    ended = command(*FLAGS[:2])
    assert ended.returncode == returncode
    assert ended.stderr.splitlines()[-1:] == ([said] if said else [])
    assert ended.stdout == ""


def test_what_is_to_be_done_at_the_end_is_done(command: Command, probe: Callable[[str], None]) -> None:
    probe(
        "import atexit, sys, threading, time\n"
        "atexit.register(print, 'at exit')\n"
        "thread = threading.Thread(target=lambda: (time.sleep(0.2), print('of the thread')))\n"
        "thread.start()\n"
        "sys.exit(3)"
    )
    ended = command(*FLAGS[:2])
    assert (ended.returncode, ended.stdout.splitlines()) == (3, ["of the thread", "at exit"])


def test_each_has_random_numbers_of_its_own(command: Command, probe: Callable[[str], None]) -> None:
    probe("import numpy, random, sys; print(random.random(), numpy.random.random()); sys.exit()")
    first, second = (command(*FLAGS[:2]).stdout.split() for _ in range(2))
    assert len({*first, *second}) == 4


def test_what_one_imports_and_changes_no_other_sees(command: Command, probe: Callable[[str], None]) -> None:
    probe("import sys, tensorflow; print(hasattr(tensorflow, 'mine')); tensorflow.mine = 1; sys.exit()")
    assert [command(*FLAGS[:2]).stdout for _ in range(2)] == ["False\n", "False\n"]
    probe("import sys; print('other'); sys.exit()")
    assert command(*FLAGS[:2]).stdout == "other\n"


def test_a_variable_that_only_a_start_reads_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(ValueError, match="TF_ENABLE_ONEDNN_OPTS is read when a process starts"):
        command("main", "--help")


def waits(pid: int, number: signal.Signals) -> bool:
    """Whether a signal to a process has not been delivered yet, where the system tells."""
    try:
        told = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    [waiting] = re.findall(r"^ShdPnd:\s*(\w+)$", told, re.MULTILINE)
    return bool(int(waiting, 16) >> (number - 1) & 1)


def test_several_run_at_a_time_and_each_takes_its_own_signals(
    warm_start: Start, probe: Callable[[str], None], tmp_path: pathlib.Path
) -> None:
    # One write each: they share the file, and `print` may write the end of its line by itself.
    probe(r"import os, time; os.write(1, b'%d\n' % os.getpid()); time.sleep(60)")
    processes = [warm_start(*FLAGS[:2]) for _ in range(3)]
    while len((tmp_path / "output.txt").read_text().splitlines()) < 3:
        assert [process.poll() for process in processes] == [None] * 3
        time.sleep(0.01)
    assert {*map(int, (tmp_path / "output.txt").read_text().split())} == {process.pid for process in processes}
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(timeout=0.01)
    processes[1].kill()
    assert processes[1].wait(timeout=60) == -signal.SIGKILL
    # Noted, as the command does it, and the second one acted on at once. Two that wait are not seen in their order.
    for number in (signal.SIGINT, signal.SIGTERM):
        processes[2].send_signal(number)
        while waits(processes[2].pid, number):
            time.sleep(0.01)
    assert processes[2].wait(timeout=60) == 130
    assert processes[0].poll() is None
    processes[2].send_signal(signal.SIGKILL)
    assert (processes[1].poll(), processes[2].poll()) == (-signal.SIGKILL, 130)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_the_command_is_there_is_that_of_a_process_that_starts(
    number: signal.Signals, warm_start: Start
) -> None:
    process = warm_start("main", "--dry_run")
    process.send_signal(number)
    # It may have come as far as to note it.
    assert process.wait(timeout=60) in (-number, 75, 130, 0)


def test_whoever_does_not_end_in_time_is_killed(
    warm_server: warm.Server, probe: Callable[[str], None], tmp_path: pathlib.Path
) -> None:
    probe("import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        warm_server.run(*FLAGS[:1], FLAGS[1:2], cwd=tmp_path, timeout=2)
    assert gone(int((tmp_path / "pid").read_text()))


def test_nobody_outlives_whoever_asked_for_it(probe: Callable[[str], None], tmp_path: pathlib.Path) -> None:
    probe("import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)")
    program = (
        "import os, signal, sys, time; sys.path.append(sys.argv[1])\n"
        "import warm\n"
        "server = warm.Server()\n"
        f"process = server.start('main', {FLAGS[1:2]}, cwd=os.curdir, stdout=sys.stdout, stderr=sys.stderr)\n"
        "while not os.path.exists('pid'): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(pathlib.Path(__file__).parent)]
    ended = subprocess.run(command, cwd=tmp_path, env=warm.environment(), timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert gone(int((tmp_path / "pid").read_text()))


def gone(process: int) -> bool:
    """Whether it ends, at the latest after seconds that only a failure takes."""
    for _ in range(1000):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False
