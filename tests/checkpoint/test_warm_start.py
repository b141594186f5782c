"""A fresh model takes what fits of another checkpoint, and says what does not."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoint.warm_start import WarmStart, lines, warm_start
from trainer.errors import ConfigError, Unusable


class Dense(tf.Module):
    """An affine layer with the values of one number."""

    def __init__(self, inputs, outputs, fill, dtype=tf.float32):
        super().__init__()
        self.kernel = tf.Variable(tf.fill([inputs, outputs], tf.cast(fill, dtype)))
        self.bias = tf.Variable(tf.fill([outputs], tf.cast(-fill, dtype)))


class Net(tf.Module):
    """Modules in modules, a list and a dict, a variable in two places, and a way back to the top."""

    def __init__(self, fill, *, outputs=4, dtype=tf.float32):
        super().__init__()
        self.layers = [Dense(2, 3, fill), Dense(3, 3, fill + 1)]
        self.heads = {"main": Dense(3, outputs, fill + 2, dtype)}
        self.count = tf.Variable(fill, dtype=tf.int64, trainable=False)
        self.value = self.layers[0].kernel  # the name that Keras has for a variable's value
        self.heads["main"].parent = self


NAMES = {"layers/0/bias", "layers/1/kernel", "layers/1/bias", "heads/main/kernel", "heads/main/bias", "count", "value"}


def values(model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def same(model, expected) -> bool:
    return all(np.array_equal(*pair) for pair in zip(values(model), expected, strict=True))


@pytest.fixture
def save(tmp_path):
    """Writes a `tf.train.Checkpoint` and returns its prefix."""

    def write(*root, **children) -> str:
        return tf.train.Checkpoint(*root, **children).write(str(tmp_path / "state"))

    return write


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def named(report: WarmStart) -> dict[str, list[str]]:
    """The names that the report has, without the kinds of difference that there are none of."""
    return {
        kind: sorted(getattr(name, "name", name) for name in names) for kind, names in report.differences() if names
    }


def test_every_variable_of_the_same_model_is_loaded(save):
    old, new = Net(1), Net(50)
    report = warm_start(new, save(model=old), strict=True)
    assert set(report.loaded) == NAMES
    assert report.complete
    assert same(new, values(old))


def test_variable_in_two_places_is_loaded_once_and_stays_one(save):
    new = Net(50)
    report = warm_start(new, save(model=Net(1)), strict=True)
    assert len(report.loaded) == len(set(report.loaded)) == len(new.variables)
    assert new.value is new.layers[0].kernel


def test_whole_checkpoint_is_the_model_where_it_has_no_model(tmp_path):
    old, new = Net(1), Net(50)
    # `save` counts its saves in a variable of the root.
    prefix = tf.train.Checkpoint(old).save(str(tmp_path / "ckpt"))
    assert warm_start(new, prefix, strict=True).complete
    assert same(new, values(old))


def test_model_with_a_part_called_model_is_found_either_way(save):
    class Wrapper(tf.Module):
        def __init__(self, fill):
            super().__init__()
            self.model = Net(fill)
            self.scale = tf.Variable(float(fill))

    old, new = Wrapper(1), Wrapper(50)
    for prefix in (save(old), save(model=old)):
        assert warm_start(new, prefix, strict=True).complete
        assert same(new, values(old))


def test_only_the_model_is_taken_of_a_training_state(save):
    old, new = Net(1), Net(50)
    optimizer = tf.Module()
    optimizer.moments = [tf.Variable(tf.ones([3]))]
    step = tf.Variable(500, dtype=tf.int64)
    report = warm_start(new, save(model=old, optimizer=optimizer, step=step, window=tf.Variable([1.0])), strict=True)
    assert set(report.loaded) == NAMES
    assert named(report) == {}


def test_added_and_removed_parts_are_told_and_the_rest_is_loaded(save):
    old, new = Net(1), Net(50)
    old.heads["aside"] = Dense(3, 1, 9)
    new.layers.append(Dense(3, 3, 60))
    report = warm_start(new, save(model=old), strict=False)
    assert set(report.loaded) == NAMES
    assert named(report) == {
        "missing": ["layers/2/bias", "layers/2/kernel"],
        "extra": ["heads/aside/bias", "heads/aside/kernel"],
    }
    assert (new.layers[2].kernel.numpy() == 60).all()


def test_renamed_part_is_missing_and_extra(save):
    old, new = Net(1), Net(50)
    old.tail, new.end = tf.Variable(1.0), tf.Variable(2.0)
    report = warm_start(new, save(model=old), strict=False)
    assert named(report) == {"missing": ["end"], "extra": ["tail"]}
    assert new.end.numpy() == 2


def test_variable_of_another_shape_stays(save):
    new = Net(50, outputs=5)
    report = warm_start(new, save(model=Net(1)), strict=False)
    assert named(report) == {"other shape": ["heads/main/bias", "heads/main/kernel"]}
    kernel = next(unlike for unlike in report.other_shape if unlike.name == "heads/main/kernel")
    assert str(kernel) == "heads/main/kernel ((3, 5) in the model, (3, 4) in the checkpoint)"
    assert (new.heads["main"].kernel.numpy() == 52).all()
    assert (new.layers[1].kernel.numpy() == 2).all()


def test_variable_of_another_dtype_stays(save):
    new = Net(50, dtype=tf.float64)
    report = warm_start(new, save(model=Net(1)), strict=False)
    assert named(report) == {"other dtype": ["heads/main/bias", "heads/main/kernel"]}
    assert {(unlike.model, unlike.checkpoint) for unlike in report.other_dtype} == {("float64", "float32")}
    assert (new.heads["main"].bias.numpy() == -52).all()


def test_shape_that_is_open_in_the_model_takes_any(save):
    old, new = tf.Module(), tf.Module()
    old.rows = tf.Variable([[1.0, 2.0]])
    new.rows = tf.Variable(tf.zeros([3, 2]), shape=[None, 2])
    assert warm_start(new, save(model=old), strict=True).complete
    assert new.rows.numpy().tolist() == [[1.0, 2.0]]


def test_shared_variable_fills_those_that_are_separate_now(save):
    old, new = tf.Module(), tf.Module()
    old.a = old.b = tf.Variable(1.0)
    new.a, new.b = tf.Variable(2.0), tf.Variable(3.0)
    assert set(warm_start(new, save(model=old), strict=True).loaded) == {"a", "b"}
    assert values(new) == [1, 1]


def test_separate_variables_that_are_one_now_give_the_first_and_the_other_is_extra(save):
    old, new = tf.Module(), tf.Module()
    old.a, old.b = tf.Variable(1.0), tf.Variable(2.0)
    new.a = new.b = tf.Variable(3.0)
    report = warm_start(new, save(model=old), strict=False)
    assert (report.loaded, named(report)) == (("a",), {"extra": ["b"]})
    assert new.a.numpy() == 1


def test_one_variable_of_two_names_takes_the_one_that_fits(save):
    old, new = tf.Module(), tf.Module()
    old.a, old.b = tf.Variable([1.0]), tf.Variable(2.0)
    new.a = new.b = tf.Variable(3.0)
    report = warm_start(new, save(model=old), strict=False)
    assert (report.loaded, named(report)) == (("a",), {"extra": ["a"]})
    assert new.a.numpy() == 2


def test_part_that_is_a_variable_on_one_side_only_does_not_match(save):
    old, new = Net(1), Net(50)
    old.x, new.x = tf.Variable(1.0), Dense(1, 1, 5)
    report = warm_start(new, save(model=old), strict=False)
    assert named(report) == {"missing": ["x/bias", "x/kernel"], "extra": ["x"]}


def test_saved_table_is_not_passed_over_in_silence(save):
    old, new = Net(1), Net(50)
    for model in (old, new):
        model.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, -1)
    assert named(warm_start(new, save(model=old), strict=False)) == {"extra": ["table"]}


def test_keras_model_is_loaded(save):
    def build(*units):
        keras = tf.keras
        layers = [keras.layers.Dense(count, activation="relu") for count in units]
        return keras.Sequential([keras.layers.Input((3,)), *layers, keras.layers.BatchNormalization()])

    old, new, wider = build(4, 2), build(4, 2), build(4, 5)
    old.set_weights([np.full(weight.shape, 7.0) for weight in old.get_weights()])
    prefix = save(model=old)
    report = warm_start(new, prefix, strict=True)
    assert len(report.loaded) == len(new.variables) == 8
    assert all((weight == 7).all() for weight in new.get_weights())
    report = warm_start(wider, prefix, strict=False)
    assert len(report.loaded) == 2
    assert len(report.other_shape) == 6
    assert (wider.layers[0].get_weights()[0] == 7).all()


def test_sharded_checkpoint_is_loaded(tmp_path):
    old, new = Net(1), Net(50)
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=64)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    prefix = tf.train.Checkpoint(model=old).write(str(tmp_path / "state"), options)
    assert len(list(tmp_path.glob("state.data-*"))) > 1
    assert warm_start(new, prefix, strict=True).complete
    assert same(new, values(old))


def test_saved_model_is_loaded(tmp_path):
    old, new = Net(1), Net(50)
    tf.saved_model.save(old, str(tmp_path))
    warm_start(new, str(tmp_path / "variables" / "variables"), strict=True)
    assert same(new, values(old))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda old: setattr(old, "tail", tf.Variable(1.0)), "extra 1: tail"),
        (lambda old: delattr(old, "count"), "missing 1: count"),
        (lambda old: setattr(old, "count", tf.Variable([1, 2], dtype=tf.int64)), "other shape 1: count"),
        (lambda old: setattr(old, "count", tf.Variable(1.0)), "other dtype 1: count"),
    ],
)
def test_strict_refuses_each_difference_and_changes_nothing(save, change, said):
    old, new = Net(1), Net(50)
    change(old)
    before = values(new)
    with pytest.raises(ConfigError, match=said) as error:
        warm_start(new, save(model=old), strict=True)
    one_line(error)
    assert same(new, before)


@pytest.mark.parametrize("strict", [True, False])
def test_checkpoint_of_another_model_is_refused(save, strict):
    other = tf.Module()
    other.weights = [tf.Variable(1.0) for _ in range(9)]
    new = Net(50)
    before = values(new)
    with pytest.raises(ConfigError, match="no variable of the model is in") as error:
        warm_start(new, save(model=other), strict=strict)
    assert "missing 7: count, value, layers/0/bias and 4 more; extra 9: weights/0, weights/1, weights/2 and 6 more" in (
        one_line(error)
    )
    assert same(new, before)


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_damaged_tensor_is_refused_before_anything_is_changed(save, number):
    old, new = Net(1), Net(50)
    old.count.assign(0x0123456789ABCDEF)
    prefix = save(model=old)
    path = pathlib.Path(f"{prefix}.data-00000-of-00001")
    content = path.read_bytes()
    [before, after] = content.split(values(old)[number].tobytes())
    path.write_bytes(before + bytes(len(content) - len(before) - len(after)) + after)
    unchanged = values(new)
    with pytest.raises(Unusable, match="state cannot be read at model/") as error:
        warm_start(new, prefix, strict=False)
    one_line(error)
    assert same(new, unchanged)


def test_damage_in_what_is_not_loaded_does_no_harm(save):
    old, new = Net(1), Net(50)
    prefix = save(model=old, optimizer=tf.Variable(tf.fill([100], 0.123)))
    path = pathlib.Path(f"{prefix}.data-00000-of-00001")
    content = path.read_bytes()
    moment = np.float32(0.123).tobytes()
    assert content.count(moment * 100) == 1
    path.write_bytes(content.replace(moment * 100, b"\xff" * 400))
    warm_start(new, prefix, strict=True)
    assert same(new, values(old))


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("left", [None, 0, 100])
def test_missing_or_torn_file_is_refused_in_one_line(save, suffix, left):
    prefix = save(model=Net(1))
    path = pathlib.Path(f"{prefix}.{suffix}")
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(Unusable, match="state cannot be read") as error:
        warm_start(Net(50), prefix, strict=False)
    assert "{{" not in one_line(error)


def test_checkpoint_without_objects_is_refused(tmp_path):
    prefix = str(tmp_path / "state")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["count"], shape_and_slices=[""], tensors=[tf.constant(1)])
    with pytest.raises(Unusable, match=r"expected a checkpoint that tf\.train.Checkpoint wrote") as error:
        warm_start(Net(50), prefix, strict=False)
    one_line(error)


def test_lines_say_what_was_loaded_and_only_the_differences_there_are(save):
    old, new = Net(1), Net(50, outputs=5)
    new.end = tf.Variable(1.0)
    assert lines(warm_start(new, save(model=old), strict=False), "runs/a step 500") == [
        "init   runs/a step 500: 5 variables loaded",
        "       missing 1: end",
        "       other shape 2: heads/main/kernel ((3, 5) in the model, (3, 4) in the checkpoint), "
        "heads/main/bias ((5,) in the model, (4,) in the checkpoint)",
    ]


def test_long_lists_are_cut_with_a_count():
    report = WarmStart("p", ("a",), tuple(f"v{number}" for number in range(9)), (), (), ())
    assert lines(report, "p") == [
        "init   p: 1 variable loaded",
        "       missing 9: v0, v1, v2, v3, v4, v5 and 3 more",
    ]
    exact = dataclasses.replace(report, missing=report.missing[:6])
    assert lines(exact, "p")[1] == "       missing 6: v0, v1, v2, v3, v4, v5"
