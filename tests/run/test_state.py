"""What training changes: what is refused because no checkpoint could hold it, or no step use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError
from trainer.run.state import TrainState


def test_an_optimizer_whose_slots_no_checkpoint_can_hold_is_refused(linear: Any) -> None:
    class Plain:
        def apply(self, gradients: Any, variables: Any) -> None: ...

    class Untracked(linear):
        def optimizer(self) -> Any:
            return Plain()

    with pytest.raises(ConfigError, match=r"optimizer\(\) returned Plain, .*tf\.Module"):
        TrainState(Untracked(), 17)


def test_a_keras_optimizer_that_unscales_what_nobody_scaled_is_refused(linear: Any) -> None:
    class Scaled(linear):
        def optimizer(self) -> Any:
            return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))

    with pytest.raises(ConfigError, match=r"LossScaleOptimizer.*inner optimizer.*precision=mixed_float16"):
        TrainState(Scaled(), 17)


def test_an_average_begins_with_the_weights_whatever_a_second_model_draws(linear: Any) -> None:
    class Drawn(linear):
        def model(self, seed: Any) -> Any:
            model = super().model(seed)
            model.kernel.assign(keras.random.normal([3]))
            return model

    state = TrainState(Drawn(), 17, ema=0.9)
    np.testing.assert_array_equal(state.ema_model.kernel.numpy(), state.model.kernel.numpy())


@pytest.mark.slow
def test_variables_that_the_step_creates_are_refused_by_name(linear: Any, machinery: Callable[..., Any]) -> None:
    class Late(linear):
        def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> trainer.Loss:
            if not hasattr(model, "late"):
                with tf.init_scope():
                    model.late = tf.Variable(1.0, name="late")
            loss = super().loss(model, batch, training=training, seed=seed)
            return trainer.Loss(per_example=loss.per_example * model.late)

    with pytest.raises(ConfigError, match=r"the step created variables of the model \(1: late.*in model\(\)"):
        machinery(Late())


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_step_that_applies_its_own_gradients_stops_where_a_weight_is_spoiled(
    jit: bool, linear: Any, machinery: Callable[..., Any]
) -> None:
    class Own(linear):
        def train_step(self, state: Any, batch: Any, seed: Any) -> trainer.Loss:
            loss = self.loss(state.model, batch, training=True, seed=seed)
            rate = tf.where(state.step == 2, np.inf, 0.0)
            state.model.kernel.assign_sub(tf.fill([3], rate))
            return loss

    advance = machinery(Own(), jit=jit).program.run(5, [])
    assert (advance.problem, advance.open.step) == ("the weight kernel", 3)


def test_weights_that_no_checkpoint_would_hold_are_refused_by_name(linear: Any) -> None:
    class Listed(keras.Model):
        """Keras finds its layers in the list, and a checkpoint does not."""

        def __init__(self) -> None:
            super().__init__()
            self.body = [keras.layers.Dense(4, name="lower"), keras.layers.Dense(1, name="upper")]

        def call(self, inputs: Any) -> Any:
            for layer in self.body:
                inputs = layer(inputs)
            return inputs

    class Lost(linear):
        def model(self, seed: Any) -> Any:
            model = Listed()
            model(tf.zeros([1, 3]))
            return model

    with pytest.raises(ConfigError, match=r"no checkpoint of Listed .* listed/lower/kernel, .* and 1 more.*attributes"):
        TrainState(Lost(), 17)
