"""Segments of a run: what may change on a resume begins one, and the past stays what it was."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import trainer
from trainer.data import fold_in, run_seed
from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import DataOrigin, Segment
from trainer.run import machine
from trainer.run.program import Program
from trainer.run.segments import Continuation, newest_manifest, order_seed

ONE_STEP_A_CHUNK = "0.000001s"
OPTIONS: Mapping[str, Any] = {"log_every": 1, "save_every": "2steps", "keep_last": 9, "keep_best": 0}

Train = Callable[..., trainer.Result]
Manifests = Callable[..., dict[int, Manifest]]


class Killed(Exception):
    """Stands for a kill: nothing is saved after it."""


@pytest.fixture(scope="module")
def growing(linear: Any) -> Any:
    """An experiment whose data grows; its records, one a step, tell which examples each batch held."""

    @dataclasses.dataclass(frozen=True)
    class Growing(linear):
        examples: int = trainer.field(10, on_resume="free")
        evaluated: int = trainer.field(0, on_resume="free")
        momentum: float = 0.0

        def optimizer(self) -> Any:
            return trainer.optim.SGD(self.learning_rate, momentum=0.5 + self.momentum)

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            if not self.evaluated:
                return {}
            split = dataclasses.replace(self, examples=self.evaluated)
            return {"validation": split.source(batch_size=5)}

        def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
            return {f"seen{place}": float(value) for place, value in enumerate(means["order"])}

    return Growing


@pytest.fixture
def killed(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains until the process is as good as killed, right after a step and before anything is saved there."""
    run = Program.run

    def until(step: int, experiment: trainer.Experiment, **options: Any) -> None:
        def and_die(program: Program, until: int, *rest: Any) -> Any:
            advance = run(program, until, *rest)
            if until >= step:
                raise Killed
            return advance

        with monkeypatch.context() as patch:
            patch.setattr(Program, "run", and_die)
            with pytest.raises(Killed):
                train(experiment, tick=ONE_STEP_A_CHUNK, **options)

    return until


def seen(records: Sequence[Record], before: int = 0) -> list[int]:
    """The examples that the steps of the records took, in their order."""
    taken: list[int] = []
    for record in records:
        count = record.examples - before
        taken += [round((record.metrics[f"seen{place}"] or 0) * count) for place in range(count)]
        before = record.examples
    return taken


def everything(folder: pathlib.Path) -> dict[str, bytes]:
    """The bytes of every file of a run, but for that of the lock, which each start writes."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "lock"}


def course(folder: pathlib.Path) -> dict[str, Any]:
    """What of a run must not show how often it was killed: the log, the tensors, and where each segment began."""
    known: dict[str, Any] = {"log": (folder / "metrics.jsonl").read_bytes()}
    for path in sorted((folder / "checkpoints").glob("*/state.data*")):
        known[path.parent.name] = path.read_bytes()
        known[f"{path.parent.name} segments"] = json.loads((path.parent / "manifest.json").read_text())["control"][
            "segments"
        ]
    return known


def segments(manifest: Manifest) -> list[tuple[int, int, list[str]]]:
    return [(known["segment"], known["step"], known["changed"]) for known in manifest.control["segments"]]


def begun(folder: pathlib.Path) -> list[tuple[int, int, list[str]]]:
    """The segments that the journal tells of."""
    entries = [entry for entry in read_journal(RunDirectory(folder)) if entry["event"] == "segment"]
    return [(entry["segment"], entry["step"], entry["changed"]) for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize("last", ["wrap", "short"])
def test_data_that_is_added_is_seen_from_there_on_each_example_once_a_pass_and_the_past_stays(
    last: str,
    growing: Any,
    train: Train,
    tmp_path: pathlib.Path,
    manifests: Manifests,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {**OPTIONS, "save_every": "7examples", "keep_last": 20}
    before = train(growing(shuffle=True, last=last), train_for=2, **options).records
    run_json, log = ((tmp_path / "run" / name).read_bytes() for name in ("run.json", "metrics.jsonl"))
    capsys.readouterr()
    more = {"train_for": 14, "allow_change": "data", "progress": "plain", **options}
    records = train(growing(shuffle=True, last=last, examples=13), **more).records
    output = capsys.readouterr()

    assert (tmp_path / "run" / "run.json").read_bytes() == run_json
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().startswith(log)
    taken = seen(records[2:], records[1].examples)
    first, second = taken[:13], taken[13:26]
    assert sorted(first) == sorted(second) == list(range(13))
    assert first != second
    assert first[:8] != seen(before)
    # In epochs nothing has moved: they are those that the run began with.
    assert [record.epoch for record in records] == [record.examples / 10 for record in records]

    told = [line for line in output.out.splitlines() if "segment 1" in line]
    assert len(told) == 1
    for word in ("step 2", "10 examples", "13 examples"):
        assert word in told[0]
    assert output.err == ""
    known = manifests()
    assert segments(known[2]) == []
    assert segments(known[4]) == segments(known[14]) == begun(tmp_path / "run") == [(1, 2, ["data"])]
    # The schedule knows where the new passes end: it saves at the first step that reaches each 7 examples.
    ends = {record.step: record.examples for record in records}
    reached = {next(step for step in ends if ends[step] >= point) for point in range(7, records[-1].examples + 1, 7)}
    assert set(known) == reached | {2, 14}
    (control,) = known[14].control["segments"]
    assert control["examples"] == before[-1].examples
    assert control["data"]["train"]["examples"] == 13


@pytest.mark.slow
@pytest.mark.parametrize("last", ["wrap", "short"])
def test_a_run_killed_in_a_new_segment_is_one_that_never_was_and_a_change_before_its_first_save_never_happened(
    last: str, growing: Any, train: Train, killed: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    more = growing(shuffle=True, last=last, examples=13)
    for folder in ("whole", "run"):
        train(growing(shuffle=True, last=last), folder=folder, train_for=4, **OPTIONS)
    allowed = {"allow_change": "data", "train_for": 12, **OPTIONS}
    train(more, folder="whole", **allowed)

    killed(5, more, **allowed)
    with pytest.raises(ConfigError, match="--allow_change=data,"):
        train(more, train_for=12, **OPTIONS)
    killed(9, more, **allowed)
    # From here on it is the segment's data that the run holds: nothing needs to be allowed, and all may be.
    killed(11, more, train_for=12, **OPTIONS)
    train(more, **allowed)
    assert course(tmp_path / "run") == course(tmp_path / "whole")
    assert begun(tmp_path / "run") == [(1, 4, ["data"])] * 2
    with pytest.raises(ConfigError, match=r"13 examples.*there, 10 examples.*here"):
        train(growing(shuffle=True, last=last), train_for=20, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        ({"examples": 13}, {}, "--allow_change=data,"),
        ({"examples": 13}, {"allow_change": "parameters,seed"}, "--allow_change=data,"),
        ({"momentum": 0.25, "examples": 13}, {"seed": 18}, "--allow_change=data,parameters,seed,"),
        (
            {"momentum": 0.25, "examples": 13},
            {"seed": 18, "allow_change": "data"},
            "--allow_change=data,parameters,seed,",
        ),
        ({"evaluated": 5}, {"allow_change": "parameters"}, "--allow_change=data,"),
        ({"examples": 13}, {"ema": 0.5, "allow_change": "data,parameters,seed"}, "ema=0.0 there, 0.5 here"),
    ],
)
def test_what_is_not_allowed_to_change_is_refused_and_no_byte_is_touched(
    fields: dict[str, Any],
    options: dict[str, Any],
    words: str,
    growing: Any,
    train: Train,
    tmp_path: pathlib.Path,
) -> None:
    train(growing(), train_for=4, **OPTIONS)
    # What an attempt has left behind stays too, until one goes on.
    (tmp_path / "run" / "metrics.jsonl").open("a").write('{"torn')
    before = everything(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        train(growing(**fields), train_for=8, **OPTIONS, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path / "run") == before


@pytest.mark.slow
def test_parameters_and_the_seed_change_when_allowed_and_what_is_only_warned_of_needs_no_leave(
    growing: Any, train: Train, manifests: Manifests, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(growing(shuffle=True), train_for=2, **OPTIONS)
    train(growing(shuffle=True, learning_rate=0.0625), train_for=4, **OPTIONS)
    assert capsys.readouterr().err == "warning: learning_rate was 0.125 when the run began and is 0.0625 now\n"
    changed = growing(shuffle=True, learning_rate=0.0625, momentum=0.25)
    allowed = {"allow_change": "parameters,seed", "seed": 18, **OPTIONS}
    train(changed, train_for=6, **allowed)
    records = train(changed, train_for=8, **allowed).records
    train(dataclasses.replace(changed, comment="free"), train_for=9, **allowed)
    assert capsys.readouterr().err == ""
    assert begun(tmp_path / "run") == [(1, 2, ["parameters"]), (2, 4, ["parameters", "seed"])]
    last = manifests()[9].control["segments"][-1]
    assert (last["seed"], last["parameters"]["momentum"], last["examples"]) == (18, 0.25, 16)
    # The new seed has orders of its own, which begin anew: whole passes from its first step on.
    assert sorted(seen(records[4:], 16)[:10]) == list(range(10))


@pytest.mark.slow
def test_another_kind_of_machine_is_one_warning_that_names_what_differs_and_no_segment(
    growing: Any,
    train: Train,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    train(growing(), train_for=2, **OPTIONS)
    monkeypatch.setattr(machine, "_processor", lambda: ("Another CPU", "sse"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    capsys.readouterr()
    train(growing(), train_for=4, **OPTIONS)
    (line,) = capsys.readouterr().err.splitlines()
    for word in ("Another CPU now", "cpu_features", "OMP_NUM_THREADS: none then, 3 now", "last bits"):
        assert word in line
    assert begun(tmp_path / "run") == []


@pytest.mark.slow
def test_a_resume_from_before_the_change_asks_again(
    growing: Any, train: Train, manifests: Manifests, tmp_path: pathlib.Path
) -> None:
    train(growing(), train_for=4, **OPTIONS)
    more = growing(examples=13)
    train(more, train_for=6, allow_change="data", **OPTIONS)
    (data,) = (tmp_path / "run" / "checkpoints" / "step-0000000006").glob("state.data*")
    data.write_bytes(bytes(255 - byte for byte in data.read_bytes()))
    with pytest.raises(ConfigError, match=r"10 examples.*there, 13 examples.*here.*--allow_change=data,"):
        train(more, train_for=8, **OPTIONS)
    train(more, train_for=8, allow_change="data", **OPTIONS)
    assert segments(manifests()[8]) == [(1, 4, ["data"])]


@pytest.mark.slow
def test_the_best_on_other_evaluation_data_is_no_measure_of_what_comes(growing: Any, train: Train) -> None:
    options = {**OPTIONS, "keep_best": 1, "eval_every": "2steps", "monitor": "validation/loss"}
    train(growing(evaluated=5), train_for=4, **options)
    with pytest.raises(ConfigError, match="--allow_change=data,"):
        train(growing(evaluated=9), train_for=8, **options)
    result = train(growing(evaluated=9), train_for=8, allow_change="data", **options)
    losses = {
        record.step: record.metrics["loss"] for record in result.records if record.kind == "eval" and record.step > 4
    }
    assert result.best is not None
    assert result.best.step == min(losses, key=lambda step: losses[step] or 0.0)
    # Training goes on as it would have: its data is the same.
    whole = train(growing(evaluated=5), folder="whole", train_for=8, **options)
    trained, undisturbed = ([record for record in run.records if record.kind == "train"] for run in (result, whole))
    assert trained == undisturbed


@pytest.mark.slow
def test_the_plan_of_a_change_says_what_would_begin_and_makes_nothing(
    growing: Any, train: Train, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(growing(), train_for=4, **OPTIONS)
    before = everything(tmp_path / "run")
    capsys.readouterr()
    train(growing(examples=13), train_for=8, allow_change="data", dry_run=True, **OPTIONS)
    output = capsys.readouterr().out
    assert "segment 1 begins at step 4" in output
    assert "train: 13 examples" in output
    with pytest.raises(ConfigError, match="--allow_change=data,"):
        train(growing(examples=13), train_for=8, dry_run=True, **OPTIONS)
    assert everything(tmp_path / "run") == before


def test_the_first_data_has_the_order_of_the_seed_and_what_is_taken_up_later_one_of_its_own() -> None:
    assert np.array_equal(order_seed(17, DataOrigin()), run_seed(17))
    orders = {bytes(order_seed(seed, DataOrigin(segment, 40))) for seed in (17, 18) for segment in range(9)}
    assert len(orders) == 18
    assert order_seed(17, DataOrigin(3, 40)).dtype == np.int32
    # Nor is it the seed of a step, which is folded in likewise.
    assert not np.array_equal(order_seed(17, DataOrigin(3)), fold_in(run_seed(17), 3))


def test_the_order_follows_the_last_change_of_data_and_not_of_parameters() -> None:
    data = Segment(1, 5, 20, ("data",), {}, {}, 17)
    parameters = Segment(2, 9, 36, ("parameters",), {}, {}, 17)
    assert Continuation((data, parameters)).origin == DataOrigin(1, 20)
    assert Continuation().origin == DataOrigin()
    assert Continuation((data,)).line is None, "it began before"


@pytest.mark.slow
def test_the_newest_manifest_that_can_be_read_speaks_for_the_run(
    growing: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    train(growing(), train_for=4, **OPTIONS)
    directory = RunDirectory(tmp_path / "run")
    info = RunInfo.load(directory)
    assert info is not None
    newest = newest_manifest(directory, info.run_id)
    assert newest is not None
    assert newest.step == 4
    assert newest_manifest(directory, "another") is None
    pathlib.Path(directory.manifest(4)).write_bytes(b"{")
    older = newest_manifest(directory, info.run_id)
    assert older is not None
    assert older.step == 2
