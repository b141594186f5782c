"""Whatever has state comes through a resume exactly: the same records, and the same bits of every tensor."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.data.streams import stream
from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import Manifest
from trainer.proof.resume import UNDISTURBED
from trainer.run.state import TrainState
from trainer.testing import ResumeReport, assert_resumes_exactly

pytestmark = pytest.mark.slow

FEATURES, EXAMPLES, BATCH = 3, 50, 4
BATCHES = 13
"""In a pass, of which the last is short."""
Train = Callable[..., trainer.Result]


class Plane(tf.Module):
    """y = x · kernel + bias, computed in another dtype than the weights have."""

    def __init__(self, seed: Any, dtype: str) -> None:
        super().__init__()
        self._dtype = dtype
        self.kernel = tf.Variable(tf.random.stateless_normal([FEATURES], seed, alg="philox"), name="kernel")
        self.bias = tf.Variable(0.0, name="bias")

    def __call__(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        x, kernel, bias = (tf.cast(value, self._dtype) for value in (x, self.kernel, self.bias))
        return tf.linalg.matvec(x, kernel) + bias


@dataclasses.dataclass(frozen=True)
class Small(trainer.Experiment):
    """Least squares, with noise that follows from the step's seed."""

    size: float = 1.0
    """Of the examples."""
    broken: int = -1
    """The example that is not a number."""
    learning_rate: float = trainer.field(0.05, on_resume="warn")

    def arrays(self) -> dict[str, np.ndarray]:
        x = np.random.default_rng(3).uniform(-1, 1, [EXAMPLES, FEATURES]).astype(np.float32)
        y = self.size * (x.sum(axis=1) + 0.5)
        y[self.broken] = y[self.broken] if self.broken < 0 else np.nan
        return {"x": x, "y": y}

    def model(self, seed: Any) -> Any:
        return Plane(seed, self.compute_dtype)

    def optimizer(self) -> Any:
        return trainer.optim.Adam(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays(self.arrays(), batch_size=BATCH, shuffle=False)

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        told = model(batch["x"], training=training)
        told = told if told.shape.rank == 1 else told[:, 0]
        noise = tf.random.stateless_normal([], seed, alg="philox") if training else 0.0
        return trainer.Loss(per_example=tf.square(told - tf.cast(batch["y"] + 0.1 * noise, told.dtype)))


class Evaluated(Small):
    """With a split."""

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {"validation": trainer.data.arrays(self.arrays(), batch_size=25)}


class Guest(Small):
    """Keras layers that draw and count for themselves, and Keras' Adam."""

    def model(self, seed: Any) -> Any:
        return layers()

    def optimizer(self) -> Any:
        return keras.optimizers.Adam(self.learning_rate)


class Around(tf.Module):
    """A module with Keras layers in it, and a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = {"layers": layers()}
        self.scale = tf.Variable(1.0)

    def __call__(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.scale * self.inner["layers"](x, training=training)[:, 0]


class Nested(Small):
    """Keras layers inside of a module, trained by our optimizer."""

    def model(self, seed: Any) -> Any:
        return Around()


@dataclasses.dataclass
class Evaluations:
    """Python state: how many evaluations there were."""

    count: int = 0

    def serialize(self) -> str:
        return str(self.count)

    def deserialize(self, text: str) -> None:
        self.count = int(text)


@dataclasses.dataclass(frozen=True)
class Registered(Evaluated):
    """Draws from a generator of its own, and counts in Python."""

    evaluations: Evaluations = dataclasses.field(default_factory=Evaluations, metadata={"on_resume": "free"})

    def extra_state(self) -> Mapping[str, Any]:
        return {"noise": tf.random.Generator.from_seed(5), "evaluations": self.evaluations}

    def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
        with tf.GradientTape() as tape:
            told = state.model(batch["x"], training=True)
            noise = state.extra["noise"].normal(told.shape)
            per_example = tf.square(told + noise - batch["y"])
            objective = tf.reduce_mean(per_example)
        variables = state.trainable_variables()
        state.optimizer.apply(tape.gradient(objective, variables), variables)
        return trainer.Loss(per_example=per_example, metrics={"trained": tf.ones_like(per_example)})

    def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
        if "trained" in means:
            return {}
        self.evaluations.count += 1
        return {"evaluations": float(self.evaluations.count)}


class Streamed(Small):
    """From a pipeline that shuffles and draws by the example's seed."""

    def train_data(self) -> Any:
        return self.streamed()

    def streamed(self, **options: Any) -> Any:
        def make() -> tf.data.Dataset:
            return self.pipeline(tf.data.Dataset.from_tensor_slices(self.arrays()).shuffle(20))

        def noisy(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return {**example, "x": example["x"] + 0.1 * tf.random.stateless_normal([FEATURES], seed, alg="philox")}

        return stream(make, batch_size=BATCH, **options).map(noisy)

    def pipeline(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset


class Replayed(Streamed):
    """From a pipeline that goes through Python, whose state cannot be saved."""

    def train_data(self) -> Any:
        return self.streamed(resume="replay")

    def pipeline(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        def doubled(example: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
            y = tf.numpy_function(lambda value: 2 * value, [example["y"]], tf.float32, stateful=False)
            return {**example, "y": tf.ensure_shape(y, [])}

        return dataset.map(doubled)


def layers() -> keras.Model:
    """A model of Keras; each has names of its own, and initial weights without a seed."""
    return keras.Sequential(
        [
            keras.layers.Input([FEATURES]),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.4),
            keras.layers.Dense(1),
        ]
    )


def proved(experiment: Any, folder: pathlib.Path | None = None, **options: Any) -> ResumeReport:
    """Asserts that what stops and resumes, in the middle of a window, is what was never stopped."""
    settings = {"steps": 8, "cuts": [3], "jit": "none", "eval_every": "2steps", **options}
    return assert_resumes_exactly(experiment, run_dir=folder, **settings)


def records(folder: pathlib.Path, kind: str = "train") -> list[dict[str, Any]]:
    """The records of the run that was never stopped."""
    lines = (folder / UNDISTURBED / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def tensors(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint of that run, by their keys without TensorFlow's ending."""
    reader = tf.train.load_checkpoint(RunDirectory(folder / UNDISTURBED).state_prefix(step))
    names = reader.get_variable_to_shape_map()
    return {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(name) for name in names}


def test_averaged_weights_resume_and_are_what_is_evaluated(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "proof"
    proved(Evaluated(), folder, ema=0.9)
    assert {record["weights"] for record in records(folder, "eval")} == {"ema"}
    saved = tensors(folder, 8)
    assert any(saved["ema/kernel"] != saved["model/kernel"])


def test_accumulated_and_clipped_gradients_resume(tmp_path: pathlib.Path) -> None:
    proved(Small(size=20.0), tmp_path / "proof", accumulate=4, clip_norm=0.5)
    saved = tensors(tmp_path / "proof", 3)
    moments = np.hstack([saved["optimizer/first_moment/0"], saved["optimizer/first_moment/1"]])
    # What it is the average of is as large as the data otherwise.
    assert np.linalg.norm(moments) < 0.5


@pytest.mark.parametrize("kind", [Small, Guest])
def test_loss_scale_resumes_where_it_was_after_an_overflow(kind: type, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "proof"
    proved(kind(size=20.0), folder, precision="mixed_float16", log_every=5)
    scales = [float(tensors(folder, step)["loss_scale/scale"]) for step in (3, 8)]
    assert scales[0] < 2.0**15, "nothing overflowed before the cut"
    assert scales[1] > 1
    assert records(folder)[0]["skipped"] >= 1
    weights = [value for name, value in tensors(folder, 8).items() if name.startswith(("model", "optimizer"))]
    assert {value.dtype for value in weights if value.dtype.kind == "f"} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", [Small, Guest])
def test_bfloat16_resumes(kind: type, tmp_path: pathlib.Path, train: Train) -> None:
    proved(kind(), tmp_path / "proof", precision="mixed_bfloat16")
    half, full = records(tmp_path / "proof")[0], train(kind(), train_for=4, log_every=4).records[0]
    assert half["window"] == list(full.window or ())
    assert half["metrics"] != full.metrics, "it was not computed in bfloat16"


@pytest.mark.parametrize(("jit", "ema"), [("none", 0.0), ("chunk", 0.9)])
def test_skipped_step_in_the_open_window_of_a_save_is_counted_after_the_resume(
    jit: str, ema: float, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "proof"
    proved(Small(broken=BATCH + 1), folder, on_nonfinite="skip", ema=ema, log_every=5, jit=jit)
    manifest = Manifest.load(RunDirectory(folder / UNDISTURBED), 3)
    assert manifest.open_window["steps"] == 3
    assert manifest.open_window["skipped"] == 1
    assert [record.get("skipped", 0) for record in records(folder)] == [1, 0]


def test_registered_generator_and_python_state_resume(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "proof"
    proved(Registered, folder)
    assert [record["metrics"]["evaluations"] for record in records(folder, "eval")] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [Guest, Nested])
def test_keras_layers_resume_alone_and_inside_of_a_module(kind: type, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "proof"
    proved(kind(), folder, ema=0.9)
    early, late = tensors(folder, 3), tensors(folder, 6)
    moving = [name for name in late if "moving_mean" in name and name.startswith("model")]
    seeds = [name for name in late if name.startswith("keras_seeds")]
    assert moving
    assert seeds
    assert all((early[name] != late[name]).any() for name in moving + seeds), "they do not change at all"


@pytest.mark.parametrize(("kind", "mode"), [(Streamed, "iterator"), (Replayed, "replay")])
def test_stream_resumes_by_its_state_and_by_counting(kind: type, mode: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "proof"
    proved(kind(), folder, steps=16, cuts=[7])
    assert Manifest.load(RunDirectory(folder / UNDISTURBED), 7).data["mode"] == mode
    assert ("data_state" in tensors(folder, 7)) == (mode == "iterator")


@pytest.mark.parametrize(
    ("kind", "cuts"),
    [(Streamed, [5, 10]), (Streamed, [BATCHES - 1]), (Streamed, [BATCHES]), (Replayed, [BATCHES - 1])],
)
def test_end_of_the_data_inside_a_chunk_ends_a_resumed_run_at_the_same_step(
    kind: type, cuts: list[int], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "proof"
    report = proved(kind(), folder, steps=2 * BATCHES, cuts=cuts, on_data_end="stop", log_every=3)
    assert report.steps == BATCHES
    last = records(folder)[-1]
    assert (last["window"], last["examples"]) == ([12, BATCHES], EXAMPLES)
    for cut in cuts:
        resumed = folder / f"cut-{cut:010d}"
        assert max(RunDirectory(resumed).committed_steps()) == BATCHES


@pytest.mark.parametrize("kind", [Small, Guest, Nested])
def test_plain_tensorflow_reads_the_weights_and_their_average_back(kind: type, train: Train) -> None:
    experiment = kind()
    result = train(experiment, train_for=3, log_every=3, save_every=3, ema=0.5)
    told = []
    for attribute in ("model", "ema"):
        fresh = experiment.model(np.array([1, 2], np.int32))
        told.append(outputs(fresh))
        status = tf.train.Checkpoint(**{attribute: fresh}).read(RunDirectory(result.run_dir).state_prefix(3))
        status.assert_existing_objects_matched()
        status.expect_partial()
        told.append(outputs(fresh))
    before, weights, _, average = told
    assert (weights != before).any()
    assert (weights != average).any(), "the average is the same as the weights"


@pytest.mark.parametrize("kind", [Small, Guest])
def test_learning_rate_follows_the_flag_after_a_resume(kind: type, train: Train) -> None:
    """And the updates follow it: with none at all, the weights stay."""
    train(kind(), train_for=3, log_every=3, save_every=3)
    result = train(kind(learning_rate=0.0), train_for=6, log_every=3, save_every=3, keep_last=2)
    assert [record.learning_rate for record in result.records] == [pytest.approx(0.05), 0.0]
    first, second = weights_of(kind(), result.run_dir)
    assert all((one == other).all() for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", [Guest, Nested])
def test_initial_weights_of_keras_follow_the_run_seed(kind: type) -> None:
    """The global generators, which a user may draw from meanwhile, have no part in it."""
    told = []
    for number, seed in enumerate((17, 17, 18)):
        keras.utils.set_random_seed(number)
        told.append(outputs(TrainState(kind(), seed).model))
    assert (told[0] == told[1]).all()
    assert (told[0] != told[2]).any()


def outputs(model: Any) -> np.ndarray:
    """What a model says about one example."""
    value: np.ndarray = np.asarray(model(tf.constant([[0.1, -0.2, 0.3]]), training=False))
    return value


def weights_of(experiment: trainer.Experiment, run_dir: str) -> Iterator[list[np.ndarray]]:
    """The trainable weights in both checkpoints of a run, as plain TensorFlow reads them."""
    for step in sorted(RunDirectory(run_dir).committed_steps()):
        model = experiment.model(np.array([1, 2], np.int32))
        tf.train.Checkpoint(model=model).read(RunDirectory(run_dir).state_prefix(step)).expect_partial()
        yield [np.asarray(variable) for variable in model.trainable_variables]
