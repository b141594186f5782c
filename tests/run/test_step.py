"""One train step: what a micro-batch, a bound, an average, a precision and a value that is not finite do to it."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError
from trainer.ledger.journal import read_journal
from trainer.run.experiment import at_precision
from trainer.run.loss_scale import INITIAL
from trainer.run.program import Advance, Program
from trainer.run.state import TrainState
from trainer.run.step import Update

pytestmark = pytest.mark.slow

GRAPH_AND_XLA = pytest.mark.parametrize("jit", ["none", "chunk"], ids=["graph", "xla"])

Train = Callable[..., trainer.Result]


@dataclasses.dataclass
class Machine:
    """A program with its state, made with the options of a step."""

    state: TrainState
    program: Program

    def run(self, until: int, closes: tuple[int, ...] = ()) -> Advance:
        return self.program.run(until, list(closes))

    def means(self, advance: Advance) -> list[dict[str, Any]]:
        return [self.program.layout.means(row.totals) for row in (*advance.rows, advance.open)]

    def weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.state.trainable_variables()]

    def bits(self) -> dict[str, bytes]:
        """Everything that a checkpoint holds, but for where the run stands."""
        found = {}
        checkpoint = self.state.checkpoint()
        for node in tf.train.TrackableView(checkpoint).descendants():
            if isinstance(node, tf.Variable) and node.name.partition(":")[0] not in ("step", "examples", "window"):
                found[f"{len(found)} {node.name}"] = node.numpy().tobytes()
        return found


def machine(
    experiment: trainer.Experiment,
    *,
    jit: str = "none",
    ema: float = 0.0,
    precision: str = "float32",
    **update: Any,
) -> Machine:
    experiment = at_precision(experiment, precision)
    state = TrainState(experiment, 17, ema=ema, precision=precision)
    return Machine(
        state, Program(experiment, state, experiment.train_data(), seed=17, jit=jit, update=Update(**update))
    )


class Words(tf.Module):
    """A plane, and a number for each word."""

    def __init__(self, plane: tf.Module) -> None:
        super().__init__()
        self.plane = plane
        self.table = tf.Variable(tf.cast(tf.range(3), plane.kernel.dtype), name="table")


@pytest.fixture(scope="module")
def worded(linear: Any) -> Any:
    """An experiment with a sparse gradient, weights, padding and a penalty, in float64."""

    @dataclasses.dataclass(frozen=True)
    class Worded(linear):
        dtype: str = "float64"
        batch_size: int = 6
        last: str = "short"
        weighted: bool = True
        shuffle: bool = True

        def model(self, seed: Any) -> Words:
            return Words(super().model(seed))

        def optimizer(self) -> Any:
            return trainer.optim.Adam(0.05)

        def loss(self, model: Words, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model.plane, batch, training=training, seed=seed)
            # Two words only: the slices of a batch have duplicates, and one row none at all.
            found = tf.gather(model.table, batch["index"] % 2)
            penalty = 0.01 * tf.reduce_sum(tf.square(model.plane.kernel))
            return trainer.Loss(loss.per_example + tf.square(found - 0.5), weights=loss.weights, regularization=penalty)

    return Worded


# --- Micro-batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "jit"), [(2, "none"), (3, "chunk")])
def test_micro_batches_make_the_updates_of_the_whole_batch(parts: int, jit: str, worded: Any) -> None:
    whole, taken = machine(worded()), machine(worded(), jit=jit, accumulate=parts)
    there, here = whole.run(7, (3,)), taken.run(7, (3,))
    assert [row.examples for row in there.rows] == [row.examples for row in here.rows] == [16]
    for one, other in zip(whole.weights(), taken.weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10)
    for one, other in zip(whole.means(there), taken.means(here), strict=True):
        for name in ("loss", "regularization"):
            np.testing.assert_allclose(other[name], one[name], rtol=1e-10)


def test_micro_batches_are_cut_off_at_the_same_norm_as_the_whole_batch(worded: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Descending(worded):
        def optimizer(self) -> Any:
            return trainer.optim.SGD(0.5)

    # The duplicates in a sparse gradient are one value, whose norm is not that of its parts.
    whole, taken = (machine(Descending(), clip_norm=0.125, accumulate=parts) for parts in (1, 2))
    start = np.concatenate([np.ravel(value) for value in whole.weights()])
    for each in (whole, taken):
        each.run(1)
    moved = [np.concatenate([np.ravel(value) for value in each.weights()]) - start for each in (whole, taken)]
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-6, atol=1e-12)
    # The update is the learning rate times a gradient of just that norm.
    np.testing.assert_allclose(np.linalg.norm(moved[0]), 0.5 * 0.125, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "jit"),
    [
        ({}, "chunk"),
        ({"accumulate": 2}, "none"),
        ({"clip_norm": 0.125}, "none"),
        ({"on_nonfinite": "skip"}, "none"),
        pytest.param({"accumulate": 2, "clip_norm": 0.125, "on_nonfinite": "skip"}, "chunk", marks=pytest.mark.slow),
    ],
)
def test_a_row_that_no_batch_names_stays_to_the_bit(options: dict[str, Any], jit: str, worded: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Decaying(worded):
        def optimizer(self) -> Any:
            return trainer.optim.AdamW(0.05, weight_decay=0.5)

    made = machine(Decaying(), jit=jit, **options)
    made.run(3)
    assert made.state.optimizer.iterations == 3
    # A dense update would have shrunk the third word too.
    assert made.state.model.table.numpy()[2] == 2
    assert (made.state.model.table.numpy()[:2] != [0, 1]).all()


def test_each_micro_batch_of_each_step_has_a_seed_of_its_own(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Told(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            # Numbers that are exact in whatever they are added up in; of two micro-batches one has the odd pairs.
            halves = tf.concat([seed & 0xFFFF, tf.bitwise.right_shift(seed, 16)], axis=0)
            mine = tf.one_hot(batch["index"][0] // 2 % 2, 2, dtype=tf.float64)
            told = tf.reshape(mine[:, None] * tf.cast(halves, tf.float64), [1, 8])
            return dataclasses.replace(loss, metrics={"seed": tf.tile(told, [2, 1])})

    made = machine(Told(examples=8), accumulate=2)
    advance = made.run(6, tuple(range(1, 7)))
    rows = made.means(advance)[:-1]
    seeds = [tuple(part) for row in rows for part in np.round(row["seed"] * 2).reshape(2, 4).astype(int).tolist()]
    assert len(set(seeds)) == 2 * 6
    expected = [
        trainer.data.fold_in(trainer.data.run_seed(17), 2, step, micro, 0) for step in range(6) for micro in (0, 1)
    ]
    assert seeds == [(a & 0xFFFF, b & 0xFFFF, a >> 16, b >> 16) for a, b in (seed.tolist() for seed in expected)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 3}, r"accumulate=3 does not divide the batch of 4 rows"),
        ({"accumulate": 8}, r"accumulate=8 does not divide the batch of 4 rows"),
    ],
)
def test_micro_batches_that_do_not_divide_the_batch_are_refused(
    options: dict[str, Any], message: str, linear: Any
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        machine(linear(), **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def own_step(linear: Any) -> Any:
    """An experiment that applies its own gradients."""

    @dataclasses.dataclass(frozen=True)
    class OwnStep(linear):
        def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
            with tf.GradientTape() as tape:
                loss = self.loss(state.model, batch, training=True, seed=seed)
                mean = tf.reduce_mean(loss.per_example)
            variables = state.model.trainable_variables
            state.optimizer.apply(tape.gradient(mean, variables), variables)
            return loss

    return OwnStep


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"accumulate": 2}, "accumulate"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"on_nonfinite": "skip"}, "on_nonfinite=skip"),
        ({"precision": "mixed_float16"}, "precision=mixed_float16"),
    ],
)
def test_what_has_nothing_to_act_on_in_a_step_of_the_user_s_own_is_refused(
    options: dict[str, Any], flag: str, own_step: Any
) -> None:
    with pytest.raises(ConfigError, match=rf"OwnStep\.train_step applies its own gradients, so {flag}") as caught:
        machine(own_step(), **options)
    assert "\n" not in str(caught.value)


def test_a_step_of_the_user_s_own_is_averaged_and_watched_as_any_other(own_step: Any) -> None:
    made = machine(own_step(learning_rate=1e30), ema=0.5)
    assert made.run(1).problem is None
    start = made.state.ema_model.kernel.numpy()
    assert not np.array_equal(start, made.state.model.kernel)
    # Large weights are no fault; what they become is.
    assert made.run(9).problem in ("the loss", "the weight kernel", "the weight bias")


@pytest.mark.parametrize("jit", ["none", "chunk"])
def test_a_weight_that_a_step_of_the_user_s_own_makes_not_finite_is_named_at_that_step(jit: str, own_step: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Poisons(own_step):  # type: ignore[misc]  # It is made by a fixture.
        def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
            loss = super().train_step(state, batch, seed)
            kernel = state.model.kernel
            kernel.assign(tf.where(tf.equal(state.step, 2), tf.fill(kernel.shape, np.nan), kernel))
            return loss

    made = machine(Poisons(), jit=jit)
    assert made.run(2).problem is None
    assert made.run(9).problem == "the weight kernel"
    assert int(made.state.step) == 3


# --- Clipping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "jit"), [(0.25, "none"), (0.25, "chunk"), (1e6, "none")])
def test_an_update_is_bounded_by_the_norm_of_all_gradients(most: float, jit: str, linear: Any) -> None:
    plain, bounded = (machine(linear(dtype="float64"), jit=jit, clip_norm=norm) for norm in (0.0, most))
    start = plain.weights()
    for each in (plain, bounded):
        each.run(1)
    gradients = [(one - other) / 0.125 for one, other in zip(start, plain.weights(), strict=True)]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert 0.25 < norm < 1e6
    for before, gradient, after in zip(start, gradients, bounded.weights(), strict=True):
        np.testing.assert_allclose(after, before - 0.125 * gradient * min(1, most / norm), rtol=1e-6)


@GRAPH_AND_XLA
def test_a_norm_that_overflows_is_a_problem_and_no_update_of_zeros(jit: str, linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Huge(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(1e25 * (model(batch["x"]) - batch["y"]))

    assert machine(Huge(), jit=jit, clip_norm=1.0).run(3).problem == "the gradient of bias"


def test_a_loss_that_depends_on_no_variable_is_refused_also_with_a_bound(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Apart(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(tf.square(batch["y"]))

    for clip_norm in (0.0, 1.0):
        with pytest.raises(ConfigError, match="does the loss depend on them"):
            machine(Apart(), clip_norm=clip_norm)


# --- What is not finite -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(linear: Any) -> Any:
    """An experiment in which one example, the tenth, spoils the loss, or the gradient of one variable alone."""

    @dataclasses.dataclass(frozen=True)
    class Poisoned(linear):
        what: str = "loss"
        batch_size: int = 5

        def optimizer(self) -> Any:
            return trainer.optim.Adam(0.125)

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            bad = tf.reduce_any(batch["index"] == 9)
            spoiled = tf.where(bad, np.nan, 1.0) if self.what == "loss" else 1.0

            @tf.custom_gradient
            def passed(x: tf.Tensor) -> Any:
                return x, lambda upstream: tf.where(bad, np.inf, 1.0) * upstream

            # Nothing in value: only the way back is spoiled.
            other = 0.0 * passed(model.bias) if self.what == "gradient" else 0.0
            return dataclasses.replace(loss, per_example=loss.per_example * spoiled + other)

    return Poisoned


@pytest.mark.parametrize(
    ("what", "problem", "jit"), [("loss", "the loss", "none"), ("gradient", "the gradient of bias", "chunk")]
)
def test_the_program_stops_after_the_first_bad_step_and_says_what_was_bad(
    what: str, problem: str, jit: str, poisoned: Any
) -> None:
    made = machine(poisoned(what=what), jit=jit)
    advance = made.run(9, (1, 3))
    # Examples 5 to 9 are those of step 2.
    assert (advance.open.step, advance.problem) == (2, problem)
    assert int(made.state.step) == 2
    assert [row.step for row in advance.rows] == [1]


@pytest.mark.parametrize(
    ("what", "parts", "jit"),
    [("loss", 1, "none"), ("loss", 5, "chunk"), ("gradient", 5, "step"), ("gradient", 1, "chunk")],
)
def test_a_step_that_is_skipped_changes_nothing_counts_and_is_left_out_of_the_means(
    what: str, parts: int, jit: str, poisoned: Any
) -> None:
    made = machine(poisoned(what=what), jit=jit, on_nonfinite="skip", accumulate=parts, ema=0.5)
    first = made.run(1)
    before = made.bits()
    second = made.run(2)
    assert made.bits() == before
    assert (second.open.step, second.open.examples, second.problem) == (2, 10, None)
    assert (first.open.skipped, second.open.skipped) == (0, 1)
    assert made.means(second)[0]["loss"] == made.means(first)[0]["loss"]
    assert int(made.state.optimizer.iterations) == 1
    # Steps 3 and 5 are healthy, 4 and 6 are not; a window that closes begins anew.
    third = made.run(6, (4, 5))
    assert made.bits() != before
    assert [row.skipped for row in (*third.rows, third.open)] == [2, 0, 1]
    assert int(made.state.optimizer.iterations) == 3
    assert all(np.isfinite(value).all() for value in made.weights())


def test_where_a_chunk_is_cut_does_not_matter_to_what_is_skipped(poisoned: Any) -> None:
    whole, parts = (machine(poisoned(), on_nonfinite="skip") for _ in range(2))
    there = whole.run(7, (5,))
    here = [parts.run(until, (5,) if until == 5 else ()) for until in range(1, 8)]
    assert here[-1].open.skipped == there.open.skipped == 1
    assert here[4].rows[0].skipped == there.rows[0].skipped == 2
    assert whole.bits() == parts.bits()


def test_to_continue_takes_the_update_and_goes_on(poisoned: Any) -> None:
    made = machine(poisoned(), on_nonfinite="continue")
    advance = made.run(4)
    assert (advance.open.step, advance.problem, advance.open.skipped) == (4, None, 0)
    assert np.isnan(made.weights()[0]).any()


def test_an_optimizer_whose_slots_come_later_cannot_skip(linear: Any) -> None:
    class Plain(tf.Module):
        def apply(self, gradients: Any, variables: Any) -> None:
            for gradient, variable in zip(gradients, variables, strict=True):
                variable.assign_sub(0.1 * gradient)

    @dataclasses.dataclass(frozen=True)
    class Slotless(linear):
        def optimizer(self) -> Any:
            return Plain()

    with pytest.raises(ConfigError, match=r"Plain a build\(variables\)"):
        machine(Slotless(), on_nonfinite="skip")
    assert machine(Slotless()).run(2).problem is None


def test_a_run_stops_with_65_and_names_step_and_cause_and_its_last_good_checkpoint(
    poisoned: Any, train: Train, manifests: Any
) -> None:
    options = {"train_for": "9steps", "save_every": "1step", "log_every": "1step"}
    with pytest.raises(
        trainer.errors.Diverged, match=r"the gradient of bias is not finite at step 2.*step 1"
    ) as caught:
        train(poisoned(what="gradient"), **options)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)
    assert list(manifests()) == [1]


def test_a_run_records_what_it_skipped_and_goes_on_the_same_after_a_resume(
    poisoned: Any, train: Train, tmp_path: Any
) -> None:
    options = {"log_every": "4steps", "save_every": "3steps", "on_nonfinite": "skip"}
    records = train(poisoned(), train_for="9steps", **options).records
    assert [(record.window, record.skipped) for record in records] == [((0, 4), 2), ((4, 8), 2), ((8, 9), 0)]
    assert all(np.isfinite(record.metrics["loss"]) for record in records)
    assert '"skipped":2' in (tmp_path / "run" / "metrics.jsonl").read_text()
    # Step 3 lies within a window that has skipped a step already.
    train(poisoned(), folder="cut", train_for="3steps", **{**options, "log_every": "4steps"})
    metrics = tmp_path / "cut" / "metrics.jsonl"
    assert '"skipped":1' in metrics.read_text()


def test_a_window_of_nothing_but_skipped_steps_has_no_mean(linear: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Hopeless(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return trainer.Loss(loss.per_example * np.inf)

    (record,) = train(Hopeless(), train_for="3steps", log_every="3steps", on_nonfinite="skip").records
    assert record.metrics == {"loss": None}
    assert (record.skipped, record.nonfinite) == (3, {"loss": 3})


def test_a_run_that_continues_may_save_what_is_not_finite(poisoned: Any, train: Train, manifests: Any) -> None:
    result = train(poisoned(), train_for="4steps", save_every="2steps", on_nonfinite="continue")
    assert (result.step, result.exit_code) == (4, 0)
    assert list(manifests()) == [2, 4]


# --- The average of the weights ---------------------------------------------------------------------------------------


@GRAPH_AND_XLA
def test_the_average_follows_the_weights(jit: str, linear: Any) -> None:
    decay = 0.75
    made = machine(linear(dtype="float64"), jit=jit, ema=decay)
    averages = made.weights()
    for step in range(1, 6):
        made.run(step)
        averages = [decay * one + (1 - decay) * other for one, other in zip(averages, made.weights(), strict=True)]
        found = [variable.numpy() for variable in made.state.ema_model.trainable_variables]
        for one, other in zip(found, averages, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_what_is_not_trained_is_copied(linear: Any) -> None:
    class Counting(tf.Module):
        def __init__(self, plane: Any) -> None:
            super().__init__()
            self.plane = plane
            self.seen = tf.Variable(0, trainable=False)

    @dataclasses.dataclass(frozen=True)
    class Counted(linear):
        def model(self, seed: Any) -> Any:
            return Counting(super().model(seed))

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            if training:
                model.seen.assign_add(1)
            return super().loss(model.plane, batch, training=training, seed=seed)

    made = machine(Counted(), ema=0.9)
    made.run(4)
    assert int(made.state.model.seen) == int(made.state.ema_model.seen) == 4
    assert not np.array_equal(made.state.model.plane.kernel, made.state.ema_model.plane.kernel)


@pytest.fixture(scope="module")
def guest(linear: Any) -> Any:
    """A Keras model with everything that keeps a state, trained by a Keras optimizer."""
    import keras

    @dataclasses.dataclass(frozen=True)
    class Guest(linear):
        rate: Any = dataclasses.field(default=0.05, metadata={"on_resume": "free"})

        def model(self, seed: Any) -> Any:
            layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.25)]
            return keras.Sequential([keras.Input([3]), *layers, keras.layers.Dense(1)])

        def optimizer(self) -> Any:
            if self.rate == "decaying":
                return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5))
            return keras.optimizers.Adam(self.rate)

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            found = tf.cast(model(batch["x"], training=training)[:, 0], batch["y"].dtype)
            return trainer.Loss(tf.square(found - batch["y"]))

    return Guest


def test_the_average_of_a_keras_model_follows_it_layer_by_layer(guest: Any) -> None:
    made = machine(guest(), ema=0.5)
    model, averaged = made.state.model, made.state.ema_model
    kernel = model.layers[0].kernel.numpy()
    for step in (1, 2, 3):
        made.run(step)
        kernel = 0.5 * kernel + 0.5 * model.layers[0].kernel.numpy()
        np.testing.assert_allclose(averaged.layers[0].kernel, kernel, rtol=1e-6)
    np.testing.assert_array_equal(averaged.layers[1].moving_mean, model.layers[1].moving_mean)
    assert np.any(model.layers[1].moving_mean)


def test_an_average_needs_a_model_that_is_built_the_same_each_time(linear: Any) -> None:
    sizes = iter([3, 4])

    @dataclasses.dataclass(frozen=True)
    class Unsteady(linear):
        def model(self, seed: Any) -> Any:
            model = tf.Module()
            model.kernel = tf.Variable(tf.zeros([next(sizes)]))
            return model

    with pytest.raises(ConfigError, match="second model"):
        TrainState(Unsteady(), 17, ema=0.5)


def test_an_evaluation_measures_the_average_and_leaves_the_weights_as_they_are(linear: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Evaluated(linear):
        dtype: str = "float64"

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

    options = {"train_for": "6steps", "log_every": "6steps", "ema": 0.5}
    result = train(Evaluated(), eval_every="2steps", **options)
    made = machine(Evaluated(), ema=0.5)
    made.run(6)
    data = Evaluated().arrays()
    error = data["x"] @ made.state.ema_model.kernel.numpy() + made.state.ema_model.bias.numpy() - data["y"]
    last = [record for record in result.records if record.kind == "eval"][-1]
    assert last.weights == "ema"
    np.testing.assert_allclose(last.metrics["loss"], np.mean(error**2), rtol=1e-9)
    # The windows of a run that is never evaluated are the same: nothing was swapped.
    without = train(Evaluated(), folder="without", eval_every="never", **options)
    assert without.records[-1].metrics == [record for record in result.records if record.kind == "train"][-1].metrics


def test_the_average_begins_with_the_weights_that_another_checkpoint_gives(
    linear: Any, train: Train, tmp_path: Any
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Evaluated(linear):
        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

    options = {"log_every": "never", "save_every": "never", "eval_every": "1000steps"}
    trained = train(Evaluated(), folder="first", train_for="20steps", **options)
    result = train(
        Evaluated(learning_rate=0.0),
        folder="second",
        train_for="3steps",
        ema=0.9,
        eval_at_start=True,
        init_from=str(tmp_path / "first"),
        **options,
    )
    losses = [record.metrics["loss"] for record in result.records]
    assert losses == [trained.records[-1].metrics["loss"]] * 2


# --- Precision and the loss scale -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "computed"), [("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16")])
def test_the_weights_of_keras_layers_are_float32_whatever_is_computed_in(
    precision: str, computed: str, guest: Any
) -> None:
    import keras

    made = machine(guest(), precision=precision, ema=0.5)
    for model in (made.state.model, made.state.ema_model):
        assert model.layers[0].compute_dtype == computed
        assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    start = made.weights()
    assert made.run(3).problem is None
    assert all(value.dtype == np.float32 for value in made.weights())
    assert not np.array_equal(made.weights()[0], start[0])
    assert (made.state.loss_scale is None) == (precision == "mixed_bfloat16")
    # The next one in this process is not affected.
    assert machine(guest()).state.model.layers[0].compute_dtype == "float32"


def test_an_experiment_is_told_what_to_compute_in(linear: Any) -> None:
    experiment = linear()
    assert experiment.compute_dtype == "float32"
    found = {precision: at_precision(experiment, precision) for precision in ("mixed_float16", "mixed_bfloat16")}
    assert {name: each.compute_dtype for name, each in found.items()} == {
        "mixed_float16": "float16",
        "mixed_bfloat16": "bfloat16",
    }
    assert experiment.compute_dtype == "float32"
    assert found["mixed_float16"] == experiment


def test_keras_computes_as_asked_also_where_the_model_is_the_first_to_import_it() -> None:
    code = """
        import sys
        import numpy as np
        import trainer
        from trainer.run.state import TrainState

        class Late(trainer.Experiment):
            def model(self, seed):
                import keras
                return keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
            def optimizer(self):
                return trainer.optim.SGD(0.1)
            def train_data(self):
                return trainer.data.arrays({"x": np.zeros([4, 3], np.float32)}, batch_size=2)
            def loss(self, model, batch, *, training, seed):
                return trainer.Loss(model(batch["x"])[:, 0])

        model = TrainState(Late(), 17, precision="mixed_bfloat16").model
        print(model.layers[0].compute_dtype, sys.modules["keras"].config.dtype_policy().name)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.split() == ["bfloat16", "float32"]


@pytest.fixture(scope="module")
def overflowing(linear: Any) -> Any:
    """An experiment whose gradient overflows above a scale of 2^limit, as those of float16 do."""

    @dataclasses.dataclass(frozen=True)
    class Overflowing(linear):
        limit: int = 12

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)

            @tf.custom_gradient
            def through(x: tf.Tensor) -> Any:
                def back(upstream: tf.Tensor) -> tf.Tensor:
                    # A batch of four: each example has a quarter of the scale.
                    return tf.where(tf.reduce_max(upstream) * 4 > 2.0**self.limit, np.inf, upstream)

                return tf.identity(x), back

            return trainer.Loss(through(loss.per_example))

    return Overflowing


@GRAPH_AND_XLA
def test_the_scale_is_halved_until_the_gradients_are_finite_and_nothing_else_happens(
    jit: str, overflowing: Any
) -> None:
    made, plain = machine(overflowing(), jit=jit, precision="mixed_float16"), machine(overflowing(limit=99), jit=jit)
    start = made.weights()
    skipped = int(np.log2(INITIAL)) - 12
    advance = made.run(skipped)
    assert (advance.problem, advance.open.skipped) == (None, skipped)
    assert float(made.state.loss_scale.scale) == 2.0**12
    np.testing.assert_array_equal(made.weights()[0], start[0])
    advance = made.run(skipped + 2)
    assert (advance.problem, advance.open.skipped) == (None, skipped)
    assert int(made.state.loss_scale.finite_steps) == 2
    # Powers of two come and go without a trace: the same examples make the same updates to the last bit.
    plain.state.examples.assign(4 * skipped)
    plain.run(2)
    for one, other in zip(made.weights(), plain.weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip", "continue"])
def test_a_gradient_that_overflows_without_any_scale_is_the_model_s_fault(on_nonfinite: str, overflowing: Any) -> None:
    made = machine(overflowing(limit=-9), precision="mixed_float16", on_nonfinite=on_nonfinite)
    made.state.loss_scale.scale.assign(2.0)
    advance = made.run(1)
    assert (advance.problem, advance.open.skipped) == (None, 1)
    assert float(made.state.loss_scale.scale) == 1
    advance = made.run(5)
    if on_nonfinite == "stop":
        assert (advance.open.step, advance.problem) == (2, "the gradient of bias")
    else:
        assert (advance.open.step, advance.problem) == (5, None)
        assert advance.open.skipped == (5 if on_nonfinite == "skip" else 1)


def test_a_loss_that_is_not_finite_is_never_the_scale_s_fault(poisoned: Any) -> None:
    made = machine(poisoned(), precision="mixed_float16")
    advance = made.run(5)
    assert (advance.open.step, advance.problem) == (2, "the loss")


def test_the_scale_grows_in_the_program_too(linear: Any) -> None:
    made = machine(linear(), precision="mixed_float16")
    made.state.loss_scale.finite_steps.assign(1998)
    made.run(1)
    assert float(made.state.loss_scale.scale) == INITIAL
    made.run(2)
    assert (float(made.state.loss_scale.scale), int(made.state.loss_scale.finite_steps)) == (2 * INITIAL, 0)


# --- Keras as a guest -------------------------------------------------------------------------------------------------


def test_the_learning_rate_of_a_keras_schedule_is_recorded_and_followed(guest: Any) -> None:
    made = machine(guest(rate="decaying"))
    advance = made.run(5, (1, 3, 5))
    np.testing.assert_allclose(
        [row.learning_rates[""] for row in advance.rows], [0.1 * 0.5 ** (step / 2) for step in (0, 2, 4)], rtol=1e-6
    )


def test_a_constant_learning_rate_follows_the_flag_after_a_resume(guest: Any, train: Train) -> None:
    options = {"log_every": "1step", "save_every": "2steps", "eval_every": "never"}
    train(guest(), train_for="2steps", **options)
    records = train(guest(rate=0.5), train_for="4steps", **options).records
    np.testing.assert_allclose([record.learning_rate for record in records], [0.05, 0.05, 0.5, 0.5], rtol=1e-6)


def test_a_guest_goes_on_bit_for_bit(guest: Any, train: Train, tmp_path: Any, tensors_of: Any) -> None:
    options = {"log_every": "1step", "save_every": "2steps", "eval_every": "3steps", "ema": 0.5}
    train(guest(), train_for="6steps", **options)
    for steps in (4, 6):
        train(guest(), folder="cut", train_for=f"{steps}steps", **options)
    runs = [tmp_path / folder / "checkpoints" / "step-0000000006" for folder in ("run", "cut")]
    assert tensors_of(runs[0]) == tensors_of(runs[1])
    events = [line["event"] for line in read_journal(trainer.ledger.directory.RunDirectory(tmp_path / "cut"))]
    assert events.count("resume") == 1


@GRAPH_AND_XLA
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_not_a_number_is_one_also_of_rows_that_weigh_nothing(parts: int, jit: str, linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Weightless(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            log = tf.math.log(tf.zeros_like(loss.per_example)) + math.inf
            return trainer.Loss(loss.per_example + tf.stop_gradient(log), weights=tf.zeros_like(loss.per_example))

    advance = machine(Weightless(), jit=jit, accumulate=parts).run(4)
    assert (advance.problem, advance.open.step) == ("the loss", 1)


@GRAPH_AND_XLA
def test_a_loss_beyond_float32_is_finite_where_its_gradients_are(jit: str, linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Large(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return trainer.Loss(loss.per_example + tf.constant(3e38, loss.per_example.dtype))

    made = machine(Large(), jit=jit)
    advance = made.run(4)
    assert (advance.problem, advance.open.step) == (None, 4)
    assert made.means(advance)[-1]["loss"] == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize(
    ("own", "on_nonfinite", "expected"),
    [(False, "stop", True), (False, "skip", True), (False, "continue", False), (True, "stop", False)],
)
def test_a_kernel_that_takes_finite_gradients_for_granted_is_used_only_where_they_are_looked_at(
    own: bool, on_nonfinite: str, expected: bool, linear: Any, own_step: Any
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Moments(own_step if own else linear):  # type: ignore[misc]
        def model(self, seed: Any) -> Any:
            model = super().model(seed)
            # Of a size for which Adam has another kernel.
            model.table = tf.Variable(tf.ones([100]))
            return model

        def optimizer(self) -> Any:
            return trainer.optim.Adam(0.05)

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            return dataclasses.replace(loss, per_example=loss.per_example + tf.reduce_mean(model.table))

    program = machine(Moments(), on_nonfinite=on_nonfinite).program
    functions = program._chunk.graph.as_graph_def().library.function
    kinds = {node.op for function in functions for node in function.node_def}
    assert ("ResourceApplyAdamWithAmsgrad" in kinds) is expected
    assert "ResourceApplyAdam" in kinds
