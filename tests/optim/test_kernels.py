"""Which kernels Adam's update uses: whichever, the bits are the same, and XLA gets none that it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.optim import Adam
from trainer.optim.kernels import without_xla

SIZES = (1, 100, 128, 129, 400, 512, 1000, 4097, 2**15, 2**15 + 1)


def weights(dtype: str = "float32") -> list[tf.Variable]:
    draw = np.random.default_rng(0).normal
    return [tf.Variable(draw(size=[size]), dtype=dtype) for size in SIZES]


def gradients_at(step: Any, variables: list[tf.Variable]) -> list[tf.Tensor]:
    scale = tf.cast(step, variables[0].dtype) - 2
    return [scale * tf.sin(tf.cast(tf.range(size), variables[0].dtype)) for size in SIZES]


def trained(dtype: str, *, plain: bool, steps: int = 6) -> tuple[list[bytes], set[str], Adam]:
    """The bits of variables and slots after some updates, the kernels that made them, and the optimizer."""
    variables, optimizer = weights(dtype), Adam(0.01, beta2=0.99, epsilon=1e-3)

    @tf.function(autograph=False)
    def update(step: tf.Tensor) -> None:
        gradients = gradients_at(step, variables)
        if plain:
            with without_xla():
                optimizer.apply(gradients, variables)
        else:
            optimizer.apply(gradients, variables)

    for step in range(steps):
        update(tf.constant(step))
    kinds = {node.type for node in update.get_concrete_function(tf.constant(0)).graph.get_operations()}
    slots = [*optimizer.first_moment, *optimizer.second_moment]
    return [v.numpy().tobytes() for v in (*variables, *slots)], kinds, optimizer


def test_what_is_said_in_a_loop_holds_in_it() -> None:
    variables, optimizer = weights(), Adam(0.01)
    optimizer.build(variables)
    kinds: set[str] = set()

    def body(step: tf.Tensor) -> tf.Tensor:
        with without_xla():
            optimizer.apply(gradients_at(step, variables), variables)
        kinds.update(node.type for node in tf.compat.v1.get_default_graph().get_operations())
        return step + 1

    tf.function(lambda: tf.while_loop(lambda step: step < 3, body, [tf.constant(0)]), autograph=False)()
    assert "ResourceApplyAdamWithAmsgrad" in kinds


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_kernel_for_one_thread_computes_the_bits_of_the_other(dtype: str) -> None:
    plain, kinds, _ = trained(dtype, plain=True)
    fused, others, _ = trained(dtype, plain=False)
    assert plain == fused
    assert kinds >= {"ResourceApplyAdam", "ResourceApplyAdamWithAmsgrad"}
    assert "ResourceApplyAdamWithAmsgrad" not in others


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", [50], False),
        ("float32", [51], True),
        ("float32", [400], False),
        ("float32", [2, 204], True),
        ("float64", [200], False),
        ("float64", [204], True),
        ("float32", [2**15], True),
        ("float32", [2**15 + 8], False),
        ("float32", [], False),
        ("float16", [1000], False),
    ],
)
def test_the_kernel_for_one_thread_takes_what_the_other_would_spread_in_vain(
    dtype: str, shape: list[int], expected: bool
) -> None:
    variable = tf.Variable(tf.zeros(shape, dtype))
    optimizer = Adam(0.01, epsilon=1e-3, beta2=0.99)

    @tf.function(autograph=False)
    def update() -> None:
        with without_xla():
            optimizer.apply([tf.ones(shape, dtype)], [variable])

    kinds = {node.type for node in update.get_concrete_function().graph.get_operations()}
    assert ("ResourceApplyAdamWithAmsgrad" in kinds) is expected


def test_sixteen_bits_keep_the_kernel_that_has_them() -> None:
    _, kinds, _ = trained("float16", plain=True)
    assert "ResourceApplyAdamWithAmsgrad" not in kinds


def test_a_checkpoint_holds_nothing_of_the_room_that_the_kernel_needs() -> None:
    _, _, plain = trained("float32", plain=True)
    _, _, fused = trained("float32", plain=False)
    names = [
        {node.name for node in tf.train.TrackableView(optimizer).descendants() if isinstance(node, tf.Variable)}
        for optimizer in (plain, fused)
    ]
    assert names[0] == names[1]
    assert len(plain.variables) == len(fused.variables)


def test_a_branch_belongs_to_its_function_and_another_function_does_not() -> None:
    variables = weights()
    kinds: dict[str, set[str]] = {}

    optimizers = {"branch": Adam(0.01), "compiled": Adam(0.01)}
    for optimizer in optimizers.values():
        optimizer.build(variables)

    def apply_in(name: str) -> None:
        optimizers[name].apply(gradients_at(1, variables), variables)
        kinds[name] = {node.type for node in tf.compat.v1.get_default_graph().get_operations()}

    def branch() -> tf.Tensor:
        apply_in("branch")
        return tf.ones([])

    @tf.function(autograph=False, jit_compile=True)
    def compiled() -> None:
        apply_in("compiled")

    @tf.function(autograph=False)
    def outer(yes: tf.Tensor) -> None:
        with without_xla():
            tf.cond(yes, branch, lambda: tf.zeros([]))
            compiled()

    outer(tf.constant(True))
    assert "ResourceApplyAdamWithAmsgrad" in kinds["branch"]
    assert "ResourceApplyAdamWithAmsgrad" not in kinds["compiled"]
