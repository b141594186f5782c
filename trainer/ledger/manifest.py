"""The manifest: the file that commits a checkpoint and says which records belong to it."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.errors import ConfigError
from trainer.ledger.directory import FORMAT, RunDirectory
from trainer.ledger.record import Record, compact_json
from trainer.timeline.cadence import Progress

RUN_REASONS = frozenset({"interval", "best", "condition", "final"})
"""Reasons to save that follow from the run's own course."""
TRANSIENT_REASONS = frozenset({"time", "auto", "signal", "request", "runtime"})
"""Reasons to save that come from a clock, a signal or a person."""


def checked_reasons(reasons: Iterable[str]) -> tuple[str, ...]:
    """The reasons to save, each of them known.

    Raises:
      ConfigError: there is none, or one that is no reason.
    """
    known, given = RUN_REASONS | TRANSIENT_REASONS, tuple(reasons)
    if not given or not known.issuperset(given):
        raise ConfigError(f"reasons={given}; expected one or more of {', '.join(sorted(known))}")
    return given


_CHECKSUM_AT_END = re.compile(rb',"crc32":"[0-9a-f]{8}"\}\n?\Z')
_CHECKSUM_BYTES = 21


class BadManifest(ValueError):
    """A manifest that does not parse, or that does not tell the truth about its checkpoint."""


@dataclasses.dataclass(frozen=True)
class LogPosition:
    """A prefix of the metric log: its lines, its bytes and their sha256."""

    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class StateFile:
    """One file of the checkpoint: its name, its size in bytes and its CRC-32 as eight hex digits."""

    name: str
    bytes: int
    crc32: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of one checkpoint. The sections that are plain mappings are described in the contract."""

    step: int
    examples: int
    epoch: float | None
    run: str | None
    """The id of the run that wrote it."""
    reasons: tuple[str, ...]
    attempt: int
    parent: int | None
    """The step of the checkpoint before it."""
    files: tuple[StateFile, ...]
    log: LogPosition
    train: Mapping[str, Any] | None
    open_window: Mapping[str, Any]
    eval: Mapping[str, Any]
    control: Mapping[str, Any]
    data: Mapping[str, Any]
    for_good: bool = False
    """Whether `keep_every` keeps it, whatever comes later."""
    kept: tuple[int, ...] | None = None
    """The checkpoints, but for transient ones, that stay once this one is committed: a start deletes the others."""

    @property
    def transient(self) -> bool:
        """Whether only a clock, a signal or a person asked for it."""
        return not RUN_REASONS.intersection(self.reasons)

    @property
    def progress(self) -> Progress:
        """How far the run was."""
        return Progress(self.step, self.examples, self.control.get("cadence", {}).get("seconds", 0.0))

    @property
    def rankings(self) -> dict[str, list[tuple[float, int]]]:
        """The best values and their steps, best first, by each monitored metric, the first one first.

        Beside someone's own loop there are none.

        Raises:
          BadManifest: they are garbled.
        """
        try:
            return {
                metric: [(known["value"], _count(known, "step")) for known in ranking]
                for metric, ranking in self.control.get("best", {}).items()
            }
        except BadManifest:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadManifest(f"its manifest lacks or garbles control.best ({error!r})") from error

    @property
    def size(self) -> int:
        """Bytes in the checkpoint's files."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The manifest as the object that is written."""
        return {
            "format": FORMAT,
            "step": self.step,
            "examples": self.examples,
            "epoch": self.epoch,
            "run": self.run,
            "reasons": list(self.reasons),
            "transient": self.transient,
            "attempt": self.attempt,
            "parent": self.parent,
            "files": [dataclasses.asdict(file) for file in self.files],
            "log": dataclasses.asdict(self.log),
            "train": self.train,
            "open_window": dict(self.open_window),
            "eval": dict(self.eval),
            "control": dict(self.control),
            "data": dict(self.data),
            "for_good": self.for_good,
            "kept": None if self.kept is None else list(self.kept),
        }

    def encode(self) -> bytes:
        """The content of `manifest.json`: the object, and last its own checksum."""
        value = self.to_json()
        return compact_json({**value, "crc32": _checksum(value)}).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest that `data` holds.

        Raises:
          BadManifest: it is not JSON, of another format, or lacks what a resume needs.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadManifest(f"its manifest is not JSON: {error}") from error
        try:
            stated = value.pop("crc32", None)
            if stated not in (None, _checksum_in(data)) and stated != _checksum(value):
                raise BadManifest("its manifest is not as it was written: its crc32 is another")
            if value["format"] != FORMAT:
                raise BadManifest(f"its manifest has format {value['format']}; this version reads format {FORMAT}")
            return cls(
                step=_count(value, "step"),
                examples=_count(value, "examples"),
                epoch=value.get("epoch"),
                run=value.get("run"),
                reasons=tuple(value["reasons"]),
                attempt=_count(value, "attempt"),
                parent=value["parent"],
                files=tuple(
                    StateFile(str(file["name"]), _count(file, "bytes"), str(file["crc32"])) for file in value["files"]
                ),
                log=LogPosition(
                    _count(value["log"], "records"), _count(value["log"], "bytes"), str(value["log"]["sha256"])
                ),
                train=None if value["train"] is None else _section(value, "train"),
                open_window=_section(value, "open_window"),
                eval={split: _section(value["eval"], split) for split in _section(value, "eval")},
                control=_section(value, "control"),
                data=_section(value, "data"),
                for_good=value.get("for_good", False) is True,
                kept=None if value.get("kept") is None else tuple(map(int, value["kept"])),
            )._checked()
        except BadManifest:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadManifest(f"its manifest lacks or garbles {error}") from error

    def _checked(self) -> Manifest:
        """Itself, where its sections hold what a resume reads."""
        _count(self.open_window, "from")
        _count(self.open_window, "steps")
        if self.train is not None:
            start, end = self.train["window"]
            if type(start) is not int or type(end) is not int:
                raise BadManifest(f"its manifest has the window {self.train['window']!r}; expected two steps")
            _section(self.train, "metrics")
        for known in self.eval.values():
            _count(known, "step")
            _section(known, "metrics")
        return self

    @classmethod
    def load(cls, directory: RunDirectory, step: int) -> Manifest:
        """The manifest of the checkpoint of `step`, checked against the name and the sizes of its files.

        Raises:
          BadManifest: it does not parse or does not fit what is there.
          OSError: it cannot be read.
        """
        manifest = cls.parse(directory.files.read(directory.manifest(step)))
        if manifest.step != step:
            raise BadManifest(f"its manifest is that of step {manifest.step}")
        if not manifest.files:
            raise BadManifest("its manifest names no files")
        for file in manifest.files:
            path = f"{directory.checkpoint(step)}/{file.name}"
            if "/" in file.name or not directory.files.exists(path):
                raise BadManifest(f"{file.name} is missing")
            size = directory.files.size(path)
            if size != file.bytes:
                raise BadManifest(f"{file.name} has {size} bytes; its manifest says {file.bytes}")
        return manifest


def load_manifests(directory: RunDirectory) -> tuple[dict[int, Manifest], dict[int, str]]:
    """The manifests of all committed checkpoints by step, oldest first; and why the others cannot be used."""
    manifests, reasons = {}, {}
    for step in reversed(directory.committed_steps()):
        try:
            manifests[step] = Manifest.load(directory, step)
        except (OSError, ValueError) as error:
            reasons[step] = str(error)
    return manifests, reasons


def train_relation(record: Record | None, step: int) -> dict[str, Any] | None:
    """How the checkpoint of `step` relates to the newest train record: the window it averages, and how far back."""
    if record is None or record.window is None:
        return None
    return {
        "relation": "window",
        "window": list(record.window),
        "lag": step - record.step,
        "metrics": dict(record.metrics),
    }


def eval_relation(records: Mapping[str, Record], step: int) -> dict[str, Any]:
    """How the checkpoint of `step` relates to the newest evaluation of each split: `exact`, or `earlier` weights."""
    return {
        split: {
            "relation": "exact" if record.step == step else "earlier",
            "step": record.step,
            "age": step - record.step,
            "weights": record.weights,
            "metrics": dict(record.metrics),
        }
        for split, record in sorted(records.items())
    }


def _checksum(value: Mapping[str, Any]) -> str:
    """The CRC-32 of a manifest's object, written compactly: eight lower-case hex digits."""
    return f"{zlib.crc32(compact_json(value).encode()):08x}"


def _checksum_in(data: bytes) -> str | None:
    """The checksum of a manifest's bytes, without writing them again; None where they do not end with one."""
    end = _CHECKSUM_AT_END.search(data, max(0, len(data) - _CHECKSUM_BYTES))
    return f"{zlib.crc32(data[: end.start()] + b'}'):08x}" if end else None


def _section(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = value[key]
    if not isinstance(section, dict):
        raise BadManifest(f"its manifest has {key}={section!r}; expected an object")
    return section


def _count(value: Mapping[str, Any], key: str) -> int:
    number = value[key]
    if type(number) is not int or number < 0:
        raise BadManifest(f"its manifest has {key}={number!r}; expected a count")
    return number
