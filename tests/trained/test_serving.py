"""What an exported model answers: which tensors it takes, what it returns, and what it is refused for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError
from trainer.trained import serving
from trainer.trained.serving import Serving, trace_serving

# Each traces a model or two.
pytestmark = pytest.mark.slow

ROWS = {
    "x": np.arange(24, dtype=np.float32).reshape(8, 3),
    "word": np.array([b"a", b"b"] * 4),
    "count": np.arange(8),
    "label": np.ones(8, np.int32),
}
TABLE = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(tf.constant(["a", "b"]), tf.constant([1.0, 2.0])), 0.0
)
"""At the top of a module, where no model has it."""


@dataclasses.dataclass(frozen=True)
class Asked(trainer.Experiment):
    """An experiment that is never trained: it is asked for its answer."""

    rows: Any = None

    def model(self, seed: Any) -> tf.Module:
        module = tf.Module()
        module.scale = tf.Variable(2.0)
        module.unused = tf.Variable(tf.zeros([1000]))
        return module

    def optimizer(self) -> Any: ...

    def train_data(self) -> trainer.data.Source:
        return trainer.data.arrays(self.rows or ROWS, batch_size=4)

    def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> Any: ...


def serve(predict: Callable[..., Any], rows: Mapping[str, np.ndarray] | None = None) -> Serving:
    """What an experiment with this `predict` serves."""
    experiment = type("Shown", (Asked,), {"predict": predict})(rows=rows)
    return trace_serving(experiment, experiment.model(None))


def refused(predict: Callable[..., Any], rows: Mapping[str, np.ndarray] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        serve(predict, rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def specs(given: Mapping[str, tf.TensorSpec]) -> dict[str, tuple[list[int | None], str]]:
    return {name: (spec.shape.as_list(), spec.dtype.name) for name, spec in given.items()}


def test_what_the_answer_depends_on_is_an_input_and_nothing_else_of_the_batch() -> None:
    def predict(self: Any, model: Any, batch: Mapping[str, tf.Tensor]) -> Any:
        everything = {**batch}
        everything["label"] + 1
        return {"y": model.scale * everything["x"], "n": batch["count"]}

    served = serve(predict)
    assert specs(served.inputs) == {"x": ([None, 3], "float32"), "count": ([None], "int64")}
    assert specs(served.outputs) == {"y": ([None, 3], "float32"), "n": ([None], "int64")}
    assert served.notes == ()
    assert [variable.shape for variable in served.uses] == [[]], "what no answer needs is not exported"


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_it_answers_batches_of_any_size(rows: int) -> None:
    served = serve(lambda self, model, batch: {"y": model.scale * tf.reduce_sum(batch["x"], axis=1)})
    x = np.random.default_rng(1).normal(size=[rows, 3]).astype(np.float32)
    answer = served.function(x=tf.constant(x))
    assert list(answer) == ["y"]
    np.testing.assert_allclose(answer["y"], 2 * x.sum(axis=1), rtol=1e-6)


def test_an_input_that_only_an_assertion_looks_at_is_one() -> None:
    def predict(self: Any, model: Any, batch: Mapping[str, tf.Tensor]) -> Any:
        tf.debugging.assert_positive(batch["label"])
        return {"y": batch["x"]}

    served = serve(predict)
    assert sorted(served.inputs) == ["label", "x"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.function(x=tf.zeros([2, 3]), label=tf.constant([1, -1]))


def test_python_that_looks_at_tensors_is_rewritten_as_in_the_loss() -> None:
    def predict(self: Any, model: Any, batch: Mapping[str, tf.Tensor]) -> Any:
        y = batch["x"]
        if tf.reduce_sum(batch["count"]) < 3:
            y = -y
        return y

    function = serve(predict).function
    for count, sign in ((9, 1), (1, -1)):
        answer = function(x=tf.ones([1, 3]), count=tf.constant([count], tf.int64))
        assert answer["output"].numpy().tolist() == [[sign] * 3]


def test_a_single_tensor_is_called_output() -> None:
    assert list(serve(lambda self, model, batch: batch["x"] * model.scale).outputs) == ["output"]


def test_a_model_for_one_batch_size_only_is_served_with_the_training_batchs_and_that_is_said() -> None:
    served = serve(lambda self, model, batch: {"y": tf.reshape(batch["x"], [batch["x"].shape[0] * 3])})
    assert specs(served.inputs) == {"x": ([4, 3], "float32")}
    assert specs(served.outputs) == {"y": ([12], "float32")}
    (note,) = served.notes
    assert note.startswith("only batches of exactly 4 are served: with any number of rows Shown.predict() cannot be")
    assert "\n" not in note


def test_names_that_are_no_arguments_are_made_some_and_that_is_said() -> None:
    names = {"image/raw": "image_raw", "class": "arg_class", "1st": "arg_1st", "self": "arg_self", "größe": "gr__e"}
    served = serve(
        lambda self, model, batch: {"a/b c": tf.add_n(list(batch.values()))},
        dict.fromkeys(names, np.ones(8, np.float32)),
    )
    assert list(served.inputs) == list(names.values())
    assert served.notes == tuple(f"the input {own!r} is served as {given!r}" for own, given in names.items())
    answer = served.function(**dict.fromkeys(names.values(), tf.ones([2])))
    assert answer["a/b c"].numpy().tolist() == [5, 5]


def test_names_that_would_become_one_are_refused() -> None:
    rows = {"a/b": np.ones(8, np.float32), "a_b": np.ones(8, np.float32)}
    assert "cannot be told apart as a_b" in refused(lambda self, model, batch: batch["a/b"] + batch["a_b"], rows)


def test_tables_are_served_wherever_python_keeps_them() -> None:
    served = serve(lambda self, model, batch: {"y": model.scale * TABLE.lookup(batch["word"])})
    assert any(used is TABLE for used in served.uses)
    answer = served.function(word=tf.constant(["b", "?"]))
    assert answer["y"].numpy().tolist() == [4, 0]


def test_variables_that_no_checkpoint_of_the_model_holds_are_told() -> None:
    stranger = tf.Variable(3.0, name="stranger")
    (note,) = serve(lambda self, model, batch: batch["x"] * model.scale * stranger).notes
    assert note.endswith("stranger:0")
    assert "outside the model" in note


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: {}, "returned nothing; expected tensors by name"),
        (lambda batch: None, "returned NoneType; expected tensors by name"),
        (lambda batch: [batch["x"]], "returned list; expected tensors by name"),
        (lambda batch: {"y": [batch["x"]]}, "returned y as list; expected tensors by name"),
        (lambda batch: {"y": {"z": batch["x"]}}, "returned y as dict"),
        (lambda batch: {"y": tf.sparse.from_dense(batch["x"])}, "returned y as SparseTensor"),
        (lambda batch: {"y": tf.RaggedTensor.from_tensor(batch["x"])}, "returned y as RaggedTensor"),
        (lambda batch: {"y": object()}, "returned y as object"),
        (lambda batch: {1: batch["x"]}, "returned something by the name 1"),
        (lambda batch: {"": batch["x"]}, "returned something by the name ''"),
        (lambda batch: {"y": tf.constant(1.0)}, "returns depends on none of x, word, count, label"),
        (lambda batch: {"y": batch["x"].numpy()}, "cannot be traced: AttributeError: "),
        (lambda batch: {"y": tf.py_function(lambda x: x, [batch["x"]], tf.float32)}, "calls Python (EagerPyFunc"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(answer: Callable[..., Any], message: str) -> None:
    assert f"Shown.predict() {message}" in refused(lambda self, model, batch: answer(batch))


def test_an_error_in_it_is_told_with_its_line() -> None:
    def predict(self: Any, model: Any, batch: Mapping[str, tf.Tensor]) -> Any:
        return batch["z"]

    line = predict.__code__.co_firstlineno + 1
    assert refused(predict) == f"Shown.predict() cannot be traced: KeyError: 'z' (test_serving.py:{line})"


def test_an_experiment_that_does_not_say_its_answer_is_told_what_to_write() -> None:
    with pytest.raises(ConfigError) as caught:
        trace_serving(Asked(), Asked().model(None))
    message = str(caught.value)
    assert "write predict(self, model, batch)" in message
    assert "--weights_only" in message
    assert "\n" not in message


def test_data_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "data.npz")

    monkeypatch.setattr(Asked, "train_data", gone)
    message = refused(lambda self, model, batch: batch["x"])
    assert "train_data() raises FileNotFoundError" in message
    assert "bring the data back" in message


# Keras models that know their inputs need no predict().


def called(model: Any) -> Serving:
    return trace_serving(Asked(), model)


def test_a_keras_model_is_served_by_its_own_call_in_inference() -> None:
    model = keras.Sequential([keras.Input([3]), keras.layers.Dropout(0.9), keras.layers.Dense(2)])
    served = called(model)
    assert specs(served.inputs) == {"input_0": ([None, 3], "float32")}
    assert specs(served.outputs) == {"output": ([None, 2], "float32")}
    answer = served.function(input_0=tf.ones([5, 3]))["output"]
    np.testing.assert_allclose(answer, model(tf.ones([5, 3]), training=False), rtol=1e-6)
    assert served.notes == ()


def test_the_inputs_and_outputs_of_a_keras_model_keep_their_names() -> None:
    a, b = keras.Input([3], name="a"), keras.Input([2], name="b")
    total = keras.layers.Concatenate()([a, b])
    for inputs in ([a, b], (b, a), {"a": a, "b": b}):
        served = called(keras.Model(inputs, {"sum": total, "twice": 2 * total}))
        assert specs(served.inputs) == {"a": ([None, 3], "float32"), "b": ([None, 2], "float32")}
        assert list(served.outputs) == ["sum", "twice"]
        answer = served.function(a=tf.zeros([1, 3]), b=tf.ones([1, 2]))
        expected = [1, 1, 0, 0, 0] if isinstance(inputs, tuple) else [0, 0, 0, 1, 1]
        assert sorted(answer["sum"].numpy()[0].tolist()) == sorted(expected)
    assert list(called(keras.Model(a, [a * 2, a * 3])).outputs) == ["output_0", "output_1"]


def test_a_keras_model_of_words_is_served_with_its_vocabulary() -> None:
    model = keras.Sequential(
        [keras.Input([], dtype="string"), keras.layers.StringLookup(vocabulary=["cat", "dog"], output_mode="one_hot")]
    )
    answer = called(model).function(input_0=tf.constant(["dog", "fox"]))["output"]
    assert answer.numpy().tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_keras_model_that_does_not_know_its_inputs_needs_a_predict() -> None:
    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    for model in (Own(), keras.Sequential([keras.layers.Dense(2)]), keras.layers.Dense(2)):
        with pytest.raises(ConfigError, match=r"write predict\(self, model, batch\)"):
            called(model)


def test_a_keras_model_in_a_predict_may_be_given_the_whole_batch() -> None:
    x = keras.Input([3], name="x")
    net = keras.Model({"x": x}, keras.layers.Dense(1)(x))

    def predict(self: Any, model: Any, batch: Mapping[str, tf.Tensor]) -> Any:
        return net({"x": batch["x"]})

    assert list(serve(predict).inputs) == ["x"]
    assert serving.OUTPUT == "output"


STREAMS = {
    "endless": lambda: trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(ROWS).repeat(), batch_size=3),
    "shuffled": lambda: trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(ROWS).shuffle(8), batch_size=3),
    "finite": lambda: trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(ROWS), batch_size=3),
    "replayed": lambda: trainer.data.stream(
        lambda: tf.data.Dataset.from_tensor_slices(ROWS).repeat(), batch_size=3, resume="replay"
    ),
    "batched": lambda: trainer.data.stream(
        lambda: tf.data.Dataset.from_tensor_slices(ROWS).repeat().batch(3, drop_remainder=True)
    ),
    "arrays": lambda: trainer.data.arrays(ROWS, batch_size=3),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_whatever_can_be_trained_on_has_the_shapes_that_are_needed(kind: str) -> None:
    def predict(self: Any, model: Any, batch: Mapping[str, tf.Tensor]) -> Any:
        return {"y": model.scale * batch["x"]}

    experiment = type("Shown", (Asked,), {"predict": predict, "train_data": lambda self: STREAMS[kind]()})()
    served = trace_serving(experiment, experiment.model(None))
    assert specs(served.inputs) == {"x": ([None, 3], "float32")}
