"""What is traced once: whether anything comes of the seeds it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.run import chunk, evaluate
from trainer.run.tracing import trace_on_batch, uses_seeds

pytestmark = pytest.mark.slow  # Each traces.

Train = Callable[..., trainer.Result]

SPECS = ({"x": tf.TensorSpec([4], tf.float32), "y": tf.TensorSpec([4], tf.float32)}, tf.TensorSpec([4], tf.float32))
CAPTURED = tf.Variable(tf.ones([4]))
DRAWN = tf.Variable(tf.zeros([2], tf.int32))


def noise(seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_normal([4], seed, alg="philox")


def ignored(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    for seed in tf.unstack(seeds):
        noise(seed)
    return values["x"] * CAPTURED + tf.cast(tf.shape(seeds)[0], tf.float32)


def returned(values: Any, weights: Any, seeds: tf.Tensor) -> Any:
    return values["x"] * CAPTURED, values["y"] + noise(seeds[1])


def handed_on(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    return seeds


def assigned(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    CAPTURED.assign(noise(seeds[0]))
    return values["x"]


def assigned_in_a_branch(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    tf.cond(values["x"][0] > 0, lambda: DRAWN.assign(seeds[0]), lambda: DRAWN.read_value())
    return values["x"]


def decides(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    return tf.cond(noise(seeds[0])[0] > 0, lambda: values["x"], lambda: values["y"])


def repeated(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    body = lambda number, x: (number + 1, x + noise(seeds[number]))  # noqa: E731
    return tf.while_loop(lambda number, x: number < 2, body, (tf.constant(0), values["x"]))[1]


def in_a_function(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    return values["x"] + tf.function(noise, autograph=False)(seeds[0])


def in_python(values: Any, weights: Any, seeds: tf.Tensor) -> tf.Tensor:
    tf.py_function(lambda seed: None, [seeds], [])
    return values["x"]


@pytest.mark.parametrize(
    "function", [returned, handed_on, assigned, assigned_in_a_branch, decides, repeated, in_a_function, in_python]
)
def test_seeds_that_anything_comes_of_are_used(function: Callable[..., Any]) -> None:
    assert uses_seeds(trace_on_batch(SPECS, function, seeds=(2, 2)))


def test_seeds_of_which_nothing_comes_are_not() -> None:
    assert not uses_seeds(trace_on_batch(SPECS, ignored, seeds=(2, 2)))
    assert not uses_seeds(trace_on_batch((SPECS[0], None), ignored, seeds=(2, 2)))


@dataclasses.dataclass(frozen=True)
class Line(trainer.Experiment):
    """A line through points, which noise may move."""

    draws: str = ""
    """Where noise does: in `training`, in `evaluation`, in either."""

    def model(self, seed: Any) -> tf.Module:
        model = tf.Module()
        model.slope = tf.Variable(0.5)
        return model

    def optimizer(self) -> Any:
        return trainer.optim.SGD(0.01)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays({"x": np.arange(8, dtype=np.float32)}, batch_size=4)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {"validation": self.train_data()}

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        values = (model.slope * batch["x"] - 1) ** 2
        if ("training" if training else "evaluation") not in self.draws:
            return trainer.Loss(values)
        return trainer.Loss(values + tf.random.stateless_normal(values.shape, seed, alg="philox"))


class Own(Line):
    """The same in a step of its own."""

    def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
        with tf.GradientTape() as tape:
            loss = self.loss(state.model, batch, training=True, seed=seed)
            mean = tf.reduce_mean(loss.per_example)
        state.optimizer.apply([tape.gradient(mean, state.model.slope)], [state.model.slope])
        return loss


@pytest.mark.parametrize("jit", ["none", "step", "chunk"])
@pytest.mark.parametrize(
    ("experiment", "options", "folding"),
    [
        (Line(), {}, set()),
        (Line("training"), {}, {"chunk"}),
        (Line("training"), {"accumulate": 2}, {"chunk"}),
        (Line("evaluation"), {}, {"evaluate"}),
        (Own(), {}, set()),
        (Own("training and evaluation"), {}, {"chunk", "evaluate"}),
    ],
)
def test_seeds_are_folded_only_where_something_is_drawn(
    experiment: Line,
    options: dict[str, Any],
    folding: set[str],
    jit: str,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folded: list[str] = []

    def telling(who: str, fold: Callable[..., Any]) -> Callable[..., Any]:
        def told(*arguments: Any) -> Any:
            if any(map(tf.is_tensor, arguments)):
                folded.append(who)
            return fold(*arguments)

        return told

    monkeypatch.setattr(chunk, "seeds_of_steps", telling("chunk", chunk.seeds_of_steps))
    monkeypatch.setattr(evaluate, "fold_in", telling("evaluate", evaluate.fold_in))
    result = train(experiment, train_for=3, log_every=1, eval_every=1, jit=jit, **options)
    assert set(folded) == folding
    # What is drawn is another number each step.
    assert len({record.metrics["loss"] for record in result.records}) == len(result.records)
