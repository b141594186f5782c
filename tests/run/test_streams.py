"""A run on a stream: where its place is kept, how it is found again, and what the end of the data means."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import trainer
from trainer.errors import ConfigError, Unusable
from trainer.ledger.directory import RunDirectory
from trainer.ledger.journal import read_journal
from trainer.ledger.manifest import Manifest

pytestmark = pytest.mark.slow

Train = Callable[..., trainer.Result]
Manifests = Callable[..., dict[int, Manifest]]

ONE_STEP_A_CHUNK = {"tick": "0.000001s"}
QUIET = {"log_every": "1step", "save_every": "never", "keep_best": 0}


@pytest.fixture(scope="module")
def streaming(linear: Any) -> Any:
    """The plane, fitted to a stream of ten examples in batches of four; each record tells which it saw."""

    @dataclasses.dataclass(frozen=True)
    class Streaming(linear):
        batch_size: int = trainer.field(4, on_resume="free")
        shuffle: bool = True
        mode: str = trainer.field("iterator", on_resume="free")
        length: int = trainer.field(10, on_resume="free")
        factor: float = trainer.field(1.0, on_resume="free")

        def dataset(self) -> tf.data.Dataset:
            data = tf.data.Dataset.from_tensor_slices(self.arrays()).take(self.length)
            if self.shuffle:
                data = data.shuffle(10)
            return data.map(lambda element: {**element, "x": self.factor * element["x"]})

        def train_data(self) -> trainer.data.Source:
            return trainer.data.stream(self.dataset, batch_size=self.batch_size, resume=self.mode)

        def loss(self, model: Any, batch: Mapping[str, tf.Tensor], *, training: bool, seed: Any) -> trainer.Loss:
            loss = super().loss(model, batch, training=training, seed=seed)
            # Ten bits of which examples were there: exact in any mean of a single step.
            return dataclasses.replace(loss, metrics={"seen": tf.one_hot(batch["index"], 10, dtype=tf.float64)})

        def summarize(self, means: Mapping[str, Any]) -> Mapping[str, float]:
            return {f"saw_{number}": float(share) for number, share in enumerate(means["seen"])}

    return Streaming


def saw(record: Any, size: int = 4) -> list[int]:
    """The examples of a record of one step; those that were there twice are twice in the list."""
    shares = [record.metrics[f"saw_{number}"] for number in range(10)]
    return [number for number, share in enumerate(shares) for _ in range(round(share * size))]


def steps(result: trainer.Result) -> list[tuple[int, int]]:
    return [(record.step, record.examples) for record in result.records]


def stops(folder: pathlib.Path) -> list[tuple[str, int]]:
    """How each attempt ended."""
    lines = read_journal(RunDirectory(folder))
    return [(line["reason"], line["exit_code"]) for line in lines if line["event"] == "stop"]


def weights_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Every tensor of a checkpoint but the iterator's state, of which TensorFlow alone says what bytes it has."""
    reader = tf.train.load_checkpoint(str(folder / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT" not in name and "data_state" not in name]
    return {name: reader.get_tensor(name).tobytes() for name in names}


# --- Its place --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["iterator", "replay"])
def test_a_run_that_is_cut_in_the_middle_of_shuffled_passes_goes_on_as_if_it_had_not_been(
    mode: str, streaming: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    options = {"log_every": "1step", "save_every": "2steps", "keep_best": 0}
    train(streaming(mode=mode), train_for="9steps", **options)
    for target in (1, 4, 9):
        train(streaming(mode=mode), folder="cut", train_for=f"{target}steps", **options)
    logs = [(tmp_path / folder / "metrics.jsonl").read_text().splitlines() for folder in ("run", "cut")]
    assert [json.loads(line)["metrics"] for line in logs[0]] == [json.loads(line)["metrics"] for line in logs[1]]
    first, second = (weights_of(tmp_path / folder / "checkpoints" / "step-0000000009") for folder in ("run", "cut"))
    assert first == second


def test_the_manifest_says_how_the_place_is_kept_and_how_large_that_is(
    streaming: Any, train: Train, manifests: Manifests
) -> None:
    for mode in ("iterator", "replay"):
        train(streaming(mode=mode), folder=mode, train_for="3steps", **QUIET)
    data = {mode: manifests(mode)[3].data for mode in ("iterator", "replay")}
    assert {mode: facts["mode"] for mode, facts in data.items()} == {"iterator": "iterator", "replay": "replay"}
    assert all(len(str(facts["fingerprint"])) == 16 for facts in data.values())
    assert int(data["iterator"]["state_bytes"]) > 0  # type: ignore[call-overload]
    assert "state_bytes" not in data["replay"]


def test_a_large_state_is_warned_of_once(
    streaming: Any, train: Train, manifests: Manifests, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Large(streaming):
        def dataset(self) -> tf.data.Dataset:
            # The buffer holds megabytes: numbers that no compression makes small.
            wide = (
                super()
                .dataset()
                .repeat()
                .map(
                    lambda e: {**e, "wide": tf.random.stateless_uniform([1 << 16], [1, tf.cast(e["index"], tf.int32)])}
                )
            )
            return wide.shuffle(64).map(lambda e: {name: value for name, value in e.items() if name != "wide"})

    train(Large(), train_for="3steps", **{**QUIET, "save_every": "1step"})
    size = manifests()[3].data["state_bytes"]
    assert isinstance(size, int)
    assert size > 10 * 2**20
    warnings = [line for line in capsys.readouterr().err.splitlines() if "iterator takes" in line]
    assert len(warnings) == 1
    assert "MiB" in warnings[0]
    assert "shuffle" in warnings[0]


def test_a_small_state_is_not_worth_a_word(streaming: Any, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train(streaming(), train_for="2steps", **QUIET)
    assert "iterator" not in capsys.readouterr().err


def test_a_stream_whose_state_cannot_be_saved_is_refused_before_the_first_step(
    streaming: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Unsavable(streaming):
        def dataset(self) -> tf.data.Dataset:
            return super().dataset().map(lambda e: {**e, "noise": tf.random.normal([])})

    with pytest.raises(ConfigError, match=r"RandomStandardNormal is stateful") as caught:
        train(Unsavable(), train_for="2steps", **QUIET)
    assert caught.value.exit_code == 64
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    # The ways out that it names are ways out.
    for mode in ("replay", "restart"):
        assert train(Unsavable(), folder=mode, train_for="2steps", data_resume=mode, **QUIET).step == 2


def test_a_replay_in_batches_of_another_size_goes_on_with_the_next_example(streaming: Any, train: Train) -> None:
    options = {"log_every": "1step", "save_every": "1step", "keep_best": 0}
    train(streaming(mode="replay", shuffle=False), train_for="3steps", **options)
    train(streaming(mode="replay", shuffle=False, batch_size=5), train_for="5steps", **options)
    result = train(streaming(mode="replay", shuffle=False, batch_size=3), train_for="6steps", **options)
    assert steps(result) == [(1, 4), (2, 8), (3, 12), (4, 17), (5, 22), (6, 25)]
    assert [
        saw(record, record.examples - before)
        for record, before in zip(result.records, [0, 4, 8, 12, 17, 22], strict=True)
    ] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 8, 9], [2, 3, 4, 5, 6], [0, 1, 7, 8, 9], [2, 3, 4]]


def test_a_saved_state_fits_no_other_batch_size_and_that_is_said(streaming: Any, train: Train) -> None:
    train(streaming(), train_for="2steps", **QUIET)
    with pytest.raises(ConfigError, match=r"other data.*allow_change=data"):
        train(streaming(batch_size=5), train_for="4steps", **QUIET)


def test_a_constant_in_a_map_function_makes_other_data(streaming: Any, train: Train) -> None:
    train(streaming(), train_for="2steps", **QUIET)
    with pytest.raises(ConfigError, match="other data"):
        train(streaming(factor=2.0), train_for="4steps", **QUIET)
    # As a segment of its own it begins at its beginning.
    result = train(streaming(factor=2.0), train_for="5steps", allow_change="data", **QUIET)
    assert len(set(saw(result.records[2]) + saw(result.records[3]))) == 8


def test_a_replayed_stream_that_has_become_shorter_is_refused_with_66(streaming: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Named(streaming):
        def train_data(self) -> trainer.data.Source:
            return trainer.data.stream(self.dataset, batch_size=4, resume="replay", fingerprint="the same")

    options = {"on_data_end": "stop", **QUIET}
    train(Named(), train_for="2steps", **options)
    with pytest.raises(Unusable, match="ends after 3 examples, and 8 were consumed") as caught:
        train(Named(length=3), train_for="3steps", **options)
    assert caught.value.exit_code == 66


def test_a_restart_begins_again_and_only_by_flag(streaming: Any, train: Train) -> None:
    options = {"data_resume": "restart", **QUIET}
    train(streaming(), train_for="2steps", **options)
    seen = [saw(record) for record in train(streaming(), train_for="4steps", **options).records]
    assert seen[2:] == seen[:2]
    with pytest.raises(ConfigError, match=r"other data.*restart.*iterator"):
        train(streaming(), train_for="6steps", **QUIET)


@pytest.mark.parametrize("options", [{"on_data_end": "stop"}, {"data_resume": "replay"}])
def test_what_is_for_streams_is_refused_for_other_data(options: dict[str, str], linear: Any, train: Train) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ConfigError, match=rf"{name}={value} is for streams, and Linear trains on indexed data"):
        train(linear(), train_for="2steps", **options)


def test_nothing_is_compiled_that_reads_a_stream(streaming: Any, train: Train, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="jit=chunk compiles no reading"):
        train(streaming(), train_for="2steps", jit="chunk", **QUIET)
    train(streaming(), train_for="2steps", jit="auto", **QUIET)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["jit"] == "none"


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_repeated_goes_on_into_the_next_pass_with_full_batches(streaming: Any, train: Train) -> None:
    result = train(streaming(), train_for="5steps", on_data_end="repeat", **QUIET)
    assert steps(result) == [(1, 4), (2, 8), (3, 12), (4, 16), (5, 20)]
    seen = [example for record in result.records for example in saw(record)]
    assert sorted(seen) == sorted([*range(10)] * 2)


@pytest.mark.parametrize(
    ("length", "examples", "tick"),
    [(10, [4, 8, 10], {}), (10, [4, 8, 10], ONE_STEP_A_CHUNK), (8, [4, 8], {}), (3, [3], ONE_STEP_A_CHUNK)],
    ids=["inside a chunk", "at the end of one", "with a full batch", "with one short batch"],
)
def test_the_end_of_the_data_can_be_that_of_the_run(
    length: int, examples: list[int], tick: dict[str, str], streaming: Any, train: Train, manifests: Manifests
) -> None:
    experiment = streaming(length=length)
    options = {"train_for": "20steps", "on_data_end": "stop", **QUIET, **tick}
    result = train(experiment, **options)
    last = len(examples)
    assert (result.step, result.examples, result.reason, result.exit_code) == (last, length, "data ended", 0)
    assert steps(result) == list(enumerate(examples, start=1))
    assert {step: manifest.reasons for step, manifest in manifests().items()} == {last: ("final",)}
    sizes = np.diff([0, *examples])
    seen = [x for record, size in zip(result.records, sizes, strict=True) for x in saw(record, int(size))]
    assert sorted(seen) == list(range(length))
    # Again, with a longer target: the data has not become more.
    again = train(experiment, **{**options, "train_for": "30steps"})
    assert (again.step, again.reason, again.exit_code) == (last, "nothing to do", 0)


def test_an_open_window_is_closed_at_the_end_of_the_data(streaming: Any, train: Train) -> None:
    options = {**QUIET, "log_every": "2steps"}
    result = train(streaming(), train_for="20steps", on_data_end="stop", **options)
    assert [(record.window, record.closed_by) for record in result.records] == [((0, 2), None), ((2, 3), "end")]


def test_the_short_last_batch_weighs_by_its_examples(streaming: Any, train: Train) -> None:
    options = {**QUIET, "log_every": "3steps"}
    (record,) = train(streaming(), train_for="20steps", on_data_end="stop", **options).records
    assert [record.metrics[f"saw_{number}"] for number in range(10)] == [0.1] * 10


@pytest.mark.parametrize("mode", ["iterator", "replay"])
def test_a_run_that_is_cut_before_the_end_of_the_data_finds_it_after_the_resume(
    mode: str, streaming: Any, train: Train
) -> None:
    options = {"on_data_end": "stop", **QUIET}
    train(streaming(mode=mode), train_for="2steps", **options)
    result = train(streaming(mode=mode), train_for="20steps", **options)
    assert (result.step, result.examples, result.reason) == (3, 10, "data ended")
    assert sorted(x for record, size in zip(result.records, (4, 4, 2), strict=True) for x in saw(record, size)) == [
        *range(10)
    ]


def test_the_end_of_the_data_can_be_an_error(
    streaming: Any, train: Train, tmp_path: pathlib.Path, manifests: Manifests
) -> None:
    options = {"train_for": "20steps", "on_data_end": "fail", **QUIET, "save_every": "2steps"}
    for _ in range(2):
        # The second time it goes on from the same checkpoint to the same end.
        with pytest.raises(Unusable, match=r"ended at step 3 after 10 examples.*step 2 stays the newest") as caught:
            train(streaming(), **options)
        assert caught.value.exit_code == 66
        assert "\n" not in str(caught.value)
    assert list(manifests()) == [2]
    assert stops(tmp_path / "run") == [("error", 66)] * 2


@pytest.mark.parametrize(("target", "on_end"), [("3steps", "stop"), ("10examples", "fail")])
def test_a_target_at_the_very_end_of_the_data_is_reached(
    target: str, on_end: str, streaming: Any, train: Train
) -> None:
    result = train(streaming(), train_for=target, on_data_end=on_end, **QUIET)
    assert (result.step, result.examples, result.reason, result.exit_code) == (3, 10, "target reached", 0)


def test_a_target_beyond_data_that_ended_at_the_first_target_leaves_nothing_to_do(streaming: Any, train: Train) -> None:
    options = {"on_data_end": "stop", **QUIET}
    train(streaming(), train_for="3steps", **options)
    result = train(streaming(), train_for="6steps", **options)
    assert (result.step, result.exit_code) == (3, 0)


def test_a_stream_of_no_known_length_that_turns_out_empty_is_unusable(streaming: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Nothing(streaming):
        def dataset(self) -> tf.data.Dataset:
            return super().dataset().filter(lambda element: element["index"] > 99)

    for on_end in ("repeat", "stop"):
        with pytest.raises(Unusable, match="training data") as caught:
            train(Nothing(), folder=on_end, train_for="2steps", on_data_end=on_end, **QUIET)
        assert caught.value.exit_code == 66


# --- Streams to evaluate on -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(streaming: Any) -> Any:
    """The stream, evaluated on another one that Python generates."""

    @dataclasses.dataclass(frozen=True)
    class Evaluated(streaming):
        def rows(self) -> Any:
            data = self.arrays()
            for number in range(10):
                yield {name: values[number] for name, values in data.items()}

        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            spec = {name: tf.TensorSpec(value.shape[1:], value.dtype) for name, value in self.arrays().items()}

            def make() -> tf.data.Dataset:
                return tf.data.Dataset.from_generator(self.rows, output_signature=spec)

            return {"validation": trainer.data.stream(make, batch_size=4, examples=10)}

    return Evaluated


def test_a_split_that_python_generates_is_evaluated_as_a_whole_each_time_and_is_known_again(
    evaluated: Any, train: Train
) -> None:
    options = {**QUIET, "log_every": "never", "eval_every": "2steps"}
    train(evaluated(), train_for="2steps", **options)
    result = train(evaluated(), train_for="4steps", **options)
    for record in result.records:
        assert [record.metrics[f"saw_{number}"] for number in range(10)] == [0.1] * 10
    assert [record.step for record in result.records] == [2, 4]


def test_a_split_without_an_end_is_refused(streaming: Any, train: Train) -> None:
    @dataclasses.dataclass(frozen=True)
    class Endless(streaming):
        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            return {"validation": trainer.data.stream(lambda: self.dataset().repeat(), batch_size=4)}

    with pytest.raises(ConfigError, match="no end"):
        train(Endless(), train_for="2steps", **QUIET)


def test_a_split_that_shuffles_is_the_same_in_every_evaluation_and_after_a_resume(evaluated: Any) -> None:
    @dataclasses.dataclass(frozen=True)
    class Shuffling(evaluated):
        def eval_data(self) -> Mapping[str, trainer.data.Source]:
            def noisy(element: Any, seed: Any) -> Any:
                return {**element, "x": element["x"] + tf.random.stateless_normal([3], seed, alg="philox")}

            return {"validation": trainer.data.stream(self.dataset, batch_size=3).map(noisy)}

    report = trainer.testing.assert_resumes_exactly(Shuffling(), steps=6, cuts=[3], eval_every="1steps", jit="none")
    assert report.records > 6


@pytest.mark.parametrize("where", ["map", "interleave"])
def test_elements_in_whatever_order_they_are_ready_are_refused_by_the_operation(
    where: str, streaming: Any, train: Train
) -> None:
    class Hasty(streaming):
        def dataset(self) -> tf.data.Dataset:
            data = super().dataset()
            if where == "map":
                return data.map(lambda element: element, num_parallel_calls=2, deterministic=False)
            parts = tf.data.Dataset.range(2)
            return parts.interleave(lambda part: data, num_parallel_calls=2, deterministic=False)

    with pytest.raises(ConfigError, match=f"(?i)another order each time: .*{where}.* deterministic=False"):
        train(Hasty(), train_for="2steps", **QUIET)
    # Whoever does without the promise may.
    assert train(Hasty(), folder="hasty", train_for="2steps", data_resume="restart", **QUIET).step == 2


def test_a_name_for_the_data_does_not_let_a_position_into_batches_of_another_size(streaming: Any, train: Train) -> None:
    class Named(streaming):
        def train_data(self) -> trainer.data.Source:
            return trainer.data.stream(self.dataset, batch_size=self.batch_size, fingerprint="mine")

    train(Named(), train_for="2steps", **QUIET)
    with pytest.raises(ConfigError, match=r"other data.*allow_change=data"):
        train(Named(batch_size=2), train_for="4steps", **QUIET)


def test_a_position_of_another_pipeline_under_the_same_name_is_unusable(streaming: Any, train: Train) -> None:
    class Named(streaming):
        def train_data(self) -> trainer.data.Source:
            data = self.dataset() if self.factor == 1.0 else self.dataset().batch(2).unbatch()
            return trainer.data.stream(lambda: data, batch_size=self.batch_size, fingerprint="mine")

    train(Named(), train_for="2steps", **QUIET)
    with pytest.raises(Unusable, match=r"saved position in the stream does not fit this pipeline"):
        train(Named(factor=2.0), train_for="4steps", **QUIET)


def test_a_damaged_file_behind_a_stream_is_told_in_one_line(
    streaming: Any, train: Train, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "torn.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(20):
            writer.write(b"12345678")
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff")

    class Torn(streaming):
        def dataset(self) -> tf.data.Dataset:
            return tf.data.Dataset.zip((super().dataset().repeat(), tf.data.TFRecordDataset(path))).map(
                lambda element, record: element
            )

    with pytest.raises(Unusable, match=r"^the training data cannot be read: .*corrupted record at \d+"):
        train(Torn(), train_for="5steps", **QUIET)
