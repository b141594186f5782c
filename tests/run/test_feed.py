"""How batches reach the program, and how their place is found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer.data import arrays, run_seed, text_lines
from trainer.data.sources import REPEAT, REPLAY, RESTART, STOP
from trainer.data.streams import StreamSource, stream
from trainer.errors import ConfigError, Unusable
from trainer.run.feed import EvaluationFeed, Feed, GraphFeed, PipelineFeed, StreamFeed, make_feed

pytestmark = pytest.mark.slow  # Each makes pipelines.

LENGTH = 10
SEED = run_seed(17)

Taken = tuple[list[int], bool]


def numbers() -> tf.data.Dataset:
    return tf.data.Dataset.range(LENGTH).map(lambda number: {"x": number})


def shuffled() -> tf.data.Dataset:
    return numbers().shuffle(LENGTH)


def streamed(
    make: Callable[[], tf.data.Dataset] = shuffled,
    *,
    mode: str = "iterator",
    on_end: str = REPEAT,
    batch_size: int | None = 4,
) -> StreamSource:
    return stream(make, batch_size=batch_size).resumed_by(mode, on_end=on_end)


def always(done: int, of: int) -> bool:
    return True


def begin(feed: Feed, examples: int = 0, *, origin: int = 0, counting: Any = always) -> tuple[Any, ...]:
    return feed.open(SEED, origin, examples, counting)


def take(feed: Feed, arguments: tuple[Any, ...], steps: int, *, examples: int = 0) -> list[Taken]:
    """The real numbers of the next batches, each with whether it says that it is the last."""
    found = []
    for _ in range(steps):
        batch, last = feed.next(arguments, tf.constant(examples, tf.int64))
        examples += int(batch.examples)
        found.append((batch.values["x"].numpy()[: int(batch.examples)].tolist(), bool(last)))
    return found


# --- Which feed a source gets -----------------------------------------------------------------------------------------


def test_each_kind_of_source_has_its_feed(tmp_path: Any) -> None:
    (tmp_path / "lines").write_text("a\nb\nc\n")
    assert isinstance(make_feed(arrays({"x": np.arange(3)}, batch_size=2)), GraphFeed)
    assert isinstance(make_feed(text_lines(tmp_path / "lines", batch_size=2)), PipelineFeed)
    assert isinstance(make_feed(streamed()), StreamFeed)


def test_another_kind_of_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^object is no source.*trainer\.data"):
        make_feed(object())  # type: ignore[arg-type]


def test_a_feed_knows_the_shapes_of_its_batches() -> None:
    values, weights = make_feed(streamed()).specs
    assert values == {"x": tf.TensorSpec([4], tf.int64)}
    assert weights is None
    values, weights = make_feed(streamed(on_end=STOP)).specs
    assert values == {"x": tf.TensorSpec([4], tf.int64)}
    assert weights == tf.TensorSpec([4], tf.float32)
    values, weights = make_feed(arrays({"x": np.arange(6.0)}, batch_size=4, last="short")).specs
    assert values == {"x": tf.TensorSpec([4], tf.float64)}
    assert weights == tf.TensorSpec([4], tf.float32)


def test_only_a_stream_whose_state_is_saved_has_one() -> None:
    assert make_feed(arrays({"x": np.arange(3)}, batch_size=2)).state is None
    assert make_feed(streamed(mode=REPLAY)).state is None
    assert make_feed(streamed(mode=RESTART)).state is None
    state = make_feed(streamed()).state
    assert state is not None
    assert (state.dtype, state.shape.rank) == (tf.string, 0)


def test_arrays_are_at_the_place_that_the_examples_since_their_origin_say() -> None:
    feed = make_feed(arrays({"x": np.arange(LENGTH)}, batch_size=4, shuffle=False))
    assert take(feed, begin(feed), 3) == [([0, 1, 2, 3], False), ([4, 5, 6, 7], False), ([8, 9, 0, 1], False)]
    later = begin(feed, 100, origin=96)
    assert take(feed, later, 1, examples=100) == [([4, 5, 6, 7], False)]


def test_lines_are_at_the_place_that_the_examples_since_their_origin_say(tmp_path: Any) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(LENGTH)))
    source = text_lines(path, batch_size=4, shuffle=False)
    feed = make_feed(source.map(lambda example, seed: {"x": tf.strings.to_number(example["line"], tf.int64)}))
    assert take(feed, begin(feed, 100, origin=96), 2) == [([4, 5, 6, 7], False), ([8, 9, 0, 1], False)]


# --- The saved iterator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_stream_goes_on_where_its_saved_state_stood(steps: int) -> None:
    there, here = make_feed(streamed()), make_feed(streamed())
    arguments = begin(there)
    take(there, arguments, steps)
    size = there.capture()
    assert there.state is not None
    assert here.state is not None
    assert size == len(there.state.numpy()) > 0
    here.state.assign(there.state)
    # Four steps are beyond the first of the passes, which are shuffled each in its own way.
    assert take(here, begin(here, 4 * steps), 5) == take(there, arguments, 5)


def test_a_captured_state_is_that_of_its_moment() -> None:
    feed = make_feed(streamed())
    arguments = begin(feed)
    feed.capture()
    expected = take(feed, arguments, 3)
    assert take(feed, begin(feed, 4), 3) == expected


def test_data_that_has_just_been_taken_up_begins_at_its_beginning_whatever_was_saved() -> None:
    feed = make_feed(streamed())
    arguments = begin(feed)
    expected = take(feed, arguments, 2)
    feed.capture()
    assert take(feed, begin(feed, 8, origin=8), 2) == expected


def test_a_stream_whose_state_cannot_be_saved_is_refused_before_the_first_batch() -> None:
    def random() -> tf.data.Dataset:
        return numbers().map(lambda element: {"x": element["x"] + tf.random.uniform([], 0, 2, tf.int64)})

    with pytest.raises(ConfigError, match=r"RandomUniformInt is stateful.*data_resume=replay"):
        make_feed(streamed(random))
    assert make_feed(streamed(random, mode=REPLAY)).capture() == 0


# --- Counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 3, 7])
def test_a_replay_goes_on_with_the_next_example_also_in_batches_of_another_size(batch_size: int) -> None:
    feed = make_feed(streamed(mode=REPLAY))
    one_by_one = make_feed(streamed(mode=REPLAY, batch_size=1))
    order = [x for batch, _ in take(one_by_one, begin(one_by_one), 40) for x in batch]
    take(feed, begin(feed), 3)
    other = make_feed(streamed(mode=REPLAY, batch_size=batch_size))
    (first, _), (second, _) = take(other, begin(other, 12), 2)
    assert first + second == order[12 : 12 + 2 * batch_size]


def test_batches_of_the_user_s_own_are_counted_as_they_are() -> None:
    def in_batches_of(size: int) -> StreamSource:
        return streamed(lambda: numbers().repeat().batch(size, drop_remainder=True), mode=REPLAY, batch_size=None)

    feed = make_feed(in_batches_of(4))
    assert take(feed, begin(feed, 8), 1) == [([8, 9, 0, 1], False)]
    larger = make_feed(in_batches_of(6))
    assert take(larger, begin(larger, 12), 1) == [([2, 3, 4, 5, 6, 7], False)]
    # Within a batch there is no place to begin at: it is that, and not another one.
    between = make_feed(in_batches_of(5))
    with pytest.raises((ConfigError, Unusable), match="12"):
        begin(between, 12)


def test_a_replay_says_how_far_it_is_and_can_be_called_off() -> None:
    feed, told = make_feed(streamed(mode=REPLAY)), []

    def counting(done: int, of: int) -> bool:
        told.append((done, of))
        return done < 2

    begin(feed, 12, counting=counting)
    assert told == [(1, 3), (2, 3)]


@pytest.mark.parametrize(("left", "consumed"), [(6, 8), (6, 12), (4, 8), (3, 20), (5, 11)])
def test_a_stream_that_has_become_shorter_than_what_was_consumed_is_unusable_with_its_numbers(
    left: int, consumed: int
) -> None:
    shorter = make_feed(streamed(lambda: numbers().take(left), mode=REPLAY, on_end=STOP))
    message = rf"ends after {left} examples, and {consumed} were consumed.*another fingerprint"
    with pytest.raises(Unusable, match=message) as caught:
        begin(shorter, consumed)
    assert caught.value.exit_code == 66
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("examples", [0, 8, 400])
def test_a_stream_that_is_not_resumed_begins_again(examples: int) -> None:
    feed = make_feed(streamed(mode=RESTART))
    assert take(feed, begin(feed, examples), 3) == take(feed, begin(feed), 3)


# --- The end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["iterator", REPLAY])
def test_the_last_batch_says_so_also_after_a_resume(mode: str) -> None:
    feed = make_feed(streamed(numbers, mode=mode, on_end=STOP))
    arguments = begin(feed)
    assert take(feed, arguments, 1) == [([0, 1, 2, 3], False)]
    feed.capture()
    assert take(feed, begin(feed, 4), 2) == [([4, 5, 6, 7], False), ([8, 9], True)]


def test_an_evaluation_says_which_batch_is_the_last(tmp_path: Any) -> None:
    (tmp_path / "lines").write_text("".join(f"{number}\n" for number in range(LENGTH)))
    lines = text_lines(tmp_path / "lines", batch_size=4)
    sources = [
        arrays({"x": np.arange(LENGTH)}, batch_size=4),
        lines.map(lambda example, seed: {"x": tf.strings.to_number(example["line"], tf.int64)}),
        streamed(numbers),
    ]
    for source in sources:
        feed = EvaluationFeed(source)
        # Twice: each evaluation begins at the beginning.
        for _ in range(2):
            arguments, found = feed.open(), []
            for index in range(3):
                batch, last = feed.next(arguments, tf.constant(index, tf.int64))
                real = batch.weights.numpy() > 0
                found.append((batch.values["x"].numpy()[real].tolist(), bool(last)))
            assert found == [([0, 1, 2, 3], False), ([4, 5, 6, 7], False), ([8, 9], True)]
