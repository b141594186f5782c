"""The snapshot: what it writes is what the originals were, under the names that the originals have."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoint.snapshot import NoSnapshot, Snapshot
from trainer.errors import ConfigError

# A snapshot has its own graph, and a process usually one snapshot; TensorFlow wonders at the many of these tests.
tf.get_logger().setLevel("ERROR")


class Part(tf.Module):
    """A module with any attributes."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def variable(value, **options):
    return tf.Variable(tf.constant(value), **options)


def every_kind():
    """Returns variables of every kind that behaves in its own way, by what is special about them."""
    return {
        "vector": variable([1.0, 2.0]),
        "matrix": variable([[1.0, 2.0], [3.0, 4.0]]),
        "scalar": variable(1.5),
        "boolean": variable([True, False]),
        "one boolean": variable(True),
        "int64": variable(np.int64(2**40)),
        "int64 vector": variable(np.array([2**40, -1])),
        "int8": variable(np.int8([1, -1])),
        "bfloat16": tf.Variable(tf.cast([1.0, 2.5], tf.bfloat16)),
        "float64": variable(np.array([0.1])),
        "complex": variable(np.complex64([1 + 2j])),
        "text": variable(["a", "bc"]),
        "one text": variable("abc"),
        "empty": tf.Variable(tf.zeros([0, 3])),
        "of any length": variable([1.0, 2.0, 3.0], shape=[None]),
        "of any shape": variable([1.0], shape=tf.TensorShape(None)),
        "not trained": variable([1.0], trainable=False),
    }


def other(value):
    """Returns another value of the same kind."""
    if value.dtype == tf.string:
        return tf.strings.join([value, "!"])
    if value.dtype == tf.bool:
        return tf.logical_not(value)
    return value + tf.ones_like(value)


def shared():
    weights = variable([1.0, 2.0])
    model = Part(weights=weights, tied=weights, parts=[weights, Part(weights=weights)])
    model.itself = model
    return tf.train.Checkpoint(model=model, again=weights)


def keras(*, built=True):
    import keras

    model = keras.Sequential(
        [
            keras.layers.Input([4]),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.Adam(0.1)
    if built:
        optimizer.build(model.trainable_variables)
    return tf.train.Checkpoint(model=model, optimizer=optimizer, step=variable(np.int64(0)))


def counted():
    checkpoint = tf.train.Checkpoint(weights=variable([1.0]))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(str(Path(folder) / "ckpt"))
    return checkpoint


CHECKPOINTS = {
    "module": lambda: tf.train.Checkpoint(model=Part(kernel=variable([1.0]), bias=variable(0.0)), step=variable(3)),
    "every kind": lambda: tf.train.Checkpoint(kinds=every_kind()),
    "lists and dicts": lambda: tf.train.Checkpoint(
        parts=[variable(1.0), [variable([2.0])], {"a": variable(3.0), "b c/d": (variable(4.0), [])}, {}]
    ),
    "names that objects have": lambda: tf.train.Checkpoint(
        parts={name: variable([1.0]) for name in ("name", "variables", "submodules", "trainable_variables", "_name")},
        name=variable(1.0),
        model=Part(read=variable(2.0)),
    ),
    "shared": shared,
    "a checkpoint": lambda: tf.train.Checkpoint(inner=tf.train.Checkpoint(weights=variable([1.0]))),
    "the model itself": lambda: tf.train.Checkpoint(Part(weights=variable([1.0])), step=variable(1)),
    "the model itself, in another": lambda: tf.train.Checkpoint(
        inner=tf.train.Checkpoint(Part(weights=variable([1.0])), step=variable(1))
    ),
    "what has no state": lambda: tf.train.Checkpoint(
        model=Part(weights=variable([1.0]), function=tf.function(lambda x: x), table=static_table(), none=None)
    ),
    "generator": lambda: tf.train.Checkpoint(generator=tf.random.Generator.from_seed(17)),
    "its own count of saves": counted,
    "keras": keras,
}


def static_table():
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4]), -1)


def variables_of(checkpoint):
    """Returns every variable of a checkpoint, once."""
    found = {}
    for node in tf.train.TrackableView(checkpoint).descendants():
        value = node if isinstance(node, tf.Variable) else getattr(node, "value", None)
        if isinstance(value, tf.Variable):
            found[id(value)] = value
    return list(found.values())


def values_of(checkpoint):
    return [variable.numpy() for variable in variables_of(checkpoint)]


def only(snapshot):
    """Returns what was taken of the one variable that there is."""
    (value,) = values_of(snapshot.checkpoint)
    return value


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, another in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, another)


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request):
    return CHECKPOINTS[request.param]()


def test_what_it_writes_restores_into_the_originals(checkpoint, tmp_path):
    snapshot = Snapshot(checkpoint)
    before = values_of(checkpoint)
    snapshot.take()
    snapshot.checkpoint.write(str(tmp_path / "state"))
    for original in variables_of(checkpoint):
        original.assign(other(original))
    assert_not_equal(values_of(checkpoint), before)
    checkpoint.read(str(tmp_path / "state")).assert_consumed()
    assert_equal(values_of(checkpoint), before)


def assert_not_equal(first, second):
    for one, another in zip(first, second, strict=True):
        # What is empty has one value.
        assert np.size(one) == 0 or not np.array_equal(one, another)


def test_its_files_hold_what_the_originals_write_themselves(checkpoint, tmp_path):
    snapshot = Snapshot(checkpoint)
    snapshot.checkpoint.write(str(tmp_path / "ours"))
    checkpoint.write(str(tmp_path / "theirs"))
    ours, theirs = (tf.train.load_checkpoint(str(tmp_path / name)) for name in ("ours", "theirs"))
    assert ours.get_variable_to_shape_map().keys() == theirs.get_variable_to_shape_map().keys()
    assert ours.get_variable_to_dtype_map() == theirs.get_variable_to_dtype_map()
    for name in theirs.get_variable_to_shape_map():
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
            np.testing.assert_array_equal(ours.get_tensor(name), theirs.get_tensor(name))


def test_it_stays_as_it_was_while_the_originals_are_assigned_to(checkpoint):
    snapshot = Snapshot(checkpoint)
    for original in variables_of(checkpoint):
        original.assign(other(original))
    snapshot.take()
    taken = values_of(checkpoint)
    for original in variables_of(checkpoint):
        original.assign(other(original))
    assert_same_set(values_of(snapshot.checkpoint), taken)
    snapshot.take()
    assert_same_set(values_of(snapshot.checkpoint), values_of(checkpoint))


def assert_same_set(first, second):
    """The shadows' order is that of the graph, and so is the originals'; it need not be the same one."""
    assert sorted(map(repr, first)) == sorted(map(repr, second))


UPDATES = {
    "assign_add": lambda weights: weights.assign_add(tf.ones_like(weights)),
    "assign_sub": lambda weights: weights.assign_sub(tf.ones_like(weights)),
    "scatter": lambda weights: weights.scatter_nd_add([[0]], tf.ones_like(weights[:1])),
    "slice": lambda weights: weights[:1].assign(weights[:1] + 1),
    "fused kernel": lambda weights: tf.raw_ops.ResourceApplyGradientDescent(
        var=weights.handle, alpha=1.0, delta=tf.ones_like(weights)
    ),
    "jitted": tf.function(lambda weights: weights.assign_add(weights * 2), jit_compile=True),
    "on a device": lambda weights: weights.assign(weights + 1),
}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("shape", [[3], [300, 300]])
def test_no_update_in_place_reaches_what_was_taken(update, shape):
    weights = tf.Variable(tf.random.stateless_normal(shape, [1, 2]))
    snapshot = Snapshot(tf.train.Checkpoint(weights=weights))
    for _ in range(3):
        snapshot.take()
        taken = weights.numpy().copy()
        UPDATES[update](weights)
        assert not np.array_equal(weights.numpy(), taken)
        np.testing.assert_array_equal(only(snapshot), taken)


def test_scalar_that_is_counted_up_stays_as_it_was():
    step = tf.Variable(5, dtype=tf.int64)
    snapshot = Snapshot(tf.train.Checkpoint(step=step))
    snapshot.take()
    step.assign_add(1)
    assert only(snapshot) == 5


def test_variable_that_changes_its_length_is_copied_at_each_length():
    rows = variable([1.0, 2.0], shape=[None])
    snapshot = Snapshot(tf.train.Checkpoint(rows=rows))
    for length in (5, 0, 3):
        rows.assign(tf.range(length, dtype=tf.float32))
        snapshot.take()
        np.testing.assert_array_equal(only(snapshot), np.arange(length, dtype=np.float32))


def test_it_is_a_copy_of_the_moment_it_was_made_at():
    assert only(Snapshot(tf.train.Checkpoint(weights=variable([7.0])))) == [7.0]


def test_plain_tensorflow_reads_the_model_from_what_it_writes(tmp_path):
    model = Part(kernel=variable([[1.0, 2.0]]), layers=[Part(bias=variable(3.0))])
    snapshot = Snapshot(tf.train.Checkpoint(model=model, optimizer=Part(slot=variable([1.0])), step=variable(9)))
    snapshot.checkpoint.write(str(tmp_path / "state"))
    fresh = Part(kernel=variable([[0.0, 0.0]]), layers=[Part(bias=variable(0.0))])
    tf.train.Checkpoint(model=fresh).read(str(tmp_path / "state")).expect_partial()
    assert fresh.kernel.numpy().tolist() == [[1.0, 2.0]]
    assert fresh.layers[0].bias.numpy() == 3.0


def unsaved():
    def generate():
        yield 1

    return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec([], tf.int32))


class Counter(tf.train.experimental.PythonState):
    """A state that is not TensorFlow's."""

    def serialize(self):
        return "1"

    def deserialize(self, value):
        pass


STATEFUL = {
    "iterator": lambda: tf.train.Checkpoint(iterator=iter(tf.data.Dataset.range(9)), weights=variable([1.0])),
    "iterator that cannot be saved": lambda: tf.train.Checkpoint(iterator=iter(unsaved())),
    "table": lambda: tf.train.Checkpoint(
        model=Part(table=tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1))
    ),
    "dense table": lambda: tf.train.Checkpoint(
        parts=[tf.lookup.experimental.DenseHashTable(tf.int64, tf.int64, -1, -2, -3)]
    ),
    "state in Python": lambda: tf.train.Checkpoint(counter=Counter()),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_state_that_is_no_variable_is_refused(kind):
    with pytest.raises(NoSnapshot) as refused:
        Snapshot(STATEFUL[kind]())
    assert "\n" not in str(refused.value)
    # Nothing of the attempt stays in memory.
    assert not tf.io.gfile.glob("ram://snapshot*")


@pytest.mark.parametrize(
    "add",
    [
        lambda checkpoint: setattr(checkpoint.model, "late", variable([1.0], name="late")),
        lambda checkpoint: checkpoint.model.parts.append(variable([1.0], name="late")),
        lambda checkpoint: setattr(checkpoint.model.parts[0], "late", variable([1.0], name="late")),
        lambda checkpoint: setattr(checkpoint, "late", variable([1.0], name="late")),
    ],
)
def test_variables_created_later_are_refused_by_name(add):
    checkpoint = tf.train.Checkpoint(model=Part(weights=variable([1.0]), parts=[Part(weights=variable([2.0]))]))
    snapshot = Snapshot(checkpoint)
    snapshot.take()
    add(checkpoint)
    with pytest.raises(ConfigError, match=r"variables .*1.*late.*async_save=false") as refused:
        snapshot.take()
    assert "\n" not in str(refused.value)


def test_slots_that_keras_makes_later_are_refused():
    checkpoint = keras(built=False)
    snapshot = Snapshot(checkpoint)
    snapshot.take()
    checkpoint.optimizer.build(checkpoint.model.trainable_variables)
    with pytest.raises(ConfigError, match="momentum"):
        snapshot.take()


def test_slots_that_tensorflow_keeps_beside_its_objects_are_refused_rather_than_lost():
    weights = variable([1.0])
    optimizer = tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
    optimizer.minimize(lambda: weights * 2, var_list=[weights])
    with pytest.raises(NoSnapshot, match=r"OPTIMIZER_SLOT|momentum|Momentum"):
        Snapshot(tf.train.Checkpoint(weights=weights, optimizer=optimizer))


def test_object_with_variables_and_a_state_of_its_own_is_refused_rather_than_halved():
    both = Counter()
    both.weights = variable([1.0])
    with pytest.raises(NoSnapshot, match="both"):
        Snapshot(tf.train.Checkpoint(both=both))
