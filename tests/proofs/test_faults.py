"""Faults: whatever a disk, a person or a clock does to a run directory, a start goes on or refuses in one line.

Each fault ends in a run that goes on as if nothing had happened, or in the documented exit code with one line that says
what happened and what to do. Then it is mended, and the same run ends in the bytes of one that nothing happened to.

The model and its program are built once and lent to each start, so that a start takes a few milliseconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import functools
import json
import os
import pathlib
import resource
import shutil
import signal
import threading
import time
import types
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
import trainer.checkpoint.writer as writer_module
import trainer.ledger.journal as journal_module
import trainer.run.trainer as trainer_module
import trainer.storage.files as files_module
from trainer.checkpoint import tensors
from trainer.checkpoint.objects import variable_of
from trainer.checkpoint.saver import Saver
from trainer.checkpoint.store import CheckpointStore
from trainer.errors import TrainerError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record, compact_json
from trainer.ledger.run_info import RunInfo
from trainer.process.signals import StopRequest
from trainer.run import assembly
from trainer.run.delivery import Delivery
from trainer.storage.files import Files, writing
from trainer.views.status import read_status
from trainer.views.tensorboard import EventWriter

pytestmark = pytest.mark.slow

STEPS = 20
FLAGS = {"log_every": 4, "save_every": 5, "keep_last": 2, "keep_best": 0, "progress": "never"}

Tree = dict[str, "bytes | None"]


# --- A run that starts in milliseconds --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plane(trainer.Experiment):
    """Fits a plane of 600 weights, so that the tensors are the largest of all files."""

    free: str = trainer.field("as you like", on_resume="free")

    def model(self, seed: Any) -> tf.Module:
        module = tf.Module()
        module.kernel = tf.Variable(tf.random.stateless_normal([600], seed, alg="philox"))
        return module

    def optimizer(self) -> Any:
        return trainer.optim.SGD(0.1)

    def train_data(self) -> trainer.data.Source:
        x = np.random.default_rng(3).uniform(-0.1, 0.1, [10, 600]).astype(np.float32)
        return trainer.data.arrays({"x": x, "y": x.sum(axis=1)}, batch_size=4)

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(tf.square(tf.linalg.matvec(batch["x"], model.kernel) - batch["y"]))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a start ended: its exit code, what it told the user, and the step it came to."""

    code: int
    lines: tuple[str, ...]
    step: int | None = None

    @property
    def message(self) -> str:
        """All that was told."""
        return "\n".join(self.lines)


Start = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def instant_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine crashes here, and real syncs would only take time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def lent() -> Iterator[list[str]]:
    """Builds the parts of a run once, and puts them back to their beginning for each start.

    Yields:
      What each start chose for `jit`: the parts are the same whatever it is, a real run's would not be.
    """
    chosen: list[str] = []
    build = assembly.assemble
    built: list[tuple[assembly.Assembly, list[tuple[tf.Variable, Any]]]] = []

    def lend(experiment: Any, config: Any, *, known: RunInfo | None, **rest: Any) -> assembly.Assembly:
        if not built:
            parts = build(experiment, dataclasses.replace(config, jit="none"), known=None, **rest)
            checkpoint = parts.state.checkpoint()
            found = map(variable_of, tf.train.TrackableView(checkpoint).descendants())
            built.append((parts, [(variable, variable.numpy()) for variable in found if variable is not None]))
        parts, beginning = built[0]
        for variable, value in beginning:
            variable.assign(value)
        chosen.append(assembly.choose(config.jit, parts.state, parts.source, known=known.jit if known else None))
        schedule, decisions = assembly.schedule_and_decisions(config, parts.source, {})
        info = dataclasses.replace(parts.info, jit=chosen[-1], run_id=uuid.uuid4().hex)
        return dataclasses.replace(parts, config=config, schedule=schedule, decisions=decisions, info=info)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "assemble", lend)
        yield chosen


@pytest.fixture
def start(lent: list[str], capsys: pytest.CaptureFixture[str]) -> Start:
    """Starts a trainer in a folder, as the command does it."""

    def run(path: pathlib.Path, files: Files | None = None, **options: Any) -> Outcome:
        callbacks = {name: options.pop(name, None) for name in ("on_record", "stop_request")}
        given = {"run_dir": str(path), "train_for": STEPS, "async_save": False, **FLAGS, **options}
        if files is not None:
            # The lock and the event files are local, whatever the files are.
            given["run_dir"] = str(path)
        capsys.readouterr()
        step, errors = None, []
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            here = trainer.Trainer(Plane(), **callbacks, **given)
            here.directory = RunDirectory(path, files)
            try:
                result = here.run()
            except TrainerError as error:
                code = error.exit_code
                errors = [f"error: {error}"]
            else:
                code, step = result.exit_code, result.step
        # Python shows a warning in two lines, one of which is a piece of our code.
        told = [
            *capsys.readouterr().err.splitlines(),
            *(f"{item.message}\n  in Python's way" for item in shown),
            *errors,
        ]
        return Outcome(code, tuple(told), step)

    return run


@dataclasses.dataclass(frozen=True)
class Runs:
    """A run that nothing happened to, and one that was killed on its way, to be copied."""

    whole: pathlib.Path
    """It has reached the end."""
    killed: pathlib.Path
    """It has the checkpoints 5 and 10, later records, a torn one, and no lock."""


@pytest.fixture(scope="module")
def runs(lent: list[str], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        options = {"train_for": STEPS, **FLAGS}
        trainer.Trainer(Plane(), run_dir=str(path / "whole"), **options).run()
        request = StopRequest()
        ended = trainer.Trainer(
            Plane(),
            run_dir=str(path / "killed"),
            async_save=False,
            stop_request=request,
            on_record=lambda record: record.step < 8 or request.signal or request.note(signal.SIGTERM, None),
            **options,
        ).run()
    assert ended.step == 10
    log = (path / "whole" / "metrics.jsonl").read_bytes()
    lines = log.splitlines(keepends=True)
    assert len(lines) == 5
    (path / "killed" / "metrics.jsonl").write_bytes(b"".join([*lines[:3], lines[3][:40]]))
    return Runs(path / "whole", path / "killed")


@pytest.fixture
def path(runs: Runs, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the killed run."""
    return shutil.copytree(runs.killed, tmp_path / "run")


# --- What must hold ---------------------------------------------------------------------------------------------------


def read_tree(path: pathlib.Path) -> Tree:
    """Everything under a folder by its relative path."""
    return {str(item.relative_to(path)): item.read_bytes() if item.is_file() else None for item in path.rglob("*")}


def course(path: pathlib.Path) -> Tree:
    """What follows from the run's course alone: its records, and the tensors of the checkpoints that stay."""
    directory = RunDirectory(path)
    content: Tree = {"metrics.jsonl": (path / "metrics.jsonl").read_bytes()}
    for step in directory.committed_steps():
        if Manifest.load(directory, step).transient:
            continue
        reader = tf.train.load_checkpoint(directory.state_prefix(step))
        keys = [key for key in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in key]
        content |= {f"{step} {key}": reader.get_tensor(key).tobytes() for key in keys}
    return content


def assert_told(outcome: Outcome, code: int) -> None:
    """The documented code, and one line for each thing that there is to say, which says what to do."""
    assert outcome.code == code, outcome.message
    errors = [line for line in outcome.lines if not line.startswith("warning: ")]
    if code:
        assert len(errors) == 1, outcome.message
        assert errors[0].startswith("error: ")
        assert "\n" not in errors[0], outcome.message
        # What to do comes last.
        assert any(word in errors[0] for word in (";", ": mend", "choose another")), outcome.message
    else:
        assert not errors, outcome.message


def assert_undisturbed(path: pathlib.Path, runs: Runs) -> None:
    """The run has ended as one that nothing happened to."""
    assert course(path) == course(runs.whole)


def assert_intact(path: pathlib.Path, before: Tree, *, steps: tuple[int, ...] = (5, 10)) -> None:
    """The checkpoints of `steps` are as they were."""
    after = read_tree(path)
    for step in steps:
        names = [name for name in before if name.startswith(f"checkpoints/step-{step:010d}/")]
        assert names
        assert all(after.get(name) == before[name] for name in names), f"checkpoint {step} is not as it was"


def assert_refused(path: pathlib.Path, before: Tree) -> None:
    """A start that refuses leaves the checkpoints and the records as they were."""
    assert_intact(path, before)
    assert read_tree(path)["metrics.jsonl"] == before["metrics.jsonl"], "a start that refused has cut records"


def file_of(path: pathlib.Path, name: str) -> pathlib.Path:
    """The file of a run that `name` stands for."""
    if name == "events":
        return next((path / "events").iterdir())
    if name in ("state.index", "state.data-00000-of-00001", "manifest.json"):
        return path / "checkpoints" / "step-0000000010" / name
    return path / ("checkpoints/checkpoint" if name == "checkpoint" else name)


# --- Damaged files ----------------------------------------------------------------------------------------------------

CODES = {
    # Of the newest checkpoint: the one before it is used.
    ("state.index",): {0},
    ("state.data-00000-of-00001",): {0},
    ("manifest.json",): {0},
    # What the newest checkpoint does not vouch for is cut anyway.
    ("metrics.jsonl",): {0, 66},
    ("run.json",): {0, 66},
    # Nothing of what these say has a part in the result.
    ("checkpoint", "flags.txt", "journal.jsonl", "events", "lock"): {0},
}
"""What a start may end with when these files are damaged."""

FILES = pytest.mark.parametrize("names", CODES, ids=" and ".join)


def assert_survives(
    path: pathlib.Path,
    names: tuple[str, ...],
    damage: Callable[[bytes], bytes],
    runs: Runs,
    start: Start,
    lent: list[str],
) -> Outcome:
    """Damages files of a copy of the run, starts it, mends it where it refuses, and compares its end."""
    copy = shutil.copytree(path, path.with_name("copy"))
    originals = {file: file.read_bytes() for file in (file_of(copy, name) for name in names)}
    for file, content in originals.items():
        file.write_bytes(damage(content))
    before = read_tree(copy)
    outcome = start(copy)
    assert outcome.code in CODES[names], outcome.message
    assert_told(outcome, outcome.code)
    if outcome.code:
        assert_refused(copy, before)
        for file, content in originals.items():
            file.write_bytes(content)
        assert start(copy).code == 0
    assert_undisturbed(copy, runs)
    assert lent[-1] == lent[0], "the program was compiled otherwise"
    shutil.rmtree(copy)
    return outcome


@pytest.mark.slow
@FILES
def test_a_flipped_byte_at_each_64th_of_a_file_is_noticed_or_harmless(
    names: tuple[str, ...], path: pathlib.Path, runs: Runs, start: Start, lent: list[str]
) -> None:
    for number in range(64):
        outcome = assert_survives(path, names, functools.partial(flipped, number=number), runs, start, lent)
        if "state.data-00000-of-00001" in names:
            assert "checkpoint 10 was put aside" in outcome.message
        if "manifest.json" in names and not outcome.lines:
            # Unseen only where it says the same: in the name of the checksum itself.
            content = file_of(path, "manifest.json").read_bytes()
            assert Manifest.parse(flipped(content, number=number)) == Manifest.parse(content)


def flipped(content: bytes, *, number: int) -> bytes:
    """`content` with some bits of the byte at its 64th number `number` turned round."""
    damaged = bytearray(content)
    damaged[(len(content) - 1) * number // 63] ^= (0x01, 0x02, 0x80, 0xFF)[number % 4]
    return bytes(damaged)


@FILES
@pytest.mark.parametrize("share", ["nothing", "half", "all but a byte"])
def test_a_truncated_file_is_noticed_or_harmless(
    names: tuple[str, ...], share: str, path: pathlib.Path, runs: Runs, start: Start, lent: list[str]
) -> None:
    left = {"nothing": lambda size: 0, "half": lambda size: size // 2, "all but a byte": lambda size: size - 1}[share]
    assert_survives(path, names, lambda content: content[: left(len(content))], runs, start, lent)


def test_no_bit_of_the_identity_changes_unseen(path: pathlib.Path) -> None:
    """What jit or the id of the run say has no second witness."""
    known = RunInfo.load(RunDirectory(path))
    content = (path / "run.json").read_bytes()

    class InMemory(Files):
        def read(self, path: str) -> bytes:
            return bytes(damaged)

    directory = RunDirectory(path, InMemory())
    for place in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        with contextlib.suppress(Unusable):
            assert RunInfo.load(directory) == known, f"bit {place % 8} of byte {place // 8}"


def test_a_damaged_journal_or_manifest_is_shown_as_far_as_it_can_be_read(path: pathlib.Path) -> None:
    """`status` reads what people keep for years."""
    for name in ("journal.jsonl", "manifest.json"):
        file = file_of(path, name)
        content = file.read_bytes()
        for place in range(0, len(content), 7):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            file.write_bytes(damaged)
            status = read_status(str(path)).to_json()
            assert status["latest"] in (5, 10)
            assert status["goodput"] is None or 0 <= status["goodput"] <= 1
        file.write_bytes(content)


def test_a_damaged_checkpoint_is_put_aside_with_its_reason_and_the_one_before_is_used(
    path: pathlib.Path, runs: Runs, start: Start
) -> None:
    file = file_of(path, "state.data-00000-of-00001")
    flip(file)
    content = file.read_bytes()
    outcome = start(path)
    assert_told(outcome, 0)
    assert len(outcome.lines) == 1, outcome.message
    assert outcome.lines[0].startswith("warning: checkpoint 10 was put aside: it does not restore: ")
    aside = path / "orphans" / "attempt-0002" / "step-0000000010"
    assert (aside / file.name).read_bytes() == content
    assert (aside / "reason.txt").read_text() in outcome.message + "\n"
    assert [entry["step"] for entry in read_journal(RunDirectory(path)) if entry["event"] == "quarantine"] == [10]
    assert_undisturbed(path, runs)


def test_when_every_checkpoint_is_damaged_nothing_starts_afresh(path: pathlib.Path, runs: Runs, start: Start) -> None:
    files = sorted((path / "checkpoints").rglob("state.index"))
    contents = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(b"")
    before = read_tree(path)
    for _ in range(2):
        outcome = start(path)
        assert_told(outcome, 66)
        assert "step 10: state.index has 0 bytes" in outcome.message
        assert "step 5: state.index has 0 bytes" in outcome.message
        assert_refused(path, before)
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert start(path).code == 0
    assert_undisturbed(path, runs)


# --- Manifests that lie -----------------------------------------------------------------------------------------------


def rewritten(path: pathlib.Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest of checkpoint 10, which says of itself that it is as it was written."""
    file = file_of(path, "manifest.json")
    value = json.loads(file.read_bytes())
    del value["crc32"]
    change(value)
    value["crc32"] = f"{zlib.crc32(compact_json(value).encode()):08x}"
    file.write_bytes(compact_json(value).encode())


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a smaller file": (lambda value: value["files"][0].update(bytes=1), "its manifest says 1"),
    "an index of other content": (lambda value: value["files"][1].update(crc32="00000000"), "crc32 is another"),
    "a file that is not there": (lambda value: value["files"][0].update(name="state.data-00001-of-00002"), "missing"),
    "a file elsewhere": (lambda value: value["files"][0].update(name="../../metrics.jsonl"), "missing"),
    "no files": (lambda value: value.update(files=[]), "names no files"),
    "another step": (lambda value: value.update(step=11), "is that of step 11"),
    "a step that is none": (lambda value: value.update(step="ten"), "expected a count"),
    "another run": (lambda value: value.update(run="theirs"), "belongs to the run theirs"),
    "another format": (lambda value: value.update(format=2), "reads format 1"),
    "no window": (lambda value: value.pop("open_window"), "open_window"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_about_its_checkpoint_makes_a_bad_checkpoint(
    lie: str, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    change, reason = LIES[lie]
    rewritten(path, change)
    outcome = start(path)
    assert_told(outcome, 0)
    assert len(outcome.lines) == 1, outcome.message
    assert outcome.lines[0].startswith("warning: checkpoint 10 was put aside: ")
    assert reason in outcome.message
    assert_undisturbed(path, runs)


@pytest.mark.parametrize("garbage", [b"", b"null", b"[]", b"{}", b"weights", b"\xff\xfe"])
def test_a_manifest_that_is_no_manifest_makes_a_bad_checkpoint(
    garbage: bytes, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    file_of(path, "manifest.json").write_bytes(garbage)
    outcome = start(path)
    assert_told(outcome, 0)
    assert len(outcome.lines) == 1, outcome.message
    assert "its manifest" in outcome.message
    assert_undisturbed(path, runs)


@pytest.mark.parametrize(
    "lie", [{"sha256": "0" * 64}, {"sha256": ""}, {"bytes": 200}, {"bytes": 10**6}, {"records": 3}], ids=str
)
def test_a_manifest_that_vouches_for_another_log_is_refused(
    lie: dict[str, Any], path: pathlib.Path, runs: Runs, start: Start
) -> None:
    """Which of the two is wrong is not for us to say: nothing is put aside and nothing cut."""
    file = file_of(path, "manifest.json")
    original = file.read_bytes()
    rewritten(path, lambda value: value["log"].update(lie))
    before = read_tree(path)
    outcome = start(path)
    assert_told(outcome, 66)
    assert "metrics.jsonl is not what checkpoint 10 vouches for: " in outcome.message
    assert_refused(path, before)
    file.write_bytes(original)
    assert start(path).code == 0
    assert_undisturbed(path, runs)


def test_a_checkpoint_copied_in_from_another_run_is_put_aside(
    path: pathlib.Path, runs: Runs, start: Start, tmp_path: pathlib.Path
) -> None:
    """Newer than ours, of the same experiment, and whole: but not of this run."""
    shutil.copytree(runs.whole / "checkpoints" / "step-0000000020", path / "checkpoints" / "step-0000000020")
    outcome = start(path)
    assert_told(outcome, 0)
    assert len(outcome.lines) == 1, outcome.message
    assert "checkpoint 20 was put aside: it belongs to the run " in outcome.message
    assert_undisturbed(path, runs)


@pytest.mark.parametrize("name", ["state.data-00000-of-00001", "state.index", "both"])
def test_tensors_copied_in_from_another_step_are_not_taken_for_these(
    name: str, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    for file in ("state.data-00000-of-00001", "state.index"):
        if name in (file, "both"):
            shutil.copy(path / "checkpoints" / "step-0000000005" / file, file_of(path, file))
    outcome = start(path)
    assert_told(outcome, 0)
    assert "checkpoint 10 was put aside" in outcome.message
    assert_undisturbed(path, runs)


# --- An edited log ----------------------------------------------------------------------------------------------------


def replace(lines: list[bytes], number: int, old: bytes, new: bytes) -> bytes:
    changed = lines[number].replace(old, new, 1)
    assert changed != lines[number]
    return b"".join([*lines[:number], changed, *lines[number + 1 :]])


EDITS: dict[str, tuple[Callable[[list[bytes]], bytes], str]] = {
    "a digit": (
        lambda lines: replace(lines, 0, b'"learning_rate":0.1', b'"learning_rate":0.2'),
        "record 1 was changed",
    ),
    "a step": (lambda lines: replace(lines, 1, b'"step":8', b'"step":9'), "record 2 was changed"),
    "a dropped line": (lambda lines: b"".join(lines[1:]), "record"),
    "a doubled line": (lambda lines: lines[0] + b"".join(lines), "record"),
    "a line without its end": (lambda lines: lines[0][:-1] + b"".join(lines[1:]), "record 1"),
    "garbage in front": (lambda lines: b"# mine\n" + b"".join(lines), "record 1 is no record"),
    "the line ends of Windows": (lambda lines: b"".join(lines).replace(b"\n", b"\r\n"), "record 1 is no record"),
    "no line at all": (lambda lines: b"", "it ends after 0 bytes"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_log_is_refused_and_the_first_bad_record_named(
    edit: str, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    file = path / "metrics.jsonl"
    original = file.read_bytes()
    change, named = EDITS[edit]
    file.write_bytes(change(original.splitlines(keepends=True)))
    before = read_tree(path)
    for _ in range(2):
        outcome = start(path)
        assert_told(outcome, 66)
        assert "metrics.jsonl is not what checkpoint 10 vouches for: " in outcome.message
        assert named in outcome.message
        assert "put the original file back" in outcome.message
        assert_refused(path, before)
    file.write_bytes(original)
    assert start(path).code == 0
    assert_undisturbed(path, runs)


@pytest.mark.parametrize("garbage", [b"garbage\n", b"\0" * 500, b'{"kind":"train"}\n', b"\r\n\r\n", b"\xff\xfe"])
def test_garbage_behind_what_is_vouched_for_is_put_aside(
    garbage: bytes, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    file = path / "metrics.jsonl"
    vouched = Manifest.load(RunDirectory(path), 10).log.bytes
    file.write_bytes(file.read_bytes()[:vouched] + garbage)
    assert_told(start(path), 0)
    assert (path / "orphans" / "attempt-0002" / "metrics.jsonl").read_bytes() == garbage
    assert_undisturbed(path, runs)


# --- A disk that refuses ----------------------------------------------------------------------------------------------

WRITES = (
    "write",
    "append",
    "truncate",
    "sync",
    "sync_directory",
    "rename",
    "remove",
    "remove_directory",
    "remove_tree",
    "make_directory",
)
READS = ("read", "blocks", "read_tail", "size", "list", "crc32")


class FaultyFiles(Files):
    """Files to which something happens before an operation.

    Args:
      before: is told each operation and the path that it writes or reads; what it raises, the operation raises as if
        the operating system had.
    """

    def __init__(self, before: Callable[[str, str], None]) -> None:
        self.before = before


def _faulty(name: str) -> Callable[..., Any]:
    def operation(self: FaultyFiles, path: str, *rest: Any, **options: Any) -> Any:
        subject = rest[0] if name == "rename" else path
        if name == "make_directory" and os.path.isdir(path):
            return None  # There is nothing to do.
        with writing(subject) if name in WRITES else contextlib.nullcontext():
            try:
                self.before(name, subject)
            except OSError:
                if name in ("write", "append"):
                    # A disk takes what it can.
                    getattr(Files, name)(self, path, rest[0][: len(rest[0]) // 2])
                raise
        return getattr(Files, name)(self, path, *rest, **options)

    return operation


for _name in (*WRITES, *READS):
    setattr(FaultyFiles, _name, _faulty(_name))


def failing_at(number: int, code: int, done: list[str] | None = None) -> FaultyFiles:
    """Files whose write number `number` fails, and every one after it."""
    count = 0
    counting = threading.Lock()

    def before(name: str, path: str) -> None:
        nonlocal count
        if name not in WRITES:
            return
        with counting:
            count += 1
            if done is not None:
                done.append(f"{name} {os.path.basename(path)}")
            fails = count > number
        if fails:
            raise OSError(code, os.strerror(code), path)

    return FaultyFiles(before)


def unreadable(code: int, part: str) -> FaultyFiles:
    """Files that once refuse to read, list or measure a path that ends in `part`."""
    refused = False

    def before(name: str, path: str) -> None:
        nonlocal refused
        if name in READS and path.endswith(part) and not refused:
            refused = True
            raise OSError(code, os.strerror(code), path)

    return FaultyFiles(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "async_save"),
    [(errno.ENOSPC, True), (errno.EROFS, False)],
    ids=["full, asynchronous", "read-only, in place"],
)
def test_a_disk_that_takes_nothing_from_some_moment_on_ends_the_run_and_spoils_nothing(
    code: int, async_save: bool, path: pathlib.Path, runs: Runs, start: Start, tmp_path: pathlib.Path
) -> None:
    done: list[str] = []
    start(shutil.copytree(path, tmp_path / "counted"), failing_at(10**6, code, done), async_save=async_save)
    for number in range(len(done)):
        copy = shutil.copytree(path, tmp_path / "copy")
        outcome = start(copy, failing_at(number, code), async_save=async_save)
        assert_told(outcome, 74)
        assert os.strerror(code) in outcome.message
        assert RunDirectory(copy).committed_steps()[0] >= 10
        again = start(copy)
        assert_told(again, 0)
        assert not again.lines, f"{done[number]}: {again.message}"
        assert_undisturbed(copy, runs)
        shutil.rmtree(copy)


@pytest.mark.parametrize("async_save", [True, False], ids=["asynchronous", "in place"])
def test_tensors_that_do_not_fit_on_the_disk_end_the_run_and_leave_room_for_the_journal(
    async_save: bool, path: pathlib.Path, runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow writes these itself: a real limit stops it on the way."""
    write = tensors.write

    def limited(*arguments: Any, **options: Any) -> None:
        with at_most(1500):
            write(*arguments, **options)

    save = CheckpointStore.save

    def alone(store: CheckpointStore, *arguments: Any, **options: Any) -> None:
        save(store, *arguments, **options)
        # The limit is one of the whole process: nothing else may be written meanwhile.
        while store.busy:
            time.sleep(0.001)
            store.poll()

    monkeypatch.setattr(tensors, "write", limited)
    monkeypatch.setattr(CheckpointStore, "save", alone)
    before = read_tree(path)
    outcome = start(path, async_save=async_save)
    assert_told(outcome, 74)
    assert outcome.lines[-1].startswith("error: checkpoint 15 could not be written: ")
    assert "free space or mend the permissions, then run the same command again" in outcome.message
    assert_intact(path, before)
    assert sorted(item.name for item in (path / "checkpoints").iterdir()) == [
        "checkpoint",
        "step-0000000005",
        "step-0000000010",
    ]
    fault, stop = read_journal(RunDirectory(path))[-2:]
    assert (fault["event"], fault["error"]) == ("fault", "Unwritable")
    assert (stop["event"], stop["exit_code"], stop["saved"]) == ("stop", 74, False)
    monkeypatch.undo()
    assert not start(path).lines
    assert_undisturbed(path, runs)


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Lets no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["metrics.jsonl", "journal.jsonl"])
@pytest.mark.parametrize("async_save", [True, False], ids=["asynchronous", "in place"])
def test_a_log_or_a_journal_that_cannot_grow_ends_the_run(
    name: str, async_save: bool, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    line = {"metrics.jsonl": b'"step":12', "journal.jsonl": b'"event":"save"'}[name]

    class FullDisk(Files):
        def append(self, path: str, data: bytes) -> None:
            full = path.endswith(name) and line in data
            with at_most(os.path.getsize(path) + 10) if full else contextlib.nullcontext():
                super().append(path, data)

    before = read_tree(path)
    outcome = start(path, FullDisk(), async_save=async_save)
    assert_told(outcome, 74)
    assert f"cannot write {path / name}: File too large; free space" in outcome.message
    if name == "metrics.jsonl":
        assert_intact(path, before)
    assert not start(path).lines
    assert_undisturbed(path, runs)


def test_a_save_that_fails_beside_a_log_that_fails_is_told_in_one_line_each(
    path: pathlib.Path, runs: Runs, start: Start
) -> None:
    """A disk that is full refuses both: what the thread writes, and the next record."""
    records = 0
    saving, refused = threading.Event(), threading.Event()

    def before(name: str, subject: str) -> None:
        nonlocal records
        if name == "write" and "step-0000000015" in subject:
            saving.set()
            assert refused.wait(30)
        elif name == "append" and subject.endswith("metrics.jsonl"):
            records += 1
            if records == 1:
                return
            assert saving.wait(30)
            refused.set()
        else:
            return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), subject)

    outcome = start(path, FaultyFiles(before), async_save=True)
    assert_told(outcome, 74)
    assert "metrics.jsonl: No space left on device" in outcome.message
    assert not start(path).lines
    assert_undisturbed(path, runs)


def flip(file: pathlib.Path) -> None:
    """Changes a weight in a file of tensors."""
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)


def test_tensors_that_the_disk_keeps_otherwise_are_not_committed_at_the_end(
    path: pathlib.Path, runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tensors.write

    def betrayed(checkpoint: Any, prefix: str, **options: Any) -> None:
        write(checkpoint, prefix, **options)
        if options["step"] == STEPS:
            flip(pathlib.Path(f"{prefix}.data-00000-of-00001"))

    with monkeypatch.context() as patch:
        patch.setattr(tensors, "write", betrayed)
        outcome = start(path, async_save=True)
    assert_told(outcome, 74)
    assert outcome.lines[-1].startswith("error: checkpoint 20 was written but does not read back: ")
    assert RunDirectory(path).committed_steps()[0] == 15
    assert not start(path).lines
    assert_undisturbed(path, runs)


def test_a_committed_checkpoint_that_the_disk_keeps_otherwise_is_reported_at_the_end(
    path: pathlib.Path, runs: Runs, start: Start
) -> None:
    """Training might have gone on after this save, so that it was not read back before its commit."""
    request = StopRequest()

    def stopped(record: Record) -> None:
        if record.step == 12:
            flip(path / "checkpoints" / "step-0000000015" / "state.data-00000-of-00001")
            request.note(signal.SIGTERM, None)

    outcome = start(path, on_record=stopped, stop_request=request)
    assert_told(outcome, 74)
    assert outcome.lines[-1].startswith("error: checkpoint 15 was written but does not read back: ")
    again = start(path)
    assert_told(again, 0)
    assert "checkpoint 15 was put aside" in again.message
    assert_undisturbed(path, runs)


# --- A disk that cannot be read ---------------------------------------------------------------------------------------

SHORT_OF_READ = {
    "checkpoints/step-0000000010/manifest.json": 0,
    "checkpoints/step-0000000010/state.index": 0,
    "metrics.jsonl": 66,
    "run.json": 66,
    "flags.txt": 66,
    "journal.jsonl": 66,
}


class BadSector:
    """An open file that cannot be read, and whose error does not say which file it is."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> BadSector:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("name", SHORT_OF_READ)
def test_a_file_that_cannot_be_read_is_passed_over_or_refused(
    name: str, path: pathlib.Path, runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_tree(path)
    # The file, wherever it is moved to, and not another one that takes its place.
    bad, met = (path / name).stat().st_ino, []

    def opened(subject: str, mode: str) -> Any:
        file = open(subject, mode)  # noqa: SIM115
        if mode == "rb" and os.fstat(file.fileno()).st_ino == bad:
            met.append(subject)
            return BadSector(file)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(files_module, "open", opened, raising=False)
        outcome = start(path)
    assert met, "it was not read"
    assert_told(outcome, SHORT_OF_READ[name])
    assert os.strerror(errno.EIO) in outcome.message
    assert os.path.basename(name) in outcome.message
    if outcome.code:
        assert_refused(path, before)
        assert not start(path).lines
    else:
        assert outcome.message.startswith("warning: checkpoint 10 was put aside: ")
    assert_undisturbed(path, runs)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_folder_of_checkpoints_that_cannot_be_listed_starts_nothing_afresh(
    code: int, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    before = read_tree(path)
    outcome = start(path, unreadable(code, "/checkpoints"))
    assert_told(outcome, 66)
    assert os.strerror(code) in outcome.message
    assert_refused(path, before)
    assert not start(path).lines
    assert_undisturbed(path, runs)


@pytest.mark.parametrize("name", ["manifest.json", "state.index"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_a_machine_that_cannot_read_now_puts_no_checkpoint_aside(
    code: int, name: str, path: pathlib.Path, runs: Runs, start: Start
) -> None:
    before = read_tree(path)
    outcome = start(path, unreadable(code, f"step-0000000010/{name}"))
    assert_told(outcome, 66)
    assert "checkpoint 10 cannot be read now" in outcome.message
    assert_intact(path, before)
    assert not start(path).lines
    assert_undisturbed(path, runs)


@pytest.mark.parametrize("where", ["checkpoints", "checkpoints/step-0000000010"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_what_cannot_be_looked_at_is_not_taken_for_missing(
    where: str, code: int, path: pathlib.Path, runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As below a folder that may be listed and not entered: every question for a name in it is refused."""
    before, stat = read_tree(path), os.stat
    inside = str(path / where) + os.sep

    def refused(name: Any, *rest: Any, **options: Any) -> os.stat_result:
        if str(name).startswith(inside):
            raise OSError(code, os.strerror(code), name)
        return stat(name, *rest, **options)

    def silent(look: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda name: not str(name).startswith(inside) and look(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refused)
        # These need not ask `os.stat`, and say no where they cannot tell.
        patch.setattr(os.path, "exists", silent(os.path.exists))
        patch.setattr(os.path, "isdir", silent(os.path.isdir))
        outcome = start(path)
    assert_told(outcome, 66)
    assert os.strerror(code) in outcome.message
    assert_refused(path, before)
    assert not start(path).lines
    assert_undisturbed(path, runs)


# --- A run directory that goes away -----------------------------------------------------------------------------------


def put(kind: str, runs: Runs) -> Callable[[pathlib.Path], None]:
    """What somebody puts where the run directory was."""

    def act(path: pathlib.Path) -> None:
        if kind == "an empty folder":
            path.mkdir()
        elif kind == "another run":
            shutil.copytree(runs.whole, path)
        elif kind == "a file":
            path.write_bytes(b"mine")

    return act


PLACES = pytest.mark.parametrize("there", ["nothing", "an empty folder", "another run", "a file"])
ASYNC = pytest.mark.parametrize("async_save", [True, False], ids=["asynchronous", "in place"])


@PLACES
@ASYNC
def test_a_run_whose_directory_goes_away_ends_and_writes_nothing_to_what_is_there_now(
    there: str,
    async_save: bool,
    path: pathlib.Path,
    runs: Runs,
    start: Start,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aside = tmp_path / "aside"
    now: list[Tree] = []
    saved, write = threading.Event(), Saver.write

    def noted(saver: Saver, save: Any) -> Any:
        done = write(saver, save)
        saved.set()
        return done

    def taken(record: Record) -> None:
        if not now:
            assert saved.wait(30)
            path.rename(aside)
            put(there, runs)(path)
            now.append(read_tree(path) if path.is_dir() else {})

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "write", noted)
        outcome = start(path, on_record=taken, async_save=async_save)
    assert now, "no record was delivered"
    assert_told(outcome, 74)
    assert f"{path} was removed or replaced while it was in use" in outcome.message
    assert path.exists() == (there != "nothing")
    if path.is_dir():
        assert read_tree(path) == now[0]
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    aside.rename(path)
    assert not start(path).lines
    assert_undisturbed(path, runs)


@PLACES
def test_a_save_under_way_does_not_go_on_in_what_is_there_now(
    there: str, path: pathlib.Path, runs: Runs, start: Start, tmp_path: pathlib.Path
) -> None:
    aside = tmp_path / "aside"
    now: list[Tree] = []

    def before(name: str, subject: str) -> None:
        # The first thing that a save does in its thread.
        if (
            name == "sync"
            and subject.endswith("metrics.jsonl")
            and not now
            and threading.current_thread() is not threading.main_thread()
        ):
            path.rename(aside)
            put(there, runs)(path)
            now.append(read_tree(path) if path.is_dir() else {})

    outcome = start(path, FaultyFiles(before), async_save=True)
    assert now, "no save was begun"
    assert_told(outcome, 74)
    assert path.exists() == (there != "nothing")
    if path.is_dir():
        assert read_tree(path) == now[0]
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    aside.rename(path)
    assert not start(path).lines
    assert_undisturbed(path, runs)


@ASYNC
def test_a_directory_that_goes_away_while_tensorflow_writes_comes_back_as_no_checkpoint(
    async_save: bool,
    path: pathlib.Path,
    runs: Runs,
    start: Start,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorFlow makes the folders that it writes to."""
    aside, write = tmp_path / "aside", tensors.write

    def taken(*arguments: Any, **options: Any) -> None:
        path.rename(aside)
        write(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tensors, "write", taken)
        outcome = start(path, async_save=async_save)
    assert_told(outcome, 74)
    assert not RunDirectory(path).committed_steps()
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)
    assert not start(path).lines
    assert_undisturbed(path, runs)


# --- A disk that stands still -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True], ids=["to the end", "until a signal"])
def test_training_goes_on_while_the_disk_stands_still_and_the_next_save_waits(
    asked: bool, path: pathlib.Path, runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    frozen, thaw, request = threading.Event(), threading.Event(), StopRequest()
    wait = writer_module.concurrent.futures.wait

    def before(name: str, subject: str) -> None:
        if name == "write" and "step-0000000015" in subject:
            told.append("frozen")
            frozen.set()
            assert thaw.wait(30)
        if name == "append" and subject.endswith("metrics.jsonl"):
            if "12" in told:
                assert frozen.wait(30)
                if asked and not request:
                    request.note(signal.SIGTERM, None)
            told.append("16" if "12" in told else "12")

    def waits(*arguments: Any, **options: Any) -> Any:
        if "frozen" in told and not thaw.is_set():
            told.append("waits")
            thaw.set()
        return wait(*arguments, **options)

    def starts(delivery: Delivery) -> None:
        begin(delivery)
        delivery.settle()

    monkeypatch.setattr(writer_module.concurrent.futures, "wait", waits)
    if asked:
        # No step is trained beside the writing of a record: the signal of the record of step 16 comes before step 17.
        begin = Delivery.start
        monkeypatch.setattr(Delivery, "start", starts)
    outcome = start(path, FaultyFiles(before), async_save=True, stop_request=request, tick="0.000001s")
    assert told.count("waits") == 1
    assert told.index("frozen") < told.index("16") < told.index("waits")
    saves = {entry["step"]: entry for entry in read_journal(RunDirectory(path)) if entry["event"] == "save"}
    last = max(saves)
    assert saves[15]["wait_s"] < saves[last]["wait_s"] <= saves[last]["stall_s"]
    if asked:
        assert (outcome.code, outcome.step) == (75, last)
        assert last == 17
        assert saves[last]["reasons"] == ["signal"]
        assert start(path).code == 0
    else:
        assert (outcome.code, last) == (0, STEPS)
    assert_undisturbed(path, runs)


# --- A clock that jumps backwards -------------------------------------------------------------------------------------


def test_a_clock_that_jumps_backwards_changes_nothing_but_the_times(
    path: pathlib.Path, runs: Runs, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(10**9, 0, -3600))

    class Backwards(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(next(seconds), tz)

    clock = types.SimpleNamespace(datetime=Backwards, timezone=datetime.timezone, timedelta=datetime.timedelta)
    monkeypatch.setattr(journal_module, "datetime", clock)
    monkeypatch.setitem(EventWriter.__init__.__kwdefaults__, "clock", lambda: float(next(seconds)))
    assert_told(start(path, async_save=True), 0)
    assert_undisturbed(path, runs)
    times = [entry["time"] for entry in read_journal(RunDirectory(path)) if entry["attempt"] == 2]
    assert len(times) > 3
    assert times == sorted(times, reverse=True)
    status = read_status(str(path)).to_json()
    assert status["latest"] == STEPS
    assert status["goodput"] is None or 0 <= status["goodput"] <= 1
