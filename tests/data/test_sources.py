"""Sources as an experiment and the loop use them: real batches, compiled and not, and errors that help."""

import dataclasses
import importlib
import inspect
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import trainer.data
from trainer.data import arrays, run_seed
from trainer.errors import ConfigError

LENGTH = 10
FEATURES = np.arange(LENGTH * 6, dtype=np.float32).reshape(LENGTH, 2, 3)
LABELS = np.arange(LENGTH, dtype=np.int32)
MAPPING = {"features": FEATURES, "label": LABELS}


def train(source, start, seed=17):
    return source.train_batch(run_seed(seed), tf.constant(start, tf.int64))


def evaluate(source, start):
    return source.eval_batch(tf.constant(start, tf.int64))


def labels(batch):
    return batch.values["label"].numpy().tolist()


def test_source_says_what_it_is():
    source = arrays(MAPPING, batch_size=4)
    assert (source.batch_size, source.examples, source.last, source.mode) == (4, LENGTH, "wrap", "indexed")
    assert source.shuffle is True
    assert len(source.fingerprint) >= 16
    int(source.fingerprint, 16)


def test_rows_of_all_arrays_belong_together_and_keep_dtype_and_shape():
    batch = train(arrays(MAPPING, batch_size=7), 5)
    assert batch.values["features"].dtype == tf.float32
    assert batch.values["features"].shape == [7, 2, 3]
    assert batch.values["label"].dtype == tf.int32
    np.testing.assert_array_equal(batch.values["features"], FEATURES[labels(batch)])


@pytest.mark.slow
def test_shuffled_passes_hold_every_example_once_and_differ():
    source = arrays(MAPPING, batch_size=5)
    passes = [labels(train(source, start)) + labels(train(source, start + 5)) for start in (0, 10, 10**9, 10**12)]
    for each in passes:
        assert sorted(each) == list(range(LENGTH))
    assert len({tuple(each) for each in passes}) == len(passes)


@pytest.mark.slow
def test_seed_decides_the_order_and_repeats_it():
    one, same = arrays(MAPPING, batch_size=LENGTH), arrays(MAPPING, batch_size=LENGTH)
    assert labels(train(one, 0, seed=1)) == labels(train(same, 0, seed=1))
    assert labels(train(one, 0, seed=1)) != labels(train(one, 0, seed=2))
    assert sorted(labels(train(one, 0, seed=-(2**63)))) == list(range(LENGTH))


@pytest.mark.slow
def test_order_stays_what_it_was_when_runs_began():
    assert labels(train(arrays(MAPPING, batch_size=12), 7)) == [1, 4, 9, 3, 6, 4, 9, 8, 2, 0, 1, 7]


@pytest.mark.slow
def test_seed_may_be_a_tensor_of_the_program():
    source = arrays(MAPPING, batch_size=LENGTH)
    program = tf.function(lambda seed: source.train_batch(seed, tf.constant(0, tf.int64)).values["label"])
    for seed in (1, 2):
        assert program(tf.constant(run_seed(seed))).numpy().tolist() == labels(train(source, 0, seed=seed))


def test_unshuffled_training_wraps_in_file_order_through_several_passes():
    batch = train(arrays(MAPPING, batch_size=25, shuffle=False), 8)
    assert labels(batch) == [(8 + row) % LENGTH for row in range(25)]
    assert batch.weights is None
    assert int(batch.examples) == 25


@pytest.mark.slow
def test_shuffled_batch_larger_than_the_data_is_full_of_whole_passes():
    batch = labels(train(arrays(MAPPING, batch_size=25), 0))
    assert sorted(batch[:10]) == sorted(batch[10:20]) == list(range(LENGTH))
    assert len(set(batch[20:])) == 5


@pytest.mark.slow
def test_short_last_batch_is_padded_with_weight_zero():
    source = arrays(MAPPING, batch_size=4, last="short")
    starts = [0, 4, 8]
    batches = [train(source, start) for start in starts]
    assert [int(batch.examples) for batch in batches] == [4, 4, 2]
    assert batches[-1].weights.numpy().tolist() == [1, 1, 0, 0]
    assert sorted(labels(batches[0]) + labels(batches[1]) + labels(batches[2])[:2]) == list(range(LENGTH))


@pytest.mark.slow
def test_short_batch_larger_than_the_data_is_one_a_pass():
    batch = train(arrays(MAPPING, batch_size=16, last="short"), 10**12)
    assert int(batch.examples) == LENGTH
    assert sorted(labels(batch)[:LENGTH]) == list(range(LENGTH))


def test_evaluation_keeps_file_order_and_counts_each_example_once():
    source = arrays(MAPPING, batch_size=4)
    batches = [evaluate(source, start) for start in (0, 4, 8)]
    assert [labels(batch) for batch in batches[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels(batches[2])[:2] == [8, 9]
    assert [batch.weights.numpy().tolist() for batch in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    assert [int(batch.examples) for batch in batches] == [4, 4, 2]


@pytest.mark.slow
@pytest.mark.parametrize("last", ["wrap", "short"])
def test_batches_are_the_same_eager_in_a_graph_loop_and_under_xla(last):
    source = arrays(MAPPING, batch_size=4, last=last)

    def run(start):
        def body(step, start, rows):
            batch = source.train_batch(run_seed(17), start)
            return step + 1, start + batch.examples, rows.write(step, batch.values["label"])

        rows = tf.TensorArray(tf.int32, 6, element_shape=[4])
        _, end, rows = tf.while_loop(lambda step, *_: step < 6, body, (0, start, rows))
        return rows.stack(), end

    expected, start = [], 10**9
    for _ in range(6):
        batch = train(source, start)
        expected.append(labels(batch))
        start += int(batch.examples)
    for jit in (False, True):
        rows, end = tf.function(run, jit_compile=jit, autograph=False)(tf.constant(10**9, tf.int64))
        assert rows.numpy().tolist() == expected
        assert int(end) == start


@pytest.mark.slow
def test_batch_shapes_are_static_in_a_graph():
    source = arrays(MAPPING, batch_size=4, last="short")

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def shapes(start):
        for batch in (source.train_batch(run_seed(1), start), source.eval_batch(start)):
            assert batch.values["features"].shape == [4, 2, 3]
            assert batch.weights.shape == [4]
            assert batch.examples.shape == []
        return start

    shapes(tf.constant(0, tf.int64))


def test_graph_captures_the_arrays_and_holds_no_copy():
    source = arrays({"x": np.zeros((4096, 64), np.float32)}, batch_size=4)
    program = tf.function(lambda start: source.train_batch(run_seed(1), start).values["x"], autograph=False)
    graph = program.get_concrete_function(tf.TensorSpec([], tf.int64)).graph
    assert graph.as_graph_def().ByteSize() < 100_000


def test_arrays_changed_afterwards_change_nothing():
    mine = LABELS.copy()
    source = arrays({"label": mine}, batch_size=4)
    mine[:] = -1
    assert labels(evaluate(source, 0)) == [0, 1, 2, 3]


def test_fingerprint_follows_the_data_and_nothing_else():
    fingerprint = arrays(MAPPING, batch_size=4).fingerprint
    same = [
        arrays(MAPPING, batch_size=7, shuffle=False, last="short"),
        arrays(dict(reversed(MAPPING.items())), batch_size=4),
        arrays({**MAPPING, "label": LABELS.astype(">i4")}, batch_size=4),
        arrays({**MAPPING, "features": np.asfortranarray(FEATURES)}, batch_size=4),
    ]
    assert {source.fingerprint for source in same} == {fingerprint}
    changed = FEATURES.copy()
    changed[3, 1, 2] += 1
    different = [
        {"features": changed, "label": LABELS},
        {"features": FEATURES.reshape(LENGTH, 6), "label": LABELS},
        {"features": FEATURES.view(np.int32), "label": LABELS},
        {"feature": FEATURES, "label": LABELS},
        {"features": FEATURES},
    ]
    others = {arrays(mapping, batch_size=4).fingerprint for mapping in different}
    assert len(others | {fingerprint}) == len(different) + 1


@pytest.mark.parametrize("dtype", [">f4", "int8", "bool", "float64", ml_dtypes.bfloat16, "S3"])
def test_dtypes_that_tensors_have_are_taken_as_they_are(dtype):
    values = np.arange(LENGTH).astype(dtype)
    batch = evaluate(arrays({"label": values}, batch_size=LENGTH), 0)
    np.testing.assert_array_equal(batch.values["label"].numpy(), values)


def test_lists_and_tensors_are_arrays_too():
    source = arrays({"a": [[1.0], [2.0]], "b": tf.constant([3, 4])}, batch_size=2)
    batch = evaluate(source, 0)
    assert batch.values["a"].numpy().tolist() == [[1], [2]]
    assert batch.values["b"].numpy().tolist() == [3, 4]


@dataclasses.dataclass(frozen=True)
class Refused:
    """Arguments that are refused, and what the message must name."""

    names: str
    mapping: object = dataclasses.field(default_factory=lambda: {"x": np.zeros(3)})
    batch_size: object = 2
    last: str = "wrap"


@pytest.mark.parametrize(
    "case",
    [
        Refused("no arrays", {}),
        Refused("no arrays", np.zeros((40, 40))),
        Refused("no examples", {"x": np.zeros((0, 4))}),
        Refused("x: 3, y: 4", {"x": np.zeros(3), "y": np.zeros(4)}),
        Refused("'x' is a scalar", {"x": 5}),
        Refused("dtype object", {"x": np.array([{}, None])}),
        Refused("dtype datetime64", {"x": np.zeros(3, "M8[s]")}),
        Refused("'x' has rows of different lengths", {"x": [[1], [1, 2]]}),
        Refused("name 3", {3: np.zeros(3)}),
        Refused("batch_size=0", batch_size=0),
        Refused("batch_size=-4", batch_size=-4),
        Refused("batch_size=2.0", batch_size=2.0),
        Refused("batch_size=True", batch_size=True),
        Refused("batch_size='8'", batch_size="8"),
        Refused("last='drop'", last="drop"),
    ],
    ids=lambda case: case.names,
)
def test_what_cannot_be_a_source_is_refused_in_one_line(case):
    with pytest.raises(ConfigError) as error:
        arrays(case.mapping, batch_size=case.batch_size, last=case.last)
    message = str(error.value)
    assert case.names in message
    assert "; " in message, "what to do comes after what was given"
    assert "\n" not in message
    assert len(message) < 160


def test_contract_and_seeds_are_imported_without_tensorflow():
    program = (
        "import sys, numpy; sys.modules['tensorflow'] = None\n"
        "from trainer.data import Batch, Source, fold_in, run_seed\n"
        "from trainer.data.permutation import permutation\n"
        "zero = numpy.zeros(1, numpy.int64)\n"
        "print(permutation(fold_in(run_seed(1), 2), zero, zero, length=1))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[0]", done.stderr


@pytest.mark.parametrize("name", ["arrays", "files", "records", "text_lines"])
def test_a_maker_of_sources_is_had_by_its_name_whatever_was_imported_before(name):
    for module in pathlib.Path(trainer.data.__file__).parent.glob("*.py"):
        importlib.import_module(f"trainer.data.{module.stem}" if module.stem != "__init__" else "trainer.data")
    assert inspect.isfunction(getattr(trainer.data, name))
