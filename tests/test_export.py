"""`python -m trainer.export RUN_DIR --to=DIR`: its arguments, its exit codes, its output, and tools that read it."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import warm

from trainer.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, Unusable
from trainer.export import main
from trainer.ledger.directory import RunDirectory
from trainer.ledger.evaluations import Evaluation, append_evaluation, checkpoint_identity
from trainer.ledger.manifest import Manifest
from trainer.ledger.record import Record

Command = Callable[..., "subprocess.CompletedProcess[str]"]
VALIDATION = 297


@pytest.fixture
def run() -> Command:
    """Runs the command in a process where TensorFlow cannot be imported."""

    def run(*arguments: str | pathlib.Path, blocked: tuple[str, ...] = ("tensorflow", "keras")) -> Any:
        program = (
            f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
            "from trainer.command import run_command; from trainer.export import main\n"
            "run_command(main)"
        )
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, warm_server: warm.Server) -> pathlib.Path:
    """Digits, trained for two epochs, with the moving average; nobody writes to it."""
    path = tmp_path_factory.mktemp("trained")
    flags = ["--train_for=2epochs", "--ema=0.9", "--progress=never"]
    warm_server.run("main", flags, cwd=path, timeout=240).check_returncode()
    return path / "runs" / "digits"


@pytest.fixture
def run_dir(trained: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(trained, tmp_path / "run")


def paths() -> dict[str, str]:
    quiet = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**quiet, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}


def steps(run_dir: pathlib.Path) -> list[int]:
    return RunDirectory(run_dir).committed_steps()


def refused(capsys: pytest.CaptureFixture[str], kind: type[Exception], *arguments: str | pathlib.Path) -> str:
    with pytest.raises(kind) as caught:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
    return str(caught.value)


def test_help_is_given_without_tensorflow_or_numpy(run: Command) -> None:
    done = run("--help", blocked=("tensorflow", "keras", "numpy"))
    assert (done.returncode, done.stderr) == (0, "")
    for flag in ("to", "which", "from", "monitor", "mode", "weights_only", "overwrite", "json"):
        assert f"  --{flag}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got no argument; expected 1 argument"),
        (["run", "--wrong"], "wrong"),
        (["run", "--from=guess"], "guess"),
        (["run", "--to=x", "--monitor=a/b"], "got monitor=a/b without --from=evaluations"),
        (["run", "--to=x", "--mode=min"], "got mode=min without --from=evaluations"),
        (["run", "--to=x", "--from=evaluations", "--which=latest"], "got which=latest with --from=evaluations"),
        (["run", "--to=x", "--from=evaluations", "--which=5"], "got which=5 with --from=evaluations"),
        (["run"], "got no --to"),
        (["run", "--to="], "got no --to"),
        (["", "--to=x"], "got '' for RUN_DIR"),
        (["run", "--to=run/checkpoints/x"], "among the run's checkpoints"),
    ],
)
def test_a_command_line_that_is_not_understood_is_64(
    arguments: list[str], message: str, run: Command, tmp_path: pathlib.Path
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_run_is_66_before_tensorflow_is_imported(run: Command, tmp_path: pathlib.Path) -> None:
    done = run(tmp_path / "missing", f"--to={tmp_path}/to")
    assert (done.returncode, done.stdout) == (66, "")
    assert "does not exist" in done.stderr
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, what in (("file", "is a file"), ("folder", "is no run directory: it has no run.json")):
        done = run(tmp_path / name, f"--to={tmp_path}/to")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (66, "", 1)
        assert what in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.slow
def test_plain_tensorflow_answers_with_it_as_the_log_says(
    trained: pathlib.Path, cold_command: Command, tmp_path: pathlib.Path
) -> None:
    done = cold_command("export", str(trained), "--to=made/for/it")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    newest = Manifest.load(RunDirectory(trained), steps(trained)[0])
    best = newest.control["best"]["validation/accuracy"][0]
    assert lines[0].startswith(f"step {best['step']} of {trained}, best by the log: validation/accuracy ")
    assert lines[1:] == [
        "in   image  float32 [any, 64]",
        "out  class  int32 [any]",
        "out  probabilities  float32 [any, 10]",
        "exported to made/for/it: a SavedModel with the averaged (ema) weights",
    ]
    assert done.stderr == ""
    folder = tmp_path / "made" / "for" / "it"
    written = pathlib.Path(RunDirectory(trained).manifest(best["step"])).read_bytes()
    assert (folder / "manifest.json").read_bytes() == written

    # In a process that has never heard of this package.
    np.savez(tmp_path / "digits.npz", **validation())
    program = (
        "import sys; sys.modules['trainer'] = None; sys.modules['experiments'] = None\n"
        "import numpy as np, tensorflow as tf\n"
        "data = np.load('digits.npz')\n"
        "serve = tf.saved_model.load('made/for/it').signatures['serving_default']\n"
        "answer = serve(image=tf.constant(data['image']))\n"
        "print((answer['class'].numpy() == data['label']).mean(dtype='float64'))\n"
        "assert (answer['probabilities'].numpy().argmax(axis=1) == answer['class'].numpy()).all()\n"
    )
    answered = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=True
    )
    assert float(answered.stdout) == best["value"]


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(trained: pathlib.Path, command: Command, tmp_path: pathlib.Path) -> None:
    assert command("export", str(trained), "--to=to").returncode == 0
    tool = pathlib.Path(sys.executable).parent / "saved_model_cli"

    def cli(*arguments: str) -> str:
        done = subprocess.run(
            [str(tool), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = cli("show", "--dir", "to", "--all")
    assert "inputs['image'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 64)" in shown
    assert "outputs['class'] tensor_info:\n        dtype: DT_INT32\n        shape: (-1)" in shown
    np.savez(tmp_path / "digits.npz", **validation())
    (tmp_path / "answers").mkdir()
    cli(
        *("run", "--dir", "to", "--tag_set", "serve", "--signature_def", "serving_default"),
        *("--inputs", "image=digits.npz[image]", "--outdir", "answers"),
    )
    best = Manifest.load(RunDirectory(trained), steps(trained)[0]).control["best"]["validation/accuracy"][0]
    right = np.load(tmp_path / "answers" / "class.npy") == validation()["label"]
    assert right.mean(dtype=np.float64) == best["value"]


def validation() -> dict[str, np.ndarray]:
    from experiments.digits import Digits, load

    images, labels = load()
    assert Digits().eval_data()["validation"].examples == VALIDATION
    return {"image": images[-VALIDATION:], "label": labels[-VALIDATION:]}


@pytest.mark.slow
def test_json_is_one_object_and_what_the_experiment_prints_is_not_in_it(
    run_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from experiments.digits import Digits

    predict = Digits.predict

    def talks(self: Any, model: Any, batch: Any) -> Any:
        print("tracing")
        return predict(self, model, batch)

    monkeypatch.setattr(Digits, "predict", talks)
    step = steps(run_dir)[-1]
    assert main([str(run_dir), f"--to={tmp_path}/to", f"--which={step}", "--json"]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    told = json.loads(said.out)
    known = Manifest.load(RunDirectory(run_dir), step).eval["validation"]["metrics"]["accuracy"]
    assert told == {
        "to": f"{tmp_path}/to",
        "run_dir": str(run_dir),
        "step": step,
        "kind": "saved_model",
        "weights": "ema",
        "metric": {"name": "validation/accuracy", "value": known, "relation": "exact", "step": step},
        "inputs": {"image": {"shape": [None, 64], "dtype": "float32"}},
        "outputs": {
            "class": {"shape": [None], "dtype": "int32"},
            "probabilities": {"shape": [None, 10], "dtype": "float32"},
        },
    }
    assert "tracing" in said.err


@pytest.mark.slow
def test_an_export_is_replaced_when_asked_and_else_stays(
    run_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "to"
    assert main([str(run_dir), f"--to={to}", "--which=latest", "--weights_only"]) == 0
    before = {path.name: path.read_bytes() for path in to.iterdir()}
    capsys.readouterr()
    assert "--overwrite" in refused(capsys, ConfigError, run_dir, f"--to={to}")
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before
    assert main([str(run_dir), f"--to={to}", "--overwrite"]) == 0
    assert "state.index" not in os.listdir(to)
    assert json.loads((to / "export.json").read_text())["kind"] == "saved_model"
    assert sorted(os.listdir(tmp_path)) == ["run", "to"]


@pytest.mark.slow
def test_the_best_can_be_that_of_later_evaluations(
    run_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(run_dir)
    for step in steps(run_dir):
        record = Record("eval", step, step * 64, None, {"loss": step / 100}, split="test", weights="ema")
        append_evaluation(directory, Evaluation(record, checkpoint_identity(Manifest.load(directory, step)), "f"))
    oldest = steps(run_dir)[-1]
    assert main([str(run_dir), f"--to={tmp_path}/to", "--from=evaluations"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    value = f"{oldest / 100:.4f}"
    assert first == (
        f"step {oldest} of {run_dir}, best by test/loss, minimized, of {len(steps(run_dir))} evaluated checkpoints: "
        f"test/loss {value} (exact)"
    )
    metric = json.loads((tmp_path / "to" / "export.json").read_text())["metric"]
    assert metric == {"name": "test/loss", "value": oldest / 100, "relation": "exact", "step": oldest}
    message = refused(capsys, ConfigError, run_dir, f"--to={tmp_path}/2", "--from=evaluations", "--monitor=test/f1")
    assert message == "monitor=test/f1 was not evaluated; expected one of test/loss"


@pytest.mark.slow
def test_a_checkpoint_that_is_removed_while_it_is_read_is_chosen_anew_unless_its_step_was_asked_for(
    run_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.trained.run import TrainedRun

    load = TrainedRun.load

    def removed_first(self: TrainedRun, step: int) -> None:
        monkeypatch.setattr(TrainedRun, "load", load)
        shutil.rmtree(self.directory.checkpoint(step))
        load(self, step)

    newest, older = steps(run_dir)[:2]
    monkeypatch.setattr(TrainedRun, "load", removed_first)
    assert main([str(run_dir), f"--to={tmp_path}/to", "--which=latest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == older
    assert newest not in steps(run_dir)

    monkeypatch.setattr(TrainedRun, "load", removed_first)
    message = refused(capsys, Unusable, run_dir, f"--to={tmp_path}/to2", f"--which={older}")
    assert "has no checkpoint" in message
    assert not (tmp_path / "to2").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_PREEMPTED), (signal.SIGINT, EXIT_INTERRUPTED)])
def test_a_signal_ends_it_and_leaves_nothing(
    number: signal.Signals,
    code: int,
    run_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import trainer.trained.export

    write = trainer.trained.export.write_export

    def struck(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return write(*arguments, **options)

    monkeypatch.setattr(trainer.trained.export, "write_export", struck)
    assert main([str(run_dir), f"--to={tmp_path}/to"]) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "nothing is exported" in said.err
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.slow
def test_a_full_disk_is_74_and_leaves_nothing(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from trainer.command import run_command; from trainer.export import main; run_command(main)"
    )
    for flag in ("--weights_only", "--noweights_only"):
        command = [sys.executable, "-c", program, str(trained), f"--to={tmp_path}/to", flag]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=paths())
        assert (done.returncode, done.stdout) == (74, ""), done.stderr
        assert done.stderr.startswith("error: cannot write ")
        assert done.stderr.count("\n") == 1
        assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--json"], 74)], ids=["people", "scripts"])
def test_output_that_cannot_be_written_keeps_nothing_from_being_exported(
    flags: list[str], code: int, trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-m", "trainer.export", str(trained), f"--to={tmp_path}/to", "--weights_only", *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240, check=False, env=paths()
        )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(code)
    assert (tmp_path / "to" / "export.json").exists()


@pytest.mark.slow
def test_code_that_was_changed_is_told_in_one_line(
    run_dir: pathlib.Path, command: Command, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "changed.py").write_text(
        "import dataclasses\nimport tensorflow as tf\nfrom experiments.digits import Digits\n\n"
        "@dataclasses.dataclass(frozen=True)\nclass Changed(Digits):\n"
        "    def model(self, seed):\n        made = super().model(seed)\n"
        "        made.more = tf.Variable(tf.ones([20, 20]), name='more')\n        return made\n"
    )
    known = json.loads((run_dir / "run.json").read_text())
    del known["crc32"]
    (run_dir / "run.json").write_text(json.dumps({**known, "experiment": "changed:Changed"}))
    done = command("export", str(run_dir), f"--to={tmp_path}/to")
    assert (done.returncode, done.stdout) == (66, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "holds another model than the experiment makes" in done.stderr
    assert "numpy" not in done.stderr
