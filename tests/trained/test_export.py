"""An export: it answers as the evaluated model did, it holds its very weights, and says where they come from."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.checkpoint.selection import choose
from trainer.decide.measured import MeasuredMetric
from trainer.errors import ConfigError, Unwritable
from trainer.ledger.directory import RunDirectory
from trainer.trained.export import Export, write_export
from trainer.trained.run import TrainedRun, open_run

Train = Callable[..., trainer.Result]
WORDS = ["here", "there"]
ROWS = 32


def batch(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=[rows, 4]).astype(np.float32)
    return {
        "x": x,
        "word": np.array(WORDS, dtype=object)[generator.integers(2, size=rows)].astype("S5"),
        "y": (x.sum(axis=1) > 0).astype(np.int32),
    }


class Sided(tf.Module):
    """A layer behind a lookup."""

    def __init__(self, seed: Any) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.random.stateless_normal([4, 2], seed, alg="philox"))
        self.bias = tf.Variable(tf.zeros([2, 2]))
        initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(WORDS), tf.constant([0, 1]))
        self.table = tf.lookup.StaticHashTable(initializer, 0)

    def __call__(self, x: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
        return x @ self.weights + tf.gather(self.bias, self.table.lookup(word))


@dataclasses.dataclass(frozen=True)
class Sides(trainer.Experiment):
    """Which side of a plane a point is on."""

    learning_rate: float = 0.125
    limit: float = float("inf")

    def model(self, seed: Any) -> Any:
        return Sided(seed)

    def optimizer(self) -> Any:
        return trainer.optim.SGD(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays(batch(ROWS), batch_size=8)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {"validation": trainer.data.arrays(batch(ROWS, seed=1), batch_size=8)}

    def logits(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        return model(batch["x"], batch["word"])

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        logits = tf.cast(self.logits(model, batch, training=training), tf.float32)
        return trainer.Loss(
            tf.nn.sparse_softmax_cross_entropy_with_logits(batch["y"], logits),
            metrics={"accuracy": tf.argmax(logits, axis=1, output_type=tf.int32) == batch["y"]},
        )

    def predict(self, model: Any, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"logits": self.logits(model, batch, training=False)}


def layers() -> list[Any]:
    return [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]


class Net(keras.Model):
    """A Keras model with code of its own, which does not know its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.dropout = layers()
        self.out = keras.layers.Dense(2)

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.norm(self.hidden(x), training=training)
        return self.out(self.dropout(x, training=training))


@dataclasses.dataclass(frozen=True)
class OfKeras(Sides):
    """The same by a Keras model of each kind."""

    kind: str = "sequential"

    def model(self, seed: Any) -> Any:
        if self.kind == "subclassed":
            net = Net()
            net(tf.zeros([1, 4]))
            return net
        if self.kind == "sequential":
            return keras.Sequential([keras.Input([4], name="x"), *layers(), keras.layers.Dense(2)])
        x = hidden = keras.Input([4], name="x")
        for layer in layers():
            hidden = layer(hidden)
        return keras.Model({"x": x}, {"logits": keras.layers.Dense(2)(hidden)})

    def logits(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool) -> tf.Tensor:
        if self.kind == "functional":
            logits: tf.Tensor = model({"x": batch["x"]}, training=training)["logits"]
            return logits
        return model(batch["x"], training=training)


@dataclasses.dataclass(frozen=True)
class Unsaid(OfKeras):
    """One that leaves it to the model what it answers."""

    predict = trainer.Experiment.predict


class Prepared:
    """A checkpoint that is loaded to be exported, and where it goes to."""

    def __init__(self, run_dir: pathlib.Path, which: str = "latest") -> None:
        self.directory = RunDirectory(run_dir)
        self.manifest = choose(self.directory, which).manifest
        assert self.manifest is not None
        self.trained: TrainedRun = open_run(self.directory, self.manifest)
        self.trained.load(self.manifest.step)
        self.folder = run_dir.parent / "export"
        self.folder.mkdir()

    @property
    def step(self) -> int:
        assert self.manifest is not None
        return self.manifest.step

    def write(self, *, weights_only: bool = False, metric: MeasuredMetric | None = None) -> Export:
        content = pathlib.Path(self.directory.manifest(self.step)).read_bytes()
        return write_export(
            str(self.folder), self.trained, content, step=self.step, metric=metric, weights_only=weights_only
        )

    def answers(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What plain TensorFlow has the export answer."""
        signature = tf.saved_model.load(str(self.folder)).signatures["serving_default"]
        return {name: value.numpy() for name, value in signature(**inputs).items()}

    def tensors(self, part: str) -> list[bytes]:
        """The tensors of a part of the checkpoint."""
        return tensors_at(self.directory.state_prefix(self.step), part)


def tensors_at(prefix: str, part: str = "") -> list[bytes]:
    reader = tf.train.load_checkpoint(prefix)
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(part) and "OBJECT" not in name]
    return sorted(np.asarray(reader.get_tensor(name)).tobytes() for name in names if "save_counter" not in name)


EXPERIMENTS: Mapping[str, tuple[trainer.Experiment, dict[str, Any]]] = {
    "module": (Sides(), {}),
    "module, averaged": (Sides(), {"ema": 0.5}),
    "sequential": (OfKeras(), {}),
    "sequential, averaged": (OfKeras(), {"ema": 0.5}),
    "functional": (OfKeras(kind="functional"), {}),
    "subclassed": (OfKeras(kind="subclassed"), {}),
    "sequential by its call": (Unsaid(), {}),
    "functional by its call": (Unsaid(kind="functional"), {}),
    "bfloat16": (OfKeras(), {"precision": "mixed_bfloat16"}),
    "float16": (OfKeras(), {"precision": "mixed_float16"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_answers_as_the_evaluated_model_did(name: str, train: Train, tmp_path: pathlib.Path) -> None:
    experiment, flags = EXPERIMENTS[name]
    result = train(experiment, train_for="6steps", eval_every="6steps", keep_best=0, **flags)
    prepared = Prepared(tmp_path / "run")
    export = prepared.write()
    asked = batch(ROWS, seed=1)
    inputs = {key: tf.constant(asked[key]) for key in export.inputs}

    answer = prepared.answers(inputs)
    assert list(answer) == (["output"] if name == "sequential by its call" else ["logits"])
    (logits,) = answer.values()
    # The log's numbers, from the export's answers: but for the last bits, which follow from how the batch is cut.
    (record,) = [record for record in result.records if record.kind == "eval"]
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32)).numpy()
    loss = -np.mean(log_probabilities[np.arange(ROWS), asked["y"]], dtype=np.float64)
    assert loss == pytest.approx(record.metrics["loss"], rel=1e-2 if "precision" in flags else 1e-5)
    if "precision" not in flags:
        assert float(np.mean(np.argmax(logits, axis=1) == asked["y"])) == record.metrics["accuracy"]
    # The weights are those of the checkpoint, bit for bit.
    assert export.weights == record.weights == ("ema" if "ema" in flags else "raw")
    saved = tensors_at(str(prepared.folder / "variables" / "variables"))
    known = prepared.tensors("ema/" if "ema" in flags else "model/")
    assert saved
    assert set(saved) <= set(known)
    if "ema" in flags:
        assert not set(saved) <= set(prepared.tensors("model/"))


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_weights_alone_are_read_by_plain_tensorflow_into_the_same_model(
    ema: float, train: Train, tmp_path: pathlib.Path
) -> None:
    train(Sides(), train_for="4steps", ema=ema)
    prepared = Prepared(tmp_path / "run")
    export = prepared.write(weights_only=True)
    model = Sided([5, 6])
    tf.train.Checkpoint(model=model).read(str(prepared.folder / "state")).assert_consumed()
    for name in ("weights", "bias"):
        reader = tf.train.load_checkpoint(prepared.directory.state_prefix(4))
        part = "ema" if ema else "model"
        expected = reader.get_tensor(f"{part}/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        assert getattr(model, name).numpy().tolist() == expected.tolist()
    assert (export.kind, export.inputs, export.outputs) == ("weights", {}, {})
    assert sorted(path.name for path in prepared.folder.iterdir()) == [
        "export.json",
        "manifest.json",
        "state.data-00000-of-00001",
        "state.index",
    ]


@pytest.mark.slow
def test_it_says_where_it_comes_from_and_touches_nothing_there(train: Train, tmp_path: pathlib.Path) -> None:
    train(Sides(), train_for="2steps")

    def content() -> dict[pathlib.Path, tuple[int, bytes]]:
        files = (path for path in (tmp_path / "run").rglob("*") if path.is_file())
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = content()
    prepared = Prepared(tmp_path / "run")
    export = prepared.write(metric=MeasuredMetric("validation/loss", None, "earlier", 1))
    assert content() == before
    assert (prepared.folder / "manifest.json").read_bytes() == before[
        tmp_path / "run/checkpoints/step-0000000002/manifest.json"
    ][1]
    told = json.loads((prepared.folder / "export.json").read_text())
    assert told == export.to_json()
    assert told.pop("versions")["tensorflow"] == tf.__version__
    assert told == {
        "format": 1,
        "run": prepared.trained.info.run_id,
        "experiment": f"{__name__}:Sides",
        "parameters": {"learning_rate": 0.125, "limit": "inf"},
        "step": 2,
        "kind": "saved_model",
        "weights": "raw",
        "metric": {"name": "validation/loss", "value": None, "relation": "earlier", "step": 1},
        "inputs": {"x": {"shape": [None, 4], "dtype": "float32"}, "word": {"shape": [None], "dtype": "string"}},
        "outputs": {"logits": {"shape": [None, 2], "dtype": "float32"}},
    }


@pytest.mark.slow
def test_a_vocabulary_in_a_file_goes_with_it(train: Train, tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("\n".join(WORDS))

    class FromFile(Sided):
        def __init__(self, seed: Any) -> None:
            super().__init__(seed)
            initializer = tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(initializer, 0)

    monkeypatch.setattr(Sides, "model", lambda self, seed: FromFile(seed))
    train(Sides(), train_for="2steps")
    prepared = Prepared(tmp_path / "run")
    prepared.write()
    inputs = {key: tf.constant(value) for key, value in batch(3).items() if key != "y"}
    before = prepared.answers(inputs)["logits"]
    vocabulary.unlink()
    moved = prepared.folder.rename(tmp_path / "moved")
    prepared.folder = moved
    assert prepared.answers(inputs)["logits"].tolist() == before.tolist()


@pytest.mark.slow
def test_what_tensorflow_cannot_write_or_save_is_one_line(
    train: Train, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Sides(), train_for="2steps")
    prepared = Prepared(tmp_path / "run")
    for raised, kind, message in (
        (tf.errors.ResourceExhaustedError(None, None, "no space left\non device"), Unwritable, "no space left; free"),
        (AssertionError("Tried to export\nsomething"), ConfigError, "Tried to export; compute it from tensors"),
    ):

        def fail(*arguments: Any, _raised: Exception = raised, **options: Any) -> None:
            raise _raised

        monkeypatch.setattr(tf.saved_model, "save", fail)
        with pytest.raises(kind) as caught:
            prepared.write()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
