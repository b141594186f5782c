"""`flags.txt`: a flagfile that gives the same flags again."""

from __future__ import annotations

import pathlib

import pytest
from absl import flags

from trainer.command import new_flags
from trainer.ledger.directory import RunDirectory
from trainer.ledger.flagfile import read_flags, write_flags

FLAGS = {"train_for": "10epochs", "seed": 17, "dry_run": False, "async_save": True, "save_overhead": 0.03}
SETTINGS = {"hidden": 256, "widths": (64, 32), "bias": True, "note": "a=b, #c"}


def test_lines_are_flags_as_on_a_command_line(tmp_path: pathlib.Path) -> None:
    write_flags(RunDirectory(tmp_path), FLAGS, SETTINGS)
    assert (tmp_path / "flags.txt").read_text().splitlines() == [
        *("--train_for=10epochs", "--seed=17", "--dry_run=false", "--async_save=true", "--save_overhead=0.03"),
        *("--set=hidden=256", "--set=widths=64,32", "--set=bias=true", "--set=note=a=b, #c"),
    ]


def test_flags_without_a_value_are_left_out(tmp_path: pathlib.Path) -> None:
    write_flags(RunDirectory(tmp_path), {"max_runtime": None, "seed": 0, "monitor": ""}, {})
    assert (tmp_path / "flags.txt").read_text() == "--seed=0\n--monitor=\n"


def test_the_flags_of_the_last_attempt_are_read_by_name(tmp_path: pathlib.Path) -> None:
    directory = RunDirectory(tmp_path)
    write_flags(directory, {"seed": 1, "gone": "x"}, SETTINGS)
    write_flags(directory, FLAGS, SETTINGS)
    assert read_flags(directory) == {
        "train_for": "10epochs",
        "seed": "17",
        "dry_run": "false",
        "async_save": "true",
        "save_overhead": "0.03",
    }


def test_before_the_first_attempt_there_are_none(tmp_path: pathlib.Path) -> None:
    assert read_flags(RunDirectory(tmp_path)) == {}


@pytest.mark.parametrize("run_dir", ["runs/digits", "/a b/ü=1", "C#", "--odd"])
def test_absl_reads_the_same_values_back(tmp_path: pathlib.Path, run_dir: str) -> None:
    write_flags(RunDirectory(tmp_path), {**FLAGS, "run_dir": run_dir}, SETTINGS)
    values = new_flags()
    flags.DEFINE_string("train_for", "", "", flag_values=values)
    flags.DEFINE_string("run_dir", "", "", flag_values=values)
    flags.DEFINE_integer("seed", 0, "", flag_values=values)
    flags.DEFINE_boolean("dry_run", True, "", flag_values=values)
    flags.DEFINE_boolean("async_save", False, "", flag_values=values)
    flags.DEFINE_float("save_overhead", 0.0, "", flag_values=values)
    flags.DEFINE_multi_string("set", [], "", flag_values=values)
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    rest = values(["program", f"--flagfile={tmp_path / 'flags.txt'}"])
    assert rest == ["program"]
    assert {name: values[name].value for name in FLAGS} == FLAGS
    assert values["run_dir"].value == run_dir
    assert values["set"].value == ["hidden=256", "widths=64,32", "bias=true", "note=a=b, #c"]
