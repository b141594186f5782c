"""Finding an experiment by its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from trainer.errors import ConfigError
from trainer.run.experiment import Experiment


def find_experiment(name: str) -> type[Experiment]:
    """The experiment that `name` means.

    Args:
      name: a file in `experiments/`, whose one `Experiment` is meant, or a dotted path, `package.module:Experiment`.

    Raises:
      ConfigError: there is none, or it cannot be imported; the message lists the known ones.
    """
    path, colon, kind = name.partition(":")
    if not colon and "." not in name:
        if name not in known_experiments():
            raise ConfigError(
                f"experiment={name} is unknown; expected one of {', '.join(known_experiments())}, "
                "or package.module:Class"
            )
        path = f"experiments.{name}"
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ConfigError(
            f"experiment={name} cannot be imported ({type(error).__name__}: {error}); expected one of "
            f"{', '.join(known_experiments())}, or package.module:Class"
        ) from error
    found = {
        label: value
        for label, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Experiment) and value.__module__ == module.__name__
    }
    if kind:
        found = {label: value for label, value in vars(module).items() if label == kind}
        if not found or not inspect.isclass(found[kind]) or not issubclass(found[kind], Experiment):
            raise ConfigError(f"experiment={name}: {path} has no Experiment named {kind}")
    if len(found) != 1:
        raise ConfigError(
            f"experiment={name}: {path} has {len(found)} experiments ({', '.join(found) or 'none'}); "
            f"name one: {path}:Class"
        )
    return next(iter(found.values()))


def known_experiments() -> list[str]:
    """The names of the files in `experiments/`."""
    import experiments

    return sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))


def canonical_name(kind: type[Experiment]) -> str:
    """The name of an experiment that holds wherever it can be imported."""
    return f"{kind.__module__}:{kind.__qualname__}"


def short_name(kind: type[Experiment]) -> str:
    """The name of its folder under `runs/`: its file in `experiments/`, or its class."""
    package, _, file = kind.__module__.rpartition(".")
    return file if package == "experiments" else kind.__name__.lower()
