"""The promise: whatever kills the processes of a run, it ends in the same bytes as one that nothing happened to.

`STORM_KILLS` is how many processes of each run are struck, 4 by default and 3 at least; the runs grow with it.
`STORM_SEED` repeats a storm as far as clocks allow; it is printed.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
import warm
from storm import (
    KILLED,
    LEAST,
    PREEMPTED,
    SECONDS_AT_MOST,
    Strike,
    Trainers,
    differences,
    ends,
    newest_step,
    settled,
    strikes,
)

from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.proof.audit.again import replay
from trainer.proof.audit.engine import audit
from trainer.timeline.schedule import RECONCILE_MODES
from trainer.views.tensorboard import first_difference

pytestmark = pytest.mark.slow

KILLS = max(LEAST, int(os.environ.get("STORM_KILLS", "4")))
SEED = os.environ.get("STORM_SEED") or str(random.SystemRandom().randrange(2**32))
STEPS = 30 * KILLS
# Co-prime cadences: a save falls at every possible place inside a window, beside evaluations and apart from them.
CADENCES = ("--log_every=7", "--save_every=5steps,0.1s", "--eval_every=3")
FLAGS = (f"--train_for={STEPS}steps", *CADENCES, "--tick=0.05s", "--progress=never")
ALL = "--keep_last=1000000"
EXPERIMENTS = {
    # As they come by default, few checkpoints stay: those, and what is pruned, are the same too.
    "digits": (
        *("--experiment=digits", "--keep_every=20steps", "--keep_best=2", "--monitor=validation/accuracy,train/loss"),
        "--save_if=mean3(train/loss)<best(mean3(train/loss)),train/accuracy>=ema0.5(train/accuracy)",
    ),
    "guest": ("--experiment=storm_experiments:Guest", ALL),
    "gan": ("--experiment=storm_experiments:Gan", ALL),
    "stream": ("--experiment=storm_experiments:Stream", ALL),
}
TRIES = 5


@pytest.fixture(scope="module")
def trainers(warm_server: warm.Server, tmp_path_factory: pytest.TempPathFactory) -> Trainers:
    return Trainers(warm_server, tmp_path_factory.mktemp("trainers"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_run_struck_at_random_moments_leaves_the_same_bytes_as_one_that_never_was(
    name: str,
    trainers: Trainers,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    chance = random.Random(f"{SEED}/{name}")
    # Each experiment has one of the modes, another one each time: all of all would take minutes.
    turn = random.Random(SEED).randrange(len(RECONCILE_MODES)) + list(EXPERIMENTS).index(name)
    reconcile = RECONCILE_MODES[turn % len(RECONCILE_MODES)]
    mode = (f"--reconcile={reconcile}", f"--async_save={chance.choice(['true', 'false'])}")
    print(f"STORM_KILLS={KILLS} STORM_SEED={SEED} {name}: {' '.join(mode)}")
    flags = [*EXPERIMENTS[name], *FLAGS, *mode]
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent), prepend=os.pathsep)
    undisturbed, struck = tmp_path / "undisturbed", tmp_path / "struck"
    # Not forked, so that what is forked below is compared with the command itself; and meanwhile.
    beside = start("main", *flags, f"--run_dir={undisturbed}")

    codes = []
    for strike in strikes(KILLS, STEPS, chance, early=name == "digits"):
        codes.append(weather(strike, trainers, flags, struck))
        assert len(codes) > 2 or (newest_step(struck) is None) == (name == "digits")
    if name == "digits":
        codes.append(strike_cold(start("main", *flags, f"--run_dir={struck}"), chance))
    assert beside.wait(timeout=SECONDS_AT_MOST) == 0, (tmp_path / "output.txt").read_text()[-2000:]
    assert trainers.train(flags, struck) == 0, trainers.told()[-2000:]

    stops = ends(struck)
    killed = [attempt for attempt, stop in stops.items() if stop is None]
    preempted = [attempt for attempt, stop in stops.items() if stop and stop["reason"] == "preempted"]
    print(f"ended with {codes}; the journal tells of {len(killed)} killed and {len(preempted)} preempted")
    assert len(killed) >= 2
    assert len(preempted) >= codes.count(PREEMPTED) >= 1
    assert stops[max(stops)]["reason"] in ("target reached", "nothing to do")
    assert not differences(struck, undisturbed)
    assert len(settled(undisturbed)) >= (5 if name == "digits" else STEPS // 7)
    for run in (struck, undisturbed):
        assert first_difference(run / "events", read_records(RunDirectory(run))) is None
    # The program proves it by itself, too; what is beside the tests only the commands can import.
    again = [("replay", lambda seen: replay(seen, lambda line: None, newest=3))] if name == "digits" else []
    failed = audit(str(struck), more=again).first
    assert failed is None, (failed.name, failed.failures)


def weather(strike: Strike, trainers: Trainers, flags: list[str], run_dir: pathlib.Path) -> int:
    """The exit code of a process that was struck; of the last of several, where the first came too far."""
    for _ in range(TRIES):
        before = newest_step(run_dir)
        code = trainers.train(flags, run_dir, strike)
        assert code in (KILLED, PREEMPTED, 0), trainers.told()[-2000:]
        if not strike.barren or newest_step(run_dir) == before:
            return code
    raise AssertionError(f"{TRIES} processes all came to a checkpoint before {strike}")


def strike_cold(process: subprocess.Popen[bytes], chance: random.Random) -> int:
    """Strikes a process within the seconds in which Python and TensorFlow start, or soon after."""
    time.sleep(chance.uniform(0, 4))
    process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
    code = process.wait(timeout=SECONDS_AT_MOST)
    assert code in (KILLED, -signal.SIGTERM, PREEMPTED, 0)
    return code
