"""The checks `files` and `tensors`: every byte and every tensor of the checkpoints, each read once."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.checkpoint.tensors import DAMAGE, first_line
from trainer.ledger.manifest import Manifest
from trainer.proof.audit.evidence import Evidence, Findings, NotChecked, Tell, came_to_its_end, counted
from trainer.proof.audit.places import state_file
from trainer.views import formatting

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_POSITION = ("step", "examples")
"""The tensors that say how far the run was, as the manifest does."""


@dataclasses.dataclass
class Contents:
    """What was found in the checkpoints."""

    files: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    """By step what is wrong with the files."""
    tensors: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    """By step what is wrong with the tensors."""
    file_count: int = 0
    tensor_count: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def rate(self) -> str:
        """How fast that was."""
        return f"{formatting.size(int(self.bytes / self.seconds))}/s" if self.seconds > 0.1 else ""


def read_contents(evidence: Evidence, tell: Tell) -> Contents:
    """Reads every checkpoint: one thread the bytes of its files, TensorFlow meanwhile its tensors.

    A checkpoint that retention deletes meanwhile is left out.

    Args:
      evidence: what was read before.
      tell: receives how many bytes are read, and of how many.
    """
    contents = Contents()
    stopped = threading.Event()
    sizes = {step: manifest.size for step, manifest in evidence.manifests.items()}
    started = time.monotonic()
    checksums = threading.Thread(target=_read_files, args=(evidence, contents, stopped), daemon=True)
    checksums.start()
    try:
        read, total = 0, sum(sizes.values())
        for step, manifest in evidence.manifests.items():
            line = f"reading checkpoints: {formatting.size(read)} of {formatting.size(total)}"
            contents.tensors[step] = _read_tensors(evidence, manifest, contents, functools.partial(tell, line))
            read += sizes[step]
        while checksums.is_alive():
            tell("reading the last checkpoint")
            checksums.join(timeout=0.1)
    finally:
        stopped.set()
        checksums.join()
    contents.seconds = time.monotonic() - started
    for found in (contents.files, contents.tensors):
        for step in [step for step, failures in found.items() if failures]:
            if not evidence.directory.files.exists(evidence.directory.manifest(step)):
                del found[step]
    return contents


def files(evidence: Evidence, contents: Contents) -> Findings:
    """Every checkpoint has a manifest that can be read, and the files that it names with these sizes and CRCs."""
    for step in sorted({*evidence.damaged, *contents.files}):
        if step in evidence.damaged:
            yield f"checkpoint {step} is damaged: {evidence.damaged[step]}"
        for failure in contents.files.get(step, ()):
            yield f"checkpoint {step} is damaged: {failure}"
    last = evidence.entries[-1] if evidence.entries else {}
    ended = bool(last) and came_to_its_end(last)
    yield from state_file(evidence.directory, evidence.manifests, ended=ended)
    if not evidence.manifests:
        raise NotChecked("there is no checkpoint")
    of = counted(len(evidence.manifests), "checkpoint")
    return f"{counted(contents.file_count, 'file')} of {of}, {formatting.size(contents.bytes)}"


def tensors(evidence: Evidence, contents: Contents) -> Findings:
    """Every tensor has the CRC that it was written with, and those that say how far the run was agree with it."""
    for step, failures in sorted(contents.tensors.items()):
        for failure in failures:
            yield f"checkpoint {step}: {failure}"
    if not evidence.manifests:
        raise NotChecked("there is no checkpoint")
    rate = contents.rate()
    return counted(contents.tensor_count, "tensor") + (f", files and tensors at {rate}" if rate else "")


def _read_files(evidence: Evidence, contents: Contents, stopped: threading.Event) -> None:
    for step, manifest in evidence.manifests.items():
        contents.files[step] = found = []
        if not manifest.files:
            found.append("its manifest names no files")
        for file in manifest.files:
            try:
                failure = _read_file(evidence, manifest, file, contents, stopped)
            except OSError as error:
                failure = f"{file.name} cannot be read: {error.strerror or error}"
            if failure:
                found.append(failure)
        if stopped.is_set():
            return


def _read_file(
    evidence: Evidence, manifest: Manifest, file: Any, contents: Contents, stopped: threading.Event
) -> str | None:
    if os.path.basename(file.name) != file.name:
        return f"{file.name!r} is no name of a file in it"
    path = os.path.join(evidence.directory.checkpoint(manifest.step), file.name)
    if not evidence.directory.files.exists(path):
        return f"{file.name} is missing"
    size = evidence.directory.files.size(path)
    if size != file.bytes:
        return f"{file.name} has {size} bytes; its manifest says {file.bytes}"
    checksum = 0
    for block in evidence.directory.files.blocks(path):
        checksum = zlib.crc32(block, checksum)
        contents.bytes += len(block)
        if stopped.is_set():
            return None
    contents.file_count += 1
    if f"{checksum:08x}" != file.crc32:
        return f"{file.name} is not as it was written: its crc32 is {checksum:08x}, its manifest says {file.crc32}"
    return None


def _read_tensors(evidence: Evidence, manifest: Manifest, contents: Contents, tell: Callable[[], None]) -> list[str]:
    prefix = evidence.directory.state_prefix(manifest.step)
    found: list[str] = []
    try:
        names = tf.compat.v1.train.NewCheckpointReader(prefix).get_variable_to_dtype_map()
    except DAMAGE as error:
        return [f"its index cannot be read: {first_line(error)}"]
    position = {f"{name}{_VALUE}": name for name in _POSITION} if evidence.info or manifest.run else {}
    for name, dtype in sorted(names.items()):
        tell()
        try:
            with tf.device("CPU:0"):
                (value,) = tf.raw_ops.RestoreV2(
                    prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype]
                )
        except DAMAGE as error:
            found.append(f"the tensor {name.removesuffix(_VALUE)} does not read: {first_line(error)}")
            continue
        contents.tensor_count += 1
        if name in position:
            told = getattr(manifest, position[name])
            if value.shape.rank or int(value) != told:
                found.append(f"the tensor {position[name]} is {value.numpy()}, and its manifest says {told}")
    found += [f"there is no tensor {name}" for key, name in position.items() if key not in names]
    return found
