"""A process that has imported TensorFlow, and forks one of its own for each job: none waits for that import.

It reads `{"jobs": […], "moment_s": …}` from each line, whose processes take turns, and answers with a line: a list of
`{"sample": …}` or `{"error": …, "details": …}`. Nothing of TensorFlow runs before a fork, so that threads and devices
are those of the job's process alone.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import IO, Any

from bench import clock
from bench.child import Child
from bench.turns import take_turns

LONGEST_S = 900
"""After how many seconds a job is given up, of those until its clock starts, and of those that it runs after it."""


def serve(asked: IO[str], answers: IO[str]) -> None:
    """Answers lists of jobs until there are no more."""
    for line in asked:
        print(json.dumps(_answers(**json.loads(line))), file=answers, flush=True)


def _answers(jobs: Sequence[dict[str, Any]], moment_s: float | None) -> list[dict[str, Any]]:
    def beginning(job: dict[str, Any]) -> Callable[[], Child]:
        return lambda: Child(lambda ready: _answer(job, ready), longest_s=LONGEST_S)

    def answered(child: Child) -> dict[str, Any]:
        answer = child.answer()
        if "sample" in answer and not child.started and len(jobs) > 1:
            # It did not wait for the others, and was measured beside them.
            return {"error": "it never said where its clock starts", "details": ""}
        return answer

    begin = [beginning(job) for job in jobs]
    return [answered(child) for child in take_turns(begin, moment_s=moment_s, at_once=os.cpu_count() or 1)]


def _answer(job: dict[str, Any], ready: Callable[[], None]) -> dict[str, Any]:
    from bench.jobs import Job, perform

    try:
        return {"sample": perform(Job(**job), ready)}
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
        clock.install()
        started = time.perf_counter()
        import tensorflow  # noqa: F401

        imported = time.perf_counter() - started
        import bench.floor  # noqa: F401  # And with it all of the trainer.

        gc.freeze()
        print(json.dumps({"import_s": imported, "versions": _versions()}), file=answers, flush=True)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
