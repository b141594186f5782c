"""Whether a run directory holds the run that is asked for."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import pytest

import trainer
from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import write_flags
from trainer.ledger.run_info import RunInfo
from trainer.ledger.segments import Segment
from trainer.run import identity
from trainer.run.config import make_config
from trainer.run.experiment import Experiment, parameters
from trainer.run.identity import Comparison, changed_flags, check_identity, fixed_flags


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


MACHINE = {"cpu": "One CPU", "cpu_features": "abc", "devices": [], "environment": {"TF_ENABLE_ONEDNN_OPTS": "0"}}
VERSIONS = {"tensorflow": "2.21.0", "numpy": "2.0"}


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
        machine=MACHINE,
        versions=VERSIONS,
        data={"train": facts()},
        epoch_examples=100,
        clock_in_log=False,
    )
    return dataclasses.replace(known, **changes)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def compare(
    directory: RunDirectory,
    asked: RunInfo,
    experiment: Fields | None = None,
    *,
    known: RunInfo | None = None,
    segments: Sequence[Segment] = (),
    allowed: Collection[str] = (),
) -> Comparison:
    return check_identity(
        known or info(), asked, experiment or Fields(), directory, segments=segments, allowed=frozenset(allowed)
    )


def test_the_same_run_is_welcome_without_a_word(directory: RunDirectory) -> None:
    assert compare(directory, info()) == Comparison((), ())
    # Another process has another id: it is not compared.
    assert info().run_id != info().run_id


def test_a_parameter_is_refused_warned_of_or_free_as_its_field_says(directory: RunDirectory) -> None:
    refused = Fields(hidden=8)
    with pytest.raises(ConfigError, match=r"hidden=4 there, 8 here") as caught:
        compare(directory, info(refused), refused)
    assert directory.path in str(caught.value)
    assert "\n" not in str(caught.value)
    warned = Fields(rate=0.2)
    found = compare(directory, info(warned), warned)
    (line,) = found.warnings
    assert found.changed == ("parameters",)
    assert "rate" in line
    assert "0.1" in line
    assert "0.2" in line
    free = Fields(comment="other")
    assert compare(directory, info(free), free) == Comparison((), ())


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
        ({"data": {}}, r"train.*100 examples.*missing"),
        (
            {"data": {**info().data, "test": facts(fingerprint="1234", examples=5)}},
            r"test.*missing.*5 examples",
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
        ({"machine": {**MACHINE, "environment": {"XLA_FLAGS": "-a"}}}, ["XLA_FLAGS", "none then", "-a now"]),
        ({"machine": {**MACHINE, "environment": {}}}, ["TF_ENABLE_ONEDNN_OPTS", "0 then", "none now"]),
        ({"versions": {**VERSIONS, "keras": "3.15"}}, ["keras", "none then", "3.15"]),
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
    found = compare(directory, info(**changes))
    (line,) = found.warnings
    assert found.changes == ()
    assert "\n" not in line
    assert "last bits" in line
    for word in words:
        assert word in line


def test_another_batch_size_is_warned_of_because_the_position_in_the_data_holds(directory: RunDirectory) -> None:
    found = compare(directory, info(data={"train": facts(batch_size=8)}))
    (line,) = found.warnings
    assert found.changed == ("batch_size",)
    assert "4" in line
    assert "8" in line
    assert "\n" not in line


def test_all_that_is_different_about_the_machine_is_one_warning(directory: RunDirectory) -> None:
    changed = info(jit="none", versions={"tensorflow": "2.22.0", "numpy": "3.0"}, threads={"inter_op": 1})
    assert len(compare(directory, changed).warnings) == 1


def test_what_an_older_version_did_not_note_of_the_machine_has_not_changed(directory: RunDirectory) -> None:
    older = info(machine={name: value for name, value in MACHINE.items() if name != "environment"})
    assert compare(directory, info(), known=older) == Comparison((), ())


CHANGED: dict[str, tuple[dict[str, Any], str, str]] = {
    "parameters": ({"parameters": {**parameters(Fields()), "hidden": 8}}, "parameters", "hidden=4 there, 8 here"),
    "data": ({"data": {"train": facts(fingerprint="beef", examples=90)}}, "data", "90 examples"),
    "eval_data": ({"data": {"train": facts(), "test": facts(examples=5)}}, "data", "test missing there, 5 examples"),
    "seed": ({"seed": 18}, "seed", "seed=17 there, 18 here"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_what_is_refused_goes_on_when_it_is_allowed_and_the_refusal_says_how(
    kind: str, directory: RunDirectory
) -> None:
    changes, flag, words = CHANGED[kind]
    asked = info(**changes)
    for allowed in ((), {"data", "parameters", "seed"} - {flag}):
        with pytest.raises(ConfigError) as caught:
            compare(directory, asked, allowed=allowed)
        assert words in str(caught.value)
        assert f"--allow_change={flag}," in str(caught.value)
        assert "\n" not in str(caught.value)
    found = compare(directory, asked, allowed={flag})
    assert (found.changed, found.warnings) == ((kind,), ())
    (change,) = found.changes
    assert words in change.text
    assert json.loads(json.dumps(change.to_json(), allow_nan=False)).keys() == {"name", "before", "now"}


def test_the_whole_difference_is_one_error_with_one_way_to_go_on(directory: RunDirectory) -> None:
    asked = info(seed=18, parameters={**parameters(Fields()), "hidden": 8}, data={"train": facts(fingerprint="beef")})
    for allowed in ((), {"data"}, {"data", "seed"}):
        with pytest.raises(
            ConfigError, match=r"hidden=4.*beef.*seed=17.*--allow_change=data,parameters,seed,"
        ) as caught:
            compare(directory, asked, allowed=allowed)
        assert "\n" not in str(caught.value)
    assert compare(directory, asked, allowed={"data", "parameters", "seed"}).changed == ("parameters", "data", "seed")


def test_what_may_change_and_has_not_is_nothing(directory: RunDirectory) -> None:
    assert compare(directory, info(), allowed={"data", "parameters", "seed"}) == Comparison((), ())


def test_a_change_is_one_from_the_last_segment_and_not_from_the_beginning(directory: RunDirectory) -> None:
    since = Segment(1, 50, 200, ("parameters", "data"), {**parameters(Fields()), "hidden": 8, "rate": 0.5}, {}, 18)
    segment = dataclasses.replace(since, data={"train": facts(fingerprint="beef")})
    same = {"parameters": segment.parameters, "data": segment.data, "seed": 18}
    assert compare(directory, info(**same), segments=[segment]) == Comparison((), ())
    with pytest.raises(ConfigError, match=r"hidden=8 there, 4 here.*beef.*seed=18 there, 17 here"):
        compare(directory, info(), segments=[segment])
    back = compare(directory, info(**{**same, "parameters": {**segment.parameters, "rate": 0.1}}), segments=[segment])
    assert back.warnings == ("rate was 0.5 since step 50 and is 0.1 now",)


def test_a_parameter_that_is_no_number_is_the_same_one_again(directory: RunDirectory) -> None:
    odd = info(parameters={**parameters(Fields()), "limit": float("nan"), "most": float("inf")})
    again = json.loads(json.dumps(odd.parameters))
    assert compare(directory, info(parameters=again), known=odd) == Comparison((), ())


def test_a_flag_that_shapes_the_state_is_refused_whatever_is_allowed(directory: RunDirectory) -> None:
    known = info(fixed={"ema": 0.0, "precision": "float32"})
    with pytest.raises(ConfigError, match=r"ema=0.0 there, 0.999 here.*--init_from=.*run_dir") as caught:
        compare(
            directory,
            info(fixed={"ema": 0.999, "precision": "float32"}, seed=18),
            known=known,
            allowed={"data", "parameters", "seed"},
        )
    assert "seed=17 there" in str(caught.value)
    assert "allow_change" not in str(caught.value)
    assert compare(directory, info(fixed=known.fixed), known=known) == Comparison((), ())


@dataclasses.dataclass(frozen=True)
class Table:
    """Stands for the configuration: the flags of the table are what a run keeps, whichever there are."""

    seed: int = dataclasses.field(default=17, metadata={"on_resume": "refuse"})
    precise: bool = dataclasses.field(default=True, metadata={"on_resume": "refuse"})
    tick: str = dataclasses.field(default="1s", metadata={"on_resume": "free"})


def test_every_flag_that_the_table_refuses_is_kept_in_run_json_and_compared(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "Config", Table)
    assert fixed_flags(Table(precise=False)) == {"precise": False}  # type: ignore[arg-type]
    # A run.json from before the flag was there: it was the default.
    assert compare(directory, info(fixed={"precise": True})) == Comparison((), ())
    with pytest.raises(ConfigError, match="precise=True there, False here"):
        compare(directory, info(fixed={"precise": False}))


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
