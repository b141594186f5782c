"""`run.json`: what identifies a run. Written before the first step, then immutable."""

from __future__ import annotations

import dataclasses
import json
import uuid
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
    run_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def encode(self) -> bytes:
        """The content of `run.json`: JSON for people too."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False).encode() + b"\n"

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
            if value.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            for section in ("parameters", "threads", "machine", "versions", "data"):
                if not isinstance(value[section], dict):
                    raise ValueError(f"its {section} is no object")
            if not isinstance(value.get("init_from"), dict | None):
                raise ValueError("its init_from is no object")
            names = {item.name for item in dataclasses.fields(cls)}
            return cls(**{name: known for name, known in value.items() if name in names})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unusable(
                f"{directory.run_info} cannot be read ({error}); put the original back, or choose another run_dir"
            ) from error
