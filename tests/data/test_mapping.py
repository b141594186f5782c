"""Maps: one function an example, the same bits however the examples are batched."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import arrays, records, run_seed
from trainer.data.mapping import EVAL_SEED, example_seeds
from trainer.errors import ConfigError

pytestmark = pytest.mark.slow  # XLA compiles each.

LENGTH = 23
IMAGES = np.random.default_rng(0).normal(size=(LENGTH, 4, 4, 1)).astype(np.float32)
MAPPING = {"image": IMAGES, "label": np.arange(LENGTH)}


def augmented(example, seed):
    image = tf.image.stateless_random_flip_left_right(example["image"], seed)
    noise = tf.random.stateless_normal([4, 4, 1], seed, alg="philox")
    return {"image": tf.tanh(tf.exp(image)) + noise, "label": example["label"], "seed": seed}


def scaled(example, seed):
    noise = tf.random.stateless_normal([], seed, alg="philox")
    return {**example, "image": example["image"] * noise, "second": seed}


def images_by_label(source, batches, start=0, jit=None):
    """Returns what training gives for each (pass, example), and the number of examples seen."""
    program = source.train_batch if jit is None else tf.function(source.train_batch, jit_compile=jit, autograph=False)
    seen = {}
    for _ in range(batches):
        batch = program(tf.constant(run_seed(17)), tf.constant(start, tf.int64))
        for row in range(int(batch.examples)):
            values = {name: value[row].numpy() for name, value in batch.values.items()}
            seen[(start + row) // LENGTH, int(values["label"])] = values
        start += int(batch.examples)
    return seen


def assert_same(one, other):
    assert one.keys() & other.keys()
    for key in one.keys() & other.keys():
        for name, value in one[key].items():
            np.testing.assert_array_equal(value, other[key][name], err_msg=f"{name} of {key}")


@pytest.mark.parametrize("jit", [False, True])
def test_augmented_examples_are_the_same_bits_whatever_the_batch_size(jit):
    def source(rows, last="wrap"):
        return arrays(MAPPING, batch_size=rows, last=last).map(augmented).map(scaled)

    whole = images_by_label(source(LENGTH + 7), 1, jit=jit)
    assert len(whole) == LENGTH + 7
    # XLA dissolves a loop over one example.
    assert_same(whole, images_by_label(source(1), 3, jit=jit))
    assert_same(whole, images_by_label(source(9, "short"), 4, start=LENGTH - 7, jit=jit))


def test_eager_and_in_a_graph_are_the_same_bits():
    source = arrays(MAPPING, batch_size=6).map(augmented)
    assert_same(images_by_label(source, 1), images_by_label(source, 1, jit=False))


def test_a_pipeline_and_a_program_give_an_example_the_same_bits(tmp_path):
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for image in IMAGES:
            writer.write(image.tobytes())

    def decoded(example, seed):
        return {"image": tf.reshape(tf.io.decode_raw(example["record"], tf.float32), [4, 4, 1]), "label": 0}

    on_disk = records(path, batch_size=6).map(decoded).map(augmented)
    in_memory = arrays({"image": IMAGES, "label": np.zeros(LENGTH, np.int32)}, batch_size=6)
    in_memory = in_memory.map(lambda example, seed: example).map(augmented)
    program = tf.function(in_memory.train_batch, autograph=False)
    for number, batch in enumerate(on_disk.train_batches(run_seed(17), 30).take(5)):
        computed = program(tf.constant(run_seed(17)), tf.constant(30 + 6 * number, tf.int64))
        assert batch.values.keys() == computed.values.keys()
        for name, value in batch.values.items():
            np.testing.assert_array_equal(value, computed.values[name])


def test_each_example_pass_and_map_has_a_seed_of_its_own():
    source = arrays(MAPPING, batch_size=LENGTH).map(augmented).map(scaled)
    seen = images_by_label(source, 3)
    seeds = [tuple(values[name]) for values in seen.values() for name in ("seed", "second")]
    assert len(set(seeds)) == len(seeds) == 6 * LENGTH


def test_seeds_of_examples_stay_what_they_were_when_runs_began():
    seeds = example_seeds(run_seed(17), np.array([0, 3]), np.array([5, 10**12]), 2)
    assert seeds.dtype == np.int32
    assert seeds.tolist() == [
        [[-287385110, -161563789], [138797843, -1231829584]],
        [[1797399264, 405389093], [929384089, 1311014566]],
    ]


def test_seeds_are_the_same_in_numpy_in_a_graph_and_under_xla():
    passes, index = np.array([0, 1, 2**40]), np.array([7, 0, 10**12])
    expected = example_seeds(run_seed(3), passes, index, 3)
    assert expected.shape == (3, 3, 2)
    for jit in (False, True):
        seeds = tf.function(lambda *parts: example_seeds(*parts, 3), jit_compile=jit)
        np.testing.assert_array_equal(seeds(*map(tf.constant, (run_seed(3), passes, index))), expected)


def test_evaluations_have_seeds_of_their_own_and_the_same_each_time():
    source = arrays(MAPPING, batch_size=5).map(augmented)
    first, again = (source.eval_batch(tf.constant(5, tf.int64)).values["seed"].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    expected = example_seeds(EVAL_SEED, np.zeros(5, np.int64), np.arange(5, 10), 1)[:, 0]
    np.testing.assert_array_equal(first, expected)
    trained = np.concatenate([values["seed"] for values in images_by_label(source, 5).values()]).tolist()
    assert not set(first.ravel().tolist()) & set(trained)


def test_a_map_makes_a_new_source_and_leaves_the_old_one():
    source = arrays(MAPPING, batch_size=4)
    mapped = source.map(lambda example, seed: {"label": example["label"] * 2})
    assert source.train_batch(run_seed(1), tf.constant(0, tf.int64)).values.keys() == MAPPING.keys()
    assert mapped.train_batch(run_seed(1), tf.constant(0, tf.int64)).values.keys() == {"label"}
    assert (mapped.fingerprint, mapped.examples, mapped.batch_size) == (source.fingerprint, LENGTH, 4)


def test_a_function_with_a_python_condition_on_a_tensor_is_converted():
    def clipped(example, seed):
        label = example["label"]
        while label > 3:
            label -= 4
        return {"label": label}

    batch = arrays(MAPPING, batch_size=6).map(clipped).eval_batch(tf.constant(0, tf.int64))
    assert batch.values["label"].numpy().tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda example, seed: None, "returned nothing"),
        (lambda example, seed: example["image"], "returned a tensor"),
        (lambda example, seed: (example["image"], example["label"]), "returned tuple"),
        (lambda example, seed: {}, "returned an empty dict"),
        (lambda example, seed: {3: example["label"]}, "returned 3"),
        (lambda example, seed: {"x": tf.sparse.from_dense(example["image"])}, "'x' as SparseTensor"),
    ],
)
def test_what_is_no_example_is_refused_in_one_line(function, given):
    with pytest.raises(ConfigError) as error:
        arrays(MAPPING, batch_size=4).map(function)
    assert given in str(error.value)
    assert "; return " in str(error.value)
    assert "\n" not in str(error.value)


def test_examples_of_unknown_shape_are_refused_in_one_line():
    source = arrays(MAPPING, batch_size=4).map(lambda example, seed: {"x": tf.where(example["image"] > 0)})
    with pytest.raises(ConfigError, match="'x' has shape") as error:
        source.train_batch(run_seed(1), tf.constant(0, tf.int64))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nested", [False, True])
def test_a_map_that_draws_from_a_generator_of_its_own_is_refused_by_the_operation(nested):
    def draw(example):
        return example["label"] + tf.random.uniform([], 0, 9, tf.int64)

    def drawing(example, seed):
        label = (
            tf.cond(example["label"] > 3, lambda: draw(example), lambda: example["label"]) if nested else draw(example)
        )
        return {**example, "label": label}

    with pytest.raises(ConfigError, match=r"map draws .*RandomUniformInt.*tf\.random\.stateless"):
        arrays(MAPPING, batch_size=4).map(drawing)
