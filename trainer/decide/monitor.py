"""The monitored metrics: which they are, and whether small or large values of them are good."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence

from trainer.errors import ConfigError
from trainer.ledger.record import Record

TRAIN = "train"
"""The group of the metrics that are means over train windows; the other groups are the splits."""
AUTO, MIN, MAX = MODES = ("auto", "min", "max")
EXACT, WINDOW = "exact", "window"
"""How a metric relates to the checkpoint of its step: measured on its weights, or a mean over earlier ones."""

_MAXIMIZED = (
    r"acc(uracy)?|(pr_|roc_)?auc(pr|roc)?|auroc|auprc|ap_?\d*|m?ap_?\d*|precision|recall|sensitivity|specificity|tpr|tnr|"
    r"f_?\d(_?score)?|f_?(score|measure|beta)|mrr|ndcg|hits?(_rate)?|exact_match|m?iou|io_u|dice|jaccard|kappa|mcc|"
    r"matthews\w*|pearsonr?|spearmanr?|corr(elation)?|cosine_similarity|(sacre)?bleu_?\d*|rouge_?(\d|l|w|s)?|meteor|chrf|"
    r"psnr|ssim|r_?2|r_squared|explained_variance|log_likelihood|elbo|top_?\d+|(win|success|pass)_rate|reward|return|score"
)
_MINIMIZED = (
    r"loss|err(or)?s?|neg(ative)?|std|(?<!explained_)var(iance)?|deviation|gap|distance|"
    r"brier|fid|kid|lpips|crps|energy|interval|anomaly"
)
"""What keeps a name from being maximized: an error by another name, or how much something varies."""


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric by which steps are compared."""

    metric: str
    """Its name with its group, such as `validation/loss`."""
    mode: str
    """`min` or `max`: what is better."""

    @property
    def relation(self) -> str:
        """How its value at a step relates to the checkpoint of that step."""
        return relation_of(self.metric)

    def better(self, value: float, than: float, *, by: float = 0.0) -> bool:
        """Whether `value` is better by more than `by`."""
        return value < than - by if self.mode == MIN else value > than + by

    def __str__(self) -> str:
        return f"{self.metric}, {self.mode}imized"


def group_of(metric: str) -> str:
    """The group of a metric: `train`, or the split that it was measured on."""
    return metric.partition("/")[0]


def relation_of(metric: str) -> str:
    """How a metric relates to the checkpoint of the step that it is recorded at.

    >>> relation_of("validation/loss"), relation_of("train/loss")
    ('exact', 'window')
    """
    return WINDOW if group_of(metric) == TRAIN else EXACT


def direction(metric: str) -> str:
    """Whether a metric of this name is better when it is larger (`max`) or smaller (`min`).

    >>> direction("validation/accuracy"), direction("validation/loss")
    ('max', 'min')
    """
    # MeanIoU and BinaryAccuracy are words of several, too.
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", "_", metric.rpartition("/")[2]).lower()
    large, small = (re.search(rf"(^|_)({words})(_|$)", name) for words in (_MAXIMIZED, _MINIMIZED))
    # 1-accuracy is an error, top-1 and what Keras calls accuracy_1 are none.
    return MAX if large and not small and not name.startswith("1_") else MIN


def value_in(record: Record, metric: str) -> tuple[bool, float | None]:
    """Whether a record measures `metric`, and its value: None where it was not finite.

    Raises:
      ConfigError: the record is of the metric's group, and does not have it.
    """
    if group_of(metric) != (TRAIN if record.kind == TRAIN else record.split):
        return False, None
    name = metric.partition("/")[2]
    if name not in record.metrics:
        check_metric(metric, record.named_metrics())
    return True, record.metrics[name]


def check_metric(metric: str, names: Collection[str], asked_by: str = "") -> None:
    """Refuses a metric that is not among those that there are.

    Raises:
      ConfigError: it is not; the message begins with who asks for it, such as `monitor=`, and lists them.
    """
    if metric not in names:
        raise ConfigError(f"{asked_by}{metric} is in no record; expected one of {', '.join(sorted(names))}")


def parse_modes(text: str) -> tuple[str, ...]:
    """The modes that a text such as `min,max` names.

    Raises:
      ConfigError: one of them is none.
    """
    modes = tuple(part.strip() for part in text.split(","))
    for mode in modes:
        if mode not in MODES:
            raise ConfigError(f"mode={text}: {mode!r} is no mode; expected {', '.join(MODES)}, for several one each")
    return modes


def check_modes(modes: tuple[str, ...], metrics: Sequence[str]) -> tuple[str, ...]:
    """One mode for each of the metrics.

    Raises:
      ConfigError: there are neither as many nor one for all.
    """
    if len(modes) not in (1, len(metrics)):
        raise ConfigError(
            f"mode={','.join(modes)} has {len(modes)} modes for {len(metrics)} monitored metrics; "
            "expected one for all, or one each"
        )
    return modes * len(metrics) if len(modes) == 1 else modes


def parse_metrics(text: str) -> tuple[str, ...]:
    """The metrics that a text such as `validation/loss,train/loss` names.

    Raises:
      ConfigError: one has no group, or is named twice.
    """
    metrics = tuple(part.strip() for part in text.split(","))
    for metric in metrics:
        group, slash, name = metric.partition("/")
        if not (group and slash and name):
            raise ConfigError(
                f"monitor={text}: {metric!r} is no metric; expected names such as validation/loss or train/loss"
            )
        if metrics.count(metric) > 1:
            raise ConfigError(f"monitor={text} names {metric} twice; name each metric once")
    return metrics


def choose_monitors(
    monitor: str | None, mode: str, *, splits: Collection[str], evaluates: bool, logs: bool
) -> tuple[Monitor, ...]:
    """The monitored metrics: those asked for, else the loss of the validation split, the first split, or the windows.

    Args:
      monitor: what was asked for, by comma; the first is the one that says which step is the best.
      mode: one for all of them, or one each, by comma.
      splits: the names of the splits.
      evaluates: whether they are evaluated.
      logs: whether there are train records.

    Raises:
      ConfigError: one is of no group that is measured, or there is another number of modes.
    """
    if monitor is None:
        split = "validation" if "validation" in splits else next(iter(splits), None)
        metrics: Sequence[str] = [f"{split}/loss" if evaluates and split else f"{TRAIN}/loss"]
    else:
        metrics = parse_metrics(monitor)
        for metric in metrics:
            check_group(metric, "monitor=", splits=splits, evaluates=evaluates, logs=logs)
    modes = check_modes(parse_modes(mode), metrics)
    return tuple(
        Monitor(metric, direction(metric) if mode == AUTO else mode)
        for metric, mode in zip(metrics, modes, strict=True)
    )


def check_group(metric: str, asked_by: str, *, splits: Collection[str], evaluates: bool, logs: bool) -> None:
    """Refuses a metric of a group that is never measured.

    Raises:
      ConfigError: it is of one; the message begins with who asks for it, and lists those that are measured.
    """
    groups = [*([TRAIN] if logs else []), *(splits if evaluates else ())]
    group = group_of(metric)
    if group in groups:
        return
    hint = ""
    if group == TRAIN:
        hint = " (log_every=never records no train window)"
    elif group in splits:
        hint = " (eval_every=never evaluates nothing)"
    expected = ", ".join(f"{name}/METRIC" for name in groups) or "log_every or eval_every other than never"
    raise ConfigError(f"{asked_by}{metric} is no metric of this run{hint}; expected {expected}")
