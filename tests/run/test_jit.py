"""How much XLA compiles: what is chosen, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError, Unusable
from trainer.run.jit import DoesNotCompile, refusing

OPTIONS: dict[str, Any] = {"train_for": 4, "log_every": 2, "save_every": "never", "progress": "plain"}


@pytest.fixture(scope="module")
def text(linear: Any) -> Any:
    """An experiment with an operation that XLA has no kernel for."""

    @dataclasses.dataclass(frozen=True)
    class Text(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, metrics={"digits": tf.strings.length(tf.as_string(batch["index"]))})

    return Text


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["step", "chunk"])
def test_a_mode_that_does_not_compile_is_refused_before_anything_is_written(
    mode: str, text: Any, tmp_path: pathlib.Path
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(
        ConfigError, match=rf"^jit={mode} does not compile here: XLA has no AsString \(made in .*\)"
    ) as e:
        trainer.Trainer(text(), run_dir=str(run_dir), jit=mode, **OPTIONS).run()
    assert "test_jit.py, line" in str(e.value)
    assert "\n" not in str(e.value)
    assert not (run_dir / "run.json").exists()


@pytest.mark.slow
def test_auto_compiles_nothing_where_xla_cannot_and_says_so(
    text: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = trainer.Trainer(text(), run_dir=str(tmp_path / "run"), **OPTIONS).run()
    assert result.reason == "target reached"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == "none"
    lines = capsys.readouterr().out.splitlines()
    assert [
        line for line in lines if line.startswith("jit=auto is none here, because chunk does not compile: XLA has no ")
    ]
    assert [line for line in lines if line.startswith("first step after ") and " compile " in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "where", "expected"),
    [("auto", "training", "none"), ("auto", "evaluation", "none"), ("chunk", "training", "chunk")],
)
def test_auto_compiles_no_convolution_and_who_asks_for_it_is_told_what_it_costs(
    asked: str,
    where: str,
    expected: str,
    linear: Any,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Blurred(linear):
        def eval_data(self) -> dict[str, Any]:
            return {"validation": self.train_data()}

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            if training is not (where == "training"):
                return loss
            row = tf.reshape(loss.per_example, [1, -1, 1])
            return dataclasses.replace(loss, metrics={"blurred": tf.nn.conv1d(row, tf.ones([3, 1, 1]), 1, "SAME")[0]})

    trainer.Trainer(Blurred(), run_dir=str(tmp_path / "run"), jit=asked, **OPTIONS).run()
    slow = "XLA can be many times slower than TensorFlow for Conv2D on a CPU; trainer.doctor measures it"
    told = f"jit=auto is none here, because {slow}" if asked == "auto" else f"with jit=chunk {slow}"
    assert [line for line in capsys.readouterr().out.splitlines() if "Conv2D" in line] == [told]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == expected


@pytest.mark.slow
def test_a_convolution_that_nobody_compiles_decides_nothing(linear: Any, tmp_path: pathlib.Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Streamed(linear):
        """Trains in memory, and evaluates on a stream, which XLA does not compile."""

        def eval_data(self) -> dict[str, Any]:
            values = self.arrays()
            return {"validation": trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(values), batch_size=2)}

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            row = tf.reshape(loss.per_example, [1, -1, 1])
            blurred = {} if training else {"blurred": tf.nn.conv1d(row, tf.ones([3, 1, 1]), 1, "SAME")[0]}
            return dataclasses.replace(loss, metrics=blurred)

    trainer.Trainer(Streamed(), run_dir=str(tmp_path / "run"), eval_every="2steps", **OPTIONS).run()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == "chunk"


@pytest.mark.parametrize(
    ("error", "ahead", "refused"),
    [
        (tf.errors.NotFoundError(None, None, "no such target"), True, True),
        (tf.errors.NotFoundError(None, None, "no such target"), False, False),
        (tf.errors.InternalError(None, None, "Compilation failure: too large"), False, True),
        (tf.errors.OutOfRangeError(None, None, "end of sequence"), False, False),
        (ValueError("uncompilable"), False, True),
        (ValueError("a wrong number"), True, False),
        (KeyError("compiled"), True, False),
        # By chance, and not for the program.
        (tf.errors.ResourceExhaustedError(None, None, "out of memory while it compiles"), True, False),
        (tf.errors.CancelledError(None, None, "compilation was cancelled"), False, False),
        (
            tf.errors.InvalidArgumentError(None, None, 'no number\nFile "/a/compiler/train.py", line 1'),
            False,
            False,
        ),
    ],
)
def test_what_is_xla_s_failure_is_a_refusal_and_what_is_not_stays_what_it_is(
    error: Exception, ahead: bool, refused: bool
) -> None:
    with pytest.raises(DoesNotCompile if refused else type(error)), refusing("step", ahead=ahead):
        raise error


@pytest.mark.slow
def test_each_mode_trains_and_resumes_to_the_bit(linear: Any, tmp_path: pathlib.Path) -> None:
    for mode in ("step", "chunk"):
        options = {**OPTIONS, "jit": mode, "save_every": 3, "progress": "never"}
        trainer.Trainer(linear(), run_dir=str(tmp_path / mode), **{**options, "train_for": 8}).run()
        for target in (5, 8):
            trainer.Trainer(linear(), run_dir=str(tmp_path / f"{mode}-cut"), **{**options, "train_for": target}).run()
        whole, cut = ((tmp_path / name / "metrics.jsonl").read_text() for name in (mode, f"{mode}-cut"))
        assert [line for line in cut.splitlines() if '"step":5,' not in line and '"step":6,' not in line] == [
            line for line in whole.splitlines() if '"step":6,' not in line
        ]


@pytest.mark.slow
def test_data_that_cannot_be_read_is_no_failure_of_the_compiler(linear: Any, tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "compiled" / "missing.txt"

    @dataclasses.dataclass(frozen=True)
    class Missing(linear):
        def train_data(self) -> Any:
            row = {name: values[0] for name, values in self.arrays().items()}
            lines = tf.data.TextLineDataset(str(missing))
            return trainer.data.stream(lambda: lines.map(lambda line: row), batch_size=2)

    with pytest.raises(Unusable, match="the training data cannot be read"):
        trainer.Trainer(Missing(), run_dir=str(tmp_path / "run"), jit="step", **OPTIONS).run()


def test_what_xla_says_is_told_without_what_tensorflow_says_before_it() -> None:
    before = 'Graph execution error:\n\nDetected at node f defined at (most recent call last):\nFile "a.py", line 1\n'
    told = str(DoesNotCompile("step", f"{before}<stack traces unavailable>\n\n  too large\nand pages more"))
    assert told == "jit=step does not compile here: too large; use --jit=none"


def test_what_xla_says_is_told_in_one_line_also_where_no_operation_is_named() -> None:
    told = str(DoesNotCompile("step", "Compilation failure: it is too large\nand pages more"))
    assert told == "jit=step does not compile here: Compilation failure: it is too large; use --jit=none"
