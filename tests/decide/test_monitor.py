"""The monitored metrics: which they are, and what is better of them."""

from __future__ import annotations

import pytest

from trainer.decide.monitor import Monitor, choose_monitors, direction
from trainer.errors import ConfigError

RUN = {"splits": ["validation", "test"], "evaluates": True, "logs": True}


def chosen(monitor: str | None, mode: str = "auto", **others: object) -> list[str]:
    return [str(one) for one in choose_monitors(monitor, mode, **{**RUN, **others})]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "loss",
            "error",
            "perplexity",
            "wer",
            "mean_absolute_error",
            "latency",
            "top5_error",
            "accuracy_loss",
            "mape",
        ),
        *(
            "1-accuracy",
            "accuracy_std",
            "recall_gap",
            "return_variance",
            "negative_log_likelihood",
            "false_positive_rate",
        ),
    ],
)
def test_auto_minimizes_what_is_a_cost(name: str) -> None:
    assert direction(f"validation/{name}") == "min"


@pytest.mark.parametrize(
    "name",
    [
        *("accuracy", "acc", "top5", "top_5_accuracy", "auc", "f1", "f1_score", "F-score", "fscore", "macro_f_score"),
        *("precision", "recall", "bleu", "iou", "Accuracy", "mean_recall", "ROC-AUC", "BinaryAccuracy", "MeanIoU"),
        *("mean_io_u", "f1score", "mAP50", "AP50", "bleu4", "rougeL", "cosine_similarity", "pearson", "hits@10"),
        *("exact_match", "explained_variance", "log_likelihood", "success_rate", "tpr", "PrecisionAtRecall"),
        *("accuracy_1", "auc_1", "top-1", "f_1", "recall@1", "rouge_1", "class_1_accuracy"),
    ],
)
def test_auto_maximizes_what_is_a_success(name: str) -> None:
    assert direction(f"validation/{name}") == "max"
    assert chosen(f"validation/{name}") == [f"validation/{name}, maximized"]
    assert chosen(f"validation/{name}", "min") == [f"validation/{name}, minimized"]


def test_the_name_of_the_split_does_not_say_which_way_is_better() -> None:
    assert direction("accuracy_test/loss") == "min"


@pytest.mark.parametrize(
    ("splits", "evaluates", "expected"),
    [
        (["test", "validation"], True, "validation/loss"),
        (["test", "dev"], True, "test/loss"),
        ([], True, "train/loss"),
        (["validation"], False, "train/loss"),
    ],
)
def test_the_monitor_defaults_to_validation_then_the_first_split_then_the_windows(
    splits: list[str], evaluates: bool, expected: str
) -> None:
    assert chosen(None, splits=splits, evaluates=evaluates) == [f"{expected}, minimized"]


def test_several_are_told_apart_in_their_order_each_with_its_own_mode() -> None:
    assert chosen("validation/accuracy,train/loss") == ["validation/accuracy, maximized", "train/loss, minimized"]
    assert chosen("test/loss, train/loss", "max") == ["test/loss, maximized", "train/loss, maximized"]
    assert chosen("test/x,train/y", "max,auto") == ["test/x, maximized", "train/y, minimized"]


@pytest.mark.parametrize(
    ("monitor", "mode", "others", "message"),
    [
        ("loss", "auto", {}, "'loss' is no metric.*validation/loss"),
        ("validation/", "auto", {}, "'validation/' is no metric"),
        ("validation/loss,", "auto", {}, "'' is no metric"),
        ("validation/loss,validation/loss", "auto", {}, "twice"),
        ("dev/loss", "auto", {}, "dev/loss is no metric of this run; expected train/METRIC, validation/METRIC"),
        ("test/loss", "auto", {"evaluates": False}, "eval_every=never evaluates nothing.*train/METRIC"),
        ("train/loss", "auto", {"logs": False}, "log_every=never records no train window.*validation/METRIC"),
        ("test/loss", "min,max", {}, "2 modes for 1 monitored"),
        ("test/loss", "least", {}, "'least' is no mode; expected auto, min, max"),
    ],
)
def test_what_is_never_measured_is_refused_with_what_is(
    monitor: str, mode: str, others: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        chosen(monitor, mode, **others)
    assert "\n" not in str(caught.value)


def test_the_relation_is_that_of_the_group() -> None:
    assert Monitor("train/accuracy", "max").relation == "window"
    assert Monitor("test/accuracy", "max").relation == "exact"


def test_better_by_more_than_a_difference_is_strict_in_both_directions() -> None:
    low, high = Monitor("a/loss", "min"), Monitor("a/auc", "max")
    for monitor, good, bad in ((low, 0.25, 0.5), (high, 0.5, 0.25)):
        assert monitor.better(good, bad)
        assert not monitor.better(bad, bad)
        assert not monitor.better(good, bad, by=0.25)
