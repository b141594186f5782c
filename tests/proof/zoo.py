"""A zoo: one small experiment a fault, and healthy ones. The faults are what the proofs have to find."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import trainer

FEATURES = 3
DRAWS = itertools.count()


class Plane(tf.Module):
    """y = x · kernel + bias, with a variable for experiments to misuse."""

    def __init__(self, seed: Any) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([FEATURES], seed, alg="philox"), name="kernel")
        self.seen = tf.Variable(0.0, trainable=False, name="seen")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matvec(x, self.kernel)


@dataclasses.dataclass(frozen=True)
class Healthy(trainer.Experiment):
    """Fits a plane by least squares, with noise from the step's seed, on data of which a pass ends within the run."""

    learning_rate: float = 0.1

    def model(self, seed: Any) -> Plane:
        return Plane(seed)

    def optimizer(self) -> Any:
        return trainer.optim.Adam(self.learning_rate)

    def train_data(self) -> trainer.data.Source:
        generator = np.random.default_rng(3)
        x = generator.uniform(-1, 1, [10, FEATURES]).astype(np.float32)
        return trainer.data.arrays({"x": x, "y": x.sum(axis=1)}, batch_size=4, shuffle=False)

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {"validation": self.train_data()}

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        noise = tf.random.stateless_normal(batch["y"].shape, seed, alg="philox") if training else 0.0
        return trainer.Loss(per_example=tf.square(model(batch["x"]) - batch["y"] + 0.1 * noise))


class Unevaluated(Healthy):
    """Without a split, which makes it quicker to build."""

    def eval_data(self) -> Mapping[str, trainer.data.Source]:
        return {}

    def scaled(self, model: Plane, batch: Mapping[str, tf.Tensor], seed: Any, factor: Any) -> trainer.Loss:
        """The healthy loss, times what an experiment may get wrong."""
        loss = Healthy.loss(self, model, batch, training=True, seed=seed)
        return trainer.Loss(per_example=loss.per_example * factor)


class Wrapping(tf.Module):
    """An optimizer of the user's, which has another do its work."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = trainer.optim.Adam(0.1)

    def apply(self, gradients: Any, variables: Any) -> None:
        self.inner.apply(gradients, variables)


class Wrapped(Unevaluated):
    """An optimizer within another, with a variable that it needs room for."""

    def model(self, seed: Any) -> Plane:
        model = Plane(seed)
        model.table = tf.Variable(tf.ones([100]))
        return model

    def optimizer(self) -> Any:
        return Wrapping()

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        loss = super().loss(model, batch, training=training, seed=seed)
        return trainer.Loss(per_example=loss.per_example + tf.reduce_mean(model.table))


class Box:
    """A plain object, which no checkpoint looks into."""

    def __init__(self) -> None:
        self.decay = tf.Variable(1.0, trainable=False, name="decay_in_a_box")


class Unsaved(Unevaluated):
    """A variable in a plain object."""

    def model(self, seed: Any) -> Plane:
        model = Plane(seed)
        model.box = Box()
        return model

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        model.box.decay.assign(model.box.decay * 0.9)
        return self.scaled(model, batch, seed, model.box.decay)


class Unseeded(Unevaluated):
    """Random numbers that do not follow from the seed."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return self.scaled(model, batch, seed, 1 + 0.1 * tf.random.normal([4]))


class UnseededInside(Unevaluated):
    """The same in a loop, and with a seed of its own."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        factor = tf.ones([4])
        for _ in tf.range(2):
            factor *= 1 + 0.1 * tf.random.uniform([4], seed=7)
        return self.scaled(model, batch, seed, factor)


@dataclasses.dataclass(frozen=True)
class HostCounter(Unevaluated):
    """A counter on the host, called from the program."""

    counts: list[float] = dataclasses.field(default_factory=lambda: [0.0])

    def count(self) -> np.float32:
        self.counts[0] += 1
        return np.float32(self.counts[0])

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        count = tf.ensure_shape(tf.numpy_function(self.count, [], tf.float32), [])
        return self.scaled(model, batch, seed, 1 + 0.1 * count)


@dataclasses.dataclass(frozen=True)
class BestSoFar(Unevaluated):
    """A Python attribute that the records depend on, and the weights do not."""

    best: dict[str, float] = dataclasses.field(default_factory=dict)

    def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
        self.best["loss"] = min(self.best.get("loss", np.inf), means["loss"]) if self.best else 1e9
        return {"best_so_far": self.best["loss"]}


class GlobalData(Unevaluated):
    """Data that is other data each time."""

    def train_data(self) -> trainer.data.Source:
        x = np.full([10, FEATURES], next(DRAWS), np.float32)
        return trainer.data.arrays({"x": x, "y": x.sum(axis=1)}, batch_size=4, shuffle=False)


class Baked(Unevaluated):
    """A clock's value becomes a constant of the program."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return self.scaled(model, batch, seed, time.perf_counter())


class Counting(Unevaluated):
    """Counts its calls in an attribute: those of the tracing, not those of the steps."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        model.calls = getattr(model, "calls", 0) + 1
        return self.scaled(model, batch, seed, 1.0 + model.calls)


class Retraced(Unevaluated):
    """A function that is traced for every value of a Python number."""

    @tf.function
    def power(self, x: tf.Tensor, exponent: int) -> tf.Tensor:
        return x**exponent

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        powers = [self.power(model.kernel, exponent) for exponent in range(4)]
        return self.scaled(model, batch, seed, tf.reduce_sum(tf.add_n(powers)))


class MutatingEvaluation(Healthy):
    """An evaluation that counts in a variable of the model, which training reads."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        if not training:
            model.seen.assign_add(1.0)
        loss = super().loss(model, batch, training=training, seed=seed)
        return trainer.Loss(per_example=loss.per_example * (1 + 0.01 * model.seen))


class ReadsOnHost(Unevaluated):
    """Reads a value while the step is traced."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        largest = tf.reduce_max(batch["x"])
        return self.scaled(model, batch, seed, largest.numpy())


class Printing(Unevaluated):
    """Prints in every step."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        tf.print("a step")
        return self.scaled(model, batch, seed, 1.0)


class Broken(Unevaluated):
    """Raises while it is built."""

    def model(self, seed: Any) -> Plane:
        raise KeyError("no such layer")


class WrongLoss(Unevaluated):
    """Returns what is no loss of each example."""

    def loss(self, model: Plane, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(per_example=tf.reduce_mean(model(batch["x"])))


class Restarted(Unevaluated):
    """A pipeline that begins again at every resume."""

    def train_data(self) -> trainer.data.Source:
        source = super().train_data()
        source.mode = "restart"
        return source


class Streamed(Unevaluated):
    """A pipeline whose position is saved."""

    def train_data(self) -> trainer.data.Source:
        x = np.random.default_rng(3).uniform(-1, 1, [10, FEATURES]).astype(np.float32)
        examples = {"x": x, "y": x.sum(axis=1)}
        return trainer.data.stream(lambda: tf.data.Dataset.from_tensor_slices(examples).shuffle(10), batch_size=4)


class Generated(Unevaluated):
    """A pipeline whose position cannot be saved."""

    def train_data(self) -> trainer.data.Source:
        spec = {"x": tf.TensorSpec([FEATURES]), "y": tf.TensorSpec([])}
        example = {"x": np.ones(FEATURES, np.float32), "y": np.float32(1)}
        return trainer.data.stream(
            lambda: tf.data.Dataset.from_generator(lambda: iter([example] * 10), output_signature=spec), batch_size=4
        )


class Adversaries(Unevaluated):
    """A GAN in small: two networks, two optimizers, one step of its own."""

    def model(self, seed: Any) -> tf.Module:
        model = tf.Module()
        model.generator, model.critic = Plane(seed), Plane(trainer.fold_in(seed, 1))
        return model

    def optimizer(self) -> Any:
        return {"generator": trainer.optim.Adam(0.1), "critic": trainer.optim.SGD(0.1)}

    def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
        return trainer.Loss(per_example=model.critic(batch["x"]))

    def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
        generator, critic = state.model.generator, state.model.critic
        noise = tf.random.stateless_normal([4, FEATURES], seed, alg="philox")
        with tf.GradientTape(persistent=True) as tape:
            fake = critic(noise * generator.kernel)
            critic_loss = tf.reduce_mean(fake - critic(batch["x"])) + tf.reduce_sum(critic.kernel**2)
            generator_loss = -tf.reduce_mean(fake)
        for name, network, loss in (("critic", critic, critic_loss), ("generator", generator, generator_loss)):
            state.optimizer[name].apply(tape.gradient(loss, [network.kernel]), [network.kernel])
        return trainer.Loss(per_example=fake, metrics={"critic": tf.square(fake)})
