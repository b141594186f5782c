"""A process that has imported TensorFlow, and forks one of its own for each job: none waits for that import.

It reads a job in JSON from each line, and answers with a line: `{"sample": …}` or `{"error": …, "details": …}`. Nothing
of TensorFlow runs before a fork, so that threads and devices are those of the job's process alone.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from importlib import metadata
from typing import IO, Any

LONGEST_S = 900
"""After how many seconds a job is given up."""


def serve(jobs: IO[str], answers: IO[str]) -> None:
    """Answers jobs until there are no more."""
    for line in jobs:
        print(json.dumps(_forked(json.loads(line))), file=answers, flush=True)


def _forked(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            # What is printed by whoever takes part is no answer, and what fails is told with it.
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            signal.alarm(LONGEST_S)
            json.dump(_answer(job), answer)
            answer.flush()
            # Not as Python ends: threads may still run.
            os._exit(0)
        _, status = os.waitpid(child, 0)
        answer.seek(0)
        said.seek(0)
        if text := answer.read():
            return dict(json.loads(text))
        code = os.waitstatus_to_exitcode(status)
        how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
        return {"error": how, "details": said.read()[-4000:]}


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    from bench.jobs import Job, perform

    try:
        return {"sample": perform(Job(**job))}
    except BaseException as error:  # Whatever it is: it is the answer.
        first = str(error).strip().partition("\n")[0]
        return {"error": f"{type(error).__name__}: {first}"[:200], "details": traceback.format_exc()[-4000:]}


def _versions() -> dict[str, str | None]:
    """Of what takes part; None of what is not installed."""
    found: dict[str, str | None] = {}
    for name in ("checkpoint-trainer", "tensorflow", "keras", "numpy", "tf-models-official", "tf_keras"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    """Imports, says how long that took, and serves."""
    # The answers go where the standard output went, and nothing else does.
    with os.fdopen(os.dup(1), "w") as answers, open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        started = time.perf_counter()
        import tensorflow  # noqa: F401

        imported = time.perf_counter() - started
        import bench.floor  # noqa: F401  # And with it all of the trainer.

        gc.freeze()
        print(json.dumps({"import_s": imported, "versions": _versions()}), file=answers, flush=True)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
