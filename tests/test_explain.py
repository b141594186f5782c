"""`python -m trainer.explain RUN_DIR`, as a user calls it."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from trainer.explain import main

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow


@pytest.fixture
def digits(command: Command) -> None:
    """A short run in the test's folder, whose newest checkpoint lies inside a window."""
    flags = ["--train_for=60", "--log_every=20", "--save_every=15", "--eval_every=15", "--keep_last=9", "--jit=none"]
    assert command("main", "--run_dir=run", *flags).returncode == 0


@pytest.mark.usefixtures("digits")
def test_it_explains_as_text_as_json_as_a_picture_and_in_the_run_directory(
    command: Command, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("matplotlib")
    done = command("explain", "run", "--step=45", "--plot=gap.svg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run: why the logged train loss ")
    assert "the steps 21 to 40, trained again from checkpoint 15: reproduced to the last bit" in done.stdout
    assert "the steps 41 to 45 are in no record yet" in done.stdout
    assert (tmp_path / "gap.svg").read_text().startswith("<?xml")
    kept = json.loads((tmp_path / "run" / "explain" / "step-0000000045.json").read_text())
    as_json = command("explain", "run", "--step=45", "--json")
    assert json.loads(as_json.stdout) == kept
    keys = ["step", "metric", "split", "gap", "terms", "dominant", "open_steps"]
    assert list(kept)[:7] == keys
    assert (kept["step"], kept["metric"], kept["split"], kept["reproduced"]) == (45, "loss", "validation", True)
    assert [list(term) for term in kept["terms"]] == [["name", "value", "difference", "stderr", "meaning"]] * 6
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = next(record for record in log if record.get("window") == [20, 40])
    evaluated = next(record for record in log if record["kind"] == "eval" and record["step"] == 45)
    assert kept["terms"][0]["value"] == logged["metrics"]["loss"]
    assert kept["terms"][-1]["value"] == evaluated["metrics"]["loss"]
    assert sum(term["difference"] for term in kept["terms"]) == pytest.approx(kept["gap"], rel=1e-12)
    # The run goes on as if nobody had asked.
    more = command("main", "--run_dir=run", "--flagfile=run/flags.txt", "--train_for=70")
    assert (more.returncode, more.stderr) == (0, "")


@pytest.mark.usefixtures("digits")
def test_wrong_input_is_one_line_and_writes_nothing(command: Command, tmp_path: pathlib.Path) -> None:
    for code, arguments, words in (
        (64, ["run", "--metric=auc"], "metric=auc is not in the train records; they have loss, accuracy"),
        (64, ["run", "--split=test"], "split=test is unknown; the splits are validation"),
        (66, ["run", "--step=51"], "has no checkpoint of step 51; there are the steps"),
    ):
        done = command("explain", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "explain").exists()


def test_what_needs_no_tensorflow_is_refused_at_once(tmp_path: pathlib.Path) -> None:
    from trainer.errors import ConfigError, Unusable

    def refused(*arguments: str) -> Any:
        with pytest.raises((ConfigError, Unusable)) as error:
            main(arguments)
        return error

    assert "does not exist; expected a run directory" in str(refused(str(tmp_path / "nowhere")).value)
    assert "it has no run.json" in str(refused(str(tmp_path)).value)
    (tmp_path / "run.json").write_text("{}")
    assert "expected a file that ends in" in str(refused(str(tmp_path), "--plot=gap.txt").value)
    assert "got no argument" in str(refused().value)
    assert "--step=-1: -1 is not a non-negative integer" in str(refused(str(tmp_path), "--step=-1").value)
