"""What the traces of an experiment tell: one animal of the zoo a fault, and the healthy ones come out clean."""

from __future__ import annotations

import re

import pytest
import zoo

from trainer.proof.build import Built, build
from trainer.proof.findings import Finding
from trainer.proof.options import cadences
from trainer.proof.traces import examine_traces, prints

SETTINGS = cadences(4, (1,))


def found(kind: type, **settings: object) -> list[Finding]:
    built = build(kind, {**SETTINGS, **settings})
    if isinstance(built, Finding):
        return [built]
    return list(examine_traces(built, kind()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "expected", "what"),
    [
        (zoo.Unsaved, "unsaved", r"step changes .*: model\.box\.decay \(.*zoo\.py:\d+ in loss\)"),
        (zoo.Unseeded, "random", r"the step draws .*: RandomStandardNormal \(.*zoo\.py:\d+ in loss\)"),
        (zoo.UnseededInside, "random", r"the step draws .*: RandomUniform \(.*, inside a branch, loop or function\)"),
        (zoo.HostCounter, "host", r"the step calls Python: PyFunc \(.*zoo\.py:\d+ in loss\)"),
        (zoo.GlobalData, "data", r"the train data is other data each time"),
        (zoo.Restarted, "data", r"begins again at every resume"),
        (zoo.Generated, "data", r"the stream's position cannot be saved: PyFunc"),
        (zoo.Baked, "python_state", r"loss is another program .* at .*zoo\.py:\d+ in scaled"),
        (zoo.Counting, "python_state", r"loss changes a Python value .*: model\.calls \(\d+, then \d+\)"),
        (zoo.Retraced, "retracing", r"experiment\.power is traced .* number exponent: 0, 1, 2, 3"),
        (zoo.ReadsOnHost, "host", r"loss raises AttributeError: .*numpy.* \(.*zoo\.py:\d+\): it reads the value"),
        (zoo.Broken, "build", r"model raises KeyError: 'no such layer' \(.*zoo\.py:\d+\)"),
        (zoo.WrongLoss, "build", r"loss\(\) returned per_example of shape \(\)"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fault_is_found_and_its_culprit_named(kind: type, expected: str, what: str) -> None:
    [finding] = found(kind)
    assert finding.kind == expected
    assert re.search(what, finding.what), finding.what
    assert finding.fix


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [zoo.Healthy, zoo.Wrapped, zoo.Adversaries, zoo.Streamed, zoo.BestSoFar, zoo.MutatingEvaluation]
)
def test_traces_without_a_fault_are_clean(kind: type) -> None:
    assert found(kind) == []


@pytest.mark.slow
def test_what_a_flag_brings_into_the_step_is_clean() -> None:
    assert found(zoo.Healthy, accumulate=2, ema=0.9, clip_norm=1.0) == []


@pytest.mark.slow
def test_printing_is_warned_of() -> None:
    built = build(zoo.Printing, SETTINGS)
    assert isinstance(built, Built)
    assert list(examine_traces(built, zoo.Printing())) == []
    [warning] = prints(built.watch)
    assert re.search(r"the step prints in every step.*PrintV2 \(.*zoo\.py:\d+ in loss\)", warning)


def test_bug_of_ours_is_raised_and_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.data.in_memory

    raising = "def broken(*arguments, **options): raise ZeroDivisionError('ours')"
    code = compile(raising, trainer.data.in_memory.__file__, "exec")
    names: dict[str, object] = {}
    exec(code, names)
    monkeypatch.setattr("trainer.data.arrays", names["broken"], raising=False)
    with pytest.raises(ZeroDivisionError):
        build(zoo.Healthy, SETTINGS)
