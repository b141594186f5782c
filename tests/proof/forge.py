"""Forging: changes to a run directory with every checksum put right again, as someone would who wants to deceive."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.ledger.directory import RunDirectory
from trainer.ledger.manifest import LogPosition, Manifest


def edit_log(directory: RunDirectory, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Changes the lines of the log, and has every manifest vouch for what is there then."""
    path = Path(directory.metrics)
    lines = path.read_bytes().splitlines(keepends=True)
    counts = {step: load(directory, step).log.records for step in directory.committed_steps()}
    changed = change(list(lines))
    path.write_bytes(b"".join(changed))
    for step, records in counts.items():
        prefix = b"".join(changed[:records])
        position = LogPosition(prefix.count(b"\n"), len(prefix), hashlib.sha256(prefix).hexdigest())
        edit_manifest(directory, step, lambda manifest, position=position: dataclasses.replace(manifest, log=position))


def edit_manifest(directory: RunDirectory, step: int, change: Callable[[Manifest], Manifest]) -> None:
    """Changes what a manifest says; its own checksum fits again."""
    Path(directory.manifest(step)).write_bytes(change(load(directory, step)).encode())


def edit_tensor(directory: RunDirectory, step: int, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Changes a tensor of a checkpoint, named by the beginning of its key; all checksums fit again."""
    prefix = directory.state_prefix(step)
    reader = tf.train.load_checkpoint(prefix)
    tensors = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    key = next(key for key in sorted(tensors) if key.startswith(name))
    tensors[key] = change(np.array(tensors[key]))
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    repair_files(directory, step)


def repair_files(directory: RunDirectory, step: int) -> None:
    """Has a manifest name the files of its checkpoint as they are."""

    def repaired(manifest: Manifest) -> Manifest:
        folder, files = directory.checkpoint(step), []
        for file in manifest.files:
            data = Path(os.path.join(folder, file.name)).read_bytes()
            files.append(dataclasses.replace(file, bytes=len(data), crc32=f"{zlib.crc32(data):08x}"))
        return dataclasses.replace(manifest, files=tuple(files))

    edit_manifest(directory, step, repaired)


def load(directory: RunDirectory, step: int) -> Manifest:
    """The manifest, whatever its files are."""
    return Manifest.parse(Path(directory.manifest(step)).read_bytes())
