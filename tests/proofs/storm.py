"""Runs that are killed from outside, and what has to be the same in the end."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import warm

from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import last_attempt, read_journal
from trainer.ledger.manifest import load_manifests
from trainer.proof.compare import first_tensor_difference

KILLED, PREEMPTED = -signal.SIGKILL, 75
LEAST = 3
SECONDS_AT_MOST = 120
_POLL_S = 0.002


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strike:
    """One end of a process, and when it comes."""

    signals: tuple[signal.Signals, ...]
    """One, or a SIGTERM and what does not wait for the last save."""
    event: str
    """What the process has to note in the journal before."""
    step: int = 0
    """Where the event is a save: of this step or a later one."""
    delay_s: float = 0.0
    """How long after that."""
    barren: bool = False
    """Whether it is to come before the process has saved anything."""

    @staticmethod
    def at(step: int, chance: random.Random) -> Strike:
        """A strike some time after the save of `step`, or, as it comes, before anything of the kind."""
        signals = chance.choice([(signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGKILL)])
        event = chance.choice(["save", "save", "save", "start", "plan"])
        return Strike(signals=signals, event=event, step=step, delay_s=chance.uniform(0, 0.1))


class Trainers:
    """Trainers, each a process that can be struck."""

    def __init__(self, server: warm.Server, folder: pathlib.Path) -> None:
        self._server, self._folder = server, folder
        self._output = folder / "storm.txt"

    def train(self, arguments: list[str], run_dir: pathlib.Path, strike: Strike | None = None) -> int:
        """The exit code of a process that trains, and is struck once.

        Raises:
          AssertionError: it did not come to that moment in time.
        """
        directory = RunDirectory(run_dir)
        attempt = last_attempt(directory) + 1
        with self._output.open("ab") as output:
            process = self._server.start(
                "main", [*arguments, f"--run_dir={run_dir}"], cwd=self._folder, stdout=output, stderr=output
            )
        if strike is not None:
            self._wait_for(strike, directory, attempt, process)
            for number, one in enumerate(strike.signals):
                time.sleep(strike.delay_s if not number else strike.delay_s / 4)
                process.send_signal(one)
        return process.wait()

    def told(self) -> str:
        """What the trainers have written."""
        return self._output.read_text(errors="replace")

    def _wait_for(self, strike: Strike, directory: RunDirectory, attempt: int, process: warm.Process) -> None:
        deadline = time.monotonic() + SECONDS_AT_MOST
        while time.monotonic() < deadline:
            for entry in read_journal(directory):
                # A process that has come to its end has come past every other moment.
                reached = entry["event"] in (strike.event, "stop")
                if (
                    entry["attempt"] == attempt
                    and reached
                    and (entry.get("step") or 0) >= strike.step * (entry["event"] == "save")
                ):
                    return
            time.sleep(_POLL_S)
        process.kill()
        raise AssertionError(f"the process did not come to {strike}: {self.told()[-2000:]}")


def strikes(count: int, steps: int, chance: random.Random, *, early: bool) -> Iterator[Strike]:
    """The strikes of a storm over a run of `steps` steps: `LEAST` that always come, and the others by chance.

    The first two are in a row: the second comes before its process has saved anything.

    Args:
      early: whether the first comes before there is any checkpoint.
    """
    first, second = sorted(chance.randrange(1, steps // 2) for _ in range(2))
    others = sorted(chance.randrange(second, steps * 9 // 10) for _ in range(count - LEAST))
    if early:
        yield Strike(signals=(signal.SIGKILL,), event="plan", delay_s=chance.uniform(0, 0.01), barren=True)
    else:
        yield Strike(signals=(signal.SIGKILL,), event="save", step=first, delay_s=chance.uniform(0, 0.05))
    event = chance.choice(["start", "plan"])
    yield Strike(signals=(signal.SIGKILL,), event=event, delay_s=chance.uniform(0, 0.005), barren=True)
    yield Strike(signals=(signal.SIGTERM,), event="save", step=second, delay_s=chance.uniform(0, 0.05))
    for step in others:
        yield Strike.at(step, chance)


def newest_step(run_dir: pathlib.Path) -> int | None:
    """The step of the newest checkpoint."""
    return next(iter(RunDirectory(run_dir).committed_steps()), None)


def ends(run_dir: pathlib.Path) -> dict[int, Mapping[str, Any] | None]:
    """How each attempt ended, by its number: the line of its stop; None where it was killed."""
    journal = read_journal(RunDirectory(run_dir))
    stops = {entry["attempt"]: entry for entry in journal if entry["event"] == "stop"}
    return {entry["attempt"]: stops.get(entry["attempt"]) for entry in journal if entry["event"] == "start"}


def settled(run_dir: pathlib.Path) -> dict[int, dict[str, Any]]:
    """What the manifests of the checkpoints that are not transient say, but for clocks, attempts and signals."""
    found = {}
    manifests, unusable = load_manifests(RunDirectory(run_dir))
    assert not unusable
    for manifest in manifests.values():
        if manifest.transient:
            continue
        said = manifest.to_json()
        control, data = dict(said["control"]), dict(said["data"])
        for name in ("cadence", "events"):
            control.pop(name)
        data.pop("state_bytes", None)
        reasons = sorted({*manifest.reasons} - {"time", "signal"})
        for name in ("attempt", "crc32", "files", "kept", "parent", "run"):
            said.pop(name, None)
        found[manifest.step] = {**said, "control": control, "data": data, "reasons": reasons}
    return found


def differences(run_dir: pathlib.Path, expected: pathlib.Path) -> list[str]:
    """In what two runs differ that have to be the same: their records, and the checkpoints that are not transient."""
    found = []
    if (run_dir / "metrics.jsonl").read_bytes() != (expected / "metrics.jsonl").read_bytes():
        found.append("the records")
    ours, theirs = settled(run_dir), settled(expected)
    if ours.keys() != theirs.keys():
        found.append(f"the checkpoints {sorted(ours.keys() ^ theirs.keys())} are in one of them only")
    for step in sorted(ours.keys() & theirs.keys()):
        keys = (key for key in {**ours[step], **theirs[step]} if ours[step].get(key) != theirs[step].get(key))
        found += [f"{key} in the manifest of checkpoint {step}" for key in keys]
        here, there = (RunDirectory(path).state_prefix(step) for path in (run_dir, expected))
        difference = first_tensor_difference(there, here)
        # A checkpoint that was completed after its process was stopped may have closed the window that its file holds;
        # the manifest has the last word on it.
        closed = not ours[step]["open_window"]["steps"]
        if difference and not (closed and difference.name == "window"):
            found.append(f"checkpoint {step}: {difference.name} {difference.detail}")
    return found
