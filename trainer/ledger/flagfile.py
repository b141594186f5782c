"""`flags.txt`: the flags of the last attempt, as a flagfile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trainer.ledger.directory import RunDirectory


def write_flags(directory: RunDirectory, flags: Mapping[str, object], settings: Mapping[str, object]) -> None:
    """Writes `--name=value` lines; a flag that is None is left out, as it has no text."""
    lines = [f"--{name}={as_text(value)}" for name, value in flags.items() if value is not None]
    lines += [f"--set={name}={as_text(value)}" for name, value in settings.items()]
    directory.files.commit(directory.flags, "".join(f"{line}\n" for line in lines).encode())


def read_flags(directory: RunDirectory) -> dict[str, str]:
    """The flags of the last attempt by name; none when there was none."""
    if not directory.files.exists(directory.flags):
        return {}
    return dict(_pairs(directory.files.read(directory.flags).decode(errors="replace").splitlines()))


def _pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, equals, value = line.removeprefix("--").partition("=")
        if equals and name != "set":
            yield name, value


def as_text(value: object) -> str:
    """A flag's or a parameter's value as it is written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
