"""The flags of the commands that train: an experiment with its fields, and the configuration."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection
from typing import Any

from absl import flags

from trainer.errors import ConfigError
from trainer.run.config import Config


def define_flags(values: flags.FlagValues, *, leave_out: Collection[str] = ()) -> None:
    """Defines `--experiment`, `--set`, and one flag for each field of the configuration but those to leave out."""
    flags.DEFINE_string(
        "experiment", "digits", "a file in experiments/, or package.module:Experiment", flag_values=values
    )
    flags.DEFINE_multi_string("set", [], "NAME=VALUE of a field of the experiment; repeatable", flag_values=values)
    hints = typing.get_type_hints(Config)
    for item in dataclasses.fields(Config):
        if item.name in leave_out:
            continue
        text = item.metadata["help"]
        if item.metadata["choices"]:
            text += f" ({', '.join(item.metadata['choices'])})"
        kinds = typing.get_args(hints[item.name]) or (hints[item.name],)
        define: Any = flags.DEFINE_string
        if bool in kinds:
            define = flags.DEFINE_boolean
        elif int in kinds:
            define = flags.DEFINE_integer
        elif float in kinds:
            define = flags.DEFINE_float
        define(item.name, item.default, text, flag_values=values)


def given_options(values: flags.FlagValues) -> dict[str, Any]:
    """The fields of the configuration that the command line gives."""
    names = [item.name for item in dataclasses.fields(Config) if item.name in values]
    return {name: values[name].value for name in names if values[name].present}


def given_settings(values: flags.FlagValues) -> dict[str, str]:
    """The experiment's fields that the command line gives, as text.

    Raises:
      ConfigError: one is no NAME=VALUE.
    """
    settings = {}
    for text in values["set"].value or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"set={text} sets nothing; expected --set NAME=VALUE")
        settings[name] = value
    return settings
