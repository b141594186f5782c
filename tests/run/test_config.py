"""The configuration: the flags, their defaults and what they refuse."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from trainer.errors import ConfigError
from trainer.run.config import Config, make_config

# The defaults that users rely on.
DEFAULTS = {
    "train_for": None,
    "epoch_examples": None,
    "log_every": "100steps",
    "eval_every": "1epoch",
    "eval_at_start": False,
    "save_every": "1epoch",
    "reconcile": "carry",
    "clock_in_log": False,
    "keep_last": 3,
    "keep_best": 1,
    "keep_every": "never",
    "async_save": True,
    "verify_saves": "last",
    "max_shard": None,
    "monitor": None,
    "mode": "auto",
    "resume": "auto",
    "seed": 17,
    "deterministic": "auto",
    "threads": 0,
    "jit": "auto",
    "tick": "1s",
    "grace": "10s",
    "max_runtime": None,
    "hang_timeout": None,
    "mtbf": "4h",
    "save_overhead": 0.03,
    "orphans_keep": 2,
    "progress": "auto",
    "dry_run": False,
    "accumulate": 1,
    "clip_norm": 0.0,
    "ema": 0.0,
    "precision": "float32",
    "on_nonfinite": "stop",
    "on_data_end": "repeat",
    "data_resume": "auto",
    "allow_change": None,
}


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_defaults_are_those_of_the_manual(name: str, value: Any) -> None:
    assert getattr(make_config({}, {}), name) == value


def test_every_option_has_its_line_in_the_manual_and_a_rule_for_a_resume() -> None:
    for item in dataclasses.fields(Config):
        assert item.metadata["help"].strip(), item.name
        assert item.metadata["on_resume"] in ("free", "warn", "refuse"), item.name


def test_what_changes_the_log_is_never_changed_in_silence_by_a_resume() -> None:
    rules = {item.name: item.metadata["on_resume"] for item in dataclasses.fields(Config)}
    of_the_step = ("accumulate", "clip_norm", "ema", "precision", "on_nonfinite", "on_data_end", "data_resume")
    of_the_log = ("log_every", "eval_every", "reconcile", "clock_in_log")
    for name in (*of_the_log, *of_the_step, "seed", "jit", "threads", "deterministic"):
        assert rules[name] != "free", name


def test_what_the_user_gives_wins_over_what_the_experiment_suggests_and_that_over_the_defaults() -> None:
    suggested = {"train_for": "60epochs", "log_every": "10steps"}
    config = make_config({"train_for": "5steps"}, suggested)
    assert (config.train_for, config.log_every, config.save_every) == ("5steps", "10steps", "1epoch")


def test_a_bare_number_of_steps_is_welcome_in_a_library_call() -> None:
    given = {"train_for": 1000, "log_every": 10, "save_every": 50, "eval_every": 20, "keep_every": 500}
    config = make_config(given, {})
    assert {name: getattr(config, name) for name in given} == {name: str(steps) for name, steps in given.items()}


@pytest.mark.parametrize(
    ("options", "suggested", "message"),
    [
        ({"train_four": "10steps"}, {}, r"train_four.*train_for"),
        ({}, {"monitr": "x/loss"}, r"experiment.*monitr.*monitor"),
        ({"reconcile": "sometimes"}, {}, r"reconcile=sometimes.*carry, flush, align"),
        ({"mode": "avg"}, {}, r"mode=avg.*min"),
        ({"resume": "yes"}, {}, r"resume=yes.*auto, must, never"),
        ({"jit": "all"}, {}, r"jit=all.*none, step, chunk"),
        ({"deterministic": "maybe"}, {}, r"deterministic=maybe"),
        ({"progress": "fancy"}, {}, r"progress=fancy"),
        ({"allow_change": "data,model"}, {}, r"allow_change=data,model: 'model'.*data, parameters, seed"),
        ({"allow_change": ""}, {}, r"allow_change=: ''.*data, parameters, seed"),
        ({"keep_last": 0}, {}, r"keep_last=0.*1 or more"),
        ({"keep_best": -1}, {}, r"keep_best=-1"),
        ({"threads": -2}, {}, r"threads=-2"),
        ({"verify_saves": "some"}, {}, r"verify_saves=some.*last, all, never"),
        ({"keep_every": "10stepz"}, {}, r"keep_every.*10stepz"),
        ({"max_shard": "big"}, {}, r"max_shard.*'big'.*2GB"),
        ({"max_shard": "0MB"}, {}, r"max_shard.*'0MB'"),
        ({"log_every": "10stepz"}, {}, r"log_every.*10stepz.*100steps"),
        ({"train_for": "ten steps"}, {}, r"train_for.*ten steps"),
        ({"save_every": "-5steps"}, {}, r"save_every.*-5steps"),
        ({"eval_every": "1epoch,,2steps"}, {}, r"eval_every"),
        ({"tick": "10steps"}, {}, r"tick=10steps.*1s"),
        ({"tick": "soon"}, {}, r"tick.*soon"),
        ({"tick": "0s"}, {}, r"tick.*0s"),
        ({"tick": "5"}, {}, r"tick=5.*seconds"),
        ({"grace": "5steps"}, {}, r"grace=5steps.*seconds"),
        ({"grace": "0s"}, {}, r"grace.*0s"),
        ({"grace": "long"}, {}, r"grace.*long"),
        ({"grace": "10"}, {}, r"grace=10.*seconds"),
        ({"max_runtime": "1epoch"}, {}, r"max_runtime=1epoch.*3h50m"),
        ({"max_runtime": "soon"}, {}, r"max_runtime=soon.*3h50m"),
        ({"grace": "0s"}, {}, r"grace=0s.*more than 0"),
        ({"max_runtime": "0h"}, {}, r"max_runtime.*0h"),
        ({"max_runtime": "-1h"}, {}, r"max_runtime.*-1h"),
        ({"hang_timeout": "1/2run"}, {}, r"hang_timeout=1/2run.*seconds"),
        ({"hang_timeout": "1h,2h"}, {}, r"hang_timeout.*1h,2h"),
        ({"mtbf": "100examples"}, {}, r"mtbf=100examples.*hours"),
        ({"mtbf": "0s"}, {}, r"mtbf.*0s"),
        ({"save_overhead": 0.0}, {}, r"save_overhead=0.0 is no share.*between 0 and 1"),
        ({"save_overhead": 1.0}, {}, r"save_overhead=1.0"),
        ({"save_overhead": -0.1}, {}, r"save_overhead=-0.1"),
        ({"save_overhead": float("nan")}, {}, r"save_overhead=nan"),
        ({"save_overhead": "3%"}, {}, r"save_overhead"),
        ({"save_every": "auto,1h"}, {}, r"save_every.*auto stands alone"),
        ({"train_for": "auto"}, {}, r"train_for=auto.*only save_every"),
        ({"log_every": "auto"}, {}, r"log_every=auto.*only save_every"),
        ({"eval_every": "auto"}, {}, r"eval_every=auto.*only save_every"),
        ({"keep_every": "auto"}, {}, r"keep_every=auto.*only save_every"),
        ({"profile": "120..100"}, {}, r"profile=120..100.*100..120steps"),
        ({"profile": "first"}, {}, r"profile=first"),
        ({"accumulate": 0}, {}, r"accumulate=0 is too small; expected 1 or more"),
        ({"accumulate": 2.5}, {}, r"accumulate=2.5 is float; expected int"),
        ({"clip_norm": -1.0}, {}, r"clip_norm=-1.0 is too small"),
        ({"clip_norm": float("inf")}, {}, r"clip_norm=inf is no bound.*0 for none"),
        ({"clip_norm": float("nan")}, {}, r"clip_norm=nan is no bound"),
        ({"ema": 1.0}, {}, r"ema=1.0 is no decay.*0.999"),
        ({"ema": -0.5}, {}, r"ema=-0.5 is no decay"),
        ({"ema": float("nan")}, {}, r"ema=nan is no decay"),
        ({"precision": "float16"}, {}, r"precision=float16.*float32, mixed_float16, mixed_bfloat16"),
        ({"on_nonfinite": "ignore"}, {}, r"on_nonfinite=ignore.*stop, skip, continue"),
        ({"on_data_end": "wrap"}, {}, r"on_data_end=wrap.*repeat, stop, fail"),
        ({"data_resume": "indexed"}, {}, r"data_resume=indexed.*auto, iterator, replay, restart"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_says_what_was_given_and_what_is_expected(
    options: dict[str, Any], suggested: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(options, suggested)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize(
    "options",
    [
        {"keep_last": "three"},
        {"threads": None},
        {"eval_at_start": "perhaps"},
        {"async_save": "perhaps"},
        {"max_shard": 2000},
        {"seed": "lucky"},
    ],
)
def test_a_value_of_another_type_is_refused_as_what_it_is(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_config(options, {})


def test_a_whole_number_is_welcome_where_any_number_is() -> None:
    config = make_config({"clip_norm": 1, "ema": 0}, {})
    assert (config.clip_norm, config.ema) == (1.0, 0.0)
    assert {type(config.clip_norm), type(config.ema)} == {float}


@pytest.mark.parametrize("name", ["ema", "precision", "on_data_end", "seed"])
def test_what_the_state_is_made_of_is_never_changed_by_a_resume(name: str) -> None:
    rules = {item.name: item.metadata["on_resume"] for item in dataclasses.fields(Config)}
    assert rules[name] == "refuse"


@pytest.mark.parametrize("name", ["log_every", "eval_every", "save_every", "keep_every"])
def test_a_cadence_of_nothing_is_refused_because_never_is_a_word(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make_config({name: ""}, {})


@pytest.mark.parametrize("name", ["max_runtime", "hang_timeout"])
def test_a_limit_is_taken_back_by_never(name: str) -> None:
    assert getattr(make_config({name: "never"}, {name: "1h"}), name) is None


def test_the_steps_of_a_profile_are_a_range() -> None:
    assert make_config({"profile": "100..120steps"}, {}).profile_steps() == (100, 120)
    assert make_config({"profile": "0..3"}, {}).profile_steps() == (0, 3)
    assert make_config({}, {}).profile_steps() is None


def test_what_a_resume_may_change_is_a_set_of_words() -> None:
    assert make_config({}, {}).allowed_changes() == set()
    assert make_config({"allow_change": "seed, data,data"}, {}).allowed_changes() == {"data", "seed"}


def test_the_size_of_a_data_file_is_told_in_bytes() -> None:
    assert make_config({}, {}).max_shard_bytes() is None
    assert make_config({"max_shard": "2GB"}, {}).max_shard_bytes() == 2_000_000_000


def test_the_tick_is_told_in_seconds() -> None:
    assert make_config({}, {}).seconds("tick") == 1.0
    assert make_config({"tick": "0.05s"}, {}).seconds("tick") == 0.05
    assert make_config({"tick": "1m"}, {}).seconds("tick") == 60.0


def test_what_a_process_may_take_is_told_in_seconds() -> None:
    given = {"grace": "2m", "max_runtime": "3h50m", "hang_timeout": "1.5h", "mtbf": "1h30m"}
    config = make_config({**given, "save_every": "auto"}, {})
    seconds = {name: config.seconds(name) for name in given}
    assert seconds == {"grace": 120, "max_runtime": 13_800, "hang_timeout": 5400, "mtbf": 5400}


def test_no_limit_of_a_process_is_part_of_the_run() -> None:
    rules = {item.name: item.metadata["on_resume"] for item in dataclasses.fields(Config)}
    for name in ("tick", "grace", "max_runtime", "hang_timeout", "mtbf", "save_overhead"):
        assert rules[name] == "free", name


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config({}, {}).seed = 3  # type: ignore[misc]


def test_flags_are_checked_without_waiting_for_tensorflow() -> None:
    code = "import sys; sys.modules['tensorflow'] = None; import trainer.run.config, trainer.run.catalog"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
