"""Frozen variables: which they are, and that nothing that training does reaches them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import pytest
import tensorflow as tf

import trainer
from trainer.checkpoint.objects import variable_names
from trainer.errors import ConfigError
from trainer.ledger.directory import RunDirectory
from trainer.run.frozen import Frozen
from trainer.run.program import Program
from trainer.run.state import TrainState
from trainer.run.step import Update
from trainer.testing import assert_resumes_exactly

GRAPH_AND_XLA = pytest.mark.parametrize("jit", ["none", "chunk"], ids=["graph", "xla"])
NORMALIZATION = "encoder/_functional/_operations/2"

Train = Callable[..., trainer.Result]


class Network(tf.Module):
    """Layers of Keras below a head of our own."""

    def __init__(self) -> None:
        super().__init__()
        layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.25)]
        self.encoder = keras.Sequential([keras.Input([3]), *layers])
        self.head = [tf.Variable(tf.ones([4]), name="weights"), tf.Variable(0.5, name="bias")]

    def __call__(self, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        return tf.linalg.matvec(self.encoder(x, training=training), self.head[0]) + self.head[1]


@pytest.fixture(scope="module")
def layered(linear: Any) -> Any:
    """An experiment with everything that could move a weight: momentum, decay, moments, an average."""

    @dataclasses.dataclass(frozen=True)
    class Layered(linear):
        def model(self, seed: Any) -> Any:
            return Network()

        def optimizer(self) -> Any:
            return trainer.optim.SGD(0.05, momentum=0.9, weight_decay=0.1)

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": self.source()}

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(tf.square(model(batch["x"], training=training) - batch["y"]))

    return Layered


def program_of(
    experiment: trainer.Experiment, freeze: str | None, *, jit: str = "none", ema: float = 0.0, **update: Any
) -> tuple[TrainState, Program]:
    state = TrainState(experiment, 17, ema=ema, freeze=freeze)
    made = Program(experiment, state, experiment.train_data(), seed=17, jit=jit, update=Update(**update))
    return state, made


def bits_of(model: Any, below: str = "") -> dict[str, bytes]:
    """The bits of the variables of a model below a path, by their names."""
    found = {id(node): node for node in tf.train.TrackableView(model).descendants()}
    keras_own = {id(node.value): node.value for node in found.values() if isinstance(node, keras.Variable)}
    variables = {**found, **keras_own}
    return {
        name: variables[key].numpy().tobytes()
        for key, name in variable_names(model).items()
        if name.startswith(below) and variables[key].dtype != tf.resource
    }


# --- Which they are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("head/*", ["weights", "bias"]),
        ("head/1", ["bias"]),
        ("head/[02]", ["weights"]),
        ("*/gamma , head/?", ["gamma", "weights", "bias"]),
        ("encoder/*", ["kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"]),
    ],
)
def test_patterns_match_the_names_that_a_checkpoint_has(patterns: str, names: list[str]) -> None:
    frozen = Frozen(Network(), patterns)
    # Keras has the path of the layer before the name.
    assert sorted(variable.name.split("/")[-1].split(":")[0] for variable in frozen.variables) == sorted(names)
    assert str(frozen) == f"freeze {patterns}: {len(names)} of 8 variables"


def test_a_refusal_says_whose_variables_those_of_a_keras_model_are() -> None:
    layers = [keras.layers.Dense(4, name="lower"), keras.layers.Dense(2, name="upper")]
    model = keras.Sequential([keras.Input([3]), *layers])
    assert [v.shape for v in Frozen(model, "_functional/_operations/1/*").variables] == [(3, 4), (4,)]
    # A name that Keras made up counts what was built before: it would mean other weights in another process.
    with pytest.raises(ConfigError, match=r"_functional/_operations/1/_kernel \(\w+/lower/kernel\)"):
        Frozen(model, "*/lower/*")


def test_nothing_is_frozen_unless_asked() -> None:
    model = Network()
    frozen = Frozen(model, None)
    assert not frozen
    assert model.head[0] not in frozen


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("decoder/*", r"freeze=decoder/\*: 'decoder/\*' matches no variable of Network; .* head/0, head/1"),
        ("Head/*", "'Head/\\*' matches no variable"),
        ("head/*,tail", "'tail' matches no variable"),
        ("head/*,", "'' matches no variable"),
        ("", "'' matches no variable"),
        ("*", r"freeze=\* matches every trainable variable of Network.*nothing is left to train"),
        ("head/*,*kernel,*bias,*gamma,*beta", "every trainable variable"),
    ],
)
def test_what_freezes_nothing_or_leaves_nothing_is_refused_in_one_line(patterns: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Frozen(Network(), patterns)
    assert "\n" not in str(caught.value)


def test_of_many_names_the_message_has_some() -> None:
    model = tf.Module()
    model.layers = [tf.Variable(float(number)) for number in range(20)]
    with pytest.raises(ConfigError, match=r"layers/0, .* and 8 more$"):
        Frozen(model, "x")


def test_the_random_state_of_a_frozen_layer_goes_on() -> None:
    model = Network()
    model.encoder.noise = tf.random.Generator.from_seed(3)
    assert all(variable.dtype != tf.int64 for variable in Frozen(model, "encoder/*").variables)


# --- What training does not do to them --------------------------------------------------------------------------------


def test_frozen_variables_have_no_slots_and_count_as_parameters(layered: Any) -> None:
    state = TrainState(layered(), 17, freeze="encoder/*")
    assert [variable.name for variable in state.trainable_variables()] == ["weights:0", "bias:0"]
    assert [slot.shape.as_list() for slot in state.optimizer.momentum] == [[4], []]
    # The rule of jit=auto is about the model.
    assert state.parameters() == TrainState(layered(), 17).parameters()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jit", "options"),
    [
        ("none", {"ema": 0.9}),
        ("chunk", {"ema": 0.9}),
        ("none", {"accumulate": 2, "clip_norm": 0.5}),
        ("chunk", {"on_nonfinite": "skip"}),
    ],
)
def test_frozen_variables_keep_every_bit_and_the_others_move(jit: str, options: dict[str, Any], layered: Any) -> None:
    state, program = program_of(layered(), "encoder/*", jit=jit, **options)
    encoder, head = bits_of(state.model, "encoder/"), bits_of(state.model, "head/")
    assert len(encoder) == 6
    for until in (1, 4, 9):
        assert program.run(until, []).problem is None
        assert bits_of(state.model, "encoder/") == encoder
    assert all(bits != head[name] for name, bits in bits_of(state.model, "head/").items())
    if state.ema_model is not None:
        assert bits_of(state.ema_model, "encoder/") == encoder


@pytest.mark.slow
def test_moments_can_be_frozen_alone(layered: Any) -> None:
    state, program = program_of(layered(), "*/moving_*")
    before = bits_of(state.model)
    program.run(3, [])
    after = bits_of(state.model)
    assert {name for name in before if before[name] == after[name]} == {
        f"{NORMALIZATION}/moving_mean",
        f"{NORMALIZATION}/moving_variance",
    }


@pytest.mark.slow
@GRAPH_AND_XLA
def test_what_the_loss_itself_does_to_a_frozen_variable_is_put_back_before_it_is_read_again(
    jit: str, linear: Any
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Constrained(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            seen = model.kernel[0]
            loss = super().loss(model, batch, training=training, seed=seed)
            if training:
                # As a layer that normalises its weights whenever it is called.
                model.kernel.assign(model.kernel * 0.5)
            return dataclasses.replace(loss, metrics={"seen": tf.fill([2], seen)})

    state, program = program_of(Constrained(), "kernel", jit=jit, accumulate=2)
    start = state.model.kernel.numpy()
    advance = program.run(3, [])
    assert state.model.kernel.numpy().tobytes() == start.tobytes()
    assert program.layout.means(advance.open.totals)["seen"] == pytest.approx(float(start[0]), rel=1e-7)


def used(how: str, variable: tf.Variable, *, writes: bool) -> None:
    """Reads the variable, and writes it where it is to, in one of the ways in which a model may."""

    def use() -> tf.Tensor:
        if writes:
            variable.assign_add(1.0)
        return variable + 1.0

    def turn(count: tf.Tensor) -> tuple[tf.Tensor]:
        use()
        return (count + 1,)

    if how == "plain":
        use()
    elif how == "function":
        tf.function(use, autograph=False)()
    elif how == "branch":
        tf.cond(tf.random.uniform([]) < 2, use, lambda: tf.zeros([]))
    else:
        tf.while_loop(lambda count: count < 3, turn, [tf.constant(0)])


@pytest.mark.parametrize("how", ["plain", "function", "branch", "loop"])
def test_only_what_is_written_is_assigned_again_because_an_assignment_may_copy(how: str) -> None:
    model = tf.Module()
    model.read, model.written, model.trained = (tf.Variable(value) for value in (1.0, 2.0, 3.0))
    frozen = Frozen(model, "read,written")

    @tf.function(autograph=False)
    def step() -> None:
        values = frozen.values()
        used(how, model.read, writes=False)
        used(how, model.written, writes=True)
        frozen.put_back(values)

    graph = step.get_concrete_function().graph
    step()
    assert [float(variable) for variable in frozen.variables] == [1.0, 2.0]
    assigned = [op.inputs[0] for op in graph.get_operations() if op.type == "AssignVariableOp"]
    assert [any(handle is graph.capture(v.handle) for handle in assigned) for v in frozen.variables] == [False, True]


@pytest.mark.slow
@GRAPH_AND_XLA
def test_moments_that_move_again_when_a_layer_is_recomputed_for_its_gradient_are_put_back(
    jit: str, linear: Any
) -> None:
    class Counting(tf.Module):
        def __init__(self, plane: Any) -> None:
            super().__init__()
            self.plane, self.mean = plane, tf.Variable(0.25, trainable=False)

        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            def layer(x: tf.Tensor) -> tf.Tensor:
                self.mean.assign_add(1.0)
                return self.plane(x)

            return tf.recompute_grad(layer)(x)

    @dataclasses.dataclass(frozen=True)
    class Recomputed(linear):
        def model(self, seed: Any) -> Any:
            return Counting(super().model(seed))

    state, program = program_of(Recomputed(), "mean", jit=jit)
    program.run(3, [])
    assert float(state.model.mean) == 0.25
    assert float(state.model.plane.bias) != 0


@pytest.mark.slow
def test_a_frozen_gradient_has_no_share_in_the_norm_that_is_clipped(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Steep(linear):
        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            return trainer.Loss(tf.fill([4], 1e6 * tf.reduce_sum(model.kernel) + 0.5 * model.bias))

    moved = []
    for freeze in (None, "kernel"):
        state, program = program_of(Steep(), freeze, clip_norm=1.0)
        program.run(1, [])
        moved.append(abs(float(state.model.bias)))
    # The gradient of the bias is 0.5, and the learning rate an eighth.
    assert moved[0] < 1e-6
    assert moved[1] == pytest.approx(0.125 * 0.5)


@pytest.mark.slow
def test_the_others_are_updated_as_without_freezing(layered: Any) -> None:
    heads = []
    for freeze in (None, "encoder/*"):
        state, program = program_of(layered(), freeze)
        program.run(1, [])
        heads.append(bits_of(state.model, "head/"))
    assert heads[0] == heads[1]


@pytest.mark.slow
def test_a_step_of_the_user_s_own_cannot_freeze(linear: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class OwnStep(linear):
        def train_step(self, state: Any, batch: Mapping[str, tf.Tensor], seed: Any) -> trainer.Loss:
            return self.loss(state.model, batch, training=True, seed=seed)

    with pytest.raises(ConfigError, match=r"OwnStep\.train_step applies its own gradients, so freeze has"):
        program_of(OwnStep(), "kernel")


# --- A whole run ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("jit", ["none", "chunk"])
def test_a_run_with_frozen_variables_resumes_exactly(jit: str, layered: Any, tmp_path: pathlib.Path) -> None:
    options = {"freeze": "encoder/*", "ema": 0.9, "eval_every": "2steps"}
    assert_resumes_exactly(layered(), steps=8, cuts=[3], run_dir=tmp_path / "proof", jit=jit, **options)


@pytest.mark.slow
def test_every_checkpoint_of_a_run_has_the_same_bits_of_what_is_frozen(
    layered: Any, train: Train, tmp_path: pathlib.Path, tensors_of: Callable[[pathlib.Path], dict[str, bytes]]
) -> None:
    options = {"save_every": "2steps", "eval_every": "3steps", "keep_last": 99, "ema": 0.5, "freeze": "encoder/*"}
    train(layered(), train_for="8steps", **options)
    directory = RunDirectory(tmp_path / "run")
    found = [tensors_of(pathlib.Path(directory.checkpoint(step))) for step in sorted(directory.committed_steps())]
    assert len(found) >= 4
    frozen = [{name: bits for name, bits in each.items() if "/encoder/" in name} for each in found]
    assert len(frozen[0]) == 12, "of the model, and of its average"
    assert all(each == frozen[0] for each in frozen)
    assert found[0] != found[-1]
    with pytest.raises(ConfigError, match=r"freeze=encoder/\* there, None here.*--init_from"):
        train(layered(), train_for="9steps", **{**options, "freeze": None})


@pytest.mark.slow
def test_what_is_frozen_are_the_weights_that_another_checkpoint_gives(
    layered: Any, train: Train, tmp_path: pathlib.Path, tensors_of: Callable[[pathlib.Path], dict[str, bytes]]
) -> None:
    given = train(layered(), folder="first", train_for="6steps", eval_every="never")
    options = {"init_from": str(tmp_path / "first"), "freeze": "encoder/*", "ema": 0.9, "eval_every": "never"}
    tuned = train(layered(), folder="second", train_for="4steps", **options)
    before, after = (tensors_of(pathlib.Path(result.last.path)) for result in (given, tuned) if result.last)
    for below in ("model", "ema"):
        names = {name for name in before if name.startswith("model/encoder/")}
        assert len(names) == 6
        assert all(after[name.replace("model", below, 1)] == before[name] for name in names)
    assert all(after[name] != before[name] for name in before if name.startswith("model/head/"))
