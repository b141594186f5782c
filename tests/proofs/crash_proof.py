"""What a crash may leave of a run, and the proof that all of it leads to the end of the run that never crashed."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import random
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from disk import CRASHED, KILLED, Disk, Operation, Recorder, Tree, mixed, read_tree, write_tree
from small_run import STEPS, Model, SmallRun

from trainer.errors import TrainerError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest

_MIXES = 3


class Violation(AssertionError):
    """Something is left that breaks the promise."""


@dataclasses.dataclass(frozen=True)
class CrashPoint:
    """What is left after one end of a run."""

    tree: Tree
    floor: int | None
    """The newest checkpoint to count on: one whose commit has returned, or that was resumed from."""
    story: str
    """How it came to this."""


def record(path: pathlib.Path, *lives: dict[str, Any], **options: Any) -> list[Operation]:
    """The operations of a run whose processes live as the arguments of `go_on` say."""
    files = Recorder(path)
    with files.recording():
        for life in lives:
            run = SmallRun(RunDirectory(path, files), **options)
            if (found := run.resume().manifest) is not None:
                files.committed(found.step)
            run.go_on(**life)
    return files.operations


def crash_points(
    disk: Disk, operations: Sequence[Operation], seed: str, *, floor: int | None = None, before: str = ""
) -> Iterator[CrashPoint]:
    """All that can be left of a process, wherever it ends: after each of its operations, and in the middle of each.

    Args:
      disk: where it begins; each operation is applied to it.
      operations: what it does.
      seed: of the crashes in which each name and each file has its own luck.
      floor: the newest checkpoint to count on at its beginning.
      before: what happened before, for the story.
    """

    def ends(after: Disk, number: int, moment: str) -> Iterator[CrashPoint]:
        chances = (random.Random(f"{seed}/{number}/{mix}") for mix in range(_MIXES))
        for survival in (KILLED, *CRASHED, *map(mixed, chances)):
            yield CrashPoint(after.tree(survival), floor, f"{before}{survival.name} {moment} (seed {seed})")

    yield from ends(disk, -1, "before its first operation")
    for number, operation in enumerate(operations):
        for torn in operation.torn():
            halfway = disk.copy()
            halfway.apply(torn)
            yield from ends(halfway, number, f"within operation {number}, {operation}")
        disk.apply(operation)
        if operation.name == "committed":
            floor = operation.step
        yield from ends(disk, number, f"after operation {number}, {operation}")


@dataclasses.dataclass(frozen=True)
class Kill:
    """A run whose process was killed after one of its operations."""

    disk: Disk
    number: int
    operation: Operation
    floor: int | None
    path: pathlib.Path

    @property
    def newest(self) -> int:
        """The step of the newest checkpoint that is left; 0 where there is none."""
        return max(manifests(self.disk.tree()), default=0)

    def crash_points(self, seed: str, **life: Any) -> Iterator[CrashPoint]:
        """All that can be left of the next process, which lives as the arguments of `go_on` say."""
        path = self.path / str(self.number)
        write_tree(path, self.disk.tree())
        before = f"killed after operation {self.number}, {self.operation}, and in the next process "
        seed = f"{seed}/{self.number}"
        yield from crash_points(self.disk.copy(), record(path, life), seed, floor=self.floor, before=before)
        shutil.rmtree(path)


def kills(
    disk: Disk, operations: Sequence[Operation], path: pathlib.Path, *, floor: int | None = None
) -> Iterator[Kill]:
    """A kill after each operation, to be looked at before the next is asked for.

    Args:
      disk: where the run begins; each operation is applied to it.
      operations: what it does.
      path: a folder for the runs that go on.
      floor: the newest checkpoint to count on at its beginning.
    """
    for number, operation in enumerate(operations):
        disk.apply(operation)
        floor = operation.step if operation.name == "committed" else floor
        yield Kill(disk, number, operation, floor, path)


class Undisturbed:
    """The run that nothing happens to.

    Args:
      path: an empty folder for it.
    """

    def __init__(self, path: pathlib.Path) -> None:
        run = SmallRun(RunDirectory(path))
        run.resume()
        run.go_on()
        tree, model = read_tree(path), Model()
        self.log = tree["metrics.jsonl"] or b""
        self.weights = [model.content()]
        """By step."""
        for step in range(STEPS):
            model.update(step)
            self.weights.append(model.content())
        self.kept = settled(tree)
        assert run.model.content() == self.weights[STEPS]


class Proof:
    """Checks what is left against the run that nothing happened to.

    Args:
      undisturbed: that run.
      workspace: a folder for this, which is not there yet.
      transient: the steps at which a signal may have asked for a checkpoint.
      damaged: checkpoints that somebody has damaged: the content of the damaged file by step.
      moving: the steps of other checkpoints that may be on their way to the orphans.
    """

    def __init__(
        self,
        undisturbed: Undisturbed,
        workspace: pathlib.Path,
        *,
        transient: Collection[int],
        damaged: Mapping[int, bytes] | None = None,
        moving: Collection[int] = (),
    ) -> None:
        self._undisturbed = undisturbed
        self._workspace = workspace
        self._transient = transient
        self._damaged = damaged or {}
        self._moving = moving
        self._numbers = itertools.count()
        self._points: dict[Any, CrashPoint] = {}
        self._ended: set[Any] = set()
        self._looked_at = 0

    def look_at(self, points: Iterable[CrashPoint]) -> None:
        """Checks what can be seen from outside, and remembers all that differs: `resume` then tries it.

        Raises:
          Violation: what is left cannot be right.
        """
        for point in points:
            self._looked_at += 1
            key = (frozenset(point.tree.items()), point.floor)
            if key not in self._points:
                self._points[key] = point
                self._check(point)

    def resume(self, *, at_most: int, seed: str) -> str:
        """Starts the run again from what is left, to its end; of more than `at_most` directories, by chance.

        Returns:
          What was done, for the reader of the test's output.

        Raises:
          Violation: it does not come to the same end.
        """
        points = list(self._points.values())
        tried = points if len(points) <= at_most else random.Random(seed).sample(points, at_most)
        for point in tried:
            self._start(point)
        return (
            f"{self._looked_at} ends left {len(points)} different directories; {len(tried)} were resumed, "
            f"from {len(self._ended)} different states, to the one end (seed {seed})"
        )

    def _check(self, point: CrashPoint) -> None:
        """Every checkpoint is whole and finds its records, and the one to count on is there, or a newer one."""
        usable = self._usable(point)
        log = point.tree.get("metrics.jsonl") or b""
        for step, manifest in manifests(point.tree).items():
            # Also of a damaged one, as long as its files are there: an error that comes and goes damages nothing.
            there = all(f"{folder_of(step)}/{file.name}" in point.tree for file in manifest.files)
            vouched = self._undisturbed.log[: manifest.log.bytes]
            if there and not (log.startswith(vouched) and len(vouched) == manifest.log.bytes):
                raise Violation(f"checkpoint {step} does not find its records: {point.story}")
        if point.floor is not None and max(usable, default=-1) < point.floor:
            raise Violation(f"checkpoint {point.floor} was there to count on and is lost: {point.story}")

    def _usable(self, point: CrashPoint) -> set[int]:
        """The steps of the checkpoints that are whole: all but those that were damaged or moved."""
        usable = set()
        for step, manifest in manifests(point.tree).items():
            contents = {file: point.tree.get(f"{folder_of(step)}/{file.name}") for file in manifest.files}
            if all(
                content is not None and (len(content), f"{zlib.crc32(content):08x}") == (file.bytes, file.crc32)
                for file, content in contents.items()
            ):
                usable.add(step)
            elif step not in (*self._damaged, *self._moving):
                raise Violation(f"checkpoint {step} is not whole: {point.story}")
        return usable

    def _start(self, point: CrashPoint) -> None:
        path = self._workspace / str(next(self._numbers))
        write_tree(path, point.tree)
        run = SmallRun(RunDirectory(path))
        try:
            found = run.resume()
        except TrainerError as error:
            raise Violation(f"it does not resume, {error}: {point.story}") from error
        step = found.manifest.step if found.manifest else None
        newest = max(self._usable(point), default=None)
        if step != newest:
            raise Violation(f"it resumes from {step}, where {newest} is the newest usable checkpoint: {point.story}")
        if found.foreign:
            raise Violation(f"it does not know its own unfinished checkpoints {found.foreign}: {point.story}")
        if run.model.content() != self._undisturbed.weights[step or 0]:
            raise Violation(f"checkpoint {step} has the weights of another step: {point.story}")

        left = read_tree(path)
        vouched = found.manifest.log.bytes if found.manifest else 0
        if (left.get("metrics.jsonl") or b"") != self._undisturbed.log[:vouched]:
            raise Violation(f"the log does not end where checkpoint {step} says: {point.story}")
        later = (point.tree.get("metrics.jsonl") or b"")[vouched:]
        aside = {data for name, data in left.items() if name.startswith("orphans/")}
        damaged = set(self._damaged.values()).intersection(point.tree.values())
        if (later and later not in aside) or damaged - aside:
            raise Violation(f"what is no part of the run any more was not put aside: {point.story}")
        self._go_on(run, path, left, point)
        shutil.rmtree(path)

    def _go_on(self, run: SmallRun, path: pathlib.Path, left: Tree, point: CrashPoint) -> None:
        """Goes on to the end. What was put aside has no part in that, so that one of the same beginnings will do."""
        beginning = frozenset((name, data) for name, data in left.items() if not name.startswith("orphans"))
        if beginning in self._ended:
            return
        self._ended.add(beginning)
        run.go_on()
        end = read_tree(path)
        if end["metrics.jsonl"] != self._undisturbed.log or run.model.content() != self._undisturbed.weights[STEPS]:
            raise Violation(f"the log or the weights end otherwise: {point.story}")
        if difference := difference_of(end, self._undisturbed, transient=self._transient):
            raise Violation(f"{difference}: {point.story}")


def folder_of(step: int) -> str:
    """The folder of a checkpoint, in a tree."""
    return f"checkpoints/step-{step:010d}"


def manifests(tree: Tree) -> dict[int, Manifest]:
    """The manifests of the checkpoints in a tree, by step."""
    paths = {name: data for name, data in tree.items() if data is not None and name.startswith("checkpoints/step-")}
    found = (Manifest.parse(data) for name, data in paths.items() if name.endswith("/manifest.json"))
    return {manifest.step: manifest for manifest in found}


def settled(tree: Tree) -> dict[int, dict[str, Any]]:
    """What the manifests of the checkpoints that are not transient say, but for attempts and signals."""
    return {
        step: manifest.to_json() | {"attempt": None, "reasons": sorted({*manifest.reasons} - {"signal"})}
        for step, manifest in manifests(tree).items()
        if not manifest.transient
    }


def difference_of(tree: Tree, undisturbed: Undisturbed, *, transient: Collection[int]) -> str:
    """In what the checkpoints at the end differ from those of the run that nothing happened to; empty in nothing."""
    found, expected = settled(tree), undisturbed.kept
    if found.keys() != expected.keys():
        return f"the checkpoints {sorted(found)} stay, not {sorted(expected)}"
    for step, manifest in found.items():
        differing = {key for key, value in manifest.items() if value != expected[step][key]}
        if manifest["parent"] in transient:
            differing.discard("parent")
        if differing:
            return f"the manifest of checkpoint {step} differs in {', '.join(sorted(differing))}"
    ours = {*map(folder_of, manifests(tree)), "checkpoints/checkpoint"}
    names = {"/".join(name.split("/")[:2]) for name in tree if name.startswith("checkpoints/")}
    return f"there is still {', '.join(sorted(names - ours))}" if names - ours else ""
