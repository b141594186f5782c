"""Putting a run together: everything that exists before the first step, and touches no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from trainer.data import Source
from trainer.data.sources import REPEAT
from trainer.data.streams import StreamSource
from trainer.decide.decisions import Decisions
from trainer.errors import ConfigError
from trainer.ledger.run_info import RunInfo
from trainer.process import memory
from trainer.run import machine
from trainer.run.config import Config
from trainer.run.decide import decisions_of
from trainer.run.evaluate import Evaluator
from trainer.run.experiment import Experiment, at_precision, parameters
from trainer.run.jit import AUTO, CHUNK, NONE, DoesNotCompile, choose
from trainer.run.measure import Layout
from trainer.run.program import Program
from trainer.run.splits import splits_of
from trainer.run.state import TrainState
from trainer.run.step import Update
from trainer.run.timing import Times
from trainer.timeline.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The parts of one run, built and traced."""

    experiment: Experiment
    config: Config
    source: Source
    state: TrainState
    program: Program
    evaluators: Mapping[str, Evaluator]
    schedule: Schedule
    decisions: Decisions
    info: RunInfo
    """What identifies the run that is asked for."""
    notes: Sequence[str] = ()
    """What became otherwise than asked for, in lines."""


def assemble(
    experiment: Experiment,
    config: Config,
    *,
    name: str,
    known: RunInfo | None,
    times: Times | None = None,
) -> Assembly:
    """Builds the model, the data, the compiled programs and the schedule.

    Args:
      experiment: what is trained.
      config: how.
      name: what the experiment is called in `run.json`.
      known: the run that the directory holds, whose automatic choices stand.
      times: where it is noted how long the building and the tracing take.

    Raises:
      ConfigError: any of it does not fit.
    """
    deterministic = machine.configure(threads=config.threads, deterministic=config.deterministic)
    experiment = at_precision(experiment, config.precision)
    times = times or Times()
    with times.starting("build"):
        source, splits = _sources(experiment, config)
        schedule, decisions = schedule_and_decisions(config, source, splits)
        state = TrainState(experiment, config.seed, ema=config.ema, precision=config.precision, freeze=config.freeze)
    update = Update(accumulate=config.accumulate, clip_norm=config.clip_norm, on_nonfinite=config.on_nonfinite)

    def trace(jit: str) -> _Programs:
        evaluated, tick = state.ema_model or state.model, config.seconds("tick")
        with times.starting("trace"):
            program = Program(experiment, state, source, seed=config.seed, jit=jit, update=update, tick=tick)
            evaluators = {
                split: Evaluator(experiment, evaluated, data, split=split, seed=config.seed, jit=jit == CHUNK)
                for split, data in splits.items()
                if config.eval_every != "never"
            }
            layouts = {split: evaluator.build() for split, evaluator in evaluators.items()}
        return _Programs(jit, program, evaluators, {"train": program.layout, **layouts})

    there = known.jit if known else None
    jit = choose(config.jit, state, source, known=there)
    programs, notes = _in_mode(jit, trace, times, asked=config.jit, known=there)
    if type(experiment).summarize is Experiment.summarize:
        # Otherwise only the first record tells which metrics there are.
        decisions.check({f"{group}/{name}" for group, layout in programs.layouts.items() for name in layout.recorded()})
    info = RunInfo(
        experiment=name,
        parameters=parameters(experiment),
        seed=config.seed,
        jit=programs.jit,
        deterministic=deterministic,
        threads=machine.thread_counts(),
        machine=machine.describe_machine(),
        versions=machine.versions(),
        data={
            split: {
                "mode": data.mode,
                "fingerprint": data.fingerprint,
                "examples": data.examples,
                "batch_size": data.batch_size,
                "shuffle": data.shuffle,
                "last": data.last,
            }
            for split, data in {"train": source, **splits}.items()
        },
        epoch_examples=schedule.epoch_examples,
        clock_in_log=config.clock_in_log,
    )
    return Assembly(
        experiment, config, source, state, programs.program, programs.evaluators, schedule, decisions, info, notes
    )


def compile_ahead(program: Program, evaluators: Mapping[str, Evaluator], times: Times) -> None:
    """Compiles what of a run is to be compiled and is not yet.

    Raises:
      DoesNotCompile: XLA cannot.
    """
    program.compile(times)
    for evaluator in evaluators.values():
        evaluator.compile(times)
    memory.give_back()


@dataclasses.dataclass(frozen=True)
class _Programs:
    """What is traced in one mode."""

    jit: str
    program: Program
    evaluators: Mapping[str, Evaluator]
    layouts: Mapping[str, Layout]
    """Of what each measures: `train`, or the split."""

    def slow_operation(self) -> str | None:
        """The first operation for which XLA is slow, of those that it compiles here."""
        found = [self.program.slow_operation(), *(one.slow_operation() for one in self.evaluators.values())]
        return next(filter(None, found), None)


def _in_mode(
    jit: str, trace: Callable[[str], _Programs], times: Times, *, asked: str, known: str | None
) -> tuple[_Programs, list[str]]:
    """The programs in a mode, and what is to be said of it.

    Who asks for a mode has to know before anything is written whether there is one. Where nobody asked for it, but the
    rule of `auto` chose it, and something speaks against it, they are those of `none`.

    Args:
      jit: the mode.
      trace: traces them in one.
      times: where it is noted how long the compiling takes.
      asked: what was asked for.
      known: the mode of the run that is there, which did compile; None where there is none yet.

    Raises:
      DoesNotCompile: XLA cannot compile the mode that is asked for.
    """
    programs = trace(jit)
    if jit == known:
        return programs, []
    ruled, notes = asked == AUTO and known is None, []
    if jit == CHUNK and (slow := programs.slow_operation()):
        what = f"XLA can be many times slower than TensorFlow for {slow} on a CPU; trainer.doctor measures it"
        if ruled:
            return trace(NONE), [f"jit=auto is none here, because {what}"]
        notes.append(f"with jit=chunk {what}")
    try:
        compile_ahead(programs.program, programs.evaluators, times)
    except DoesNotCompile as error:
        if not ruled:
            raise
        return trace(NONE), [f"jit=auto is none here, because chunk does not compile: {error.why}"]
    return programs, notes


def _sources(experiment: Experiment, config: Config) -> tuple[Source, dict[str, Source]]:
    kind = type(experiment).__name__
    source = experiment.train_data()
    if not isinstance(source, Source):
        raise ConfigError(f"{kind}.train_data() returned {type(source).__name__}; expected a trainer.data source")
    if isinstance(source, StreamSource):
        mode = source.mode if config.data_resume == "auto" else config.data_resume
        source = source.resumed_by(mode, on_end=config.on_data_end)
    else:
        for flag, default in (("on_data_end", REPEAT), ("data_resume", "auto")):
            if getattr(config, flag) != default:
                raise ConfigError(
                    f"{flag}={getattr(config, flag)} is for streams, and {kind} trains on {source.mode} data, which "
                    f"has a place for every step; leave {flag} as it is, and end the run with train_for"
                )
    return source, splits_of(experiment)


def schedule_and_decisions(config: Config, source: Source, splits: Mapping[str, Source]) -> tuple[Schedule, Decisions]:
    """When what is due, and what is decided by the records.

    Raises:
      ConfigError: they cannot be.
    """
    if config.train_for is None:
        raise ConfigError("train_for is not set; say how long to train, such as --train_for=10epochs")
    schedule = Schedule(
        train_for=config.train_for,
        log_every=config.log_every,
        eval_every=config.eval_every if splits else "never",
        save_every=config.save_every,
        keep_every=config.keep_every,
        reconcile=config.reconcile,
        batch_size=source.batch_size,
        data_examples=source.examples,
        last=source.last,
        epoch_examples=config.epoch_examples,
        clock_in_log=config.clock_in_log,
        marks=config.profile_steps() or (),
    )
    decisions = decisions_of(config, schedule, splits)
    return (schedule.deciding_on_windows() if decisions.needs_train_records else schedule), decisions
