"""`scripts/kubernetes.yaml`: a Job whose rules are the trainer's exit codes, and whose command is one that it takes."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import yaml

from trainer import errors
from trainer.command import new_flags, parse
from trainer.run.config import make_config
from trainer.run.flags import define_flags, given_options

FILE = pathlib.Path(__file__).parents[2] / "scripts" / "kubernetes.yaml"


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(FILE.read_text())}


@pytest.fixture(scope="module")
def job(documents: dict[str, Any]) -> dict[str, Any]:
    return documents["Job"]["spec"]


@pytest.fixture(scope="module")
def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["template"]["spec"]["containers"]
    return only


def action(job: dict[str, Any], code: int, *conditions: str) -> str:
    """What becomes of a pod that failed: the action of the first rule that fits, as the Job's controller has it."""
    for rule in job["podFailurePolicy"]["rules"]:
        if codes := rule.get("onExitCodes"):
            assert codes["operator"] == "In"
            # What the server refuses: it wants them sorted, each once, and no 0.
            assert codes["values"] == sorted({*codes["values"]} - {0})
            if code in codes["values"]:
                return rule["action"]
        if any(wanted["type"] in conditions for wanted in rule.get("onPodConditions", ())):
            return rule["action"]
    return "Count"


@pytest.mark.parametrize(
    ("code", "conditions", "expected"),
    [
        (errors.EXIT_PREEMPTED, [], "Ignore"),
        (errors.EXIT_PREEMPTED, ["DisruptionTarget"], "Ignore"),
        (137, ["DisruptionTarget"], "Ignore"),
        (errors.EXIT_CONFIG, [], "FailJob"),
        (errors.EXIT_DIVERGED, [], "FailJob"),
        (errors.EXIT_UNUSABLE, ["DisruptionTarget"], "FailJob"),
        (errors.EXIT_BUG, [], "Count"),
        (errors.EXIT_IN_USE, [], "Count"),
        (errors.EXIT_UNWRITABLE, [], "Count"),
        (137, [], "Count"),
    ],
)
def test_each_end_of_a_pod_has_its_consequence(
    job: dict[str, Any], code: int, conditions: list[str], expected: str
) -> None:
    assert action(job, code, *conditions) == expected


def test_the_rules_are_ones_that_a_job_may_have(job: dict[str, Any], container: dict[str, Any]) -> None:
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["podReplacementPolicy"] == "Failed"
    assert job["backoffLimit"] > 0
    names = [rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert set(names) == {container["name"]}


def test_the_command_is_the_trainer_s_own_and_its_flags_are_accepted(container: dict[str, Any]) -> None:
    assert container["command"] == ["python", "-m", "trainer.main"]
    values = new_flags()
    define_flags(values)
    assert parse(container["args"], values, usage="", about="") == []
    make_config(given_options(values), {})


def test_there_is_more_time_to_end_than_the_trainer_takes(job: dict[str, Any], container: dict[str, Any]) -> None:
    (grace,) = [value.removeprefix("--grace=") for value in container["args"] if value.startswith("--grace=")]
    assert float(grace.removesuffix("s")) < 15 < job["template"]["spec"]["terminationGracePeriodSeconds"]


def test_the_run_directory_is_on_the_volume_that_outlives_the_pod(
    documents: dict[str, Any], job: dict[str, Any], container: dict[str, Any]
) -> None:
    (mount,) = container["volumeMounts"]
    (volume,) = job["template"]["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    claim = documents["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    (run_dir,) = [value.removeprefix("--run_dir=") for value in container["args"] if value.startswith("--run_dir=")]
    assert pathlib.PurePath(run_dir).is_relative_to(mount["mountPath"])
