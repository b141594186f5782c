"""`run.json`: what identifies a run. Written before the first step, then immutable."""

from __future__ import annotations

import dataclasses
import json
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

from trainer.errors import Unusable
from trainer.ledger.directory import FORMAT, RunDirectory


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """Everything that the bits of a run depend on. The mappings are JSON values."""

    experiment: str
    parameters: Mapping[str, Any]
    seed: int
    jit: str
    deterministic: bool
    threads: Mapping[str, int]
    machine: Mapping[str, Any]
    """The kind of machine: CPU, its instruction sets, devices."""
    versions: Mapping[str, str]
    data: Mapping[str, Any]
    """For each of `train` and the splits: mode, fingerprint, examples, batch_size, shuffle and last."""
    epoch_examples: int | None
    clock_in_log: bool
    init_from: Mapping[str, Any] | None = None
    """The checkpoint that gave the first weights: its name, prefix, step and fingerprint; None where the seed did."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The flags that say what the state is made of, which no resume can change; a file may be older than some."""
    run_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def encode(self) -> bytes:
        """The content of `run.json`: JSON for people too, and last its own checksum."""
        value = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**value, "crc32": _checksum(value)}, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def load(cls, directory: RunDirectory) -> RunInfo | None:
        """The run's identity; None when no run was ever started here.

        Raises:
          Unusable: the file is not what this version writes.
        """
        if not directory.files.exists(directory.run_info):
            return None
        try:
            value = json.loads(directory.files.read(directory.run_info))
            stated = value.pop("crc32", None)
            if stated not in (None, _checksum(value)):
                raise ValueError("it is not as it was written: its crc32 is another")
            if value.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            for section in ("parameters", "threads", "machine", "versions", "data"):
                if not isinstance(value[section], dict):
                    raise ValueError(f"its {section} is no object")
            if not isinstance(value.get("init_from"), dict | None):
                raise ValueError("its init_from is no object")
            if not isinstance(value.get("fixed", {}), dict):
                raise ValueError("its fixed is no object")
            names = {item.name for item in dataclasses.fields(cls)}
            return cls(**{name: known for name, known in value.items() if name in names})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Unusable(
                f"{directory.run_info} cannot be read ({error}); put the original back, or choose another run_dir"
            ) from error


def _checksum(value: Mapping[str, Any]) -> str:
    """The CRC-32 of the object, written compactly: eight lower-case hex digits."""
    # Parameters may be infinite: this is for us to read, and not as strict as a record.
    return f"{zlib.crc32(json.dumps(value, separators=(',', ':'), ensure_ascii=False).encode()):08x}"
