"""What a mode that is asked for comes to: the rule of `--jit=auto`, at all of its borders."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.data import Source
from trainer.errors import ConfigError
from trainer.run.jit import AUTO, MODES, choose, slow_operation

SMALL, LARGE = 19_999_999, 20_000_000


class Layer(tf.Module):
    """A layer of Keras, as far as its name tells: Keras itself takes seconds to import."""

    __module__ = "keras.layers"


class Holder(tf.Module):
    """A model of the user's with a layer of Keras somewhere below."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = {"first": [Layer()]}


def in_memory() -> Source:
    return trainer.data.arrays({"x": np.zeros([4, 1], np.float32)}, batch_size=2)


def a_stream() -> Source:
    return trainer.data.stream(lambda: tf.data.Dataset.range(4).map(lambda number: {"x": number}), batch_size=2)


def chosen(asked: str, source: Source, *, parameters: int = SMALL, model: Any = None, known: str | None = None) -> str:
    state: Any = types.SimpleNamespace(parameters=lambda: parameters, model=model or tf.Module())
    return choose(asked, state, source, known=known)


@pytest.mark.parametrize(
    ("parameters", "expected"), [(1, "chunk"), (SMALL, "chunk"), (LARGE, "none"), (10 * LARGE, "none")]
)
def test_auto_compiles_the_chunk_of_a_model_of_fewer_than_twenty_million_parameters(
    parameters: int, expected: str
) -> None:
    assert chosen(AUTO, in_memory(), parameters=parameters) == expected


@pytest.mark.parametrize("model", [Layer(), Holder()], ids=["keras itself", "a layer of keras in it"])
def test_auto_compiles_nothing_with_keras_layers(model: tf.Module) -> None:
    assert chosen(AUTO, in_memory(), model=model) == "none"


@pytest.mark.parametrize("parameters", [1, LARGE])
def test_auto_compiles_nothing_where_batches_come_from_a_pipeline(parameters: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "lines.txt").write_text("1\n2\n")
    lines = trainer.data.text_lines(str(tmp_path / "lines.txt"), batch_size=2)
    assert [chosen(AUTO, source, parameters=parameters) for source in (a_stream(), lines)] == ["none", "none"]


@pytest.mark.parametrize("known", MODES)
@pytest.mark.parametrize(
    "otherwise",
    [{}, {"parameters": LARGE}, {"model": Layer()}],
    ids=["that the rule would compile", "that is large", "with layers of keras"],
)
def test_auto_goes_on_with_the_mode_of_a_run_that_is_there_whatever_the_rule_says(
    known: str, otherwise: dict[str, Any]
) -> None:
    assert chosen(AUTO, in_memory(), known=known, **otherwise) == known


@pytest.mark.parametrize(("known", "expected"), [("none", "none"), ("step", "step"), ("chunk", "none")])
def test_auto_goes_on_with_a_stream_as_before_unless_that_cannot_be(known: str, expected: str) -> None:
    assert chosen(AUTO, a_stream(), known=known) == expected


@pytest.mark.parametrize("known", [None, *MODES])
@pytest.mark.parametrize("otherwise", [{}, {"parameters": LARGE}, {"model": Layer()}])
def test_a_mode_that_is_asked_for_is_the_one(known: str | None, otherwise: dict[str, Any]) -> None:
    assert [chosen(asked, in_memory(), known=known, **otherwise) for asked in MODES] == list(MODES)
    assert [chosen(asked, a_stream(), known=known, **otherwise) for asked in ("none", "step")] == ["none", "step"]


@pytest.mark.parametrize("known", [None, *MODES])
def test_a_compiled_chunk_is_refused_where_batches_come_from_a_pipeline(known: str | None) -> None:
    with pytest.raises(ConfigError, match=r"^jit=chunk compiles no reading of data; use jit=step") as caught:
        chosen("chunk", a_stream(), known=known)
    assert "\n" not in str(caught.value)


IMAGES, KERNEL, MATRIX = tf.ones([2, 8, 8, 3]), tf.ones([3, 3, 3, 1]), tf.eye(4)
SLOW = {
    "convolution": lambda x: tf.nn.conv2d(x * IMAGES, KERNEL, 1, "SAME"),
    "its transpose": lambda x: tf.nn.conv2d_transpose(x * IMAGES[..., :1], KERNEL, [2, 8, 8, 3], 1),
    "convolution in one dimension": lambda x: tf.nn.conv1d(x * IMAGES[0], KERNEL[0], 1, "SAME"),
    "convolution in three": lambda x: tf.nn.conv3d(x * IMAGES[None], KERNEL[None], [1] * 5, "SAME"),
    "convolution by channel": lambda x: tf.nn.depthwise_conv2d(x * IMAGES, KERNEL, [1] * 4, "SAME"),
    "largest of each square": lambda x: tf.nn.max_pool2d(x * IMAGES, 2, 2, "VALID"),
    "triangular factor": lambda x: tf.linalg.cholesky(x * MATRIX),
    "eigenvalues": lambda x: tf.linalg.eigvalsh(x * MATRIX),
    "singular values": lambda x: tf.linalg.svd(x * MATRIX, compute_uv=False),
    "inverse": lambda x: tf.linalg.inv(x * MATRIX),
    "linear equations": lambda x: tf.linalg.solve(x * MATRIX, MATRIX),
}
FAST = {
    "product": lambda x: x * MATRIX @ MATRIX,
    "mean of each square": lambda x: tf.nn.avg_pool2d(x * IMAGES, 2, 2, "VALID"),
    "attention": lambda x: tf.nn.softmax(tf.einsum("bqd,bkd->bqk", x * IMAGES[0], IMAGES[0])),
    "rows of a table": lambda x: tf.gather(x * MATRIX, [0, 1]),
}


@pytest.mark.parametrize("what", [*SLOW, *FAST])
def test_auto_knows_the_operations_for_which_xla_is_slow_wherever_they_are_in_a_program(what: str) -> None:
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum((SLOW | FAST)[what](x))
        return tape.gradient(value, x)

    inner = tf.function(gradient, autograph=False)
    loop = tf.function(
        lambda x: tf.while_loop(lambda x: x > 1, lambda x: (inner(x),), (x,), parallel_iterations=1), autograph=False
    )
    assert (slow_operation(loop.get_concrete_function(tf.TensorSpec([]))) is not None) is (what in SLOW)
