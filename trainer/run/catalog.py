"""Finding an experiment by its name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from trainer.errors import ConfigError
from trainer.run.experiment import Experiment


def check_name(name: str) -> None:
    """Refuses a name that cannot be an experiment's, without importing anything.

    Raises:
      ConfigError: it is neither a file in `experiments/` nor a dotted path; the message lists the known ones.
    """
    path, _, label = name.partition(":")
    words = [*path.split("."), *([label] if label else [])]
    if not all(map(str.isidentifier, words)) or (not _is_path(name) and name not in known_experiments()):
        raise ConfigError(f"experiment={name} is unknown; expected {_expected()}")


def find_experiment(name: str) -> type[Experiment]:
    """The experiment that `name` means.

    Args:
      name: a file in `experiments/`, whose one `Experiment` is meant, or a dotted path, `package.module:Experiment`.

    Raises:
      ConfigError: there is none, or it cannot be imported.
    """
    check_name(name)
    path, _, label = name.partition(":") if _is_path(name) else (f"experiments.{name}", "", "")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"experiment={name} cannot be imported ({reason}); expected {_expected()}") from error
    classes = {
        known: value
        for known, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Experiment) and value is not Experiment
    }
    if label:
        found = [classes[label]] if label in classes else []
    else:
        found = [kind for kind in classes.values() if kind.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(f"{path}:{known}" for known in classes) or "none"
        raise ConfigError(f"experiment={name} names {len(found)} experiments; those of {path} are {names}")
    return found[0]


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


def _is_path(name: str) -> bool:
    return ":" in name or "." in name


def _expected() -> str:
    return f"one of {', '.join(known_experiments())}, or package.module:Class"
