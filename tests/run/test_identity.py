"""Whether a run directory holds the run that is asked for."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

import trainer
from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import write_flags
from trainer.ledger.run_info import RunInfo
from trainer.run.config import make_config
from trainer.run.experiment import Experiment, parameters
from trainer.run.identity import changed_flags, check_identity


@dataclasses.dataclass(frozen=True)
class Fields(Experiment):
    """Only its fields matter here."""

    hidden: int = 4
    rate: float = trainer.field(0.1, on_resume="warn")
    comment: str = trainer.field("none", on_resume="free")

    def model(self, seed: Any) -> Any: ...
    def optimizer(self) -> Any: ...
    def train_data(self) -> Any: ...
    def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> Any: ...


def facts(**changes: Any) -> dict[str, Any]:
    known = {
        "mode": "indexed",
        "fingerprint": "f00d",
        "examples": 100,
        "batch_size": 4,
        "shuffle": True,
        "last": "wrap",
    }
    return {**known, **changes}


def info(experiment: Fields | None = None, /, **changes: Any) -> RunInfo:
    known = RunInfo(
        experiment="here:Fields",
        parameters=parameters(experiment or Fields()),
        seed=17,
        jit="chunk",
        deterministic=False,
        threads={"inter_op": 2, "intra_op": 2},
        machine={"cpu": "One CPU", "cpu_features": "abc", "devices": []},
        versions={"tensorflow": "2.21.0", "numpy": "2.0"},
        data={"train": facts()},
        epoch_examples=100,
        clock_in_log=False,
    )
    return dataclasses.replace(known, **changes)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def compare(directory: RunDirectory, asked: RunInfo, experiment: Fields | None = None) -> list[str]:
    return check_identity(info(), asked, experiment or Fields(), directory)


def test_the_same_run_is_welcome_without_a_word(directory: RunDirectory) -> None:
    assert compare(directory, info()) == []
    # Another process has another id: it is not compared.
    assert info().run_id != info().run_id


def test_a_parameter_is_refused_warned_of_or_free_as_its_field_says(directory: RunDirectory) -> None:
    refused = Fields(hidden=8)
    with pytest.raises(ConfigError, match=r"hidden=4 there, 8 here") as caught:
        compare(directory, info(refused), refused)
    assert directory.path in str(caught.value)
    assert "\n" not in str(caught.value)
    warned = Fields(rate=0.2)
    (line,) = compare(directory, info(warned), warned)
    assert "rate" in line
    assert "0.1" in line
    assert "0.2" in line
    free = Fields(comment="other")
    assert compare(directory, info(free), free) == []


def test_a_parameter_that_one_side_does_not_have_is_a_change(directory: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="depth"):
        compare(directory, info(parameters={**parameters(Fields()), "depth": 3}))
    without = {name: value for name, value in parameters(Fields()).items() if name != "hidden"}
    with pytest.raises(ConfigError, match="hidden"):
        compare(directory, info(parameters=without))


def test_every_refused_parameter_is_named_at_once(directory: RunDirectory) -> None:
    changed = info(parameters={**parameters(Fields()), "hidden": 8, "depth": 3})
    with pytest.raises(ConfigError, match=r"depth.*hidden"):
        compare(directory, changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": "there:Others"}, r"here:Fields.*there:Others"),
        ({"seed": 18}, r"seed=17.*18"),
        ({"data": {"train": facts(fingerprint="beef", examples=90)}}, r"train.*100 examples.*90 examples"),
        ({"data": {"train": facts(shuffle=False)}}, r"train"),
        ({"data": {"train": facts(last="short")}}, r"train.*wrap.*short"),
        ({"data": {}}, r"train.*100 examples.*not there"),
        (
            {"data": {**info().data, "test": facts(fingerprint="1234", examples=5)}},
            r"test.*not there.*5 examples",
        ),
    ],
)
def test_another_run_is_refused_with_both_sides_and_a_way_out(
    changes: dict[str, Any], message: str, directory: RunDirectory
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compare(directory, info(**changes))
    assert "run_dir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"machine": {"cpu": "Other CPU", "cpu_features": "abc", "devices": []}}, ["One CPU", "Other CPU"]),
        ({"machine": {"cpu": "One CPU", "cpu_features": "abc", "devices": ["GPU"]}}, ["devices", "GPU"]),
        ({"versions": {"tensorflow": "2.22.0", "numpy": "2.0"}}, ["tensorflow", "2.21.0", "2.22.0"]),
        ({"threads": {"inter_op": 2, "intra_op": 8}}, ["intra_op", "2", "8"]),
        ({"jit": "none"}, ["jit", "chunk", "none"]),
        ({"deterministic": True}, ["deterministic", "True"]),
    ],
)
def test_another_kind_of_machine_works_and_warns_in_one_line(
    changes: dict[str, Any], words: list[str], directory: RunDirectory
) -> None:
    (line,) = compare(directory, info(**changes))
    assert "\n" not in line
    assert "last bits" in line
    for word in words:
        assert word in line


def test_another_batch_size_is_warned_of_because_the_position_in_the_data_holds(directory: RunDirectory) -> None:
    (line,) = compare(directory, info(data={"train": facts(batch_size=8)}))
    assert "4" in line
    assert "8" in line
    assert "\n" not in line


def test_all_that_is_different_about_the_machine_is_one_warning(directory: RunDirectory) -> None:
    changed = info(jit="none", versions={"tensorflow": "2.22.0", "numpy": "3.0"}, threads={"inter_op": 1})
    assert len(compare(directory, changed)) == 1


def flags(directory: RunDirectory, **options: Any) -> None:
    directory.files.make_directory(directory.path)
    config = make_config(options, {})
    known = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    write_flags(directory, {"experiment": "here:Fields", **known}, {"hidden": 4})


def test_no_flag_has_changed_before_the_first_attempt(directory: RunDirectory) -> None:
    assert changed_flags(make_config({"log_every": "7steps"}, {}), directory) == []


def test_the_same_flags_are_no_change(directory: RunDirectory) -> None:
    options = {"log_every": "7steps", "eval_at_start": True, "monitor": "train/loss", "epoch_examples": 7}
    flags(directory, **options)
    assert changed_flags(make_config(options, {}), directory) == []


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"log_every": "7steps"}, {"log_every": "9steps"}, ["log_every", "7steps", "9steps"]),
        ({"eval_at_start": True}, {"eval_at_start": False}, ["eval_at_start", "true", "false"]),
        ({}, {"monitor": "train/loss"}, ["monitor", "not set", "train/loss"]),
        ({"epoch_examples": 7}, {}, ["epoch_examples", "7"]),
    ],
)
def test_a_flag_that_changes_the_log_is_warned_of_in_one_line(
    before: dict[str, Any], now: dict[str, Any], words: list[str], directory: RunDirectory
) -> None:
    flags(directory, **before)
    (line,) = changed_flags(make_config(now, {}), directory)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_the_same_cadence_in_other_words_is_no_change(directory: RunDirectory) -> None:
    flags(directory, log_every="100steps", eval_every="1epoch,2steps")
    assert changed_flags(make_config({"log_every": 100, "eval_every": "1 epoch, 2 steps"}, {}), directory) == []


def test_flags_that_change_nothing_in_the_log_change_in_silence(directory: RunDirectory) -> None:
    flags(directory, train_for="10steps", keep_last=3, progress="never", tick="1s")
    now = make_config({"train_for": "20steps", "keep_last": 5, "progress": "plain", "tick": "2s"}, {})
    assert changed_flags(now, directory) == []
