"""What a batch contributes to a mean: Σ weight · value and Σ weight, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer import Loss
from trainer.data import Batch
from trainer.errors import ConfigError
from trainer.run.measure import Measured, measure, recorded_metrics

SIZE = 4


def batch(weights: list[float] | None = None) -> Batch:
    return Batch({}, None if weights is None else tf.constant(weights, tf.float32), tf.constant(SIZE, tf.int64))


def measured(loss: Any, weights: list[float] | None = None) -> Measured:
    return measure(loss, batch(weights), SIZE)


def means(*parts: Measured) -> dict[str, Any]:
    return parts[0].layout.means(np.sum([part.totals.numpy() for part in parts], axis=0))


def test_the_mean_is_that_of_all_examples_without_weights() -> None:
    found = means(measured(Loss(tf.constant([1.0, 2, 3, 6]))), measured(Loss(tf.constant([0.0, 0, 0, 4]))))
    assert found == {"loss": 2.0}
    assert isinstance(found["loss"], float)


def test_every_metric_is_weighted_as_the_loss_is() -> None:
    weights = tf.constant([1.0, 0.5, 0, 2])
    loss = Loss(tf.constant([1.0, 2, 99, 4]), {"hit": tf.constant([True, False, True, True])}, weights)
    assert means(measured(loss)) == {"loss": 10 / 3.5, "hit": 3 / 3.5}


def test_padding_weighs_nothing_whatever_the_experiment_says_of_weights() -> None:
    values = tf.constant([1.0, 2, 99, 99])
    padding = [1.0, 1, 0, 0]
    assert means(measured(Loss(values), padding)) == {"loss": 1.5}
    found = measured(Loss(values, weights=tf.constant([3.0, 1, 5, 5])), padding)
    assert means(found) == {"loss": 5 / 4}
    assert found.weight.numpy() == 4
    assert found.weighted_loss.numpy() == 5


def test_short_and_full_batches_weigh_by_their_examples() -> None:
    full, short = measured(Loss(tf.constant([1.0, 1, 1, 1]))), measured(Loss(tf.constant([6.0, 6, 6, 6])), [1, 0, 0, 0])
    assert means(full, short) == {"loss": 2.0}


def test_sums_lose_nothing_that_float64_can_hold() -> None:
    # In float32, 2^24 + 1 is 2^24: a sum in it would lose every one of the ones.
    values = tf.constant([2.0**24, 1, 1, 1])
    assert measured(Loss(values)).totals.numpy()[1] == 2**24 + 3
    weighted = Loss(tf.ones([SIZE]), {"large": values}, tf.constant([1.0, 1, 1, 1]))
    assert means(measured(weighted))["large"] == (2**24 + 3) / 4


def test_weights_of_low_precision_are_added_up_exactly() -> None:
    weights = tf.constant([2.0**24, 1, 1, 1])
    assert measured(Loss(tf.ones([SIZE]), weights=weights)).totals.numpy()[0] == 2**24 + 3


def test_a_metric_with_columns_gives_a_mean_for_each() -> None:
    counts = tf.constant([[1, 0], [1, 0], [0, 1], [0, 0]])
    found = means(measured(Loss(tf.ones([SIZE]), {"counts": counts})))
    np.testing.assert_array_equal(found["counts"], [0.5, 0.25])
    assert found["counts"].dtype == np.float64


def test_a_single_column_is_still_a_metric_for_summaries() -> None:
    found = means(measured(Loss(tf.ones([SIZE]), {"one": tf.ones([SIZE, 1])})))
    assert found["one"].shape == (1,)


def test_regularization_is_a_metric_of_its_own_and_no_part_of_the_loss() -> None:
    loss = Loss(tf.constant([1.0, 2, 3, 6]), regularization=tf.constant(0.25))
    assert means(measured(loss), measured(loss)) == {"loss": 3.0, "regularization": 0.25}


def test_regularization_is_not_scaled_by_weights_or_padding() -> None:
    loss = Loss(tf.ones([SIZE]), weights=tf.constant([0.1, 0.1, 5, 5]), regularization=tf.constant(0.25))
    assert means(measured(loss, [1.0, 1, 0, 0]))["regularization"] == pytest.approx(0.25, rel=1e-15)


def test_the_loss_comes_first_and_the_metrics_by_name() -> None:
    loss = Loss(tf.ones([SIZE]), {"b": tf.ones([SIZE]), "a": tf.ones([SIZE, 2])})
    assert [name for name, _ in measured(loss).layout.sizes] == ["loss", "a", "b"]
    assert list(means(measured(loss))) == ["loss", "a", "b"]


def test_batches_that_were_not_finite_are_counted_for_each_metric() -> None:
    good = Loss(tf.ones([SIZE]), {"ratio": tf.ones([SIZE])})
    bad = Loss(tf.ones([SIZE]), {"ratio": tf.constant([1.0, math.nan, math.inf, 1])})
    parts = [measured(good), measured(bad), measured(bad)]
    total = np.sum([part.totals.numpy() for part in parts], axis=0)
    assert parts[0].layout.nonfinite(total) == {"ratio": 2}
    assert parts[0].layout.nonfinite(parts[0].totals.numpy()) == {}


def test_an_infinity_of_each_sign_in_one_batch_is_not_finite() -> None:
    part = measured(Loss(tf.constant([math.inf, -math.inf, 0, 0])))
    assert part.layout.nonfinite(part.totals.numpy()) == {"loss": 1}


def test_a_window_without_weight_has_no_mean() -> None:
    found = means(measured(Loss(tf.ones([SIZE]), {"a": tf.ones([SIZE, 2])}, tf.zeros([SIZE]))))
    assert math.isnan(found["loss"])
    assert np.isnan(found["a"]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_floating_loss_is_welcome_and_is_added_up_in_32_bits_or_more(dtype: str) -> None:
    found = measured(Loss(tf.cast([1.0, 2, 3, 6], dtype), weights=tf.constant([1.0, 1, 1, 1])))
    wide = dtype if dtype == "float64" else "float32"
    assert found.weighted_loss.dtype == wide
    assert found.weight.dtype == wide
    assert found.totals.dtype == tf.float64
    assert means(found) == {"loss": 3.0}


@pytest.mark.parametrize("weights", [tf.constant([1, 2, 0, 1]), tf.constant([True, False, True, True]), np.ones(SIZE)])
def test_weights_may_be_counts_booleans_and_arrays(weights: Any) -> None:
    expected = np.average([1.0, 2, 3, 6], weights=np.asarray(weights))
    assert means(measured(Loss(tf.constant([1.0, 2, 3, 6]), weights=weights)))["loss"] == expected


ONES = tf.ones([SIZE])

WRONG: dict[str, tuple[Any, str]] = {
    "a tensor instead of a loss": (ONES, r"loss\(\) returned .*Tensor; expected trainer.Loss"),
    "nothing": (None, r"loss\(\) returned NoneType; expected trainer.Loss"),
    "a mean": (Loss(tf.reduce_mean(ONES)), r"per_example of shape \(\); expected \[4\]"),
    "a number": (Loss(0.5), r"per_example of shape \(\); expected \[4\]"),
    "a column": (Loss(tf.ones([SIZE, 1])), r"per_example of shape \(4, 1\); expected \[4\]"),
    "other examples": (Loss(tf.ones([SIZE + 1])), r"per_example of shape \(5,\); expected \[4\]"),
    "integers": (Loss(tf.ones([SIZE], tf.int32)), r"per_example of dtype int32; expected a float"),
    "booleans": (Loss(ONES > 0), r"per_example of dtype bool; expected a float"),
    "complex numbers": (Loss(tf.complex(ONES, ONES)), r"per_example of dtype complex64; expected a float"),
    "text": (Loss("high"), r"per_example .*expected"),
    "an object": (Loss(object()), r"per_example as object; expected a tensor \[4\]"),
    "a scalar metric": (Loss(ONES, {"hit": tf.constant(0.5)}), r"hit of shape \(\); expected \[4\] or \[4, k\]"),
    "a metric of images": (Loss(ONES, {"hit": tf.ones([SIZE, 2, 2])}), r"hit of shape \(4, 2, 2\)"),
    "a metric of text": (Loss(ONES, {"hit": tf.fill([SIZE], "yes")}), r"hit of dtype string"),
    "a metric of nothing": (Loss(ONES, {"hit": None}), r"hit as NoneType; expected a tensor \[4\]"),
    "a metric called loss": (Loss(ONES, {"loss": ONES}), r"named 'loss'.*rename"),
    "a metric called regularization": (Loss(ONES, {"regularization": ONES}), r"named 'regularization'.*rename"),
    "a metric called 3": (Loss(ONES, {3: ONES}), r"named 3"),  # type: ignore[dict-item]
    "metrics of two kinds of name": (Loss(ONES, {3: ONES, "hit": ONES}), r"named 3"),  # type: ignore[dict-item]
    "metrics that are no mapping": (Loss(ONES, [ONES]), r"metrics.*list"),  # type: ignore[arg-type]
    "one weight for all": (Loss(ONES, weights=tf.constant(1.0)), r"weights of shape \(\); expected \[4\]"),
    "weights of other examples": (Loss(ONES, weights=tf.ones([3])), r"weights of shape \(3,\); expected \[4\]"),
    "a regularization an example": (Loss(ONES, regularization=ONES), r"regularization of shape \(4,\).*float scalar"),
    "an integer regularization": (Loss(ONES, regularization=tf.constant(1)), r"regularization.*int32.*float scalar"),
    "a regularization of text": (Loss(ONES, regularization="l2"), r"regularization"),
    "a regularization that is an object": (Loss(ONES, regularization=object()), r"regularization.*object"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_loss_is_refused_in_one_line_that_says_what_was_returned_and_what_is_expected(what: str) -> None:
    loss, message = WRONG[what]
    with pytest.raises(ConfigError, match=message) as caught:
        measured(loss)
    assert "\n" not in str(caught.value)


def test_a_shape_that_only_the_run_would_know_is_refused() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)], autograph=False)
    def unknown(values: tf.Tensor) -> tf.Tensor:
        return measure(Loss(values), batch(), SIZE).totals

    with pytest.raises(ConfigError, match=r"per_example of shape \(None,\); expected \[4\]"):
        unknown.get_concrete_function()


def test_a_record_holds_the_means_that_are_numbers_and_what_was_made_of_the_others() -> None:
    found = recorded_metrics({"loss": 2.0, "counts": np.array([1.0, 3.0])}, {"f1": 0.75})
    assert found == {"loss": 2.0, "f1": 0.75}


@pytest.mark.parametrize("name", ["loss", 3])
def test_a_summary_does_not_take_the_place_of_the_loss(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"summarize\(\) returned a metric named") as caught:
        recorded_metrics({"loss": 2.0}, {name: 1.0})
    assert "\n" not in str(caught.value)
