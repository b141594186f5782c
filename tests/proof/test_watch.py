"""Watching an experiment: it stays who it is, and what it does is noted."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import tensorflow as tf
import zoo

import trainer
from trainer.proof.watch import Watch
from trainer.run.catalog import canonical_name
from trainer.run.experiment import Experiment, parameters


@dataclasses.dataclass(frozen=True)
class Frozen(zoo.Healthy):
    """Python refuses to set its attributes."""

    width: int = 3


def test_watched_experiment_is_who_it_was() -> None:
    plain, watch = zoo.HostCounter(), Watch(zoo.HostCounter())
    watched = watch.experiment
    assert isinstance(watched, zoo.HostCounter)
    assert canonical_name(type(watched)) == canonical_name(type(plain))
    assert parameters(watched) == parameters(plain)
    # What it leaves as it is must be seen to be left so.
    assert type(watched).summarize is Experiment.summarize
    assert not hasattr(watched, "train_step")
    assert hasattr(Watch(zoo.Adversaries()).experiment, "train_step")


def test_frozen_stays_frozen_and_free_stays_free() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Watch(Frozen()).experiment.other = 1  # type: ignore[attr-defined]
    Watch(zoo.Baked()).experiment.other = 1  # type: ignore[attr-defined]


def test_calls_that_trace_are_noted_with_the_outermost_graph() -> None:
    watch = Watch(zoo.Healthy())
    model = watch.experiment.model(tf.constant([1, 2]))

    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        batch = {"x": x, "y": tf.zeros([4])}
        loss = watch.experiment.loss(model, batch, training=True, seed=tf.constant([1, 2]))
        return loss.per_example

    outer = tf.function(lambda x: inner(x)).get_concrete_function(tf.TensorSpec([4, 3]))
    calls = {id(call.graph) for call in watch.calls}
    assert calls == {id(outer.graph)}
    call = watch.calls[0]
    assert (call.method, call.training, call.arguments[0]) == ("loss", True, model)
    assert call.arguments[1]["x"].shape == [4, 3]
    again = watch.trace_again(call)
    assert again is not call.graph
    assert any(operation.type == "StatelessRandomNormalV2" for operation in again.get_operations())


def test_copies_are_watched_as_themselves() -> None:
    watch = Watch(zoo.HostCounter())
    other = copy.copy(watch.experiment)
    other.train_data()
    assert watch.experiment is other


def test_what_is_raised_is_noted_and_raised() -> None:
    watch = Watch(zoo.Broken())
    with pytest.raises(KeyError):
        watch.experiment.model(None)
    [failure] = watch.failures
    assert (failure.method, type(failure.error)) == ("model", KeyError)


def test_objects_that_are_registered_to_be_saved_are_not_looked_into() -> None:
    counter = zoo.Box()
    counter.count = 0  # type: ignore[attr-defined]

    class Registered(zoo.Healthy):
        def extra_state(self) -> dict[str, object]:
            return {"counter": counter}

    experiment = Registered()
    object.__setattr__(experiment, "counter", counter)
    watch = Watch(experiment)
    assert "experiment.counter.count" in watch.python_state().values
    watch.experiment.extra_state()
    assert "experiment.counter.count" not in watch.python_state().values


def test_experiment_is_a_trainers_own() -> None:
    trainer.Trainer(Watch(zoo.Healthy()).experiment, train_for="1step")
