"""The server of jobs, as the benchmark sees it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.jobs import Job

ROOT = Path(__file__).parents[2]
_LOOK_S = 1.0
"""How often it is looked whether the process that is to answer is still there."""


class Failed(Exception):
    """A job that came to nothing.

    Attributes:
      details: what it said.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


class Workers:
    """Performs jobs, each in a process of its own.

    Args:
      python: which Python they are made with.
    """

    def __init__(self, python: str = sys.executable) -> None:
        cores = str(os.cpu_count())
        # A job that is ended leaves nothing behind.
        self._place = tempfile.TemporaryDirectory(prefix="bench-")
        # The same for everyone.
        same = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}
        path = os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])
        self._process = subprocess.Popen(
            [python, "-m", "bench.server"],
            env={**os.environ, **same, "TMPDIR": self._place.name, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Whoever ends it ends the job with it.
            start_new_session=True,
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._place.cleanup()

    def ready(self) -> dict[str, Any]:
        """Waits until TensorFlow is imported; returns which and how long that took. Once, before the first job.

        Raises:
          Failed: it cannot be.
        """
        return dict(self._heard())

    def perform(self, job: Job) -> dict[str, Any]:
        """What a job measured that has the machine for itself.

        Raises:
          Failed: it came to nothing.
        """
        (sample,) = self.together([job], None)
        if isinstance(sample, Failed):
            raise sample
        return sample

    def together(self, jobs: Sequence[Job], moment_s: float | None) -> list[dict[str, Any] | Failed]:
        """What jobs measured that took turns in having the machine, or why one came to nothing.

        Args:
          jobs: which.
          moment_s: how long each has it at a time; None for until it is done.

        Raises:
          Failed: none can be performed any more.
        """
        assert self._process.stdin is not None
        asked = {"jobs": [dataclasses.asdict(job) for job in jobs], "moment_s": moment_s}
        with contextlib.suppress(BrokenPipeError):
            # Where nobody reads it, nobody answers either.
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        return [
            Failed(answer["error"], answer["details"]) if "error" in answer else dict(answer["sample"])
            for answer in self._heard()
        ]

    def _heard(self) -> Any:
        """What the next line says. There is never more than one that has not been read."""
        told = self._process.stdout
        assert told is not None
        # Jobs that outlive the process hold the other end open, stopped and for ever.
        while not select.select([told], [], [], _LOOK_S)[0] and self._process.poll() is None:
            pass
        line = told.readline() if select.select([told], [], [], 0)[0] else ""
        if not line:
            raise Failed(f"the process that starts the jobs ended with exit code {self._process.wait()}")
        return json.loads(line)
