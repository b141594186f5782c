"""What a user writes: an experiment, its fields and its loss."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest

import trainer
from trainer.errors import ConfigError
from trainer.run.experiment import Experiment, make_experiment, parameters, resume_rules


@dataclasses.dataclass(frozen=True)
class Everything(Experiment):
    """An experiment with a field of each kind; what it trains does not matter here."""

    hidden: int = 128
    rate: float = trainer.field(1e-3, on_resume="warn")
    name: str = trainer.field("none", on_resume="free")
    bias: bool = True
    limit: int | None = None
    ratio: typing.Optional[float] = None  # noqa: UP045  (users write it so, too)
    layers: tuple[int, ...] = (64, 32)
    activation: typing.Literal["relu", "tanh"] = "relu"
    widths: typing.Literal[1, 2] = 1

    def model(self, seed: Any) -> Any: ...
    def optimizer(self) -> Any: ...
    def train_data(self) -> Any: ...
    def loss(self, model: Any, batch: Any, *, training: bool, seed: Any) -> Any: ...


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("hidden", "256", 256),
        ("hidden", "-1", -1),
        ("rate", "1e-2", 0.01),
        ("rate", "3", 3.0),
        ("name", "a=b, c", "a=b, c"),
        ("bias", "false", False),
        ("bias", "True", True),
        ("bias", "0", False),
        ("limit", "7", 7),
        ("limit", "none", None),
        ("ratio", "0.5", 0.5),
        ("ratio", "None", None),
        ("layers", "8", (8,)),
        ("layers", "8,4,2", (8, 4, 2)),
        ("activation", "tanh", "tanh"),
        ("widths", "2", 2),
    ],
)
def test_every_field_can_be_set_from_text(field: str, text: str, value: Any) -> None:
    found = getattr(make_experiment(Everything, {field: text}), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("hidden", "many", "int"),
        ("hidden", "1.5", "int"),
        ("rate", "fast", "float"),
        ("bias", "maybe", "bool"),
        ("limit", "1.5", "int"),
        ("layers", "8,x", "int"),
        ("activation", "gelu", "relu"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_field_the_text_and_the_type(
    field: str, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"{field}={text}.*{expected}") as caught:
        make_experiment(Everything, {field: text})
    assert "\n" not in str(caught.value)


def test_a_field_that_does_not_exist_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"hiden.*Everything.*hidden.*rate") as caught:
        make_experiment(Everything, {"hiden": "3"})
    assert "\n" not in str(caught.value)


def test_a_field_without_a_default_has_to_be_given() -> None:
    @dataclasses.dataclass(frozen=True)
    class Needy(Everything):
        path: str = dataclasses.field(kw_only=True)

    with pytest.raises(ConfigError, match=r"path.*--set"):
        make_experiment(Needy, {})
    assert make_experiment(Needy, {"path": "here"}).path == "here"  # type: ignore[attr-defined]


def test_what_an_experiment_refuses_by_itself_keeps_its_message() -> None:
    @dataclasses.dataclass(frozen=True)
    class Strict(Everything):
        def __post_init__(self) -> None:
            if self.hidden < 1:
                raise ConfigError(f"hidden={self.hidden} is no size; expected 1 or more")

    with pytest.raises(ConfigError, match="hidden=0 is no size"):
        make_experiment(Strict, {"hidden": "0"})


def test_plain_fields_are_refused_on_a_resume_and_the_others_follow_their_own_rule() -> None:
    rules = resume_rules(Everything())
    assert rules["hidden"] == "refuse"
    assert rules["rate"] == "warn"
    assert rules["name"] == "free"
    assert rules.keys() == {item.name for item in dataclasses.fields(Everything)}


def test_a_rule_that_does_not_exist_is_refused_where_the_field_is_declared() -> None:
    with pytest.raises(ConfigError, match="free, warn, refuse"):
        trainer.field(3, on_resume="ask")


def test_parameters_survive_the_way_through_json() -> None:
    known = parameters(Everything(layers=(3, 4)))
    assert json.loads(json.dumps(known)) == known
    assert known["hidden"] == 128
    assert known["layers"] == [3, 4]
    assert known["limit"] is None


def test_a_loss_needs_no_more_than_a_value_for_each_example() -> None:
    loss = trainer.Loss(per_example="values")
    assert (loss.metrics, loss.weights, loss.regularization) == ({}, None, None)


def test_evaluation_data_and_summaries_are_optional() -> None:
    experiment = Everything()
    assert experiment.eval_data() == {}
    assert experiment.summarize({"loss": 1.0}) == {}
    assert experiment.suggested_flags == {}
