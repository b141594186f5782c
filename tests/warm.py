"""Commands without the seconds in which Python and TensorFlow start.

A server is a process that has imported TensorFlow and all of the trainer but the commands themselves. For each command
line it forks a process, which is from then on what `python -m trainer.COMMAND …` would be: its folder, environment,
standard streams, signals, `sys.path` and `sys.argv`, how it ends, and that it says so with an exit code. Nothing of
TensorFlow runs before a fork.

What a process forked here cannot show is its own start: what is imported and how long that takes, what native code says
meanwhile, signals that come then, variables that are read then; nor another order of sets than that of its siblings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO

_READ_AT_START = ("PYTHON", "LD_", "DYLD_", "LANG", "LC_", "TF_", "XLA_", "CUDA_", "KERAS_", "OMP_", "OPENBLAS_")
"""What the variables begin with that Python, NumPy or TensorFlow read when they start."""
_SENT = "sent"


@dataclasses.dataclass(frozen=True)
class _Task:
    """One command line."""

    name: str
    arguments: tuple[str, ...]
    cwd: str
    environment: dict[str, str]


class Process:
    """A process that the server has forked, to be used as a `subprocess.Popen`."""

    def __init__(self, args: list[str], channel: Connection) -> None:
        self.args = args
        self.returncode: int | None = None
        self._channel = channel
        self.pid = int(channel.recv())

    def poll(self) -> int | None:
        """The exit code, −N after signal N; None while the process runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one.

        Raises:
          subprocess.TimeoutExpired: there is none after so many seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, if the process has not ended. The server does: it alone knows whose the process id is."""
        with contextlib.suppress(ConnectionError):  # It has ended meanwhile.
            if self.poll() is None:
                self._channel.send(int(number))
                self._hear()

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and self._channel.poll(timeout):
            self._hear()
        return self.returncode

    def _hear(self) -> None:
        """Takes what the server says: that a signal is sent, or how the process has ended."""
        said = self._channel.recv()
        if said != _SENT:
            self.returncode = int(said)
            self._channel.close()


def environment() -> dict[str, str]:
    """That of a user who runs a command now: ours, but for the log level that keeps TensorFlow quiet in the tests."""
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}


class Server:
    """Forks commands; one for many tests."""

    def __init__(self) -> None:
        """Starts it, in the environment as it is now: what a process reads of it at its start holds for all of them."""
        self._environment = environment()
        self._control, control = socket.socketpair()
        with control:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(control.fileno())],
                cwd="/",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[control.fileno()],
            )

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        cwd: str | os.PathLike[str],
        stdout: IO[bytes] | IO[str],
        stderr: IO[bytes] | IO[str],
    ) -> Process:
        """Starts `python -m trainer.NAME ARGUMENTS…` in the environment as it is now, with nothing to read.

        Raises:
          ValueError: that has another value of what only the start of a process reads.
        """
        now = environment()
        for variable in sorted({*now, *self._environment} - {"PYTHONPATH"}):
            if variable.startswith(_READ_AT_START) and now.get(variable) != self._environment.get(variable):
                raise ValueError(f"{variable} is read when a process starts: run trainer.{name} in one of its own")
        task = _Task(name, tuple(arguments), os.path.abspath(cwd), now)
        channel, theirs = Pipe()
        with theirs, open(os.devnull, "rb") as nothing:
            files = [theirs.fileno(), nothing.fileno(), stdout.fileno(), stderr.fileno()]
            socket.send_fds(self._control, [b"."], files)
        channel.send(dataclasses.asdict(task))
        return Process([sys.executable, "-m", f"trainer.{name}", *arguments], channel)

    def run(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        cwd: str | os.PathLike[str],
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python -m trainer.NAME ARGUMENTS…` to its end.

        Raises:
          subprocess.TimeoutExpired: it did not come to its end in so many seconds, and was killed.
        """
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = self.start(name, arguments, cwd=cwd, stdout=stdout, stderr=stderr)
            try:
                process.wait(timeout)
            except BaseException:
                process.kill()
                process.wait()
                raise
            for file in (stdout, stderr):
                file.seek(0)
            assert process.returncode is not None
            return subprocess.CompletedProcess(process.args, process.returncode, stdout.read(), stderr.read())

    def close(self) -> None:
        """Ends it, and what still runs of its processes."""
        self._control.close()
        self._process.wait()


@dataclasses.dataclass(frozen=True)
class _Started:
    """What the server is before it forks, and a process that it forks is made of."""

    path: list[str]
    """`sys.path` but for what a command line or the environment adds."""
    variables: dict[str, str]
    """What importing has set in the environment."""


def _import() -> _Started:
    """Imports what the commands do, also what they import only when they need it."""
    added = {os.path.dirname(os.path.abspath(__file__)), *_python_path(os.environ)}
    path, before = [entry for entry in sys.path if os.path.abspath(entry) not in added], dict(os.environ)
    sys.path[:] = [*_python_path(os.environ), *path]
    import trainer
    from trainer.process.quiet import quiet_start

    with quiet_start():
        for module in pkgutil.walk_packages(trainer.__path__, "trainer."):
            # Not the commands themselves: each is made anew, as `__main__`.
            if module.ispkg or module.name.count(".") > 1:
                importlib.import_module(module.name)
    changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
    changed.pop("TF_CPP_MIN_LOG_LEVEL", None)
    # Where temporary files are made is for each environment to say.
    tempfile.tempdir = None
    return _Started(path, changed)


def _python_path(environment: Mapping[str, str]) -> list[str]:
    return [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


class _Forks:
    """The server's side: forks a process for each command line that comes, and tells of its end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._channels: dict[int, Connection] = {}
        self._abandoned: set[int] = set()
        """Those for whose end nobody waits."""
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        for number in (signal.SIGCHLD, signal.SIGINT):
            # The one only wakes; the other, from a terminal, is for those who ask, and for the commands.
            signal.signal(number, lambda number, frame: None)

    def serve(self) -> _Task | None:
        """Serves as long as there is somebody to ask.

        Returns:
          In a process that was forked: what it has to do, with its standard streams in place and signals blocked. In
          the server itself None.
        """
        while True:
            heard = [self._channels[process] for process in self._channels.keys() - self._abandoned]
            ready = wait([self._control, self._awake, *heard])
            if self._awake in ready:
                os.read(self._awake, 4096)
                self._reap()
            for process, channel in self._channels.items():
                if channel in ready:
                    self._strike(process, channel)
            if self._control in ready:
                _, files, _, _ = socket.recv_fds(self._control, 1, 4)
                if not files:
                    for process in self._channels:
                        os.kill(process, signal.SIGKILL)
                    return None
                task = self._fork(Connection(files[0]), files[1:])
                if task is not None:
                    return task

    def _reap(self) -> None:
        while self._channels:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            # Whoever asked for it may have gone, too.
            with self._channels.pop(process) as channel, contextlib.suppress(ConnectionError):
                channel.send(os.waitstatus_to_exitcode(status))
            self._abandoned.discard(process)

    def _strike(self, process: int, channel: Connection) -> None:
        try:
            os.kill(process, channel.recv())
            channel.send(_SENT)
        except (EOFError, ConnectionError):
            self._abandoned.add(process)
            os.kill(process, signal.SIGKILL)

    def _fork(self, channel: Connection, streams: list[int]) -> _Task | None:
        """In the new process what it has to do, in the server None."""
        task = _Task(**channel.recv())
        # A signal that comes before the process is ready for it waits.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        process = os.fork()
        if process == 0:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            signal.set_wakeup_fd(-1)
            for end in (channel, *self._channels.values()):
                end.close()
            self._control.close()
            streams += [self._awake, self._wake]
        for stream in streams:
            os.close(stream)
        if process == 0:
            return task
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._channels[process] = channel
        with contextlib.suppress(ConnectionError):  # Whoever asked for it may have gone, which is seen next.
            channel.send(process)
        return None


def _become(task: _Task, started: _Started) -> None:
    """Makes of this process what `python -m` starts, and runs the command in it."""
    os.chdir(task.cwd)
    os.environ.clear()
    os.environ.update({**started.variables, **task.environment})
    sys.path[:] = [os.getcwd(), *_python_path(task.environment), *started.path]
    importlib.invalidate_caches()
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    sys.argv[1:] = task.arguments
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    runpy.run_module(f"trainer.{task.name}", run_name="__main__", alter_sys=True)


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    started = _import()
    # What is here is here for good: no collection of a forked process has to look through it, and so to copy it.
    gc.collect()
    gc.freeze()
    task = _Forks(control).serve()
    if task is not None:
        _become(task, started)


if __name__ == "__main__":
    _main()
