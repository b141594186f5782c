"""Why the logged metric of a checkpoint is not its evaluated metric, in numbers that add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trainer.checkpoint import tensors
from trainer.checkpoint.recovery import Damaged
from trainer.data import Source
from trainer.data.sources import ITERATOR, RESTART
from trainer.data.streams import StreamSource
from trainer.errors import ConfigError, Unusable
from trainer.ledger.segments import data_origin, facts_in_force
from trainer.proof.legs import Leg, legs_of
from trainer.proof.question import Question
from trainer.proof.reopen import NotReplayable, Reopened, config_of, reopen
from trainer.proof.retrace import Interrupted, Retraced, retrace
from trainer.proof.terms import (
    AVERAGING,
    GENERALIZATION,
    LOGGED,
    MODE,
    MOTION,
    OWN_UPDATE,
    SAMPLING,
    Explanation,
    Measured,
    terms_of,
)
from trainer.proof.window import BatchMeasure, Gathering, WindowBatches
from trainer.run.evaluate import Evaluator
from trainer.run.pace import Pace
from trainer.run.segments import order_seed
from trainer.run.splits import splits_of
from trainer.trained.run import set_up_machine

_TICK = 0.5
"""Seconds between two looks whether to stop."""
_PREFERRED = "validation"
_OWN_STEP = (
    "the experiment has a train_step of its own, and what that measures cannot be measured without its update: own "
    "update, motion, averaging and mode are one line"
)


def explain(
    question: Question,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda what: None,
) -> Explanation:
    """Measures the metric in one way after the other, from that of the log to that of the evaluation.

    Args:
      question: what is to be explained.
      interrupted: whether to stop.
      tell: receives what is being done, when that changes.

    Raises:
      ConfigError: the experiment cannot be made, or does not have the split.
      Unusable: the checkpoint cannot be read, or a value is not finite.
      Interrupted: it is to stop.
    """
    tell("building the run")
    explaining = _Explaining(question, interrupted, tell)
    try:
        return explaining.explanation()
    finally:
        explaining.close()


class _Explaining:
    """One explanation, while it is made.

    Args:
      question: what is to be explained.
      interrupted: whether to stop.
      tell: receives what is being done.
    """

    def __init__(self, question: Question, interrupted: Callable[[], bool], tell: Callable[[str], None]) -> None:
        self._question = question
        self._interrupted = interrupted
        self._tell = tell
        # As it was in the window, whatever it was gone on with.
        end = question.window[1]
        legs = legs_of(question.directory, question.checkpoint)
        self._leg = next(leg for leg in legs if leg.start < end <= leg.end)
        facts = facts_in_force(question.info, question.segments(self._leg.start))
        set_up_machine(question.directory, facts)
        try:
            config = config_of(self._leg, facts, end=None)
            self._reopened = reopen(question.directory, question.info, facts, config)
        except NotReplayable as error:
            raise ConfigError(f"{error}; mend it, or bring back the code that it was trained with") from error
        self._parts = self._reopened.parts
        self._split = _chosen(splits_of(self._parts.experiment), question.split)
        self._gathering = Gathering(self._parts.experiment, question.metric)
        self._own_step = hasattr(self._parts.experiment, "train_step")
        self._notes = [_OWN_STEP] if self._own_step else []

    def close(self) -> None:
        """Lets go of the data."""
        self._parts.program.end()

    def explanation(self) -> Explanation:
        """Goes from the logged value to the evaluated one."""
        question = self._question
        retraced = self._retraced()
        self._restore()
        measured = [Measured(LOGGED, question.logged)]
        if retraced and retraced.own_update:
            measured.append(retraced.own_update)
        measured += [*self._on_the_window(retraced), *self._on_whole_sets()]
        self._check(measured)
        split = self._split[0] if self._split else None
        (a, b), step = question.window, question.checkpoint.step
        weights = "ema" if self._parts.state.ema_model else "raw"
        return Explanation(
            step=step,
            metric=question.metric,
            split=split,
            window=(a, b),
            weights=weights,
            terms=terms_of(measured, _words(question, split, weights)),
            open_steps=tuple(range(b + 1, step + 1)),
            replayed_from=retraced.start if retraced else None,
            reproduced=retraced.logged == question.logged if retraced else None,
            notes=tuple(self._notes),
        )

    def _retraced(self) -> Retraced | None:
        """The window, trained again; None where that cannot be."""
        question, gathering = self._question, None if self._own_step else self._gathering
        try:
            retraced = retrace(
                question, self._leg, self._reopened, gathering, interrupted=self._interrupted, tell=self._tell
            )
        except NotReplayable as error:
            self._notes.append(f"the window was not trained again, and the logged value is that of the log: {error}")
            return None
        if retraced.logged != question.logged:
            why = f" ({retraced.machine})" if retraced.machine else ""
            self._notes.append(
                f"trained again the window gives {retraced.logged!r}, and the log has {question.logged!r}{why}"
            )
        return retraced

    def _restore(self) -> None:
        """Gives the run the state of the checkpoint."""
        question, step = self._question, self._question.checkpoint.step
        try:
            tensors.restore(self._parts.state.checkpoint(), question.prefix, step=step)
        except Damaged as error:
            raise Unusable(f"checkpoint {step} of {question.directory.path} cannot be used: {error}") from error
        self._parts.state.restored()

    def _on_the_window(self, retraced: Retraced | None) -> list[Measured]:
        """The metric on the batches of the window, with the weights of the checkpoint."""
        try:
            batches = retraced.batches if retraced else _batches(self._question, self._leg, self._reopened)
        except NotReplayable as error:
            self._notes.append(f"the batches of the window cannot be had again: {error}")
            return []
        state = self._parts.state
        ways = [] if self._own_step else [(MOTION, state.model, True)]
        if state.ema_model is not None and not self._own_step:
            ways.append((AVERAGING, state.ema_model, True))
        ways.append((MODE, state.ema_model or state.model, False))
        measures = {
            name: BatchMeasure(self._parts, self._gathering.experiment, model, training=training)
            for name, model, training in ways
        }
        self._tell("measuring the batches of the window with the checkpoint's weights")
        drawn = retraced.drawn if retraced else {}
        for step, batch in batches:
            if self._interrupted():
                raise Interrupted
            for name, measure in measures.items():
                measure.add(step, batch, drawn.get(step) if name != MODE else None)
        return [self._gathering.measured(name, *measure.means()) for name, measure in measures.items()]

    def _on_whole_sets(self) -> list[Measured]:
        """The metric on the training set and on the split."""
        source, measured = self._parts.source, []
        if isinstance(source, StreamSource) and not source.finite:
            self._notes.append("the training data has no end, so there is no whole training set to measure on")
        else:
            measured.append(self._on(source, "train", SAMPLING))
        if self._split is not None:
            split, held_out = self._split
            one, notes = _as_recorded(self._on(held_out, split, GENERALIZATION), self._question, split)
            measured.append(one)
            self._notes += notes
        return measured

    def _on(self, source: Source, of: str, name: str) -> Measured:
        """The metric on a whole set, as an evaluation measures it."""
        self._tell(f"evaluating on {of}")
        state = self._parts.state
        evaluator = Evaluator(
            self._gathering.experiment,
            state.ema_model or state.model,
            source,
            split=of,
            seed=self._parts.config.seed,
            jit=self._parts.info.jit == "chunk",
        )
        evaluator.build()
        measured = evaluator.run(Pace(_TICK), self._interrupted)
        if measured is None:
            raise Interrupted
        return self._gathering.measured(name, measured[0], evaluator.weight)

    def _check(self, measured: Sequence[Measured]) -> None:
        """Refuses what does not make a sum."""
        for one in measured:
            if not math.isfinite(one.value):
                raise Unusable(
                    f"{self._question.metric} is not finite, or not there, on the way from {measured[0].name} to "
                    f"{one.name}, so that nothing adds up; name another metric or step"
                )
        if len(measured) == 1:
            raise Unusable(f"there is nothing to compare the logged value with: {'; '.join(self._notes)}")


def _chosen(splits: dict[str, Source], asked: str | None) -> tuple[str, Source] | None:
    """The split that is asked for; else the validation split, or the first one, if there is any."""
    if asked is not None and asked not in splits:
        there = f"the splits are {', '.join(splits)}" if splits else "the experiment has no eval_data()"
        raise ConfigError(f"split={asked} is unknown; {there}")
    name = asked or (_PREFERRED if _PREFERRED in splits else next(iter(splits), None))
    return None if name is None else (name, splits[name])


def _batches(question: Question, leg: Leg, reopened: Reopened) -> WindowBatches:
    """The batches of a window that was not trained again.

    Raises:
      NotReplayable: they cannot be had.
    """
    a, b = question.window
    source, facts = reopened.parts.source, reopened.facts
    known = facts.data.get("train", {}).get("fingerprint")
    if known != source.fingerprint:
        raise NotReplayable(f"the training data is other data now ({source.fingerprint}) than in the run ({known})")
    if leg.start > a:
        raise NotReplayable(f"the flags were changed at step {leg.start}, inside the window")
    origin = data_origin(question.segments(leg.start))
    order = order_seed(reopened.parts.config.seed, origin)
    if isinstance(source, StreamSource) and source.mode in (ITERATOR, RESTART):
        raise NotReplayable(f"the training data finds no place by itself ({source.mode})")
    if question.record.skipped:
        raise NotReplayable(f"{question.record.skipped} of its steps were skipped, and it is not known which")
    if question.examples_before is None:
        raise NotReplayable(f"the log has no window that ends at step {a}, which says where in the data it begins")
    return WindowBatches(reopened.parts, order, origin.examples, start=(a, question.examples_before), window=(a, b))


def _as_recorded(measured: Measured, question: Question, split: str) -> tuple[Measured, list[str]]:
    """The value that the run itself recorded of the split, where it did: to the last bit."""
    known = question.checkpoint.eval.get(split, {})
    recorded = known.get("metrics", {}).get(question.metric) if known.get("step") == question.checkpoint.step else None
    if recorded is None:
        return measured, [f"the run did not evaluate {split} at step {question.checkpoint.step}: it was done now"]
    if math.isclose(recorded, measured.value, rel_tol=1e-5):
        return Measured(measured.name, recorded, measured.stderr), []
    told = f"the run recorded {recorded!r} for {split}, and it is {measured.value!r} here"
    return measured, [f"{told}: other data, other code, or another kind of machine"]


def _words(question: Question, split: str | None, weights: str) -> dict[str, str]:
    """What the terms of this explanation mean."""
    (a, b), step = question.window, question.checkpoint.step
    evaluated = "averaged weights" if weights == "ema" else "weights"
    words = {
        LOGGED: f"the log's mean over the steps {a + 1} to {b}: each batch before its own update",
        OWN_UPDATE: "each batch after its own update: what a step gains on the batch that it has just seen",
        MOTION: f"the same batches with the weights of checkpoint {step}: how far training has moved since",
        AVERAGING: "with the averaged weights, which evaluation uses, instead of the trained ones",
        MODE: f"as an evaluation computes with the same {evaluated}: without dropout, with the moments it has learnt",
        SAMPLING: "the whole training set: what was particular about the examples of the window",
    }
    if split is not None:
        words[GENERALIZATION] = f"the split {split}: what does not carry over to examples that it has not trained on"
    return words if weights == "ema" else {name: text for name, text in words.items() if name != AVERAGING}
