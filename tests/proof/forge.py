"""Forging: changes to a run directory with every checksum put right again, as someone would who wants to deceive."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.ledger.directory import RunDirectory
from trainer.ledger.log import read_records
from trainer.ledger.manifest import LogPosition, Manifest, eval_relation, train_relation
from trainer.ledger.record import Record
from trainer.views.tensorboard import EventWriter


def checkpoints(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """The folders of the checkpoints, oldest first."""
    directory = RunDirectory(folder)
    return {step: pathlib.Path(directory.checkpoint(step)) for step in reversed(directory.committed_steps())}


def forge_manifest(folder: pathlib.Path, step: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest of a step, and gives it the checksum that belongs to it."""
    path = checkpoints(folder)[step] / "manifest.json"
    value = json.loads(path.read_bytes())
    del value["crc32"]
    change(value)
    path.write_bytes(Manifest.parse(json.dumps(value).encode()).encode())


def forge_records(folder: pathlib.Path, change: Callable[[list[Record]], list[Record]]) -> None:
    """Changes the log, and everything that vouches for it or repeats it: only what the run would be is not asked."""
    directory = RunDirectory(folder)
    before = read_records(directory)
    after = change(list(before))
    pathlib.Path(directory.metrics).write_bytes(b"".join(record.line() for record in after))
    for step in checkpoints(folder):
        manifest = Manifest.load(directory, step)
        own = manifest.log.records
        # As many records later as the change has brought before.
        moved = next((index for index, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), own)
        count = own + (len(after) - len(before) if moved < own else 0)
        path = pathlib.Path(directory.manifest(step))
        path.write_bytes(_vouching(manifest, after[:count]).encode())
    events = pathlib.Path(directory.events)
    shutil.rmtree(events)
    writer = EventWriter(events, 1, -1)
    writer.add(after)
    writer.close()


def _vouching(manifest: Manifest, records: list[Record]) -> Manifest:
    data = b"".join(record.line() for record in records)
    position = LogPosition(len(records), len(data), hashlib.sha256(data).hexdigest())
    trained = [record for record in records if record.window]
    closed = trained[-1].step if trained else 0
    evaluated = {record.split or "": record for record in records if record.split}
    return dataclasses.replace(
        manifest,
        log=position,
        train=train_relation(trained[-1], manifest.step) if trained else None,
        eval=eval_relation(evaluated, manifest.step),
        open_window={**manifest.open_window, "from": closed, "steps": manifest.step - closed},
    )


def flip(path: pathlib.Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def forge_tensor(folder: pathlib.Path, step: int, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Changes a tensor of a checkpoint, named by the beginning of its key; its files and their manifest fit again."""
    prefix = RunDirectory(folder).state_prefix(step)
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
    forge_manifest(
        folder, step, lambda manifest: [_repair(checkpoints(folder)[step], file) for file in manifest["files"]]
    )
    _repair_journal(folder / "journal.jsonl", step, Manifest.load(RunDirectory(folder), step).size)


def _repair(folder: pathlib.Path, file: dict[str, Any]) -> None:
    data = (folder / file["name"]).read_bytes()
    file.update(bytes=len(data), crc32=f"{zlib.crc32(data):08x}")


def _repair_journal(path: pathlib.Path, step: int, size: int) -> None:
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    for entry in entries:
        if (entry["event"], entry.get("step")) == ("save", step):
            entry["bytes"] = size
    path.write_bytes(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
