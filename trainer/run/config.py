"""The configuration: one dataclass that is the flags, the `Trainer`'s arguments and the manual of both."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trainer.data.sources import END_MODES, ITERATOR, REPEAT, REPLAY, RESTART
from trainer.decide.condition import Conditions
from trainer.decide.early_stop import parse_patience
from trainer.decide.monitor import check_modes, parse_metrics, parse_modes
from trainer.errors import ConfigError
from trainer.run.experiment import FREE, REFUSE, WARN
from trainer.storage.size import parse_size
from trainer.timeline.cadence import Cadence, cadence_of
from trainer.timeline.duration import SECOND, Duration
from trainer.timeline.schedule import RECONCILE_MODES

_Parsed = TypeVar("_Parsed")

STOP, SKIP, CONTINUE = NONFINITE_MODES = ("stop", "skip", "continue")
"""What a step does that meets a value which is not finite."""
FLOAT32, MIXED_FLOAT16, MIXED_BFLOAT16 = PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
"""What is computed in; the weights are float32 in each."""

CHANGES = ("data", "parameters", "seed")
"""What `allow_change` can name."""

_OF_EARLY_STOP = ("min_delta", "early_stop_baseline", "early_stop_warmup")
_OF_MONITOR = ("mode", "min_delta", "early_stop_baseline")
_ON_METRICS = ("monitor", "mode", "save_if", "early_stop", *_OF_EARLY_STOP)

CLOCKS = ("tick", "grace", "max_runtime", "hang_timeout", "mtbf")
"""The options that are a time."""

_LIMITS = frozenset({"max_runtime", "hang_timeout"})

CADENCES = ("train_for", "log_every", "eval_every", "save_every", "keep_every")


def _option(default: Any, help: str, *, on_resume: str = FREE, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "on_resume": on_resume, "choices": choices})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything about a run that is not the experiment's. Durations and cadences are text, such as `100steps`.

    Raises:
      ConfigError: a value that is no choice, or two that contradict each other.
    """

    run_dir: str | None = _option(None, "where the run is kept; by default runs/EXPERIMENT")
    train_for: str | None = _option(
        None, "how long to train: 1000steps, 1e6examples, 10epochs, 2h, or several by comma"
    )
    epoch_examples: int | None = _option(
        None, "examples an epoch; by default the length of the training data", on_resume=WARN
    )
    log_every: str = _option("100steps", "how often a train record closes its window", on_resume=WARN)
    eval_every: str = _option("1epoch", "how often the eval splits are evaluated", on_resume=WARN)
    eval_at_start: bool = _option(False, "evaluate before the first step too", on_resume=WARN)
    save_every: str = _option(
        "1epoch",
        "how often a checkpoint is saved; seconds are welcome; auto: by what a save costs and how often the run is "
        "interrupted",
        on_resume=WARN,
    )
    mtbf: str = _option(
        "4h", "for save_every=auto: the mean time between interruptions, until the run has seen some of its own"
    )
    save_overhead: float = _option(
        0.03, "for save_every=auto: the largest share of the time that periodic saves may cost"
    )
    reconcile: str = _option(
        "carry",
        "what a save inside a window does: carry it in the checkpoint, flush it to the log, or align the save with it",
        on_resume=WARN,
        choices=RECONCILE_MODES,
    )
    clock_in_log: bool = _option(
        False, "allow seconds in log_every and eval_every: the log then depends on a clock", on_resume=WARN
    )
    keep_last: int = _option(3, "how many of the newest checkpoints are kept, transient ones not counted")
    keep_best: int = _option(
        1, "how many of the best checkpoints are saved and kept; 0 saves none, and still tells the best", on_resume=WARN
    )
    monitor: str | None = _option(
        None,
        "the metric that says which checkpoint is best, such as validation/loss or train/loss; several by comma, of "
        "which the first is the best; by default validation/loss, else the first split's loss, else train/loss",
        on_resume=WARN,
    )
    mode: str = _option(
        "auto",
        "whether the monitored metric is to be small (min) or large (max), for several one each by comma; auto: "
        "accuracy and its like large, everything else small",
        on_resume=WARN,
    )
    save_if: str | None = _option(
        None,
        "save where conditions on the metrics hold, such as 'train/loss<0.1,validation/loss<0.15', "
        "'mean5(train/loss)<0.1' or 'validation/loss<best(validation/loss)'",
        on_resume=WARN,
    )
    early_stop: str = _option(
        "never",
        "stop when the monitored metric has not improved for so long: 5evals, 1000steps, 2epochs or 1e6examples",
        on_resume=WARN,
    )
    min_delta: float = _option(
        0.0, "by how much the monitored metric has to change to be an improvement for early_stop", on_resume=WARN
    )
    early_stop_baseline: float | None = _option(
        None,
        "the value that the monitored metric has to be better than before anything is an improvement",
        on_resume=WARN,
    )
    early_stop_warmup: str | None = _option(
        None, "how long early_stop looks at nothing at first, such as 10epochs", on_resume=WARN
    )
    keep_every: str = _option(
        "never",
        "of the checkpoints that the run's own course asks for, the first one at or after each point stays for good; "
        "in steps, examples, epochs or shares of the run",
    )
    async_save: bool = _option(
        True, "train on while a copy of the state is written; false: write in place, without a second copy in memory"
    )
    verify_saves: str = _option(
        "last",
        "read back the last checkpoint of the process, all of them before they are committed, or none",
        choices=("last", "all", "never"),
    )
    max_shard: str | None = _option(
        None, "how large a data file of a checkpoint may be, such as 2GB; by default there is one of any size"
    )
    resume: str = _option(
        "auto",
        "auto resumes when there is a checkpoint; must refuses to start without one; never refuses when there is one",
        choices=("auto", "must", "never"),
    )
    init_from: str | None = _option(
        None,
        "begin a new run with the weights of a checkpoint that fit by name and shape: RUN_DIR, RUN_DIR@best, "
        "RUN_DIR@latest, RUN_DIR@before-plateau, RUN_DIR@STEP or the prefix of a TensorFlow checkpoint; a run with a "
        "checkpoint of its own resumes",
        on_resume=WARN,
    )
    init_from_strict: bool = _option(False, "refuse a checkpoint that does not fit the model in full")
    allow_change: str | None = _option(
        None,
        "what a resume may change, which begins a new segment of the run: data, parameters, seed, or several by comma",
    )
    seed: int = _option(17, "the seed of the weights, the order of the examples and all randomness", on_resume=REFUSE)
    deterministic: str = _option(
        "auto",
        "have TensorFlow use deterministic operations only; auto: on when there is a GPU",
        on_resume=WARN,
        choices=("auto", "true", "false"),
    )
    threads: int = _option(0, "TensorFlow's threads, within and between operations; 0: its own default", on_resume=WARN)
    jit: str = _option(
        "auto",
        "what XLA compiles: nothing, each step, or the whole chunk with its reading of in-memory data; auto: chunk for "
        "in-memory data and a model of fewer than 20 million parameters with no Keras layer and no convolution, if XLA "
        "can",
        on_resume=WARN,
        choices=("auto", "none", "step", "chunk"),
    )
    accumulate: int = _option(
        1, "micro-batches that each batch is taken in, one after the other, to save memory", on_resume=WARN
    )
    clip_norm: float = _option(
        0.0, "the largest global norm of the gradients, which are scaled down to it; 0: any", on_resume=WARN
    )
    freeze: str | None = _option(
        None,
        "the variables that training leaves as they are, by patterns of their names: 'encoder/*', several by comma",
        on_resume=REFUSE,
    )
    ema: float = _option(
        0.0,
        "the decay of a moving average of the weights, such as 0.999, which is then what is evaluated; 0: none",
        on_resume=REFUSE,
    )
    precision: str = _option(
        FLOAT32,
        "what is computed in: the policy of Keras layers, and the compute_dtype of the experiment; weights are float32",
        on_resume=REFUSE,
        choices=PRECISIONS,
    )
    on_nonfinite: str = _option(
        STOP,
        "what a loss or gradient that is not finite does: stop the run, skip that update, or continue with it",
        on_resume=WARN,
        choices=NONFINITE_MODES,
    )
    on_data_end: str = _option(
        REPEAT,
        "what the end of a finite stream does: repeat it, stop the run, or fail",
        on_resume=REFUSE,
        choices=END_MODES,
    )
    data_resume: str = _option(
        "auto",
        "how a stream finds its place at a resume: by its saved iterator, by a replay of what was consumed, or not at "
        "all (restart); auto: as the stream says",
        on_resume=WARN,
        choices=("auto", ITERATOR, REPLAY, RESTART),
    )
    tick: str = _option("1s", "how long the compiled chunk runs at most before signals and clocks are looked at")
    grace: str = _option(
        "10s",
        "how long the process may take to end once it is asked to; where a save would not fit, the newest checkpoint "
        "stands",
    )
    max_runtime: str | None = _option(
        None, "how long this process may train, such as 3h50m; then it is saved and stops as if preempted; or never"
    )
    hang_timeout: str | None = _option(
        None,
        "how long a chunk of steps may take, compiling included, before the process is taken to hang and ended, to be "
        "started again; or never",
    )
    orphans_keep: int = _option(2, "of how many attempts the cut records and damaged checkpoints are kept")
    profile: str | None = _option(None, "write a TensorFlow profile of some steps, such as 100..120steps")
    progress: str = _option(
        "auto",
        "bar, one plain line a record, or never; auto: the bar on a terminal",
        choices=("auto", "bar", "plain", "never"),
    )
    dry_run: bool = _option(False, "print the plan and stop")

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):
            value, choices = getattr(self, item.name), item.metadata["choices"]
            if type(value) not in (typing.get_args(hints[item.name]) or (hints[item.name],)):
                expected = str(item.type).replace(" | None", "")
                raise ConfigError(f"{item.name}={value!r} is {type(value).__name__}; expected {expected}")
            if choices and value not in choices:
                raise ConfigError(f"{item.name}={value} is no choice; expected one of {', '.join(choices)}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema} is no decay; expected 0, or a number below 1 such as 0.999")
        if not math.isfinite(self.clip_norm):
            raise ConfigError(f"clip_norm={self.clip_norm} is no bound; expected a finite number, or 0 for none")
        least_values = {
            "keep_last": 1,
            "keep_best": 0,
            "threads": 0,
            "orphans_keep": 0,
            "accumulate": 1,
            "clip_norm": 0,
            "min_delta": 0,
        }
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} is too small; expected {least} or more")
        for name in CADENCES:
            if (text := getattr(self, name)) is not None:
                _named(name, Cadence.parse, text)
                cadence_of(name, text)
        modes = parse_modes(self.mode)
        if self.monitor is not None:
            check_modes(modes, parse_metrics(self.monitor))
        if self.save_if is not None:
            Conditions(self.save_if)
        if not _named("early_stop", parse_patience, self.early_stop):
            for item in dataclasses.fields(self):
                value = getattr(self, item.name)
                if item.name in _OF_EARLY_STOP and value != item.default:
                    raise ConfigError(f"{item.name}={value} is set, but no early_stop; set that, or leave it out")
        if self.early_stop_baseline is not None and not math.isfinite(self.early_stop_baseline):
            raise ConfigError(
                f"early_stop_baseline={self.early_stop_baseline} is no value to be better than; "
                "expected a finite number"
            )
        if not math.isfinite(self.min_delta):
            raise ConfigError(f"min_delta={self.min_delta} is no difference; expected a finite number, 0 or more")
        self.warmup()
        for name in CLOCKS:
            if getattr(self, name) is not None:
                self.seconds(name)
        if not 0 < self.save_overhead < 1:
            raise ConfigError(f"save_overhead={self.save_overhead} is no share; expected a number between 0 and 1")
        self.profile_steps()
        self.max_shard_bytes()
        self.allowed_changes()
        if self.init_from_strict and self.init_from is None:
            raise ConfigError("init_from_strict is set, but no init_from; name the checkpoint that has to fit")

    def warmup(self) -> Duration | None:
        """How long early stopping looks at nothing; None for no time."""
        if self.early_stop_warmup is None:
            return None
        warmup = _named("early_stop_warmup", Duration.parse, self.early_stop_warmup)
        if warmup.unit == SECOND:
            raise ConfigError(
                f"early_stop_warmup={self.early_stop_warmup} counts seconds, so when the run ends would depend on a "
                "clock; use steps, examples or epochs"
            )
        return warmup

    def seconds(self, name: str) -> float:
        """One of `CLOCKS`, which is set, in seconds."""
        text = getattr(self, name)
        try:
            duration = Duration.parse(text)
        except ConfigError:
            duration = None
        if duration is None or duration.unit != SECOND:
            raise ConfigError(
                f"{name}={text} is no time; expected more than 0 seconds, minutes or hours, such as 1s or 3h50m"
            )
        return float(duration.number)

    def max_shard_bytes(self) -> int | None:
        """The most bytes that a data file may have; None for any."""
        return None if self.max_shard is None else _named("max_shard", parse_size, self.max_shard)

    def allowed_changes(self) -> frozenset[str]:
        """What of the run a resume may change, of `CHANGES`."""
        named = [] if self.allow_change is None else [name.strip() for name in self.allow_change.split(",")]
        for name in named:
            if name not in CHANGES:
                raise ConfigError(
                    f"allow_change={self.allow_change}: {name!r} is no choice; "
                    f"expected one or more of {', '.join(CHANGES)}, by comma"
                )
        return frozenset(named)

    def profile_steps(self) -> tuple[int, int] | None:
        """The steps between which a profile is taken; None for no profile."""
        if self.profile is None:
            return None
        match = re.fullmatch(r"(\d+)\.\.(\d+)(?:steps?)?", self.profile)
        if not match or not int(match[1]) < int(match[2]):
            raise ConfigError(f"profile={self.profile} is no range of steps; expected FROM..TO, such as 100..120steps")
        return int(match[1]), int(match[2])


def _named(name: str, parse: Callable[[str], _Parsed], text: str) -> _Parsed:
    """What `parse` makes of `text`; the message of its error begins with the option's name."""
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def make_config(options: Mapping[str, Any], suggested: Mapping[str, Any]) -> Config:
    """The configuration with what the user set, then what the experiment suggests, then the defaults.

    Raises:
      ConfigError: an unknown name, or a value that the configuration refuses.
    """
    known = {item.name for item in dataclasses.fields(Config)}
    for origin, names in (("the trainer has", options), ("the experiment suggests", suggested)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{origin} no option {name!r}; expected one of {', '.join(sorted(known))}")
    # A library call may give a cadence as a bare number of steps.
    given: dict[str, Any] = {**suggested, **options}
    if given.get("eval_every") == "never":
        # What the experiment would look at is of no use to a user who has evaluations off.
        given = {name: value for name, value in given.items() if name in options or name not in _ON_METRICS}
    if "monitor" in options:
        # What suits another metric than the user's.
        given = {name: value for name, value in given.items() if name in options or name not in _OF_MONITOR}
    if str(given.get("early_stop", "never")).strip() == "never":
        # Who says never lets a command go on whose other flags stay; who says nothing has forgotten it.
        kept = () if "early_stop" in options else options
        given = {name: value for name, value in given.items() if name in kept or name not in _OF_EARLY_STOP}
    for name in {*CADENCES, *CLOCKS, "early_stop", "early_stop_warmup"} & given.keys():
        given[name] = None if given[name] is None else str(given[name])
    for name in _LIMITS & given.keys():
        # Takes back what a flagfile or the experiment says.
        given[name] = None if given[name] == "never" else given[name]
    hints = typing.get_type_hints(Config)
    for name, value in given.items():
        # A library call may give a whole number where any number is welcome.
        if type(value) is int and float in (hints[name], *typing.get_args(hints[name])):
            given[name] = float(value)
    return Config(**given)
