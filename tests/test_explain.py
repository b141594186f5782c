"""`python -m trainer.explain RUN_DIR`, as a user calls it."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Callable

import pytest

import trainer
from experiments.digits import Digits
from trainer.errors import ConfigError, Unusable
from trainer.explain import main

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def digits(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A short run in the test's folder, which it runs in, with checkpoints inside windows."""
    monkeypatch.chdir(tmp_path)
    options = {"log_every": 20, "save_every": 15, "eval_every": 15, "keep_last": 9, "jit": "none", "progress": "never"}
    trainer.Trainer(Digits(), run_dir="run", train_for=60, **options).run()
    return tmp_path / "run"


@pytest.mark.slow
def test_it_explains_as_text_as_json_as_a_picture_and_in_the_run_directory(
    cold_command: Command, digits: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    done = cold_command("explain", "run", "--step=45", "--plot=gap.svg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run: why the logged train loss ")
    assert "the steps 21 to 40, trained again from checkpoint 15: reproduced to the last bit" in done.stdout
    assert "the steps 41 to 45 are in no record yet" in done.stdout
    assert (digits.parent / "gap.svg").read_text().startswith("<?xml")
    kept = json.loads((digits / "explain" / "step-0000000045.json").read_text())
    assert main(["run", "--step=45", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == kept
    assert list(kept)[:7] == ["step", "metric", "split", "gap", "terms", "dominant", "open_steps"]
    assert (kept["step"], kept["metric"], kept["split"], kept["reproduced"]) == (45, "loss", "validation", True)
    assert [list(term) for term in kept["terms"]] == [["name", "value", "difference", "stderr", "meaning"]] * 6
    log = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    logged = next(record for record in log if record.get("window") == [20, 40])
    evaluated = next(record for record in log if record["kind"] == "eval" and record["step"] == 45)
    assert kept["terms"][0]["value"] == logged["metrics"]["loss"]
    assert kept["terms"][-1]["value"] == evaluated["metrics"]["loss"]
    assert sum(term["difference"] for term in kept["terms"]) == pytest.approx(kept["gap"], rel=1e-12)


@pytest.mark.slow
def test_wrong_input_is_one_line_and_writes_nothing(digits: pathlib.Path) -> None:
    for arguments, words in (
        (["--metric=auc"], "metric=auc is not in the train records; they have loss, accuracy"),
        (["--split=test"], "split=test is unknown; the splits are validation"),
        (["--step=51"], "has no checkpoint of step 51; there are the steps"),
    ):
        with pytest.raises((ConfigError, Unusable)) as refused:
            main(["run", *arguments])
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (digits / "explain").exists()


def test_what_needs_no_tensorflow_is_refused_at_once(tmp_path: pathlib.Path) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises((ConfigError, Unusable)) as error:
            main(arguments)
        return str(error.value)

    assert "does not exist; expected a run directory" in refused(str(tmp_path / "nowhere"))
    assert "it has no run.json" in refused(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    assert "expected a file that ends in" in refused(str(tmp_path), "--plot=gap.txt")
    assert "got no argument" in refused()
    assert "--step=-1: -1 is not a non-negative integer" in refused(str(tmp_path), "--step=-1")
