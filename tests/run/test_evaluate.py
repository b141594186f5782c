"""Evaluation: exact weighted means over a whole split."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError
from trainer.run.evaluate import Evaluator
from trainer.run.pace import Pace

pytestmark = pytest.mark.slow  # Each is traced, or compiled.

ONE_BATCH_A_CALL = 1e-9


def evaluator(experiment: Any, model: Any, *, source: Any = None, jit: bool = False, seed: int = 17) -> Evaluator:
    source = experiment.source() if source is None else source
    made = Evaluator(experiment, model, source, split="validation", seed=seed, jit=jit)
    made.build()
    return made


def means(made: Evaluator, *, tick: float = 10.0) -> Mapping[str, Any]:
    result = made.run(Pace(tick), lambda: False)
    assert result is not None
    return result[0]


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("batch_size", [4, 16], ids=["short last batch", "one batch, mostly padding"])
def test_an_evaluation_is_the_weighted_mean_over_every_example_of_the_split(
    jit: bool, weighted: bool, batch_size: int, linear: Any
) -> None:
    experiment = linear(dtype="float64", weighted=weighted, batch_size=batch_size)
    model, data = experiment.model([1, 2]), experiment.arrays()
    found = means(evaluator(experiment, model, jit=jit))
    error = data["x"] @ model.kernel.numpy() + model.bias.numpy() - data["y"]
    weights = data["weight"] if weighted else np.ones(10)
    np.testing.assert_allclose(found["loss"], (weights * error**2).sum() / weights.sum(), rtol=1e-13)
    np.testing.assert_allclose(found["absolute"], (weights * np.abs(error)).sum() / weights.sum(), rtol=1e-13)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("last", ["wrap", "short"])
def test_the_split_is_read_once_in_the_order_of_the_file_whatever_training_does(
    shuffle: bool, last: str, linear: Any
) -> None:
    experiment = linear(shuffle=shuffle, last=last)
    order = means(evaluator(experiment, experiment.model([1, 2])))["order"] * 10
    # Positions 0 to 3 of the batches 0…3, 4…7 and 8, 9; the rest is padding.
    np.testing.assert_allclose(order, [0 + 4 + 8, 1 + 5 + 9, 2 + 6, 3 + 7], rtol=1e-15)


def test_how_many_batches_a_call_takes_changes_no_bit(linear: Any) -> None:
    experiment = linear(weighted=True, batch_size=3)
    made = evaluator(experiment, experiment.model([1, 2]))
    whole, step_by_step = means(made), means(made, tick=ONE_BATCH_A_CALL)
    assert whole["loss"] == step_by_step["loss"]
    assert whole["order"].tobytes() == step_by_step["order"].tobytes()


def test_an_evaluation_that_is_cut_short_counts_for_nothing(linear: Any) -> None:
    made = evaluator(linear(), linear().model([1, 2]))
    assert made.run(Pace(10.0), lambda: True) is None
    asked: list[bool] = []

    def after_the_second() -> bool:
        asked.append(True)
        return len(asked) > 2

    assert made.run(Pace(ONE_BATCH_A_CALL), after_the_second) is None
    # And the next one is whole again.
    assert means(made)["loss"] == means(evaluator(linear(), linear().model([1, 2])))["loss"]


def test_an_evaluation_follows_the_weights_and_leaves_them_alone(linear: Any) -> None:
    experiment = linear(dtype="float64")
    model = experiment.model([1, 2])
    made = evaluator(experiment, model)
    before = means(made)["loss"]
    model.kernel.assign([1.0, 2.0, 3.0])
    model.bias.assign(-1.0)
    data = experiment.arrays()
    after = means(made)["loss"]
    assert after != before
    np.testing.assert_allclose(after, ((data["x"] @ [1, 2, 3] - 1 - data["y"]) ** 2).mean(), rtol=1e-13)
    assert model.kernel.numpy().tolist() == [1.0, 2.0, 3.0]


def test_the_loss_is_traced_once_and_told_that_this_is_no_training(linear: Any) -> None:
    told: list[bool] = []

    @dataclasses.dataclass(frozen=True)
    class Counted(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            told.append(training)
            return super().loss(model, batch, training=training, seed=seed)

    experiment = Counted()
    made = evaluator(experiment, experiment.model([1, 2]))
    for tick in (ONE_BATCH_A_CALL, 1.0, 100.0):
        means(made, tick=tick)
    assert told == [False]


def test_what_is_random_is_the_same_in_every_evaluation_and_another_in_every_batch(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Noisy(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            noise = tf.random.stateless_uniform([], seed, alg="philox")
            column = tf.one_hot(batch["index"] // 4, 3) * noise
            return trainer.Loss(tf.ones([4]), {"noise": column})

    experiment = Noisy()
    first, again = (evaluator(experiment, experiment.model([1, 2])) for _ in range(2))
    noise = means(first)["noise"] / [0.4, 0.4, 0.2]
    assert len(set(noise.tolist())) == 3
    assert (means(again)["noise"] / [0.4, 0.4, 0.2]).tolist() == noise.tolist()
    assert (means(first)["noise"] / [0.4, 0.4, 0.2]).tolist() == noise.tolist()


def test_batches_with_values_that_are_not_finite_are_counted(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Ratio(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(tf.ones([4]), {"ratio": 1 / tf.cast(batch["index"] - 5, tf.float32)})

    experiment = Ratio()
    result = evaluator(experiment, experiment.model([1, 2])).run(Pace(1.0), lambda: False)
    assert result is not None
    assert result[1] == {"ratio": 1}


def test_a_wrong_loss_is_refused_before_any_time_is_spent(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Wrong(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(tf.ones([]))

    experiment = Wrong()
    with pytest.raises(ConfigError, match="per_example of shape") as caught:
        evaluator(experiment, experiment.model([1, 2]))
    assert "\n" not in str(caught.value)


def test_a_split_without_a_length_is_refused_by_name(linear: Any) -> None:
    source = linear().source()
    source.examples = None
    with pytest.raises(ConfigError, match="'validation' has no known length"):
        evaluator(linear(), linear().model([1, 2]), source=source)


# --- What XLA compiles of it ------------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {"train_for": 4, "log_every": 2, "eval_every": 2, "save_every": "never", "progress": "plain"}


@pytest.fixture
def calling(linear: Any) -> Any:
    """An experiment whose evaluation alone calls Python, which XLA compiles nothing of."""

    @dataclasses.dataclass(frozen=True)
    class Calling(linear):
        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            if training:
                return loss
            called = tf.ensure_shape(tf.py_function(lambda y: 2 * y, [batch["y"]], tf.float32), [4])
            return dataclasses.replace(loss, metrics={"called": called})

    return Calling()


def evaluations(run_dir: pathlib.Path) -> list[int]:
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [record["step"] for record in records if record["kind"] == "eval"]


@pytest.mark.parametrize("mode", ["none", "step"])
def test_an_evaluation_is_not_compiled_where_the_chunk_is_not(mode: str, calling: Any, tmp_path: pathlib.Path) -> None:
    trainer.Trainer(calling, run_dir=str(tmp_path / "run"), jit=mode, **OPTIONS).run()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == mode
    assert evaluations(tmp_path / "run") == [2, 4]


def test_an_evaluation_that_does_not_compile_is_refused_with_a_compiled_chunk_before_anything_is_written(
    calling: Any, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ConfigError, match=r"^jit=chunk does not compile here: XLA has no EagerPyFunc \(made in ") as e:
        trainer.Trainer(calling, run_dir=str(tmp_path / "run"), jit="chunk", **OPTIONS).run()
    assert "test_evaluate.py, line" in str(e.value)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run" / "run.json").exists()
    assert not list(tmp_path.rglob("*.jsonl"))


def test_auto_compiles_nothing_where_the_evaluation_does_not_compile_and_says_so(
    calling: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.Trainer(calling, run_dir=str(tmp_path / "run"), **OPTIONS).run()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == "none"
    assert evaluations(tmp_path / "run") == [2, 4]
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("jit=auto is none here, because")]
    assert len(notes) == 1
    assert "EagerPyFunc" in notes[0]


def test_what_is_never_evaluated_need_not_compile(calling: Any, tmp_path: pathlib.Path) -> None:
    trainer.Trainer(calling, run_dir=str(tmp_path / "run"), jit="chunk", **{**OPTIONS, "eval_every": "never"}).run()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == "chunk"
