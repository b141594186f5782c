"""Processes that are really killed, inside their saves and wherever else they write: the run ends in the same bytes."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import small_run
from crash_proof import Undisturbed, difference_of
from disk import read_tree
from small_run import Life

pytestmark = pytest.mark.slow

RUNS = 8
KILLS_AT_MOST = 15
"""In each run; most end before, since two in three of their processes come some saves further."""
REACH = 60
"""Operations on files within which a process is killed: those of two saves and a half, or of a resume and a save."""
WRITE_S = 0.006
"""About as long as TensorFlow writes such a checkpoint."""
SIGNALS = (2, 5, 10, 11, 22)
SIGKILL = -9
SECONDS_AT_MOST = 120


class Server:
    """Lives of the small run, each a process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, small_run.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def live(self, life: Life) -> tuple[int, str]:
        """Its exit code, and where it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(life)) + "\n")
        self._process.stdin.flush()
        where = ""
        for line in self._process.stdout:
            if line.strip().lstrip("-").isdigit():
                return int(line), where
            where = line.strip()
        raise AssertionError("the server of lives has died")

    def close(self) -> None:
        self._process.communicate(timeout=SECONDS_AT_MOST)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_runs_killed_inside_saves_end_in_the_same_bytes(server: Server, tmp_path: pathlib.Path) -> None:
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(2**32))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    undisturbed = Undisturbed(tmp_path / "undisturbed")
    moments = chance.sample(range(REACH), REACH)
    places: collections.Counter[str] = collections.Counter()
    for number in range(RUNS):
        path, kills = tmp_path / f"run-{number}", 0
        for attempt in range(KILLS_AT_MOST):
            life = Life(path=str(path), signals=SIGNALS)
            if attempt % 3 == 2:
                write, delay_s = chance.randrange(3), chance.uniform(0, WRITE_S)
                life = dataclasses.replace(life, kill_in_write=write, delay_s=delay_s)
            else:
                life = dataclasses.replace(life, kill_at=moments[sum(places.values()) % REACH])
            code, place = server.live(life)
            if code == 0:
                break
            assert code == SIGKILL, f"{life} ended with {code}"
            kills += 1
            places[re.sub(r"[-\d]+", "", place)] += 1
        else:
            assert server.live(Life(path=str(path), signals=SIGNALS)) == (0, "")
        assert kills >= 3, "the run was killed too seldom"
        tree = read_tree(path)
        assert tree["metrics.jsonl"] == undisturbed.log
        assert not difference_of(tree, undisturbed, transient=SIGNALS)
    print(f"{sum(places.values())} kills in {RUNS} runs: {dict(places)}")
